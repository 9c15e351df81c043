"""How two runs differ: params, data, versions, metrics, code, and the test examples that they label differently.

    difference = diff(run_a, run_b)
    difference.facts      # params, data and versions: only what differs
    difference.metrics    # first, second, difference
    difference.code       # commit, uncommitted changes, notebook cells: a unified diff
    difference.examples   # by example id: the labels of both, and how sure each is

All of it comes from what the runs have logged: no model is loaded.
"""

from dataclasses import dataclass

import pandas as pd
from mlflow.entities import Run

from support.comparison.code_diff import Code, diff_code
from support.tracking.predictions import Predictions, read_predictions
from support.tracking.provenance import recorded_environment
from support.tracking.runs import get_run

COLUMNS = ["true", "first", "second", "label", "first_probability", "second_probability"]


@dataclass(frozen=True)
class Difference:
    """Three tables, the code, and a note on the examples: how many were compared, or why none could be."""

    facts: pd.DataFrame
    metrics: pd.DataFrame
    examples: pd.DataFrame
    note: str
    code: Code


def diff(run_a: str, run_b: str) -> Difference:
    """Compare two runs by their ids. Raise NoRunError where one is missing.

    In `examples`, `label` is the one on which the runs disagree most, with its probability in each. Where the
    examples cannot be compared, that table is empty, and the `note`, which is printed too, says why.
    """
    runs = get_run(run_a), get_run(run_b)
    first, second = map(_facts, runs)
    names = dict.fromkeys([*first, *second])
    facts = {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}
    logged = [run.data.metrics for run in runs]
    names = [name for name in {**logged[0], **logged[1]} if not name.startswith("system/")]
    metrics = _table({name: (logged[0].get(name), logged[1].get(name)) for name in names}).astype(float)
    metrics["difference"] = metrics["second"] - metrics["first"]
    return Difference(_table(facts), metrics, *_examples(*runs), diff_code(*runs))


def _table(rows: dict[str, tuple]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index", columns=["first", "second"])


def _facts(run: Run) -> dict[str, str]:
    """Return the params, the data and the versions of a run; the first word of a name says which it is."""
    return {
        **{f"param {name}": value for name, value in run.data.params.items()},
        **{f"data {each.dataset.name}": each.dataset.digest for each in run.inputs.dataset_inputs},
        **{f"version {name}": value for name, value in recorded_environment(run).items()},
    }


def _examples(one: Run, two: Run) -> tuple[pd.DataFrame, str]:
    """Return the test examples that two runs label differently, and the note."""
    first, second = (read_predictions(run, "test") for run in (one, two))
    if first is None or second is None:
        without = (one if first is None else two).info.run_id
        note = (
            f"The examples cannot be compared: run {without} keeps no predictions of its test split. "
            "tracking.train_and_log keeps those of a tagger; tracking.log_predictions logs those of your own model."
        )
    elif not (common := set(first.ids) & set(second.ids)):
        note = "The examples cannot be compared: the test splits of the two runs have none in common."
    else:
        differing, every = _labelled_differently(first, second), set(first.ids) | set(second.ids)
        some = "" if common == every else f" that both have, of {len(every):,},"
        return differing, f"{len(differing):,} of the {len(common):,} test examples{some} are labelled differently."
    print(note)
    return pd.DataFrame(columns=COLUMNS), note


def _labelled_differently(first: Predictions, second: Predictions) -> pd.DataFrame:
    places, rows = {example: row for row, example in enumerate(second.ids)}, {}
    columns = [{str(name): column for column, name in enumerate(kept.classes)} for kept in (first, second)]
    for row, example in enumerate(first.ids):
        if example not in places:
            continue
        both = (first, row, columns[0]), (second, places[example], columns[1])
        said = [{name for name in of if kept.predicted[at, of[name]]} for kept, at, of in both]
        if disputed := said[0] ^ said[1]:
            sure = {  # a label that a run does not know has no chance with it
                name: [float(kept.probabilities[at, of[name]]) if name in of else 0.0 for kept, at, of in both]
                for name in sorted(disputed)
            }
            name = max(sure, key=lambda name: abs(sure[name][0] - sure[name][1]))
            true = {name for name, column in columns[0].items() if first.targets[row, column]}
            rows[example] = [*(", ".join(sorted(names)) for names in (true, *said)), name, *sure[name]]
    return pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)
