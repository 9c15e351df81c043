"""A copy of a run that holds all that the run holds, whatever was there before.

`bring` compares kind by kind, writes what the copy lacks, and says what that was. So copying a run again writes
nothing, and a copy that was cut off is completed. A copy is verified by bringing once more, in vain. Ids differ
from store to store: a tag that names a run or a model names its copy in the copy.
"""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import DatasetInput, LoggedModelOutput, Metric, Param, Run, RunTag

from support.sync.endpoint import DIGEST, FROM, NOT_COPIED, ORIGIN, CopyError, Endpoint, origin_of
from support.tracking import remote

OVER = ("FINISHED", "FAILED", "KILLED")
# A request may hold 1000 metrics, 100 params or 100 tags, and a million bytes: a param has up to 6000
# characters, a tag 8000, and a character up to six bytes. See mlflow/utils/validation.py.
BATCH = {"params": 25, "metrics": 500, "tags": 20}


def copy_run(source: Endpoint, target: Endpoint, run: Run, copy: Run, update: bool = True) -> str:
    """Make the copy hold all that the run holds, and return what was done.

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
    if bring(source, target, run, copy):
        copy = target.client.get_run(copy.info.run_id)
        if different := bring(source, target, run, copy):
            raise CopyError(f"the copy {copy.info.run_id} differs in {', '.join(different[:5])}")
    if not over:
        return "running"
    if (copy.info.status, copy.info.end_time) != (run.info.status, run.info.end_time):
        target.client.set_terminated(copy.info.run_id, run.info.status, run.info.end_time)
    target.client.set_tag(copy.info.run_id, DIGEST, now)  # last: the copy is complete
    return "updated" if before or own else "copied"


def bring(source: Endpoint, target: Endpoint, run: Run, copy: Run) -> list[str]:
    """Write what the copy lacks, and return its names: none where it lacks nothing.

    Files and models come when the run is over. Tags come last, since they say what the copy is.
    """
    params = [Param(*entry) for entry in run.data.params.items() - copy.data.params.items()]
    _log(target, copy, "params", params)
    metrics = _missing_metrics(source, target, run, copy)
    _log(target, copy, "metrics", metrics)
    datasets = _missing_datasets(run, copy)
    _log_inputs(target, copy, datasets)
    lacking = [f"param {param.key}" for param in params] + [f"metric {metric.key}" for metric in metrics]
    lacking += [f"dataset {entry.dataset.name}" for entry in datasets]
    if run.info.status in OVER:
        files = _bring_files(source, target, run.info.artifact_uri, copy.info.artifact_uri)
        lacking += [f"file {name}" for name in files] + _bring_models(source, target, run, copy)
    tags = _missing_tags(source, target, run.data.tags, copy.data.tags)
    _log(target, copy, "tags", [RunTag(*entry) for entry in tags.items()])
    return lacking + [f"tag {name}" for name in tags]


def _digest(source: Endpoint, run: Run) -> str:
    """Return 64 hex digits that change with what is quickly read of a run: no old steps, no file's bytes."""
    known = [
        [run.info.run_name, run.info.status, run.info.end_time, len(run.outputs.model_outputs)],
        *(sorted(what.items()) for what in (run.data.params, run.data.metrics, _taken(source, run.data.tags))),
        sorted((entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs),
        sorted(source.sizes(run.info.artifact_uri).items()),
    ]
    return hashlib.sha256(repr(known).encode()).hexdigest()


def _taken(source: Endpoint, tags: dict[str, str]) -> dict[str, str]:
    """Return the tags that a copy takes over; where one is the id of a run or model, the origin's."""
    taken = {name: value for name, value in tags.items() if not name.startswith(NOT_COPIED)}
    return {name: source.origins.get(value, value) for name, value in taken.items()}


def _missing_tags(source: Endpoint, target: Endpoint, here: dict[str, str], there: dict[str, str]) -> dict[str, str]:
    wanted = {name: target.ids.get(value, value) for name, value in _taken(source, here).items()}
    return dict(wanted.items() - there.items())


def _missing_metrics(source: Endpoint, target: Endpoint, run: Run, copy: Run) -> list[Metric]:
    # A run that went on in another store was logged there again, at other times.
    any_time, missing = copy.info.run_id == origin_of(run), []

    def known(metric: Metric) -> tuple:
        return metric.step, repr(metric.value), None if any_time else metric.timestamp

    for name in run.data.metrics:
        history = source.client.get_metric_history(run.info.run_id, name)
        logged = target.client.get_metric_history(copy.info.run_id, name) if name in copy.data.metrics else []
        there = {known(metric) for metric in logged}
        missing += [metric for metric in history if known(metric) not in there]
    return [Metric(metric.key, metric.value, metric.timestamp, metric.step) for metric in missing]


def _missing_datasets(run: Run, copy: Run) -> list[DatasetInput]:
    there = [entry.to_dictionary() for entry in copy.inputs.dataset_inputs]
    return [entry for entry in run.inputs.dataset_inputs if entry.to_dictionary() not in there]


def _log(target: Endpoint, copy: Run, kind: str, entries: list) -> None:
    for start in range(0, len(entries), BATCH[kind]):
        batch = {kind: entries[start : start + BATCH[kind]]}
        target.client.log_batch(copy.info.run_id, **batch, synchronous=True)


def _log_inputs(target: Endpoint, copy: Run, datasets: list[DatasetInput]) -> None:
    if datasets:
        with target.lock:  # one run after the other
            remote.log_dataset(lambda: target.client.log_inputs(copy.info.run_id, datasets))


def _bring_files(source: Endpoint, target: Endpoint, here: str, there: str) -> list[str]:
    """Copy the files under one artifact URI that are not the same under the other, and return their names."""
    with TemporaryDirectory() as before, TemporaryDirectory() as now:
        files, known = source.fetch(here, Path(before)), target.fetch(there, Path(now))
        missing = {n: path for n, path in files.items() if n not in known or _sha256(path) != _sha256(known[n])}
        target.upload(there, missing)
    return list(missing)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bring_models(source: Endpoint, target: Endpoint, run: Run, copy: Run) -> list[str]:
    """Write what the copy lacks of the run's logged models, and return its names. A model's status comes last."""
    client, run_id, lacking = target.client, copy.info.run_id, []
    steps, there = ({output.model_id: output.step for output in each.outputs.model_outputs} for each in (run, copy))
    copies = target.models(copy)
    for origin, [model, *_] in source.models(run).items():
        if origin not in copies:
            tags = {ORIGIN: origin}
            client.create_logged_model(
                copy.info.experiment_id, model.name, run_id, tags, model.params, model.model_type
            )
            copies = target.models(copy)
            lacking.append(f"model {model.name}")
        copied, *doubles = copies[origin]  # doubles: a request whose answer was lost was sent again
        for double in doubles:
            client.delete_logged_model(double.model_id)
        files = _bring_files(source, target, model.artifact_location, copied.artifact_location)
        lacking += [f"model file {name}" for name in files]
        if tags := _missing_tags(source, target, model.tags, copied.tags):
            client.set_logged_model_tags(copied.model_id, tags)
            lacking += [f"model tag {name}" for name in tags]
        if model.model_id in steps and copied.model_id not in there:
            client.log_outputs(run_id, [LoggedModelOutput(copied.model_id, steps[model.model_id])])
            lacking.append(f"model output {model.name}")
        if copied.status != model.status and model.status.value in ("READY", "FAILED"):
            client.finalize_logged_model(copied.model_id, model.status.value)
            lacking.append(f"model status {model.status.value}")
    return lacking
