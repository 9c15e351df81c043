"""The pictures of a search: Optuna's own, in the size and the colours of a notebook's."""

import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from optuna import Study
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState
from optuna.visualization import matplotlib as pictures

from support.plots import GREY


def draw(study: Study, title: str, metric: str) -> dict[str, Figure]:
    """Return name -> figure: a line a trial through its params, and the share of the metric's variance that each
    param explains by itself. Empty where too little was measured.

    Source: Hutter, Hoos, Leyton-Brown: An Efficient Approach for Assessing Hyperparameter Importance (2014).
    """
    measured = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(measured) < 3 or not measured[0].params or len({trial.value for trial in measured}) < 2:
        return {}
    figures, seeded = {}, FanovaImportanceEvaluator(seed=0)
    with plt.rc_context():  # Optuna sets a style for all figures to come
        for name, height, axes in (
            ("parallel_coordinates", 3.6, pictures.plot_parallel_coordinate(study, target_name=metric)),
            ("importance", 2.4, pictures.plot_param_importances(study, seeded, target_name=metric)),
        ):
            axes.set_title("", loc="left")
            axes.set_title(f"{title}: {len(measured)} measured trials")
            axes.figure.set_size_inches(8, height)
            _for_any_theme(axes.figure)
            plt.close(axes.figure)  # else a notebook shows it twice
            figures[name] = axes.figure
    return figures


def _for_any_theme(figure: Figure) -> None:
    """Take the background away, and let nothing be white or black: legible in a light and a dark theme."""
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.grid(False)
        axes.tick_params(which="both", colors=GREY)
        axes.spines[:].set_color(GREY)
        if axes.get_legend():
            axes.get_legend().remove()  # it names the metric, and nothing else
    for lines in figure.findobj(LineCollection):
        lines.set_cmap("cool")
    for text in figure.findobj(Text):
        text.set_color(GREY)
