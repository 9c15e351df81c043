"""A run as facts, in words that mean the same in every store, and a copy of it that is made to hold them.

facts(side, run, folder)             # {("param", "lr"): "0.01", ("metric", "f1", 3, "0.6", 1750000000): ""}
bring(source, target, run, copy)     # writes what the copy lacks, and reads it back, or raises CopyError

What a copy lacks is found by comparing facts. So bringing a run again brings nothing, a copy that was cut off
is completed, and every copy is verified: its files by their sha256. Ids differ from store to store: facts
name runs and models by the id that they had first, which a copy keeps in its tag `sync.origin`.
"""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Param, Run, RunTag

from support.sync.endpoint import MARK, ORIGIN, OURS, CopyError, Side, origin_of

OVER = ("FINISHED", "FAILED", "KILLED")
# A request may hold 1000 metrics, 100 params or 100 tags, and a million bytes: a param has up to 6000
# characters, a tag 8000, and a character up to six bytes. See mlflow/utils/validation.py.
METRICS, PARAMS, TAGS = 500, 25, 20

Facts = dict[tuple, str]


def digest(side: Side, run: Run) -> str:
    """Give 64 hex digits that change with the run, of what is quickly read: no old steps, no file's bytes."""
    known = [
        [run.info.run_name, run.info.status, run.info.end_time],
        sorted(run.data.params.items()),
        sorted(_tags(side, run.data.tags).items()),
        sorted((name, repr(value)) for name, value in run.data.metrics.items()),
        sorted((each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs),
        sorted(output.step for output in run.outputs.model_outputs),
        sorted(_sizes(side.repository(run.info.artifact_uri))),
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def facts(side: Side, run: Run, folder: Path, whole: bool = True) -> Facts:
    """Give all that a copy has to have; its files and models only if it is to be `whole`.

    Files of a server are fetched into `folder`.
    """
    found: Facts = {("param", *item[:1]): item[1] for item in run.data.params.items()}
    found |= {("tag", name): value for name, value in _tags(side, run.data.tags).items()}
    for name in run.data.metrics:
        for metric in side.client.get_metric_history(run.info.run_id, name):
            found["metric", name, metric.step, repr(metric.value), metric.timestamp] = ""
    for each in run.inputs.dataset_inputs:
        tags = sorted((tag.key, tag.value) for tag in each.tags)
        found["dataset", each.dataset.name, each.dataset.digest] = json.dumps(tags)
    if whole:
        found |= _files(side.fetch(run.info.artifact_uri, folder / "run"), ("file",))
        for model in side.models(run):
            found |= _model_facts(side, run, model, folder / model.model_id)
    return found


def lacking(here: Facts, there: Facts, any_time: bool = False) -> Facts:
    """Give the facts of `here` that are not `there`. With `any_time` a metric may have another timestamp."""
    missing = {name: value for name, value in here.items() if there.get(name) != value}
    if any_time:
        logged = {name[:4] for name in there if name[0] == "metric"}
        missing = {name: value for name, value in missing.items() if name[:4] not in logged}
    return missing


def bring(source: Side, target: Side, run: Run, copy: Run) -> str:
    """Make the copy hold all facts of the run. Say what it was: "there", "running", "copied", "changed"; or
    "deleted", and left so, if somebody has deleted it there.

    The copy gets its status and end last, and then the digest of the run: who has none is not complete. A run
    whose digest its copy has is not new. Nor is a copy that goes back as it came. Raises CopyError.
    """
    if copy.info.lifecycle_stage == "deleted":
        return "deleted"
    over = run.info.status in OVER
    back = copy.info.run_id == origin_of(run)
    now = digest(source, run) if over else None
    if over and now in (copy.data.tags.get(MARK), run.data.tags.get(MARK) if back else None):
        return "there"
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        here = facts(source, run, folder / "here", over)
        # What a training logs again, when it goes on elsewhere, it logs at another time: any_time.
        missing = lacking(here, facts(target, copy, folder / "there", over), any_time=back)
        _write(source, target, run, copy, missing, folder / "here")
        copy_now = target.client.get_run(copy.info.run_id)
        if missing and (different := lacking(here, facts(target, copy_now, folder / "back", over), back)):
            names = ", ".join(sorted({" ".join(map(str, name[:3])) for name in different}))
            raise CopyError(f"the copy {copy.info.run_id} differs in {names}")
    if not over:
        return "running"
    if (copy.info.status, copy.info.end_time) != (run.info.status, run.info.end_time):
        target.client.set_terminated(copy.info.run_id, run.info.status, run.info.end_time)
    target.client.set_tag(copy.info.run_id, MARK, now)
    return "changed" if MARK in copy.data.tags or back else "copied"


def _tags(side: Side, tags: dict[str, str]) -> dict[str, str]:
    """Give the tags that a copy takes over; the id of a run or model, the parent's say, as its origin's."""
    return {name: side.origins.get(value, value) for name, value in tags.items() if not name.startswith(OURS)}


def _sizes(repository, folder: str | None = None) -> list[tuple[str, int]]:
    found = []
    for entry in repository.list_artifacts(folder):
        # A server does not say that an empty file has a size of 0.
        found += _sizes(repository, entry.path) if entry.is_dir else [(entry.path, entry.file_size or 0)]
    return found


def _files(folder: Path, name: tuple) -> Facts:
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found[*name, path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _model_facts(side: Side, run: Run, model: LoggedModel, folder: Path) -> Facts:
    origin = side.origins[model.model_id]
    steps = {output.model_id: output.step for output in run.outputs.model_outputs}
    found: Facts = {("model", origin): json.dumps([model.name, model.model_type, model.params])}
    found |= {("model tag", origin, name): value for name, value in _tags(side, model.tags).items()}
    found |= _files(side.fetch(model.artifact_location, folder), ("model file", origin))
    for m in side.client.get_logged_model(model.model_id).metrics or []:
        if m.run_id in side.origins:  # another run may have measured the model
            by = side.origins[m.run_id]
            data = (m.dataset_name, m.dataset_digest)
            found["model metric", origin, m.key, m.step, repr(m.value), m.timestamp, by, *data] = ""
    if model.model_id in steps:
        found["model output", origin] = str(steps[model.model_id])
    return found | {("model status", origin): model.status.value}


def _write(source: Side, target: Side, run: Run, copy: Run, missing: Facts, folder: Path) -> None:
    """Write what is missing: tags last, since they say what the copy is, and models before them."""
    client, copy_id = target.client, copy.info.run_id
    kinds: dict[str, list[tuple]] = {}
    for name, value in missing.items():
        kinds.setdefault(name[0], []).append((*name[1:], value))
    params = [Param(name, value) for name, value in kinds.get("param", [])]
    metrics = [Metric(name, float(value), time, step) for name, step, value, time, _ in kinds.get("metric", [])]
    tags = [RunTag(name, target.ids.get(value, value)) for name, value in kinds.get("tag", [])]
    for batch in _batches(params, PARAMS):
        client.log_batch(copy_id, params=batch, synchronous=True)
    for batch in _batches(metrics, METRICS):
        client.log_batch(copy_id, metrics=batch, synchronous=True)
    datasets = [
        each for each in run.inputs.dataset_inputs if ("dataset", each.dataset.name, each.dataset.digest) in missing
    ]
    if datasets:
        client.log_inputs(copy_id, datasets)
    files = source.fetch(run.info.artifact_uri, folder / "run") if "file" in kinds else None
    _upload(target, copy.info.artifact_uri, files, [name for name, _ in kinds.get("file", [])])
    if any(kind.startswith("model") for kind in kinds):
        for model in source.models(run):
            _write_model(source, target, model, copy, missing, folder / model.model_id)
    for batch in _batches(tags, TAGS):
        client.log_batch(copy_id, tags=batch, synchronous=True)


def _write_model(source: Side, target: Side, model: LoggedModel, copy: Run, missing: Facts, folder: Path) -> None:
    """Write what is missing of one model; its status last."""
    client, origin = target.client, source.origins[model.model_id]
    mine = {name: value for name, value in missing.items() if "model" in name[0] and name[1] == origin}
    lacks = [(name[0], *name[2:], value) for name, value in mine.items()]

    if ("model", origin) in missing:
        new = client.create_logged_model(
            copy.info.experiment_id,
            model.name,
            copy.info.run_id,
            {ORIGIN: origin},
            model.params,
            model.model_type,
        )
        target.know(origin, new.model_id)
    copy_id = target.ids[origin]
    files = [name for kind, name, *_ in lacks if kind == "model file"]
    if files:
        location = client.get_logged_model(copy_id).artifact_location
        _upload(target, location, source.fetch(model.artifact_location, folder), files)
    if tags := {name: target.ids.get(value[0], value[0]) for kind, name, *value in lacks if kind == "model tag"}:
        client.set_logged_model_tags(copy_id, tags)
    for kind, *what in lacks:
        if kind == "model metric":
            name, step, value, time, by, data, data_digest, _ = what
            metric = Metric(name, float(value), time, step, copy_id, data, data_digest, run_id=target.ids[by])
            client.log_batch(target.ids[by], metrics=[metric], synchronous=True)
        elif kind == "model output":
            client.log_outputs(copy.info.run_id, [LoggedModelOutput(copy_id, int(what[0]))])
    if ("model status", origin) in missing and model.status.value in ("READY", "FAILED"):
        client.finalize_logged_model(copy_id, model.status.value)


def _upload(target: Side, artifact_uri: str, folder: Path | None, names: list[str]) -> None:
    repository = target.repository(artifact_uri)
    for name in names:
        repository.log_artifact(str(folder / name), name.rpartition("/")[0] or None)


def _batches(entries: list, size: int) -> list[list]:
    return [entries[start : start + size] for start in range(0, len(entries), size)]
