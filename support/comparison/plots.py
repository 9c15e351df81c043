"""The figures that compare runs. Each function returns a matplotlib figure and shows nothing by itself."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from support.plots import GREY, new_figure, plain, styled

SHORTEST = 0.01  # seconds; a logarithmic axis has no zero
MOST_NAMED = 10  # runs with a colour and a name of their own
MOST_CLASSES = 100
LONGEST_NAME = 40  # characters


def short(name: object) -> str:
    """Return a name on one line, cut where it is long."""
    line = " ".join(str(name).split())
    return line if len(line) <= LONGEST_NAME else f"{line[:LONGEST_NAME]}…"


@styled
def score_against_time(table: pd.DataFrame, metric: str) -> Figure:
    """Show what a score costs: each run of a leaderboard's table by its training time, in seconds.

    The first runs have a colour, their name, and their 95 % interval as a line. Runs on the Pareto front are
    ringed: no other is as good in the same time or less.
    """
    names = [f"{place} {plain(short(name))}" for place, name in enumerate(table.run, 1)]
    timed = pd.DataFrame({"name": names, "seconds": table.seconds.values, "score": table[metric].values})
    timed = timed.assign(**{end: table[end].values if end in table else np.nan for end in ("low", "high")}).dropna(
        subset=["seconds", "score"]
    )
    timed = timed.astype({"seconds": float, "score": float})
    timed["seconds"] = timed.seconds.clip(lower=SHORTEST)
    front = timed[pareto_front(timed.seconds.to_numpy(), timed.score.to_numpy())].sort_values("seconds")
    figure, axes = new_figure(7, 4.2)
    shown = {  # named in the legend, which leaves out dots with a label that begins with _
        run.name: axes.scatter(run.seconds, run.score, s=36, color=f"C{number}", zorder=3)
        for number, run in enumerate(timed.head(MOST_NAMED).itertuples(index=False))
    }
    known = timed.head(MOST_NAMED).dropna()
    axes.vlines(known.seconds, known.low, known.high, color=GREY, linewidth=1, alpha=0.7)  # 95 % intervals
    if len(others := timed.iloc[MOST_NAMED:]):
        shown[f"{len(others):,} others"] = axes.scatter(others.seconds, others.score, s=12, color=GREY)
    axes.step(front.seconds, front.score, color=GREY, linestyle="--", linewidth=1, where="post", zorder=1)
    rings = {"s": 130, "facecolors": "none", "edgecolors": GREY}
    shown["Pareto front"] = axes.scatter(front.seconds, front.score, zorder=2, **rings)
    missing = len(table) - len(timed)
    note = f" ({missing:,} without a training time not shown)" if missing else ""
    axes.set(title=f"{metric} against training time{note}", xlabel="training time (s)", ylabel=metric)
    if len(timed):  # nothing has no logarithm
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))  # where no power of 10 is
    _legend(figure, shown.values(), shown)
    return figure


def pareto_front(costs: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return of each whether no other gains as much at the same cost or less: bool (N,). Of equals, the first."""
    order = np.lexsort((-gains, costs))
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], gains[order]]))[:-1]
    front = np.empty(len(gains), dtype=bool)
    front[order] = gains[order] > best_before
    return front


@styled
def f1_by_class_and_run(by_run: dict[str, dict[str, float]]) -> Figure:
    """Show the F1 of each class in several runs: run -> class -> F1. The first run orders the classes."""
    table = pd.DataFrame(by_run, dtype=float)
    note = f" ({MOST_CLASSES} of {len(table):,} classes)" if len(table) > MOST_CLASSES else ""
    table = table.sort_values(list(table.columns), na_position="first").tail(MOST_CLASSES)
    rows, known = np.arange(len(table)), table.notna().any()
    figure, axes = new_figure(7, 0.21 * len(table) + 1.2)
    axes.hlines(rows, table.min(axis=1), table.max(axis=1), color=GREY, linewidth=1, alpha=0.6, zorder=1)
    dots = [
        axes.scatter(values, rows, s=30, marker="oDs^v"[number % 5], color=f"C{number}", zorder=20 - number)
        for number, (_, values) in enumerate(table.items())
    ]
    axes.set_yticks(rows, [plain(short(name)) for name in table.index])
    axes.grid(axis="x", alpha=0.3)
    axes.margins(y=0.01)
    axes.set(title=f"F1 by class, test split{note}", xlabel="F1", xlim=(-0.02, 1.02))
    _legend(figure, dots, [plain(run if known[run] else f"{run} (keeps no predictions)") for run in table])
    return figure


def _legend(figure: Figure, artists: Iterable[Artist], names: Iterable[str]) -> None:
    figure.legend(artists, names, loc="outside lower center", ncols=2)
