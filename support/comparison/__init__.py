"""Runs beside each other.

board = rank(splits)       # the runs on the same data, best first: .table, .left_out, .plot()
paired(first, second)      # is the second better by more than chance? On what tracking.read_predictions gives of both
diff(run_a, run_b).facts   # what differs between two; .metrics, .code, .examples
"""

from support.comparison.diff import Difference, diff
from support.comparison.leaderboard import Leaderboard, rank
from support.comparison.paired import Paired, paired
from support.tracking.intervals import interval

__all__ = ["Difference", "Leaderboard", "Paired", "diff", "interval", "paired", "rank"]
