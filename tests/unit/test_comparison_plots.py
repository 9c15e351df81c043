"""The figures that compare runs: what they show is what they were given."""

import numpy as np
import pandas as pd

from support.comparison import plots


def runs(rows: list[tuple]) -> pd.DataFrame:
    """Give what a leaderboard's table has that the plot reads."""
    return pd.DataFrame(rows, columns=["run", "model", "f1", "seconds"])


def test_the_pareto_front_is_what_no_other_beats_in_both() -> None:
    costs, gains = np.array([30.0, 4.0, 4.0, 1.0, 1.0, 60.0]), np.array([0.7, 0.6, 0.6, 0.5, 0.4, 0.7])
    assert list(plots.pareto_front(costs, gains)) == [True, True, False, True, False, False]
    assert list(plots.pareto_front(np.array([]), np.array([]))) == []


def test_f1_against_time_shows_each_run_that_has_one_and_rings_the_front() -> None:
    table = runs(
        [
            ("cnn", "cnn", 0.7, 30.0),
            ("own", None, 0.6, None),
            ("slow", "cnn", 0.5, 60.0),
            ("r", "rules", 0.4, 0),
        ]
    )
    [axes] = plots.f1_against_time(table).axes
    dots = {each.get_label(): each.get_offsets().tolist() for each in axes.collections}
    assert dots == {
        "cnn": [[30.0, 0.7], [60.0, 0.5]],
        "rules": [[plots.SHORTEST, 0.4]],
        "Pareto front": [[plots.SHORTEST, 0.4], [30.0, 0.7]],
    }
    assert axes.get_xscale() == "log"
    assert "1 without a training time" in axes.get_title()
    assert {label.get_text() for label in axes.texts} == {"1 cnn", "3 slow", "4 r"}, "by rank and name"


def test_labels_overlap_neither_each_other_nor_the_dots() -> None:
    rng = np.random.default_rng(0)
    table = runs([("a run's name", "cnn", *row) for row in zip(rng.random(60), 10 ** rng.random(60), strict=True)])
    figure = plots.f1_against_time(table)
    figure.draw_without_rendering()
    [axes] = figure.axes
    boxes = [label.get_window_extent() for label in axes.texts]
    assert len(boxes) >= 5
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    dots = axes.transData.transform(table[["seconds", "f1"]].to_numpy())
    assert not any(box.contains(*dot) for box in boxes for dot in dots)


def test_no_run_with_a_training_time_gives_empty_axes() -> None:
    [axes] = plots.f1_against_time(runs([("old", None, 0.5, None)])).axes
    assert not axes.texts and "1 without" in axes.get_title()


def test_f1_by_tag_and_run_is_in_the_order_of_the_first_run() -> None:
    by_tag = {"1 a": {"x": 0.2, "y": 0.8}, "2 b": {"y": 0.6, "x": 0.7}, "3 c": {}}
    figure = plots.f1_by_tag_and_run(by_tag)
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]
    dots = {each.get_label(): each.get_offsets()[:, 0].tolist() for each in axes.collections}
    assert dots["1 a"] == [0.2, 0.8] and dots["2 b"] == [0.7, 0.6]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["1 a", "2 b", "3 c (keeps no F1 by tag)"]
