"""Exercises of the notebooks, checked against the reader's own store.

check("01a")      # "Done", or what is still missing
hint("01a"); solution("01a")

The tasks stand in the notebooks. A check looks at what the store holds, whoever logged it and however: so it can
be run again and again, and in a new kernel.
"""

from support.exercises import later, lesson
from support.exercises.checking import check, hint, runs, solution

__all__ = ["check", "hint", "later", "lesson", "runs", "solution"]
