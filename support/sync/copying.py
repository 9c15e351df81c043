"""A run as facts, in words that mean the same in every store, and a copy that is made to hold them.

facts(endpoint, run, folder)         # {("param", "lr"): "0.01", ("metric", "f1", 3, "0.6", 1750000000): ""}
copy_run(source, target, run, copy)  # writes what the copy lacks, and reads it back, or raises CopyError

What a copy lacks is found by comparing facts. So copying a run again writes nothing, a copy that was cut off is
completed, and every copy is verified: its files by their sha256. Ids differ from store to store: facts name runs
and models by their origins.
"""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import DatasetInput, LoggedModel, LoggedModelOutput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from support.sync.endpoint import DIGEST, FROM, NOT_COPIED, ORIGIN, CopyError, Endpoint, origin_of

OVER = ("FINISHED", "FAILED", "KILLED")
# A request may hold 1000 metrics, 100 params or 100 tags, and a million bytes: a param has up to 6000
# characters, a tag 8000, and a character up to six bytes. See mlflow/utils/validation.py.
BATCH = {"params": 25, "metrics": 500, "tags": 20}

Facts = dict[tuple, str]


def copy_run(source: Endpoint, target: Endpoint, run: Run, copy: Run, update: bool = True) -> str:
    """Make the copy hold all facts of the run, and return what was done.

    "copied" or "updated"; "there", if it was complete; "running", if the run is not over, and nor is its copy then;
    "deleted", if somebody has deleted the copy, which stays so. Without `update` nothing is written to a run that
    is not an incomplete copy from this very source. Raise CopyError where the copy differs.
    """
    if copy.info.lifecycle_stage == "deleted":
        return "deleted"
    over, own = run.info.status in OVER, copy.info.run_id == origin_of(run)
    before, now = copy.data.tags.get(DIGEST), _digest(source, run) if over else None
    known = {before, run.data.tags.get(DIGEST)} if own else {before}  # own: a copy that comes back as it went
    if (over and now in known) or (not update and (before or own)):
        return "there"
    if not update and copy.data.tags.get(FROM) != source.name:
        raise CopyError(f"a sync from another store has not completed its copy {copy.info.run_id} yet")
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        here = facts(source, run, folder / "here", over)
        # A run that went on in another store was logged there again, at other times.
        missing = _missing(here, facts(target, copy, folder / "there", over), any_time=own)
        if missing:
            _write(source, target, run, copy, missing, folder / "here")
            copy = target.client.get_run(copy.info.run_id)
            if different := _missing(here, facts(target, copy, folder / "back", over), any_time=own):
                names = ", ".join(sorted({" ".join(map(str, name[:3])) for name in different})[:5])
                raise CopyError(f"the copy {copy.info.run_id} differs in {names}")
    if not over:
        return "running"
    if (copy.info.status, copy.info.end_time) != (run.info.status, run.info.end_time):
        target.client.set_terminated(copy.info.run_id, run.info.status, run.info.end_time)
    target.client.set_tag(copy.info.run_id, DIGEST, now)  # last: the copy is complete
    return "updated" if before or own else "copied"


def facts(endpoint: Endpoint, run: Run, folder: Path, whole: bool = True) -> Facts:
    """Return all that a copy has to have; its files and models only if it is to be `whole`.

    A server's files are fetched into `folder`.
    """
    found: Facts = {("param", name): value for name, value in run.data.params.items()}
    found |= {("tag", name): value for name, value in _tags(endpoint, run.data.tags).items()}
    for name in run.data.metrics:
        for metric in endpoint.client.get_metric_history(run.info.run_id, name):
            found["metric", name, metric.step, repr(metric.value), metric.timestamp] = ""
    for entry in run.inputs.dataset_inputs:
        found["dataset", *_name(entry)] = json.dumps(sorted((tag.key, tag.value) for tag in entry.tags))
    if whole:
        found |= _checksums(endpoint.fetch(run.info.artifact_uri, folder / "run"), "file")
        for origin, models in endpoint.models(run).items():
            found |= _model_facts(endpoint, run, origin, models[0], folder / models[0].model_id)
    return found


def _digest(endpoint: Endpoint, run: Run) -> str:
    """Return 64 hex digits that change with what is quickly read of a run: no old steps, no file's bytes."""
    known = [
        [run.info.run_name, run.info.status, run.info.end_time],
        sorted(run.data.params.items()),
        sorted(_tags(endpoint, run.data.tags).items()),
        sorted((name, repr(value)) for name, value in run.data.metrics.items()),
        sorted(map(_name, run.inputs.dataset_inputs)),
        sorted(output.step for output in run.outputs.model_outputs),
        sorted(endpoint.sizes(run.info.artifact_uri).items()),
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _missing(here: Facts, there: Facts, any_time: bool) -> Facts:
    """Return the facts of `here` that are not `there`. With `any_time` a metric's time does not matter."""
    logged = {name[:4] for name in there if name[0] == "metric"} if any_time else ()
    return {name: value for name, value in here.items() if there.get(name) != value and name[:4] not in logged}


def _tags(endpoint: Endpoint, tags: dict[str, str]) -> dict[str, str]:
    """Return the tags that a copy takes over; where one is the id of a run or model, the origin's."""
    taken = {name: value for name, value in tags.items() if not name.startswith(NOT_COPIED)}
    return {name: endpoint.origins.get(value, value) for name, value in taken.items()}


def _name(entry: DatasetInput) -> tuple[str, str]:
    return entry.dataset.name, entry.dataset.digest


def _checksums(files: dict[str, Path], *kind: str) -> Facts:
    found = {}
    for name, path in files.items():
        with path.open("rb") as file:
            found[*kind, name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _model_facts(endpoint: Endpoint, run: Run, origin: str, model: LoggedModel, folder: Path) -> Facts:
    found: Facts = {("model", origin): json.dumps([model.name, model.model_type, model.params])}
    found |= {("model tag", origin, name): value for name, value in _tags(endpoint, model.tags).items()}
    found |= _checksums(endpoint.fetch(model.artifact_location, folder), "model file", origin)
    for m in endpoint.client.get_logged_model(model.model_id).metrics or []:
        if m.run_id == run.info.run_id:  # what another run measured of the model is not this run's to bring
            name = ("model metric", origin, m.key, m.step, repr(m.value), m.timestamp)
            found[*name, m.dataset_name, m.dataset_digest] = ""
    for output in run.outputs.model_outputs:
        if output.model_id == model.model_id:
            found["model output", origin] = str(output.step)
    return found | {("model status", origin): model.status.value}


def _write(source: Endpoint, target: Endpoint, run: Run, copy: Run, missing: Facts, folder: Path) -> None:
    """Write what is missing: tags last, since they say what the copy is, and models before them."""
    lacks: dict[str, list[tuple]] = {}
    for (kind, *what), value in missing.items():
        lacks.setdefault(kind, []).append((*what, value))
    tags = [RunTag(name, target.ids.get(value, value)) for name, value in lacks.get("tag", [])]
    _log(target, copy, "params", [Param(name, value) for name, value in lacks.get("param", [])])
    metrics = [Metric(name, float(value), time, step) for name, step, value, time, _ in lacks.get("metric", [])]
    _log(target, copy, "metrics", metrics)
    if datasets := [entry for entry in run.inputs.dataset_inputs if ("dataset", *_name(entry)) in missing]:
        _log_inputs(target, copy, datasets)
    if "file" in lacks:
        files = source.fetch(run.info.artifact_uri, folder / "run")
        target.upload(copy.info.artifact_uri, {name: files[name] for name, _ in lacks["file"]})
    for origin, models in source.models(run).items() if any("model" in kind for kind in lacks) else ():
        mine = {(n[0], *n[2:]): value for n, value in missing.items() if "model" in n[0] and n[1] == origin}
        _write_model(source, target, origin, models[0], copy, mine, folder / models[0].model_id)
    _log(target, copy, "tags", tags)


def _log(target: Endpoint, copy: Run, kind: str, entries: list) -> None:
    for start in range(0, len(entries), BATCH[kind]):
        batch = {kind: entries[start : start + BATCH[kind]]}
        target.client.log_batch(copy.info.run_id, **batch, synchronous=True)


def _log_inputs(target: Endpoint, copy: Run, datasets: list[DatasetInput]) -> None:
    """Log inputs for one run after the other, and again where another process was faster.

    MLflow (3.17) looks for a dataset and inserts it when there is none: two that do so at once break its UNIQUE
    constraint. Who tries again finds the dataset.
    """
    for attempt in range(3):
        try:
            with target.lock:
                return target.client.log_inputs(copy.info.run_id, datasets)
        except MlflowException:
            if attempt == 2:
                raise


def _write_model(
    source: Endpoint, target: Endpoint, origin: str, model: LoggedModel, copy: Run, lacks: Facts, folder: Path
) -> None:
    """Write what is missing of one model; its status last."""
    client, run_id = target.client, copy.info.run_id
    if ("model",) in lacks:
        experiment, tags = copy.info.experiment_id, {ORIGIN: origin}
        client.create_logged_model(experiment, model.name, run_id, tags, model.params, model.model_type)
        for double in target.models(copy)[origin][1:]:  # a request whose answer was lost was sent again
            client.delete_logged_model(double.model_id)
    copy_id = target.ids[origin]
    if names := [what[0] for kind, *what in lacks if kind == "model file"]:
        files = source.fetch(model.artifact_location, folder)
        target.upload(client.get_logged_model(copy_id).artifact_location, {name: files[name] for name in names})
    if tags := {name[1]: target.ids.get(value, value) for name, value in lacks.items() if name[0] == "model tag"}:
        client.set_logged_model_tags(copy_id, tags)
    measured = [what for kind, *what in lacks if kind == "model metric"]
    of_model = [Metric(key, float(v), time, step, copy_id, *data, run_id) for key, step, v, time, *data in measured]
    _log(target, copy, "metrics", of_model)
    if step := lacks.get(("model output",)):
        client.log_outputs(run_id, [LoggedModelOutput(copy_id, int(step))])
    if (status := lacks.get(("model status",))) in ("READY", "FAILED"):
        client.finalize_logged_model(copy_id, status)
