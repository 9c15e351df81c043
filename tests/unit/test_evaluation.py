"""Performance against scikit-learn, and the threshold against trying every one."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_recall_fscore_support

from support.models.evaluation import best_threshold, get_performance


def weighted_f1(targets: np.ndarray, predictions: np.ndarray) -> float:
    return f1_score(targets, predictions, average="weighted", zero_division=0)


@st.composite
def decisions(draw):
    """Targets with at least one tag, and probabilities with many ties."""
    rows, classes = draw(st.integers(1, 12)), draw(st.integers(2, 4))
    seed = draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, classes)) < draw(st.sampled_from([0.1, 0.5, 0.9]))).astype(np.float32)
    targets[rng.integers(rows), rng.integers(classes)] = 1
    probabilities = rng.random((rows, classes)).astype(np.float32)
    if draw(st.booleans()):
        probabilities = probabilities.round(1)
    return targets, probabilities


@given(decisions())
def test_no_threshold_beats_the_best(case):
    targets, probabilities = case
    best = weighted_f1(targets, probabilities >= best_threshold(targets, probabilities))
    tried = [weighted_f1(targets, probabilities >= t) for t in [-1, 2, *np.unique(probabilities)]]
    assert best == pytest.approx(max(tried), abs=1e-9)


def test_the_threshold_separates_what_can_be_separated():
    targets = np.array([[1, 0], [0, 1], [1, 1]])
    probabilities = np.array([[0.7, 0.1], [0.2, 0.8], [0.6, 0.9]])
    threshold = best_threshold(targets, probabilities)
    assert threshold == 0.6
    assert np.array_equal(probabilities >= threshold, targets == 1)
    assert isinstance(threshold, float)


def test_the_threshold_itself_counts_as_a_tag_also_after_json():
    probabilities = np.array([[0.1, 0.3], [0.7, 0.2]], dtype=np.float32)
    targets = np.array([[0, 1], [1, 0]])
    again = json.loads(json.dumps(best_threshold(targets, probabilities)))
    assert np.float32(again) == probabilities[0, 1]
    assert np.array_equal(probabilities >= again, targets == 1)


def test_lesson_fault_3_zero_by_zero_cannot_win():
    """The most certain prediction is wrong: at that threshold precision and recall are 0, F1 is 0/0."""
    targets = np.array([[0, 1], [1, 0], [1, 0]])
    probabilities = np.array([[0.99, 0.4], [0.5, 0.1], [0.6, 0.2]])
    threshold = best_threshold(targets, probabilities)
    assert threshold == 0.4
    assert weighted_f1(targets, probabilities >= threshold) > 0


def test_a_tag_that_never_occurs_does_not_disturb_the_threshold():
    targets = np.array([[1, 0], [0, 0], [1, 0]])
    probabilities = np.array([[0.8, 0.9], [0.2, 0.1], [0.7, 0.95]])
    with np.errstate(all="raise"):
        assert best_threshold(targets, probabilities) == 0.7


@given(decisions())
def test_performance_is_scikit_learns(case):
    targets, probabilities = case
    predictions = probabilities >= 0.5
    classes = [f"tag-{i}" for i in range(targets.shape[1])]
    performance = get_performance(targets, predictions, classes)
    wanted = precision_recall_fscore_support(targets, predictions, average="weighted", zero_division=0)
    overall = performance["overall"]
    assert [overall["precision"], overall["recall"], overall["f1"]] == list(wanted[:3])
    assert overall["num_samples"] == len(targets)
    assert list(performance["class"]) == classes
    for i, name in enumerate(classes):
        truth, guess = targets[:, i] == 1, predictions[:, i]
        row, hits = performance["class"][name], (truth & guess).sum()
        assert row["precision"] == pytest.approx(hits / guess.sum() if guess.any() else 0)
        assert row["recall"] == pytest.approx(hits / truth.sum() if truth.any() else 0)
        assert row["f1"] == pytest.approx(2 * hits / (truth.sum() + guess.sum()) if hits else 0)
        assert row["num_samples"] == truth.sum()
    assert json.loads(json.dumps(performance)) == performance


def test_performance_by_hand():
    targets = np.array([[1, 0], [1, 0], [1, 1], [0, 0]])
    predictions = np.array([[1, 0], [1, 1], [0, 0], [1, 0]])
    performance = get_performance(targets, predictions, ["a", "b"])
    assert performance["class"]["a"] == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "num_samples": 3}
    )
    assert performance["class"]["b"] == {"precision": 0, "recall": 0, "f1": 0, "num_samples": 1}
    assert performance["overall"] == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "num_samples": 4})


def test_a_tag_never_predicted_counts_as_zero_and_warns_nobody(recwarn):
    performance = get_performance(np.array([[1, 0], [0, 1]]), np.zeros((2, 2)), ["a", "b"])
    assert performance["overall"]["f1"] == 0
    assert not recwarn.list


def test_too_few_names_are_an_error():
    with pytest.raises(ValueError):
        get_performance(np.eye(3), np.eye(3), ["a", "b"])
