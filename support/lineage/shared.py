"""What resume, reproduce and retrain have in common: a training by a run's function, and how two differ."""

from dataclasses import asdict, is_dataclass
from typing import Any

import mlflow
from mlflow.entities import Run

from support.data.splits import PARTS, Splits
from support.tracking.runs import get_run, params_of, train_function_of
from support.tracking.training_run import load_tagger, start_run, train_in

STARTED_FROM = "support.started_from"  # the tag with the id of the run whose weights a run started from


class LineageError(ValueError):
    """The run cannot be gone on from in this way. The message says why and what to do."""


def start_of(run_id: str) -> Any:
    """Return what a training may start from: the run's tagger, or the model it logged with MLflow's call.

    Raise LineageError where the run keeps neither.
    """
    run = get_run(run_id)
    if hasattr(params_of(run), "loaded_by"):
        return load_tagger(run_id)
    if not run.outputs.model_outputs:
        raise LineageError(f"Run {run_id} keeps no model to start from. Log one, as mlflow.sklearn.log_model does.")
    return mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[-1].model_id}").get_raw_model()


def train_anew(name: str, like: Run, params: Any, splits: Splits, start_from: str | None, tags: dict[str, str]) -> str:
    """Train by the function of the run `like`, in a new run beside it, and return the new run's id.

    `start_from` is the id of the run whose weights it starts from.
    """
    train, more = train_function_of(like), {}
    if start_from:
        more["start_from"], tags = start_of(start_from), {**tags, STARTED_FROM: start_from}
    experiment = mlflow.get_experiment(like.info.experiment_id).name
    with start_run(name, experiment, tags=tags) as run:
        train_in(run, params, splits, train, **more)
    return run.info.run_id


def changes(before: Any, now: Any) -> dict[str, tuple]:
    """Return how two params, dataclasses or dicts, differ: name -> (before, now)."""
    old, new = (asdict(each) if is_dataclass(each) else each for each in (before, now))
    names = dict.fromkeys([*old, *new])
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def data_changes(before: Splits, now: Splits) -> dict[str, tuple]:
    """Return how two splits differ: name -> (before, now)."""
    if before.digest == now.digest:
        return {}
    facts = [
        {"corpus": splits.corpus, "split seed": splits.seed, "digest": splits.digest}
        | {f"{name} split": f"{len(getattr(splits, name)):,} examples" for name in PARTS}
        for splits in (before, now)
    ]
    return changes(*facts)


def listed(changes: dict[str, tuple]) -> str:
    """Return a line for each change."""
    return "\n".join(f"  {name}: {before} there, {now} here" for name, (before, now) in changes.items())
