"""Exercises of the notebooks, checked against the reader's own store.

check("01a")      # "Done", or what is still missing
hint("01a"); solution("01a")

The tasks stand in the notebooks, hints and solutions in exercises.toml. A check looks at what the store holds,
whoever logged it and however: so it can be run again and again, and in a new kernel.
"""

import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mlflow
from mlflow.entities import Run, ViewType

from support.config import stores_dir
from support.tracking.runs import why_left_out
from support.tracking.store import EXPERIMENT, find_experiment
from support.tracking.training_run import ORIGIN

TEXTS = Path(__file__).with_suffix(".toml")
_checks: dict[str, Callable[[], str | None]] = {}


def check(number: str) -> None:
    """Print whether the exercise is done, and if not, what is missing."""
    missing = _known(number, _checks)()
    print(f"{number}: Not yet. {missing}" if missing else f"{number}: Done. Well done!")


def hint(number: str) -> None:
    """Print a hint."""
    print(_known(number, _texts())["hint"])


def solution(number: str) -> None:
    """Print a solution: cells that do it. There are other ways."""
    print(_known(number, _texts())["solution"])


def exercise(number: str) -> Callable:
    """Register a check: a function that returns what is missing, or None when all is there."""

    def register(function: Callable[[], str | None]) -> Callable[[], str | None]:
        _checks[number] = function
        return function

    return register


def runs(
    name: str | None = None, experiment: str = EXPERIMENT, where: str = "", view: int = ViewType.ACTIVE_ONLY
) -> list[Run]:
    """Return the reader's runs of an experiment, latest first: those of a name, or all that fit a filter."""
    found = find_experiment(experiment)
    if found is None:
        return []
    wanted = " and ".join(filter(None, [f"attributes.run_name = '{name}'" if name else "", where]))
    return mlflow.search_runs([found.experiment_id], wanted, run_view_type=view, output_format="list")


@cache
def _texts() -> dict[str, dict[str, str]]:
    return tomllib.loads(TEXTS.read_text(encoding="utf-8"))


def _known(number: str, among: dict):
    if number not in among:
        raise ValueError(f"There is no exercise {number!r}. There are {', '.join(sorted(among))}.")
    return among[number]


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
    return None if tagged == wanted else f"{len(wanted ^ tagged)} run(s) have the tag wrongly, or lack it."


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


# Notebook 04


@exercise("04a")
def _refused() -> str | None:
    refused = [run.data.tags["refused"] for run in runs("my-refusal") if "refused" in run.data.tags]
    if not refused:
        return "There is no run `my-refusal` with a tag `refused`."
    reasons = ("nothing to resume", "began with other", "is running", "was deleted", "is not in this store")
    known = any(reason in sentence for sentence in refused for reason in reasons)
    return None if known else "The tag `refused` of `my-refusal` is not a sentence of `lineage.resume`."


@exercise("04b")
def _deleted_and_restored() -> str | None:
    if not runs("my-treasure"):
        return "There is no run `my-treasure`: log it, or bring it back."
    if runs("my-mistake"):
        return "The run `my-mistake` is not deleted."
    return None if runs("my-mistake", view=ViewType.DELETED_ONLY) else "There is no run `my-mistake` in the trash."


@exercise("04c")
def _killed_and_unbroken() -> str | None:
    for run in runs("my-cut-off", where="attributes.status = 'FINISHED'"):
        safe, losses = run.data.tags.get("killed_at", ""), _losses(run)
        steps = [step for step, _ in losses]
        if steps != list(range(1, len(steps) + 1)):
            return "The curve of `my-cut-off` is broken: not each epoch is there once."
        if not safe.isdigit() or not 3 <= int(safe) < len(steps):
            return "The run `my-cut-off` has no tag `killed_at` with the epochs that were safe: 3 or more, and not all."
        again = runs(where=f"tags.`support.reproduces` = '{run.info.run_id}'")
        if not any(_losses(other) == losses for other in again):
            return "The run `my-cut-off` has not been reproduced with the same losses."
        return None
    return "There is no finished run `my-cut-off`."


def _losses(run: Run) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val_loss")
    return sorted((metric.step, metric.value) for metric in history)


# Notebook 05


# Notebook 06


@exercise("06a")
def _synced_to_a_second_store() -> str | None:
    if not (here := runs(experiment="trips")):
        return "There is no run in the experiment `trips`: run the notebook's cell that logs one."
    there = {run.data.tags.get(ORIGIN, run.info.run_id) for run in _in_the_second_store()}
    missing = [run for run in here if run.data.tags.get(ORIGIN, run.info.run_id) not in there]
    return f"{len(missing)} run(s) of `trips` are not in the store `second` of the stores folder." if missing else None


@exercise("06b")
def _brought_home() -> str | None:
    there = {run.info.run_id for run in _in_the_second_store() if run.info.run_name == "my-answer"}
    if not there:
        return "The store `second` of the stores folder has no run `my-answer` in `trips`."
    origins = {run.data.tags.get(ORIGIN) for run in runs("my-answer", "trips")}
    return None if there & origins else "Your own `trips` has no copy of the run `my-answer`."


@exercise("06c")
def _nothing_twice() -> str | None:
    for run in runs("my-sync", "trips"):
        if run.data.metrics.get("copied") == 0 and run.data.metrics.get("there"):
            return None
    return "No run `my-sync` in `trips` has the metrics `copied` (0) and `there` (1 or more) of a second sync."


def _in_the_second_store() -> list[Run]:
    database = stores_dir() / "second" / "mlflow.db"
    if not database.is_file():
        return []
    client = mlflow.MlflowClient(f"sqlite:///{database.as_posix()}")
    found = client.get_experiment_by_name("trips")
    return list(client.search_runs([found.experiment_id])) if found else []


# Notebook 07


@exercise("07a")
def _own_classifier() -> str | None:
    for run in runs("my-classifier", "digits"):
        reason = why_left_out(run, "accuracy")
        if reason is None and run.outputs.model_outputs:
            return None
        return f"The run `my-classifier` is {reason}." if reason else "The run `my-classifier` has logged no model."
    return "There is no run `my-classifier` in the experiment `digits`."


@exercise("07b")
def _better_than_logistic() -> str | None:
    mine, first = runs("my-classifier", "digits"), runs("logistic", "digits")
    if not mine or not first:
        return "The experiment `digits` needs a run `logistic` and a run `my-classifier`."
    better = mine[0].data.metrics.get("val_accuracy", 0) > first[0].data.metrics["val_accuracy"]
    return None if better else "The `val_accuracy` of `my-classifier` is not above that of `logistic`."


@exercise("07c")
def _own_network_reproduced() -> str | None:
    for run in runs("my-network", "digits"):
        if runs(experiment="digits", where=f"tags.`support.reproduces` = '{run.info.run_id}'"):
            return None
    return "No run `my-network` in `digits` has been reproduced."
