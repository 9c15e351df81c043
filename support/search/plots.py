"""The pictures of a search, as matplotlib figures in the style of `support.plots`.

figures = draw({"linear": study})
figures["parallel_coordinates"], figures["importance"]

Optuna's own matplotlib plots are experimental and warn at each call.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from support.plots import BLUE, GREY, ORANGE

FEWEST = 3  # measured trials, for a picture to say something
FROM_WORST_TO_BEST = LinearSegmentedColormap.from_list("search", ["#dddddd", BLUE])


def draw(studies: dict[str, Study]) -> dict[str, Figure]:
    """Draw all spaces of which enough was measured, one above the other: name -> figure."""
    measured = {name: study.get_trials(states=(TrialState.COMPLETE,)) for name, study in studies.items()}
    shown = {
        name: trials
        for name, trials in measured.items()
        if len(trials) >= FEWEST and trials[0].params and len({trial.value for trial in trials}) > 1
    }
    if not shown:
        return {}
    return {
        "parallel_coordinates": parallel_coordinates(shown),
        "importance": importance({name: studies[name] for name in shown}),
    }


def parallel_coordinates(trials: dict[str, list[FrozenTrial]]) -> Figure:
    """Show each measured trial as a line through its params to its F1. `trials` has a list a space."""
    figure, rows = plt.subplots(len(trials), figsize=(8, 2.9 * len(trials)), layout="constrained", squeeze=False)
    plt.close(figure)  # else a notebook shows it twice
    for axes, (name, found) in zip(rows[:, 0], trials.items(), strict=True):
        _lines(axes, found)
        axes.set_title(f"{name}: {len(found)} trials, the best in orange", pad=14)
    return figure


def importance(studies: dict[str, Study]) -> Figure:
    """Show which share of the F1's variance each param explains by itself (fANOVA), by space.

    Source: Hutter, Hoos, Leyton-Brown: An Efficient Approach for Assessing Hyperparameter Importance (2014).
    """
    shares = {
        name: get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
        for name, study in studies.items()
    }
    heights = [0.26 * len(share) + 0.5 for share in shares.values()]
    figure, rows = plt.subplots(
        len(shares),
        figsize=(7, sum(heights) + 0.5),
        height_ratios=heights,
        sharex=True,
        layout="constrained",
        squeeze=False,
    )
    plt.close(figure)
    for axes, (name, share) in zip(rows[:, 0], shares.items(), strict=True):
        axes.barh(list(share)[::-1], list(share.values())[::-1], color=BLUE)
        axes.set_title(f"{name}: importance of the params")
        axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="share of the F1's variance", xlim=(0, 1))
    return figure


def _lines(axes: Axes, trials: list[FrozenTrial]) -> None:
    trials = sorted(trials, key=lambda trial: trial.value)  # the best on top
    names = list(trials[0].params)
    values = np.array([trial.value for trial in trials])
    spread = values.max() - values.min()
    scales = {name: _scale(trials[0].distributions[name]) for name in names}
    for trial, height in zip(trials, (values - values.min()) / spread, strict=True):
        best = trial is trials[-1]
        heights = [scales[name][0](trial.params[name]) for name in names]
        colour = ORANGE if best else FROM_WORST_TO_BEST(height)
        axes.plot([*heights, height], color=colour, linewidth=2 if best else 1.2, solid_joinstyle="round")
    ends = {0.0: f"{values.min():.3f}", 1.0: f"{values.max():.3f}"}
    for x, ticks in enumerate([*(scales[name][1] for name in names), ends]):
        axes.axvline(x, color=GREY, linewidth=0.8, zorder=0)
        for height, text in ticks.items():
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
            axes.annotate(text, (x, height), (4, 0), textcoords="offset points", va="center", fontsize=8, bbox=box)
    axes.set_xticks(range(len(names) + 1), [*names, "validation F1"])
    axes.tick_params(length=0)
    axes.set(yticks=[], xlim=(-0.1, len(names) + 0.45), ylim=(-0.07, 1.07))
    axes.spines[:].set_visible(False)


def _scale(values: BaseDistribution) -> tuple:
    """Give a function that maps a value to 0..1, and height -> text of the axis."""
    if isinstance(values, CategoricalDistribution):
        top = max(len(values.choices) - 1, 1)
        heights = {choice: i / top for i, choice in enumerate(values.choices)}
        return heights.get, {height: _short(choice) for choice, height in heights.items()}
    stretch = math.log if values.log else float
    low, high = stretch(values.low), stretch(values.high)
    return (
        lambda value: (stretch(value) - low) / ((high - low) or 1),
        {0.0: f"{values.low:g}", 1.0: f"{values.high:g}"},
    )


def _short(choice: object) -> str:
    text = str(choice)
    return text if len(text) <= 16 else f"{text[:6]}...{text[-5:]}"
