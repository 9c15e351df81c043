"""Train a run again from its record alone, and compare the two, step by step.

table = reproduce(run_id)
table.verdict          # by metric: equal, differs, other steps
table.attrs["run_id"]  # the new run
"""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from support.data.splits import Splits
from support.lineage import old_code
from support.lineage.shared import STARTED_FROM, data_changes, listed, train_anew
from support.tracking import provenance
from support.tracking.runs import get_run, histories, params_of, train_function_of

REPRODUCES = "support.reproduces"  # the tag with the id of the run that a run repeats


def reproduce(run_id: str, splits: Splits | None = None) -> pd.DataFrame:
    """Train a run again from its record, as a new run; return logged, reproduced, difference and verdict.

    What is not as it was is printed before it starts. With `splits` the data are these, instead of the run's
    own copy. The id of the new run is in the table's `.attrs["run_id"]`. Raise NoRunError where the run is
    missing, RecordError where its function, params or data are.
    """
    run = get_run(run_id)
    train = train_function_of(run)
    params, recorded, start_from = params_of(run), provenance.splits_of(run), run.data.tags.get(STARTED_FROM)
    splits = splits or recorded
    different = provenance.differences(run, train) | data_changes(recorded, splits)
    name, tags = f"{run.info.run_name} again", {REPRODUCES: run_id}
    with TemporaryDirectory() as folder:
        # With other code, that of then is rebuilt, and trains in a process of its own.
        code = {name: then for name, (then, _) in different.items() if name.startswith("code")}
        rebuilt = code and start_from is None and old_code.rebuild(run, code, Path(folder))
        if rebuilt:
            print("The code has changed since: that of then is rebuilt from git and the run's diff.")
            different = {name: change for name, change in different.items() if name not in code}
        same = "Versions, device, code and data are as they were."
        print(f"Not as it was:\n{listed(different)}" if different else same, flush=True)
        if rebuilt:
            again = old_code.train(run, Path(folder), splits, name, tags)
        else:
            again = train_anew(name, run, params, splits, start_from, tags)
    table = compare(histories(run_id), histories(again))
    table.attrs["run_id"] = again
    return table


def compare(logged: dict[str, dict[int, float]], again: dict[str, dict[int, float]]) -> pd.DataFrame:
    """Return a row a metric, with its largest difference over all steps, of metric -> step -> value."""
    rows = {}
    for name in {**logged, **again}:
        one, two = logged.get(name, {}), again.get(name, {})
        gaps = [_gap(one[step], two[step]) for step in one.keys() & two.keys()]
        rows[name] = {
            "logged": list(one.values())[-1] if one else None,
            "reproduced": list(two.values())[-1] if two else None,
            "steps": len(two),
            "difference": max(gaps, default=0.0),
            "verdict": "other steps" if one.keys() != two.keys() else "differs" if any(gaps) else "equal",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _gap(one: float, two: float) -> float:
    """Return how far two values are apart: 0 where both are the same, or both no number."""
    if one == two or (math.isnan(one) and math.isnan(two)):
        return 0.0
    return math.inf if math.isnan(one - two) else abs(one - two)
