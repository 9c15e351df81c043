"""How two runs differ: params, data, versions, metrics, and which texts they tag differently.

difference = diff(run_a, run_b)
difference.facts   # a table: params, data, versions
difference.texts   # a table: text, what the one says, what the other says
"""

from dataclasses import dataclass

import mlflow
import pandas as pd

from support.lineage import lineage
from support.tracking import provenance
from support.tracking import training_run as tracking


@dataclass(frozen=True)
class Difference:
    """Three tables. Each has a column a run; only what differs is in the first and the last."""

    facts: pd.DataFrame
    metrics: pd.DataFrame
    texts: pd.DataFrame


def diff(run_a: str, run_b: str) -> Difference:
    """Compare two runs by their ids. The texts are those of the first run's test split.

    Raises NoRunError for a run whose model cannot be loaded.
    """
    one, two = mlflow.get_run(run_a), mlflow.get_run(run_b)
    facts = [
        {
            **{f"param {name}": value for name, value in run.data.params.items()},
            **{f"data {name}": run.data.tags.get(name) for name in ("corpus", "split_seed", "split_digest")},
            **{name: run.data.tags.get(name) for name in provenance.environment()},
        }
        for run in (one, two)
    ]
    rows = {
        name: (facts[0].get(name), facts[1].get(name))
        for name in {**facts[0], **facts[1]}
        if facts[0].get(name) != facts[1].get(name)
    }
    names = [name for name in {**one.data.metrics, **two.data.metrics} if not name.startswith("system/")]
    values = {name: (one.data.metrics.get(name), two.data.metrics.get(name)) for name in names}
    metrics = _table(values)
    metrics["difference"] = metrics["second"] - metrics["first"]
    texts = list(lineage.splits_of(one).test.text)
    tags = [tracking.load_tagger(run).predict(texts) for run in (run_a, run_b)]
    differing = {
        text: (", ".join(first), ", ".join(second))
        for text, first, second in zip(texts, *tags, strict=True)
        if first != second
    }
    return Difference(_table(rows), metrics, _table(differing))


def _table(rows: dict[str, tuple]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index", columns=["first", "second"])
