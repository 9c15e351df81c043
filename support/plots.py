"""The pictures of a run. Each function returns a matplotlib figure and shows nothing by itself."""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

BLUE, ORANGE, GREY = "#1f77b4", "#ff7f0e", "#8c8c8c"


def new_figure(width: float = 7, height: float = 3.6) -> tuple[Figure, Axes]:
    """Return a figure of this size, in inches, and its axes."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    plt.close(figure)  # else a notebook shows it twice
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plain(name: str) -> str:
    """Return a name of the reader's as matplotlib shows it as it stands: one line, and no mathematics."""
    return " ".join(name.replace("$", r"\$").split())


def tag_counts(tags: pd.Series) -> Figure:
    """Show how many projects carry each tag. `tags` holds lists of str."""
    counts = Counter(tag for row in tags for tag in row).most_common()
    names, values = zip(*reversed(counts), strict=True)
    figure, axes = new_figure(height=0.19 * len(names) + 0.8)
    axes.barh([plain(name) for name in names], values, color=BLUE)
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
    axes.barh([plain(name) for name, _ in by_tag], [values["f1"] for _, values in by_tag], color=BLUE)
    axes.axvline(overall, color=ORANGE, linestyle="--")
    axes.margins(y=0.01)
    title = f"F1 by tag, test split (dashed: weighted mean, {overall:.2f})"
    axes.set(title=title, xlabel="F1", xlim=(0, 1))
    return figure
