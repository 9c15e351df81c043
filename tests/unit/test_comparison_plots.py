"""The figures that compare runs: what they show is what they were given."""

import numpy as np
import pandas as pd
from matplotlib.collections import PathCollection

from support.comparison import plots


def table(*rows: tuple) -> pd.DataFrame:
    """Return what a leaderboard's table has that the plot reads."""
    return pd.DataFrame(rows, columns=["run", "accuracy", "seconds"])


def dots(axes) -> list[list]:
    return [each.get_offsets().tolist() for each in axes.collections if isinstance(each, PathCollection)]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_pareto_front_is_what_no_other_beats_in_both() -> None:
    costs, gains = np.array([30.0, 4.0, 4.0, 1.0, 1.0, 60.0]), np.array([0.7, 0.6, 0.6, 0.5, 0.4, 0.7])
    assert list(plots.pareto_front(costs, gains)) == [True, True, False, True, False, False]
    assert list(plots.pareto_front(np.array([]), np.array([]))) == []


def test_a_score_against_time_shows_each_run_that_has_one_and_rings_the_front() -> None:
    runs = table(("cnn", 0.7, 30.0), ("own", 0.6, None), ("slow", 0.5, 60.0), ("_r $x^$\ny", 0.4, 0))
    figure = plots.score_against_time(runs, "accuracy")
    [axes] = figure.axes
    shortest = plots.SHORTEST
    assert dots(axes) == [[[30.0, 0.7]], [[60.0, 0.5]], [[shortest, 0.4]], [[shortest, 0.4], [30.0, 0.7]]]
    assert legend(figure) == ["1 cnn", "3 slow", r"4 _r \$x^\$ y", "Pareto front"], "by rank and name"
    assert axes.get_xscale() == "log" and axes.get_ylabel() == "accuracy"
    assert "1 without a training time" in axes.get_title()
    figure.draw_without_rendering()


def test_the_first_runs_are_named_and_the_others_are_there() -> None:
    figure = plots.score_against_time(table(*((f"run {n}", 0.9 - n / 100, n + 1) for n in range(60))), "accuracy")
    assert legend(figure)[-2:] == [f"{60 - plots.MOST_NAMED} others", "Pareto front"]
    assert len(legend(figure)) == plots.MOST_NAMED + 2
    assert sum(map(len, dots(figure.axes[0])[:-1])) == 60


def test_no_run_with_a_training_time_gives_empty_axes() -> None:
    [axes] = plots.score_against_time(table(("old", 0.5, None)), "accuracy").axes
    assert dots(axes) == [[]] and "1 without" in axes.get_title()


def test_f1_by_class_and_run_is_in_the_order_of_the_first_run() -> None:
    figure = plots.f1_by_class_and_run({"1 a": {"x": 0.2, "$y$": 0.8}, "2 b": {"$y$": 0.6, "x": 0.7}, "3 c": {}})
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", r"\$y\$"]
    first, second, _ = dots(axes)
    assert [x for x, _ in first] == [0.2, 0.8] and [x for x, _ in second] == [0.7, 0.6]
    assert legend(figure) == ["1 a", "2 b", "3 c (keeps no predictions)"]


def test_very_many_classes_still_fit_a_figure() -> None:
    figure = plots.f1_by_class_and_run({"1 a": {f"class {n}": n / 1000 for n in range(1000)}})
    assert len(dots(figure.axes[0])[0]) == plots.MOST_CLASSES and "100 of 1,000 classes" in figure.axes[0].get_title()
