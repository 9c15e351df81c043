"""What the exercises of the notebooks 04 to 07 ask for."""

import mlflow
from mlflow.entities import Run, ViewType

from support.config import stores_dir
from support.exercises.checking import exercise, runs
from support.tracking.runs import ORIGIN, score, why_left_out

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


@exercise("05a")
def _promotion_refused() -> str | None:
    refused = runs(where="tags.refused LIKE '%does not beat the champion%'")
    return None if refused else "No run has a tag `refused` with the sentence of the refusal."


@exercise("05b")
def _own_search() -> str | None:
    for run in runs("my-search"):
        if run.data.metrics.get("trials_measured", 0) < 3:
            return "The search `my-search` has not measured three trials yet."
        told = run.data.tags.get("verdict", "").startswith("linear: the best of")
        return None if told else "The run `my-search` has no tag `verdict` with what search.verdict says."
    return "There is no search `my-search`."


@exercise("05c")
def _own_champion() -> str | None:
    client = mlflow.MlflowClient()
    versions = client.search_model_versions("name = 'my-tagger'")
    if len(versions) < 2:
        return "The model `my-tagger` has no two versions yet."
    scores = {each.version: score(mlflow.get_run(each.run_id)) for each in versions}
    champion = client.get_registered_model("my-tagger").aliases.get("champion")
    best = champion and scores[champion] == max(scores.values()) > min(scores.values())
    return None if best else "The champion of `my-tagger` is not the version with the best validation F1."


# Notebook 06


@exercise("06a")
def _synced_to_a_second_store() -> str | None:
    if not (here := runs(experiment="trips")):
        return "There is no run in the experiment `trips`: run the notebook's cell that logs one."
    there = {run.data.tags.get(ORIGIN, run.info.run_id) for run in _in_the_second_store()}
    missing = [run for run in here if run.data.tags.get(ORIGIN, run.info.run_id) not in there]
    return f"Runs of `trips` that are not in the store `second`: {len(missing)}." if missing else None


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
    return "No run `my-sync` in `trips` has a second sync's `copied` (0) and `there` (1 or more)."


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
