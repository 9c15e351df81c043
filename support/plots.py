"""The pictures of an experiment. Each function gives a matplotlib figure and shows nothing by itself."""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from sklearn.metrics import precision_recall_curve

BLUE, ORANGE, GREY = "#1f77b4", "#ff7f0e", "#8c8c8c"
SHORTEST = 0.01  # seconds; a logarithmic axis has no zero
MOST_LABELS = 12
# Where a label may stand beside its dot, in points, best first.
BESIDE = [(9, 0), (-9, 0), (0, 9), (0, -9), (8, 8), (-8, 8), (8, -8), (-8, -8), (16, 16), (16, -16)]


def new_figure(width: float = 7, height: float = 3.6) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    plt.close(figure)  # else a notebook shows it twice
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def tag_counts(tags: pd.Series) -> Figure:
    """Show how many projects carry each tag. `tags` holds lists of str."""
    counts = Counter(tag for row in tags for tag in row).most_common()
    names, values = zip(*reversed(counts), strict=True)
    figure, axes = new_figure(height=0.19 * len(names) + 0.8)
    axes.barh(names, values, color=BLUE)
    axes.margins(y=0.01)
    axes.set(title="Projects by tag", xlabel="projects")
    return figure


def text_lengths(texts: pd.Series) -> Figure:
    """Show how long the clean texts are, in characters."""
    figure, axes = new_figure(height=2.8)
    axes.hist(texts.str.len(), bins=40, color=BLUE)
    axes.set(title="Length of a text", xlabel="characters", ylabel="projects")
    return figure


def learning_curves(history: list[dict[str, float]], best_epoch: int) -> Figure:
    """Show the losses by epoch, and the epoch whose weights are kept."""
    epochs = range(1, len(history) + 1)
    figure, axes = new_figure()
    axes.plot(epochs, [metrics["train_loss"] for metrics in history], color=BLUE, label="training")
    axes.plot(epochs, [metrics["val_loss"] for metrics in history], color=ORANGE, label="validation")
    axes.axvline(best_epoch, color=GREY, linestyle="--", label=f"best epoch ({best_epoch})")
    axes.set(title="Learning curves", xlabel="epoch", ylabel="loss")
    axes.legend(frameon=False)
    return figure


def precision_recall(targets: np.ndarray, probabilities: np.ndarray, threshold: float) -> Figure:
    """Show precision against recall over all decisions, and where the threshold stands.

    `targets` and `probabilities` are (N, classes).
    """
    truth, scores = targets.ravel(), probabilities.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    predicted = scores >= threshold
    hits = truth[predicted].sum()
    figure, axes = new_figure(width=4.8)
    axes.plot(recall, precision, color=BLUE)
    axes.plot(hits / truth.sum(), hits / max(predicted.sum(), 1), "o", color=ORANGE)
    axes.annotate(
        f"threshold {threshold:.2f}",
        (hits / truth.sum(), hits / max(predicted.sum(), 1)),
        xytext=(8, 6),
        textcoords="offset points",
    )
    axes.set(title="Validation split", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.03))
    return figure


def f1_by_tag(performance: dict) -> Figure:
    """Show the F1 of each tag, best first, from `get_performance`."""
    by_tag = sorted(performance["class"].items(), key=lambda item: item[1]["f1"])
    overall = performance["overall"]["f1"]
    figure, axes = new_figure(height=0.19 * len(by_tag) + 0.8)
    axes.barh([name for name, _ in by_tag], [values["f1"] for _, values in by_tag], color=BLUE)
    axes.axvline(overall, color=ORANGE, linestyle="--")
    axes.margins(y=0.01)
    title = f"F1 by tag, test split (dashed: weighted mean, {overall:.2f})"
    axes.set(title=title, xlabel="F1", xlim=(0, 1))
    return figure


def f1_against_time(table: pd.DataFrame) -> Figure:
    """Show what an F1 costs: each run of a leaderboard's table by its training time, in seconds.

    Runs on the Pareto front are ringed: no other is as good in the same time or less. A label is the run's
    rank and name; where there is no room for it, it is left out.
    """
    timed = table.assign(rank=range(1, len(table) + 1)).dropna(subset=["f1", "seconds"])
    timed["seconds"] = timed.seconds.clip(lower=SHORTEST)
    timed["front"] = pareto_front(timed.seconds.to_numpy(), timed.f1.to_numpy())
    figure, axes = new_figure(height=4.2)
    for model, runs in timed.groupby(timed.model.fillna("unknown model")):
        axes.scatter(runs.seconds, runs.f1, s=36, label=model, zorder=3)
    front = timed[timed.front].sort_values("seconds")
    axes.step(front.seconds, front.f1, color=GREY, linestyle="--", linewidth=1, where="post", zorder=1)
    rings = {"s": 130, "facecolors": "none", "edgecolors": GREY, "label": "Pareto front"}
    axes.scatter(front.seconds, front.f1, zorder=2, **rings)
    missing = len(table) - len(timed)
    note = f" ({missing:,} without a training time not shown)" if missing else ""
    axes.set(title=f"F1 against training time{note}", xlabel="training time (s)", ylabel="F1")
    if len(timed):  # nothing has no logarithm
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))  # where no power of 10 is
    axes.margins(x=0.2, y=0.12)  # for the labels
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    labels = {
        f"{run.rank} {run.run}": (run.seconds, run.f1)
        for run in timed.sort_values(["front", "f1"], ascending=False).head(MOST_LABELS).itertuples()
    }
    _label(axes, labels, timed[["seconds", "f1"]].to_numpy())
    return figure


def pareto_front(costs: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Tell of each whether no other gains as much at the same cost or less. Of equal ones, the first."""
    order = np.lexsort((-gains, costs))
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], gains[order]]))[:-1]
    front = np.empty(len(gains), dtype=bool)
    front[order] = gains[order] > best_before
    return front


def f1_by_tag_and_run(by_tag: dict[str, dict[str, float]]) -> Figure:
    """Show the F1 of each tag in several runs: run -> tag -> F1. The first run orders the tags."""
    table = pd.DataFrame(by_tag, dtype=float)
    table = table.sort_values(list(table.columns), na_position="first")
    rows = np.arange(len(table))
    figure, axes = new_figure(height=0.21 * len(table) + 1.2)
    axes.hlines(rows, table.min(axis=1), table.max(axis=1), color=GREY, linewidth=1, alpha=0.6, zorder=1)
    for number, (run, values) in reversed(list(enumerate(table.items()))):
        label = run if values.notna().any() else f"{run} (keeps no F1 by tag)"
        axes.scatter(values, rows, s=30, marker="oDs^v"[number % 5], c=f"C{number}", label=label, zorder=2)
    axes.set_yticks(rows, table.index)
    axes.grid(axis="x", alpha=0.3)
    axes.margins(y=0.01)
    axes.set(title="F1 by tag, test split", xlabel="F1", xlim=(-0.02, 1.02))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False)
    return figure


def _label(axes: Axes, labels: dict[str, tuple[float, float]], points: np.ndarray) -> None:
    """Write each label beside its place, off all other labels and off the points (N, 2), or not at all."""
    axes.figure.draw_without_rendering()  # only now it is known where on the page a point lies
    dots = axes.transData.transform(points)
    radius = 6 * axes.figure.dpi / 72  # a ring's, in pixels
    taken = np.hstack([dots - radius, dots + radius])  # left, bottom, right, top
    left, bottom, right, top = axes.bbox.extents
    for text, place in labels.items():
        for x, y in BESIDE:
            label = axes.annotate(
                text,
                place,
                xytext=(x, y),
                textcoords="offset points",
                fontsize="small",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 0},
                ha="left" if x > 0 else "right" if x < 0 else "center",
                va="bottom" if y > 0 else "top" if y < 0 else "center",
            )
            x0, y0, x1, y1 = box = label.get_window_extent().extents
            inside = left <= x0 and x1 <= right and bottom <= y0 and y1 <= top
            apart = (x1 < taken[:, 0]) | (taken[:, 2] < x0) | (y1 < taken[:, 1]) | (taken[:, 3] < y0)
            if inside and apart.all():
                taken = np.vstack([taken, box])
                break
            label.remove()
