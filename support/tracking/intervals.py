"""How sure a figure is: its 95 % interval, by bootstrap over the examples.

interval(predictions)            # (0.70, 0.79): another test split of this size might have given any of these
with_interval(run, "f1")         # "0.745 (0.70 to 0.79)": what the run has logged

The examples are drawn again, with replacement, and the figure is computed of each draw (Efron, Tibshirani, 1993).
"""

from typing import Any

import numpy as np
from mlflow.entities import Run

from support.models.files import ArtifactError
from support.tracking.predictions import Predictions, read_predictions

RESAMPLES, SEED = 1_000, 0
ENDS = (0.025, 0.975)  # between them are 95 % of the draws
METRICS = ("f1", "precision", "recall", "accuracy")


def interval(predictions: Predictions, metric: str = "f1") -> tuple[float, float]:
    """Return the ends of the 95 % interval of a metric: one of METRICS, weighted by a class's frequency."""
    return tuple(np.quantile(figures_of(predictions, metric, draws(len(predictions.ids))), ENDS).tolist())


def with_interval(run: Run, name: str) -> str:
    """Return a metric that the run has logged, such as "f1" or "val_f1", with its interval where that is known."""
    kept = predictions_if_whole(run, name)
    behind = " ({:.2f} to {:.2f})".format(*interval(kept, name.removeprefix("val_"))) if kept else ""
    return f"{run.data.metrics[name]:.3f}{behind}"


def predictions_of(run: Run, name: str) -> Predictions | None:
    """Return what the run said of the examples on which it measured a metric.

    None where it keeps nothing, and where the figure is another one than METRICS are of these examples, such
    as the plain mean over the classes: their interval is not its own. Raise ArtifactError for damaged files.
    """
    metric, logged = name.removeprefix("val_"), run.data.metrics.get(name)
    if metric not in METRICS or logged is None:
        return None
    kept = read_predictions(run, "test" if metric == name else "val")
    whole = figures_of(kept, metric, np.ones((1, len(kept.ids)))).item() if kept else np.nan
    return kept if abs(whole - logged) < 5e-4 else None  # it may be rounded


def predictions_if_whole(run: Run, name: str) -> Predictions | None:
    """Return the same, and None for damaged files, saying so: one run does not stop a table of many."""
    try:
        return predictions_of(run, name)
    except ArtifactError as error:
        print(f"Without an interval: {error}")
        return None


def draws(size: int) -> np.ndarray:
    """Return how often each of `size` examples is in each draw: float (RESAMPLES, size)."""
    return np.random.default_rng(SEED).multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(float)


def figures_of(predictions: Predictions, metric: str, draws: np.ndarray, classes: Any = slice(None)) -> np.ndarray:
    """Return the metric of each draw, of some of the classes: (draws,). `draws` may leave out examples by a 0."""
    said, true = predictions.predicted[:, classes], predictions.targets[:, classes]
    if metric == "accuracy":
        return draws @ (said == true).all(axis=1) / draws.sum(axis=1)
    if metric not in METRICS:
        raise ValueError(f"{metric!r} has no interval: known are {', '.join(METRICS)}.")
    hits, given, wanted = (draws @ each.astype(float) for each in (said & true, said, true))
    of = {"precision": given, "recall": wanted, "f1": (given + wanted) / 2}[metric]
    by_class = np.divide(hits, of, out=np.zeros_like(hits), where=of > 0)
    return (by_class * wanted).sum(axis=1) / np.maximum(wanted.sum(axis=1), 1)
