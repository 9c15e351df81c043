"""The figures: what they show is what they were given."""

import numpy as np
import pandas as pd

from support import plots


def test_learning_curves_show_both_losses_and_the_best_epoch() -> None:
    history = [{"train_loss": 1.0, "val_loss": 2.0}, {"train_loss": 0.5, "val_loss": 1.5}]
    [axes] = plots.learning_curves(history, best_epoch=2).axes
    train, val, best = axes.lines
    assert list(train.get_ydata()) == [1.0, 0.5]
    assert list(val.get_ydata()) == [2.0, 1.5]
    assert list(best.get_xdata()) == [2, 2]


def test_tags_are_counted_most_frequent_on_top() -> None:
    [axes] = plots.tag_counts(pd.Series([["a", "b"], ["b"], ["b", "c"], ["c"]])).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "c", "b"]
    assert [bar.get_width() for bar in axes.patches] == [1, 2, 3]


def test_text_lengths_count_every_text() -> None:
    [axes] = plots.text_lengths(pd.Series(["a", "bb", "bb"])).axes
    assert sum(bar.get_height() for bar in axes.patches) == 3


def test_the_threshold_stands_where_its_precision_and_recall_are() -> None:
    targets = np.array([[1, 0], [1, 1]])
    probabilities = np.array([[0.9, 0.6], [0.3, 0.7]])
    [axes] = plots.precision_recall(targets, probabilities, threshold=0.5).axes
    [recall], [precision] = axes.lines[1].get_data()
    assert (recall, precision) == (2 / 3, 2 / 3)


def test_f1_by_tag_is_sorted_with_the_mean_marked() -> None:
    performance = {"overall": {"f1": 0.5}, "class": {"x": {"f1": 0.2}, "y": {"f1": 0.8}}}
    [axes] = plots.f1_by_tag(performance).axes
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.8]
    assert list(axes.lines[0].get_xdata()) == [0.5, 0.5]


def test_no_figure_stays_open() -> None:
    plots.text_lengths(pd.Series(["a"]))
    assert plots.plt.get_fignums() == []


def test_names_of_the_readers_show_as_they_stand() -> None:
    name = "$GME^$ _x\nline | 5%"
    figures = [
        plots.tag_counts(pd.Series([[name], [name]])),
        plots.f1_by_tag({"overall": {"f1": 0.5}, "class": {name: {"f1": 0.2}}}),
    ]
    for figure in figures:
        figure.draw_without_rendering()  # a name that matplotlib reads as mathematics raises here
        [label] = figure.axes[0].get_yticklabels()
        assert label.get_text().replace("\\$", "$") == "$GME^$ _x line | 5%"
