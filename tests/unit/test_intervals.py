"""Intervals by bootstrap, on synthetic predictions whose answer is known."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from support.comparison.paired import paired
from support.tracking import intervals
from support.tracking.predictions import Predictions


def said(targets: np.ndarray, predicted: np.ndarray) -> Predictions:
    """Return predictions of (N, C) booleans."""
    ids = np.array([f"{row}" for row in range(len(targets))])
    classes = np.array([f"class {column}" for column in range(targets.shape[1])])
    return Predictions(ids, predicted.astype(np.float32), predicted, targets, classes)


def one_label(rng: np.random.Generator, size: int, right: float) -> Predictions:
    """Return predictions of one of three labels that are right with this probability."""
    truth = rng.integers(3, size=size)
    guess = np.where(rng.random(size) < right, truth, (truth + 1) % 3)
    return said(np.eye(3, dtype=bool)[truth], np.eye(3, dtype=bool)[guess])


@pytest.mark.parametrize("metric", ["f1", "precision", "recall", "accuracy"])
def test_the_figure_of_all_examples_is_scikit_learns(metric: str) -> None:
    rng = np.random.default_rng(1)
    targets, predicted = rng.random((2, 80, 5)) < 0.3
    whole = intervals.figures_of(said(targets, predicted), metric, np.ones((1, 80))).item()
    function = {"f1": f1_score, "precision": precision_score, "recall": recall_score}.get(metric)
    wanted = (
        function(targets, predicted, average="weighted", zero_division=0)
        if function
        else accuracy_score(targets, predicted)
    )
    assert whole == pytest.approx(wanted)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    ends = [intervals.interval(one_label(rng, 200, 0.7), "accuracy") for _ in range(200)]
    assert 0.90 <= np.mean([low <= 0.7 <= high for low, high in ends]) <= 0.99


def test_so_does_that_of_the_f1_of_many_rare_labels() -> None:
    rng, frequency = np.random.default_rng(8), np.geomspace(0.02, 0.3, 35)

    def several_labels(size: int) -> Predictions:
        targets = rng.random((size, 35)) < frequency
        return said(targets, rng.random((size, 35)) < np.where(targets, 0.65, frequency / 4))

    truth = intervals.figures_of(many := several_labels(100_000), "f1", np.ones((1, len(many.ids)))).item()
    ends = [intervals.interval(several_labels(200)) for _ in range(60)]
    assert np.mean([low <= truth <= high for low, high in ends]) >= 0.9


def test_the_same_predictions_give_the_same_interval() -> None:
    predictions = one_label(np.random.default_rng(3), 100, 0.6)
    assert intervals.interval(predictions) == intervals.interval(predictions)


def test_more_examples_make_the_interval_narrower() -> None:
    rng = np.random.default_rng(4)
    widths = [np.diff(intervals.interval(one_label(rng, size, 0.7))).item() for size in (100, 10_000)]
    assert widths[1] < widths[0] / 5


def test_a_tie_is_a_tie_and_a_clear_win_is_a_win() -> None:
    rng = np.random.default_rng(5)
    targets = np.eye(3, dtype=bool)[rng.integers(3, size=300)]
    noise = [np.roll(targets, 1, axis=1) if wrong else targets for wrong in (True, False)]
    wrong = rng.random(300)
    good, same, bad = (said(targets, np.where((wrong < share)[:, None], *noise)) for share in (0.20, 0.205, 0.40))
    tie, win = paired(good, same, "accuracy"), paired(bad, good, "accuracy")
    assert tie.tie and "a tie" in str(tie)
    assert not win.tie and win.low > 0 and win.wins == 1.0
    assert win.difference == pytest.approx(np.mean(wrong < 0.40) - np.mean(wrong < 0.20))
    assert "more than chance" in str(win) and "300 examples" in str(win)


def test_paired_tells_apart_what_two_intervals_alone_cannot() -> None:
    rng = np.random.default_rng(6)
    truth, hard = rng.integers(3, size=400), rng.random(400)
    targets = np.eye(3, dtype=bool)
    first, second = (
        said(targets[truth], targets[np.where(hard < share, (truth + 1) % 3, truth)]) for share in (0.34, 0.30)
    )
    (_, high), (low, _) = intervals.interval(first, "accuracy"), intervals.interval(second, "accuracy")
    assert low < high  # the intervals overlap
    assert not paired(first, second, "accuracy").tie


def test_other_examples_and_unknown_metrics_are_refused() -> None:
    rng = np.random.default_rng(7)
    with pytest.raises(ValueError, match="other examples"):
        paired(one_label(rng, 50, 0.5), one_label(rng, 60, 0.5))
    with pytest.raises(ValueError, match="'lr' has no interval"):
        intervals.interval(one_label(rng, 50, 0.5), "lr")
