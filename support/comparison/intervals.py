"""How sure a figure is: its 95 % interval, and whether one run is better than another by more than chance.

interval(predictions)            # (0.70, 0.79): another test split of this size might have given any of these
paired(first, second)            # both runs on the same examples: difference, interval, share of wins

Bootstrap over the examples: they are drawn again, with replacement, RESAMPLES times, and the figure is computed
of each draw. Two runs are compared on the same draws, which leaves out what both have in common: hard and easy
examples. Source: Efron and Tibshirani (1993), "An Introduction to the Bootstrap".
"""

from dataclasses import dataclass

import numpy as np

from support.tracking.predictions import Predictions

RESAMPLES, SEED = 1_000, 0
LEVEL = 0.95
METRICS = ("f1", "precision", "recall", "accuracy")


@dataclass(frozen=True)
class Paired:
    """The second run's figure less the first's: on all examples, and in LEVEL of the draws from `low` to `high`.

    `wins` is the share of draws in which the second is better, and `examples` how many examples there are.
    """

    difference: float
    low: float
    high: float
    wins: float
    examples: int

    @property
    def tie(self) -> bool:
        """Whether the difference may be chance: the interval holds 0."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        """Return a sentence."""
        verdict = "a tie" if self.tie else "more than chance"
        return (
            f"{self.difference:+.3f} ({self.low:+.3f} to {self.high:+.3f}) on {self.examples:,} examples: {verdict}; "
            f"better in {self.wins:.0%} of the draws"
        )


def interval(predictions: Predictions, metric: str = "f1") -> tuple[float, float]:
    """Return the ends of the 95 % interval of a metric: one of METRICS, weighted by a class's frequency."""
    return _ends(_figures(predictions, metric, _draws(len(predictions.ids))))


def comparable(first: Predictions, second: Predictions) -> bool:
    """Return whether two runs said something of the same examples, with the same targets."""
    return np.array_equal(first.ids, second.ids) and np.array_equal(first.targets, second.targets)


def paired(first: Predictions, second: Predictions, metric: str = "f1") -> Paired:
    """Compare two runs on the same examples. Raise ValueError where they said something of other examples."""
    if not comparable(first, second):
        raise ValueError("The two runs were measured on other examples: train one of them on the other's splits.")
    size = len(first.ids)
    whole, draws = np.ones((1, size)), _draws(size)
    at_all = (_figures(second, metric, whole) - _figures(first, metric, whole)).item()
    differences = _figures(second, metric, draws) - _figures(first, metric, draws)
    return Paired(at_all, *_ends(differences), float(np.mean(differences > 0)), size)


def _draws(size: int) -> np.ndarray:
    """Return how often each of `size` examples is in each draw: float (RESAMPLES, size)."""
    return np.random.default_rng(SEED).multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(float)


def _figures(predictions: Predictions, metric: str, draws: np.ndarray) -> np.ndarray:
    """Return the metric of each draw: (draws,)."""
    said, true = predictions.predicted, predictions.targets
    if metric == "accuracy":
        return draws @ (said == true).all(axis=1) / draws.sum(axis=1)
    if metric not in METRICS:
        raise ValueError(f"{metric!r} has no interval: known are {', '.join(METRICS)}.")
    hits, given, wanted = (draws @ each.astype(float) for each in (said & true, said, true))
    of = {"precision": given, "recall": wanted, "f1": (given + wanted) / 2}[metric]
    by_class = np.divide(hits, of, out=np.zeros_like(hits), where=of > 0)
    return (by_class * wanted).sum(axis=1) / np.maximum(wanted.sum(axis=1), 1)


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
