"""The pictures of a run. Each function returns a matplotlib figure and shows nothing by itself.

They have no background of their own and mid-tone colours, so that they are legible in a light and a dark theme.
"""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

BLUE, ORANGE, GREY = "#3b8bc9", "#e8830c", "#808080"
STYLE = {name: GREY for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")}
STYLE |= {"figure.facecolor": "none", "axes.facecolor": "none", "legend.frameon": False}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False}
styled = mpl.rc_context(STYLE)  # a decorator for what draws


@styled
def new_figure(width: float = 7, height: float = 3.6, **given) -> tuple[Figure, Axes]:
    """Return a figure of this size, in inches, and its axes; more than one by what plt.subplots takes."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained", **given)
    plt.close(figure)  # else a notebook shows it twice
    for each in np.ravel(axes):
        each.tick_params(which="both", colors=GREY)  # ticks are made later, when the style is no longer on
    return figure, axes


def as_image(figure: Figure) -> np.ndarray:
    """Return a figure as pixels, uint8 (height, width, 4), as mlflow.log_image takes them."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())


def plain(name: str) -> str:
    """Return a name of the reader's as matplotlib shows it as it stands: one line, and no mathematics."""
    return " ".join(name.replace("$", r"\$").split())


@styled
def tag_counts(tags: pd.Series) -> Figure:
    """Show how many projects carry each tag. `tags` holds lists of str."""
    figure, axes = _bars(tags.explode().value_counts(ascending=True))
    axes.set(title="Projects by tag", xlabel="projects")
    return figure


@styled
def text_lengths(texts: pd.Series) -> Figure:
    """Show how long the clean texts are, in characters."""
    figure, axes = new_figure(height=2.8)
    axes.hist(texts.str.len(), bins=40, color=BLUE)
    axes.set(title="Length of a text", xlabel="characters", ylabel="projects")
    return figure


@styled
def learning_curves(
    history: list[dict[str, float]],
    best_epoch: int | None = None,
    title: str = "Learning curves",
    best_run: dict[int, float] | None = None,
) -> Figure:
    """Show the losses by epoch, and the epoch whose weights are kept.

    Losses are the metrics with "loss" in their names; where there is none, it is all of them. `best_run` is
    step -> validation loss of another run, drawn in grey.
    """
    by_epoch = pd.DataFrame(history, index=range(1, len(history) + 1))
    losses = by_epoch.filter(like="loss")
    shown = by_epoch if losses.empty else losses
    figure, axes = new_figure()
    if best_run:
        axes.plot(list(best_run), list(best_run.values()), color=GREY, linewidth=1, label="best run so far")
    for number, name in enumerate(shown):
        axes.plot(shown[name], color=(BLUE, ORANGE, f"C{number}")[min(number, 2)], label=plain(name))
    if best_epoch:
        axes.axvline(best_epoch, color=GREY, linestyle="--", label=f"best epoch ({best_epoch})")
    axes.set_title("\n".join(map(plain, title.splitlines())), fontsize="medium")
    axes.set(xlabel="epoch", ylabel="" if losses.empty else "loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return figure


@styled
def precision_recall(targets: np.ndarray, probabilities: np.ndarray, threshold: float) -> Figure:
    """Show precision against recall over all decisions, and where the threshold stands.

    `targets` and `probabilities` are (N, classes).
    """
    truth, scores = targets.ravel(), probabilities.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    predicted = scores >= threshold
    hits = truth[predicted].sum()
    place = hits / truth.sum(), hits / max(predicted.sum(), 1)
    figure, axes = new_figure(width=4.8)
    axes.plot(recall, precision, color=BLUE)
    axes.plot(*place, "o", color=ORANGE)
    axes.annotate(f"threshold {threshold:.2f}", place, xytext=(8, 6), textcoords="offset points")
    axes.set(title="Validation split", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.03))
    return figure


@styled
def f1_by_tag(performance: dict, split: str = "test") -> Figure:
    """Show the F1 of each tag in a split, best first, from `get_performance`."""
    overall = performance["overall"]["f1"]
    by_tag = pd.Series({name: figures["f1"] for name, figures in performance["class"].items()})
    figure, axes = _bars(by_tag.sort_values(kind="stable"))
    axes.axvline(overall, color=ORANGE, linestyle="--")
    title = f"F1 by tag, {split} split (dashed: weighted mean, {overall:.2f})"
    axes.set(title=title, xlabel="F1", xlim=(0, 1))
    return figure


def _bars(values: pd.Series) -> tuple[Figure, Axes]:
    figure, axes = new_figure(height=0.19 * len(values) + 0.8)
    axes.barh([plain(name) for name in values.index], values, color=BLUE)
    axes.margins(y=0.01)
    return figure, axes
