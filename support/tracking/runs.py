"""Finding runs, saying which may be compared, and reading back what a run records.

run = best_run()
params_of(run), histories(run.info.run_id)
"""

import ast
import inspect
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from support.models.files import need, read_json
from support.models.params import resolve
from support.tracking import checksums
from support.tracking.store import EXPERIMENT, find_experiment

if TYPE_CHECKING:  # a table of runs needs no scikit-learn
    from support.data.splits import Splits

# Tags that name the function which trained the run, "module:function", and the dataclass of its params.
TRAIN, PARAMS_TYPE = "support.train", "support.params"
PARAMS, DATA = "params.json", "provenance/data.json"
# The machine decides about these too: a run that is done again may have others.
MEASURED = ("training_seconds", "size_bytes", "latency_ms")
LARGEST = 1.797e308  # what MLflow's database makes of infinity
ENDED = {"RUNNING": "unfinished", "SCHEDULED": "unfinished", "FAILED": "failed", "KILLED": "killed"}
SPLITS = "training, validation and test"  # the context by which `log_context` marks the splits
ORIGIN = "support.sync.origin"  # the tag with the run that this one goes on from, or is the copy of
NO_DATA, OTHER_DATA = "without a recorded dataset", "on other data"
LOWER_IS_BETTER = re.compile(r"(^|_)(loss|error|mae|mse|rmse|mape|perplexity)$")


class NoRunError(LookupError):
    """The store holds no run that fits what was asked for."""


class RecordError(ValueError):
    """The run does not record what is asked for. The message says what is missing and what to do."""


def why_left_out(run: Run, metric: str = "f1", digest: str | None = None) -> str | None:
    """Return why the run may not be compared by the metric, or None where it may.

    It must be finished, have the metric as a finite number, and a dataset among its inputs: with `digest`,
    that of the splits. Whatever ranks, chooses or keeps runs asks here.
    """
    if LOWER_IS_BETTER.search(metric) and not metric.startswith("neg_"):
        raise ValueError(f"Runs rank highest first, and of {metric} lower is better. Log it negated: neg_{metric}.")
    if run.info.status != "FINISHED":
        return ENDED[run.info.status]
    figures = [run.data.metrics.get(name) for name in (metric, f"val_{metric}")]
    if figures[0] is None:
        return f"without the metric {metric}"
    if not all(value is None or (math.isfinite(value) and abs(value) < LARGEST) for value in figures):
        return f"without a finite {metric}"
    digests = [each.dataset.digest for each in run.inputs.dataset_inputs]
    if not digests:
        return NO_DATA
    return OTHER_DATA if digest and digest not in digests else None


def score(run: Run, metric: str = "f1") -> float:
    """Return the figure that runs are chosen by: of the validation split, where the run has logged one.

    `val_f1` is that of `f1`. To choose by the test split would make its figure too good for new data.
    """
    metrics = run.data.metrics
    return metrics.get(f"val_{metric}", metrics.get(metric, math.nan))


def data_digest(run: Run) -> str | None:
    """Return the digest of the run's splits, or of the dataset that was logged last; None without one."""
    inputs = run.inputs.dataset_inputs
    ours = [each for each in inputs if any(tag.value == SPLITS for tag in each.tags)]
    return (ours or inputs)[-1].dataset.digest if inputs else None


def best_run(experiment: str = EXPERIMENT, metric: str = "f1", splits: "Splits | None" = None) -> Run:
    """Return the comparable run with the highest score, the latest of equals. Raise NoRunError for none."""
    return best_runs(experiment, metric, splits, max_results=1)[0]


def best_runs(
    experiment: str = EXPERIMENT, metric: str = "f1", splits: "Splits | None" = None, max_results: int = 10
) -> list[Run]:
    """Return the comparable runs with the highest `score`, best first. Raise NoRunError where there is none."""
    found = find_experiment(experiment)
    if found and found.lifecycle_stage == "deleted":
        raise NoRunError(
            f"The experiment {experiment!r} was deleted. Bring it back with "
            f"mlflow.MlflowClient().restore_experiment({found.experiment_id!r})."
        )
    digest = splits.digest if splits else None
    best: dict[str, Run] = {}
    for name in (f"val_{metric}", metric) if found else ():
        known = [score(run, metric) for run in best.values()]
        above = f" and metrics.`{name}` >= {min(known)!r}" if len(known) == max_results else ""
        for run in _highest_first(found.experiment_id, name, above):
            lowest = min(map(lambda r: score(r, metric), best.values()), default=-math.inf)
            if len(best) == max_results and run.data.metrics[name] < lowest:
                break  # none that follows is better: what is ranked by its test figure has no other
            if why_left_out(run, metric, digest) is None:
                best[run.info.run_id] = run
                ranked = sorted(best.values(), key=lambda r: (score(r, metric), r.info.start_time), reverse=True)
                best = {r.info.run_id: r for r in ranked[:max_results]}
    if not best:
        where = f" on the data of these splits ({splits.corpus}, seed {splits.seed})" if splits else ""
        raise NoRunError(
            f"The experiment {experiment!r} has no finished run with the metric {metric!r}{where}. "
            "Name another one with metric=, or train one first, as notebook 01_tracked_training does."
        )
    return list(best.values())


def _highest_first(experiment_id: str, metric: str, where: str) -> Iterator[Run]:
    """Yield the finished runs that have the metric, the highest first, in pages that grow: each sorts all runs."""
    token, size = None, 2
    while token != "":
        size = min(size * 10, 20_000)
        page = MlflowClient().search_runs(
            [experiment_id],
            f"attributes.status = 'FINISHED'{where}",
            order_by=[f"metrics.`{metric}` DESC"],
            max_results=size,
            page_token=token,
        )
        with_metric = [run for run in page if metric in run.data.metrics]
        yield from with_metric
        token = (page.token or "") if len(with_metric) == len(page) else ""


def find_run(
    run_name: str, params: Any = None, splits: "Splits | None" = None, experiment: str = EXPERIMENT
) -> Run | None:
    """Return the latest finished run of that name, with these params and data where they are named; or None."""
    found = find_experiment(experiment)
    if found is None:
        return None
    named = f" and attributes.run_name = '{run_name}'" if "'" not in run_name else ""  # else it is sought below
    where = f"attributes.status = 'FINISHED'{named}"
    wanted = {} if params is None else asdict(params) if is_dataclass(params) else dict(params)
    for run in mlflow.search_runs([found.experiment_id], where, output_format="list"):
        same_params = all(run.data.params.get(name) == str(value) for name, value in wanted.items())
        if run.info.run_name == run_name and same_params and (splits is None or data_digest(run) == splits.digest):
            return run
    return None


def differing_params(alike: list[Run]) -> list[str]:
    """Return the params that are not the same in all runs that have them; first those that most runs have."""
    values = pd.DataFrame([run.data.params for run in alike])
    return sorted(values.columns[values.nunique() > 1], key=lambda name: (-values[name].count(), name))


def seconds_of(run: Run) -> float | None:
    """Return what the training took, or else the run; None for a run without an end."""
    took = run.info.end_time and (run.info.end_time - run.info.start_time) / 1000
    return run.data.metrics.get("training_seconds", took)


def train_function_of(run: Run) -> Callable:
    """Return the function that trained the run. Raise RecordError where it names none that can be imported."""
    name = run.data.tags.get(TRAIN)
    if name is None:
        raise RecordError(
            f"Run {run.info.run_id} does not name the function that trained it. Train it with "
            "tracking.train_and_log(params, splits, train=...), which records the function."
        )
    try:
        inspect.signature(train := resolve(name)).bind(None, None, on_epoch=None, checkpoint=None)  # not os.system
        return train
    except (ValueError, TypeError) as error:
        raise RecordError(f"Run {run.info.run_id} was trained by a function that is not here: {error}") from error


def params_of(run: Run) -> Any:
    """Return the params that the run has logged, as its train function takes them: a dataclass, or a dict.

    Raise RecordError where it has not logged them, or their class takes others now.
    """
    values = _params_file(run) or {name: _literal(text) for name, text in run.data.params.items()}
    if not values:
        raise RecordError(f"Run {run.info.run_id} has logged no params. Name them.")
    try:
        if (name := run.data.tags.get(PARAMS_TYPE)) is None:
            return values
        kind = resolve(name)
        need(isinstance(kind, type) and is_dataclass(kind), f"{name} is no dataclass.")  # a tag may name any function
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise RecordError(f"Run {run.info.run_id} has no usable params: {error} Name them.") from error


def histories(run_id: str) -> dict[str, dict[int, float]]:
    """Return metric -> step -> value of a run, without those that the machine decides about."""
    client = MlflowClient()
    names = [
        name for name in client.get_run(run_id).data.metrics if not name.startswith("system/") and name not in MEASURED
    ]
    return {name: {m.step: m.value for m in client.get_metric_history(run_id, name)} for name in sorted(names)}


def get_run(run_id: str) -> Run:
    """Return the run. Raise NoRunError where it is not in the store, or in its trash."""
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        raise NoRunError(f"Run {run_id} is not in this store: {error.message}") from error
    if run.info.lifecycle_stage == "deleted":
        raise NoRunError(f"Run {run_id} was deleted. Bring it back first: tracking.restore_runs([{run_id!r}]).")
    return run


def _params_file(run: Run) -> dict | None:
    with TemporaryDirectory() as folder:
        try:
            checksums.fetch(run, [PARAMS], folder)
        except (MlflowException, OSError):
            return None  # a run that was logged with MLflow's calls alone
        return read_json(Path(folder) / PARAMS, dict)


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
