"""What the exercises of the notebooks 00 to 03 ask for."""

import mlflow

from support.config import stores_dir
from support.exercises.checking import exercise, runs
from support.tracking.runs import why_left_out
from support.tracking.store import EXPERIMENT, find_experiment

# Notebook 00


@exercise("00a")
def _experiment_with_a_description() -> str | None:
    found = find_experiment("my-first")
    if found is None:
        return "There is no experiment `my-first`."
    return None if found.tags.get("mlflow.note.content") else "`my-first` has no tag `mlflow.note.content`."


@exercise("00b")
def _run_with_param_and_metric() -> str | None:
    for run in runs("reading", "my-first"):
        if run.data.params.get("seed") and run.data.metrics.get("train_texts", 0) > 0:
            return None
    return "No run `reading` in `my-first` has the param `seed` and the metric `train_texts`."


@exercise("00c")
def _metric_with_steps() -> str | None:
    for run in runs("steps", "my-first"):
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
        if sorted((metric.step, metric.value) for metric in history) == [(1, 3), (2, 2), (3, 1)]:
            return None
    return "No run `steps` in `my-first` has a `loss` of 3, 2, 1 at the steps 1, 2, 3, each once."


# Notebook 01


@exercise("01a")
def _gradient_norm() -> str | None:
    for run in runs("my-gradients"):
        if len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "grad_norm")) >= 2:
            return None
    return "No run `my-gradients` has a metric `grad_norm` with two steps or more."


@exercise("01b")
def _other_learning_rate() -> str | None:
    for run in runs("my-lr", where="attributes.status = 'FINISHED'"):
        if run.data.params.get("num_epochs") == "5" and run.data.params.get("lr") != "0.0002":
            return None
    return "No finished run `my-lr` has 5 epochs and an `lr` other than 0.0002."


@exercise("01c")
def _own_loop() -> str | None:
    for run in runs("my-loop"):
        if run.data.metrics.get("val_loss") is None and run.data.metrics.get("train_loss") is None:
            return "The run `my-loop` has no `train_loss` and no `val_loss`."
        if reason := why_left_out(run):
            return f"The run `my-loop` is {reason}." if " " in reason else f"The run `my-loop` is {reason} yet."
        return None
    return "There is no run `my-loop`."


# Notebook 02


@exercise("02a")
def _description_of_a_run() -> str | None:
    described = [run.data.tags.get("mlflow.note.content", "") for run in runs("cnn-20-epochs")]
    return (
        None if any("too early" in text for text in described) else "No `cnn-20-epochs` says `too early` about itself."
    )


@exercise("02b")
def _filtered() -> str | None:
    wanted = {
        run.info.run_id for run in runs(where="metrics.f1 > 0.6") if 0 < float(run.data.params.get("lr", "nan")) < 0.001
    }
    tagged = {run.info.run_id for run in runs(where="tags.filtered = 'yes'")}
    if not wanted:
        return (
            "There is no run with an F1 over 0.6 and a learning rate under 0.001 yet: train one, as notebook 01 does."
        )
    return None if tagged == wanted else f"Runs that have the tag wrongly, or lack it: {len(wanted ^ tagged)}."


@exercise("02c")
def _report_of_another_experiment() -> str | None:
    reports = [path.name for path in stores_dir().glob("report-*.html")]
    others = [name for name in reports if not name.startswith(f"report-{EXPERIMENT}")]
    return None if others else "There is no report of another experiment in the stores folder."


# Notebook 03


@exercise("03a")
def _reviewed() -> str | None:
    return None if runs(where="tags.reviewed_by LIKE '_%'") else "No run has a tag `reviewed_by`."


@exercise("03b")
def _texts_and_tags() -> str | None:
    for run in runs("my-texts"):
        names = [file.path for file in mlflow.artifacts.list_artifacts(run_id=run.info.run_id)]
        if "tags.json" in names and len(mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/tags.json")) >= 3:
            return None
    return "No run `my-texts` has an artifact `tags.json` with three texts."


@exercise("03c")
def _fastest() -> str | None:
    timed = [run for run in runs() if "training_seconds" in run.data.metrics]
    if not timed:
        return "No run has the metric `training_seconds`: train one first."
    fastest = min(timed, key=lambda run: run.data.metrics["training_seconds"])
    tagged = {run.info.run_id for run in runs(where="tags.fastest = 'yes'")}
    return (
        None
        if tagged == {fastest.info.run_id}
        else "The tag `fastest` is not on the run with the shortest training alone."
    )
