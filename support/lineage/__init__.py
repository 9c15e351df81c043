"""Go on from a run: finish one that was cut off, repeat one, or train further from one.

resume(run_id)                    # the same run, to the same end as if nothing had happened
reproduce(run_id)                 # a new run from the record of the first, and a table that compares them
retrain(run_id, params, splits)   # a new run that starts from the weights of the first
"""

from support.lineage.reproduce import reproduce
from support.lineage.resume import resume
from support.lineage.retrain import retrain
from support.lineage.shared import LineageError

__all__ = ["LineageError", "reproduce", "resume", "retrain"]
