"""How good predictions are, how long they take, and where to put the threshold between a tag and no tag."""

import statistics
from functools import partial
from timeit import timeit
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

if TYPE_CHECKING:
    from support.models.tagger import TextTagger


def best_threshold(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the probability from which on a tag counts, so that the weighted F1 is highest.

    Both arrays are (N, classes). Take them from the validation split: the training split flatters the
    model, and the test split is for the end.
    """
    thresholds = np.unique(probabilities)
    f1 = np.zeros(len(thresholds))
    for target, probability in zip(targets.T, probabilities.T, strict=True):
        positives = target.sum()
        predicted = len(probability) - np.searchsorted(np.sort(probability), thresholds)
        hits = positives - np.searchsorted(np.sort(probability[target > 0]), thresholds)
        if positives:  # else its weight is 0, and its F1 may be 0/0
            f1 += positives * 2 * hits / (positives + predicted)
    return float(thresholds[f1.argmax()])


def get_performance(targets: np.ndarray, predictions: np.ndarray, classes: list[str]) -> dict:
    """Return precision, recall and F1: `overall` (weighted by a tag's frequency) and for each `class`.

    Both arrays hold zeros and ones, (N, classes). A tag that is never predicted counts as 0.
    """
    weighted = precision_recall_fscore_support(targets, predictions, average="weighted", zero_division=0)
    by_class = precision_recall_fscore_support(targets, predictions, average=None, zero_division=0)
    names = ("precision", "recall", "f1")
    overall = dict(zip(names, map(float, weighted[:3]), strict=True))
    return {
        "overall": {**overall, "num_samples": len(targets)},
        "class": {
            name: {**dict(zip(names, map(float, row[:3]), strict=True)), "num_samples": int(row[3])}
            for name, row in zip(classes, np.stack(by_class, axis=1), strict=True)
        },
    }


def measure(tagger: "TextTagger", part: pd.DataFrame) -> dict:
    """Return `get_performance` of a tagger on one of the splits."""
    targets, predictions = (tagger.label_encoder.encode(tags) for tags in (part.tags, tagger.predict(part.text)))
    return get_performance(targets, predictions, tagger.label_encoder.classes)


def latency_ms(tagger: "TextTagger", texts: list[str]) -> float:
    """Return the milliseconds that tagging one text takes: the median over `texts`, after one to warm up."""
    tagger.predict(texts[:1])
    return statistics.median(timeit(partial(tagger.predict, [text]), number=1) for text in texts) * 1000
