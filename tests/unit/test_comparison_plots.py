"""The figures that compare runs: what they show is what they were given."""

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


def test_the_pareto_front_is_what_no_other_beats_in_both() -> None:
    runs = [("", gain, cost) for cost, gain in ((30, 0.7), (4, 0.6), (4, 0.6), (1, 0.5), (1, 0.4), (60, 0.7))]
    [axes] = plots.score_against_time(table(*runs), "accuracy").axes
    assert dots(axes)[-1] == [[1, 0.5], [4, 0.6], [30, 0.7]]


def test_the_first_runs_are_named_and_the_others_are_there() -> None:
    figure = plots.score_against_time(table(*((f"run {n}", 0.9 - n / 100, n + 1) for n in range(60))), "accuracy")
    assert legend(figure)[-2:] == [f"{60 - plots.MOST_NAMED} others", "Pareto front"]
    assert len(legend(figure)) == plots.MOST_NAMED + 2
    assert sum(map(len, dots(figure.axes[0])[:-1])) == 60


def test_no_run_with_a_training_time_gives_empty_axes() -> None:
    [axes] = plots.score_against_time(table(("old", 0.5, None)), "accuracy").axes
    assert dots(axes) == [[]] and "1 without" in axes.get_title()
