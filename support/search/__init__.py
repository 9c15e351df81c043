"""Search for good params with Optuna, in one process or in many; each trial is a child run.

run_id = search(splits, SPACES, workers=2)
trials(run_id)                                # a table, best first
verdict(run_id)                               # is the best one better than the default, or is that chance?
train_and_log(best_params(run_id), splits)    # the best params as a run of their own
"""

from support.search.search import SPACES, SearchError, best_params, search, trials, verdict
from support.search.space import Space

__all__ = ["SPACES", "SearchError", "Space", "best_params", "search", "trials", "verdict"]
