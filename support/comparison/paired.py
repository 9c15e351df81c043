"""Whether one run is better than another by more than chance.

paired(first, second)            # both runs on the same examples: difference, interval, share of wins

Both are compared on the same draws of the examples (`tracking.intervals`), which leaves out what they have in
common: hard and easy examples.
"""

from dataclasses import dataclass

import numpy as np

from support.tracking.intervals import ENDS, draws, figures_of
from support.tracking.predictions import Predictions


@dataclass(frozen=True)
class Paired:
    """The second run's figure less the first's: on all examples, and in 95 % of the draws from `low` to `high`.

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


def comparable(first: Predictions, second: Predictions) -> bool:
    """Return whether two runs said something of the same examples, with the same targets."""
    return np.array_equal(first.ids, second.ids) and np.array_equal(first.targets, second.targets)


def paired(first: Predictions, second: Predictions, metric: str = "f1") -> Paired:
    """Compare two runs on the same examples. Raise ValueError where they said something of other examples."""
    if not comparable(first, second):
        raise ValueError("The two runs were measured on other examples: train one of them on the other's splits.")
    size = len(first.ids)
    whole, drawn = np.ones((1, size)), draws(size)
    at_all = (figures_of(second, metric, whole) - figures_of(first, metric, whole)).item()
    differences = figures_of(second, metric, drawn) - figures_of(first, metric, drawn)
    return Paired(at_all, *np.quantile(differences, ENDS).tolist(), float(np.mean(differences > 0)), size)
