"""Runs beside each other.

board = rank(splits)       # the runs on the same data, best first: .table, .left_out, .plot(), .plot_tags()
diff(run_a, run_b).facts   # what differs between two; .metrics, .examples
"""

from support.comparison.diff import Difference, diff
from support.comparison.leaderboard import Leaderboard, rank

__all__ = ["Difference", "Leaderboard", "diff", "rank"]
