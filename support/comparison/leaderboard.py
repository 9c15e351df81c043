"""Which run is best, among those that may be compared: finished, and measured on the same test split.

    board = rank()       # show it in a notebook, or print it
    board.table          # the same as a DataFrame, best first, by run id
    board.plot()         # the metric against training time

The validation figure decides, where a run has one; the test figure stands beside it. A figure on other data,
or on another split of the same, measures something else: such runs are left out, with the reason.
"""

import gc
import html
from collections import Counter
from dataclasses import dataclass

import mlflow
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import Run

from support.comparison import plots
from support.comparison.paired import comparable, paired
from support.data.splits import Splits
from support.tracking.intervals import interval, predictions_if_whole
from support.tracking.runs import EXPERIMENT, TRAIN, NoRunError, best_run, data_digest, score, seconds_of, why_left_out
from support.tracking.store import find_experiment

SHOWN = 20  # rows; the table has all
# Column: its heading, and how a number in it is written. Metrics have three digits.
UNITS = {
    "seconds": ("training (s)", "{:,.1f}"),
    "megabytes": ("size (MB)", "{:.2f}"),
    "latency_ms": ("latency (ms)", "{:.2f}"),
}


@dataclass(frozen=True)
class Leaderboard:
    """The `runs`, best first by `metric`, on the `data` in words, and how many others are `left_out`, by reason.

    `intervals` are run id -> metric -> ends of its 95 % interval, of the first SHOWN runs that keep their
    predictions, and `ties` the ids of those whose difference to the first may be chance.
    """

    runs: list[Run]
    metric: str
    data: str
    left_out: dict[str, int]
    intervals: dict[str, dict[str, tuple[float, float]]]
    ties: list[str]

    @property
    def table(self) -> pd.DataFrame:
        """A row a run, by run id. `low` and `high` are the ends of the test figure's 95 % interval, `ties` says
        whether it ties with the first; `seconds` are those of the training, else of the whole run; `megabytes`
        those of the model's files; `latency_ms` is of one text. What a run has not logged is missing."""
        index = pd.Index([run.info.run_id for run in self.runs], name="run_id")
        table = pd.DataFrame([_row(run, self.metric) for run in self.runs], index)
        ends = [self.intervals.get(run_id, {}).get(self.metric, (np.nan, np.nan)) for run_id in index]
        table[["low", "high"]] = np.array(ends).reshape(-1, 2)
        return table.assign(ties=index.isin(self.ties))

    def summary(self) -> str:
        """Return in a sentence or two what is ranked, and what is left out."""
        number = "1 run" if len(self.runs) == 1 else f"{len(self.runs):,} runs"
        order = f"best val_{self.metric} first, or {self.metric} where a run has none"
        tie = "1 run ties" if len(self.ties) == 1 else f"{len(self.ties)} runs tie"
        chance = f" {tie} with the first (≈): the difference may be chance." if self.ties else ""
        return f"{number} on {self.data}, {order}.{chance} {_said(self.left_out)}"

    def __repr__(self) -> str:
        return f"{self.summary()}\n\n{self._shown().to_string()}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.summary())}</p><div style='white-space: nowrap'>{self._shown().to_html()}</div>"

    def plot(self) -> Figure:
        """Return a figure of the metric against training time, with the Pareto front."""
        return plots.score_against_time(self.table, self.metric)

    def _shown(self) -> pd.DataFrame:
        """Return the first rows as text, by rank, with units in the headings."""
        table = self.table.head(SHOWN)
        table.index = pd.Index([f"{n} ≈" if tie else f"{n}" for n, tie in enumerate(table.pop("ties"), 1)])
        table, ids = table.drop(columns=["low", "high"]), [run.info.run_id for run in self.runs[:SHOWN]]
        for name in table:
            write = plots.short if name in ("run", "model") else UNITS.get(name, ("", "{:.3f}"))[1].format
            table[name] = [write(value) if pd.notna(value) else "-" for value in table[name]]
            ends = [self.intervals.get(run_id, {}).get(name) for run_id in ids]
            table[name] += [f" ({pair[0]:.2f} to {pair[1]:.2f})" if pair else "" for pair in ends]
        return table.rename(columns={name: heading for name, (heading, _) in UNITS.items()})


def rank(splits: Splits | None = None, experiment: str = EXPERIMENT, metric: str = "f1") -> Leaderboard:
    """Return the finished runs of an experiment that were measured on the same data, best first.

    Best is the highest `val_<metric>`, or `metric` where a run has no validation figure. The data are those
    of `splits`, or else of the best run. Of two equal runs the later one comes first. Raise NoRunError where
    no run is left.
    """
    missing = None
    try:
        digest = data_digest(best_run(experiment, metric, splits))
    except NoRunError as error:
        digest, missing = None, error
    digest = splits.digest if splits else digest
    runs = [(why_left_out(run, metric, digest), run) for run in _runs_of(experiment)]
    left_out = dict(Counter(reason for reason, _ in runs if reason).most_common())
    # A stable sort: equal ones stay as MLflow returns them, the latest first.
    ranked = sorted((run for reason, run in runs if not reason), key=lambda run: score(run, metric), reverse=True)
    if missing or not ranked:
        raise NoRunError(f"{missing} {_said(left_out)}") from missing
    return Leaderboard(ranked, metric, _described(ranked, digest), left_out, *_intervals(ranked, metric))


def _runs_of(experiment: str) -> list[Run]:
    found, collects = find_experiment(experiment), gc.isenabled()
    gc.disable()  # it takes two thirds of the time to read 10,000 runs
    try:
        runs = mlflow.search_runs([found.experiment_id], output_format="list") if found else []
    finally:
        if collects:
            gc.enable()
    # By id, since a run that starts between two pages moves the last of the first onto the second.
    return list({run.info.run_id: run for run in runs}.values())


def _intervals(runs: list[Run], metric: str) -> tuple[dict[str, dict[str, tuple[float, float]]], list[str]]:
    """Return the intervals of the first runs, and the ids of those that tie with the first on validation."""
    names = f"val_{metric}", metric
    kept = {run.info.run_id: [predictions_if_whole(run, name) for name in names] for run in runs[:SHOWN]}
    ends = {
        run_id: {name: interval(said, metric) for name, said in zip(names, both, strict=True) if said}
        for run_id, both in kept.items()
    }
    first, *others = [val for val, _ in kept.values()]
    pairs = zip(list(kept)[1:], others, strict=True)
    alike = [(run_id, said) for run_id, said in pairs if first and said and comparable(first, said)]
    return ends, [run_id for run_id, said in alike if paired(said, first, metric).tie]


def _described(runs: list[Run], digest: str | None) -> str:
    """Return the name and the digest of the data, in words."""
    inputs = runs[0].inputs.dataset_inputs if runs else []
    names = [each.dataset.name for each in inputs if each.dataset.digest == digest]
    return f"the data {names[0]!r} ({digest})" if names else "no data"


def _row(run: Run, metric: str) -> dict:
    metrics, size = run.data.metrics, run.data.metrics.get("size_bytes")
    return {
        "run": run.info.run_name,
        "model": run.data.params.get("model") or run.data.tags.get(TRAIN),
        **{name: metrics.get(name) for name in (metric, f"val_{metric}")},
        **({name: metrics.get(name) for name in ("precision", "recall")} if metric == "f1" else {}),
        "seconds": seconds_of(run),
        "megabytes": None if size is None else size / 1e6,
        "latency_ms": metrics.get("latency_ms"),
    }


def _said(left_out: dict[str, int]) -> str:
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in left_out.items())
    return f"Left out: {reasons}." if reasons else "No run is left out."
