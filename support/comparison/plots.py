"""The figures that compare runs. Each function returns a matplotlib figure and shows nothing by itself."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from support.plots import GREY, new_figure, plain, styled

SHORTEST = 0.01  # seconds; a logarithmic axis has no zero
MOST_NAMED = 10  # runs with a colour and a name of their own
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
    timed = table.assign(name=names, score=table[metric])
    timed = timed.reindex(columns=["name", "seconds", "score", "low", "high"]).dropna(subset=["seconds", "score"])
    timed = timed.astype({"seconds": float, "score": float})
    timed["seconds"] = timed.seconds.clip(lower=SHORTEST)
    by_cost = timed.sort_values(["seconds", "score"], ascending=[True, False], kind="stable")
    front = by_cost[by_cost.score > by_cost.score.cummax().shift(fill_value=-np.inf)]
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
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=2)
    return figure
