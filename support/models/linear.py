"""The linear model: weighted counts of words and letter groups, and one logistic regression for each tag.

trained = train_linear(LinearParams(), splits)
trained.tagger.predict(["Transfer learning with BERT"])
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from pydantic import Field
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion

from support.data.cleaning import LESSON
from support.data.splits import Splits
from support.models.checkpoint import Checkpoint
from support.models.encoding import LabelEncoder
from support.models.evaluation import best_threshold, get_performance, measure
from support.models.files import need, read_json
from support.models.params import PLAIN, Count, Flag, Positive, Seed, checked
from support.models.tagger import TextTagger, Trained
from support.models.training import OnEpoch, class_weights
from support.models.weights import read_weights

FOLDS = 5


@checked
class LinearParams:
    """The arguments of the linear model's training. Raise ValueError for a bad value.

    With `use_val` it learns from the validation split too: once nothing is left to choose on that.
    """

    word_ngrams: Count = 2  # words and up to so many in a row
    # 2 up to so many letters in a row, within a word
    char_ngrams: Annotated[int, PLAIN, Field(gt=1, lt=100, description="a whole number from 2 to 99")] = 4
    C: Positive = 3.0  # the higher, the closer to the examples
    naive_bayes: Flag = True  # whether telling features count more: see count_ratios
    use_val: Flag = False
    seed: Seed = 1234
    model: Annotated[Literal["linear"], Field(description="'linear'")] = "linear"

    trained_by: ClassVar[str] = "support.models.linear:train_linear"
    loaded_by: ClassVar[str] = "support.models.linear:LinearTagger"


def make_features(params: LinearParams, vocabularies: dict[str, list[str]] | None = None) -> FeatureUnion:
    """Return what turns clean texts into rows of numbers: TF-IDF of words and their neighbours, and of letters
    within words. Without `vocabularies` it is yet to be fitted."""
    words = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, params.word_ngrams))
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, params.char_ngrams))
    for name, block in (blocks := {"words": words, "letters": letters}).items():
        block.set_params(vocabulary=vocabularies and vocabularies[name], sublinear_tf=True, dtype=np.float32)
    return FeatureUnion(list(blocks.items()))


@dataclass(frozen=True)
class LinearTagger(TextTagger):
    """Features times `weight` (num_classes, num_features) plus `bias` (num_classes), squashed into 0 to 1."""

    features: FeatureUnion
    weight: np.ndarray
    bias: np.ndarray
    label_encoder: LabelEncoder
    threshold: float
    cleaning: str = LESSON

    PARAMS = LinearParams
    FILES: ClassVar = ["vocabulary.json", "model.pt"]

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Return float32 (N, num_classes) for clean texts."""
        return _probabilities(self.features.transform(texts), self.weight, self.bias)

    def save(self, folder: Path) -> None:
        """Write the vocabulary as JSON, and the weights."""
        blocks = self.features.named_transformers
        vocabularies = {name: list(block.get_feature_names_out()) for name, block in blocks.items()}
        (folder / "vocabulary.json").write_text(json.dumps(vocabularies, indent=0) + "\n", encoding="utf-8")
        arrays = {f"idf.{name}": block.idf_ for name, block in blocks.items()}
        arrays |= {"weight": self.weight, "bias": self.bias}
        weights = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
        torch.save(weights, folder / "model.pt")

    @classmethod
    def rebuild(cls, folder: Path, params: LinearParams, label_encoder: LabelEncoder) -> dict[str, Any]:
        """Return the features, weight and bias, from the vocabulary and the weights."""
        vocabularies = read_json(folder / "vocabulary.json", _vocabularies)
        sizes = {f"idf.{name}": (len(vocabulary),) for name, vocabulary in vocabularies.items()}
        columns = sum(size for (size,) in sizes.values())
        sizes |= {"weight": (len(label_encoder), columns), "bias": (len(label_encoder),)}
        expected = {name: torch.empty(size, device="meta") for name, size in sizes.items()}
        arrays = {name: w.numpy() for name, w in read_weights(folder / "model.pt", expected).items()}
        features = make_features(params, vocabularies)
        for name, block in features.transformer_list:
            block.idf_ = arrays[f"idf.{name}"]
        return {"features": features, "weight": arrays["weight"], "bias": arrays["bias"]}


def _vocabularies(values: dict) -> dict[str, list[str]]:
    """Return the vocabularies. Raise ValueError for anything else."""
    need(values.keys() == {"words", "letters"}, "it must have words and letters")
    for terms in values.values():
        strings = isinstance(terms, list) and all(isinstance(term, str) for term in terms)
        need(strings and 0 < len(set(terms)) == len(terms), "a vocabulary must be different texts")
    return {"words": values["words"], "letters": values["letters"]}


def train_linear(
    params: LinearParams, splits: Splits, on_epoch: OnEpoch | None = None, checkpoint: Checkpoint | None = None
) -> Trained:
    """Train on `splits` and measure on the test split. The same params and data give the same result.

    The threshold comes from cross-validation within the texts that it learns from: each is tagged by a model
    that has not learned from it. So the validation split is free to choose params on, or, with `use_val`, to
    learn from. `val_f1` is measured on it, or, with `use_val`, in that cross-validation.
    """
    started = time.monotonic()
    label_encoder = LabelEncoder.of(splits)
    known = pd.concat([splits.train, splits.val]) if params.use_val else splits.train
    class_weights(known.tags, label_encoder.classes)  # says which tag has no example
    targets = label_encoder.encode(known.tags)
    features = make_features(params).fit(known.text)
    columns = features.transform(known.text)
    unseen = np.zeros_like(targets)
    folds = MultilabelStratifiedKFold(FOLDS, shuffle=True, random_state=params.seed)
    for fit, rest in folds.split(targets, targets):
        unseen[rest] = _probabilities(columns[rest], *_fit(params, columns[fit], targets[fit]))
    threshold = best_threshold(targets, unseen)
    tagger = LinearTagger(features, *_fit(params, columns, targets), label_encoder, threshold, splits.cleaning)
    seconds = time.monotonic() - started
    cross_validated = get_performance(targets, unseen >= threshold, label_encoder.classes)
    val = cross_validated if params.use_val else measure(tagger, splits.val)
    return Trained(params, tagger, measure(tagger, splits.test), val["overall"]["f1"], seconds)


def _fit(params: LinearParams, columns: csr_matrix, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit one logistic regression for each tag; return weight (num_classes, num_features), bias (num_classes).

    The examples of a tag together weigh as much as all others.
    """
    weight = np.empty((targets.shape[1], columns.shape[1]), dtype=np.float32)
    bias = np.empty(targets.shape[1], dtype=np.float32)
    for i, target in enumerate(targets.T):
        scale = count_ratios(columns, target) if params.naive_bayes else np.ones(columns.shape[1])
        # Few texts and many features: the dual problem is the small one, and a hundredth is near enough.
        settings = {"class_weight": "balanced", "solver": "liblinear", "dual": True, "tol": 0.01}
        model = LogisticRegression(C=params.C, random_state=params.seed, **settings)
        model.fit(columns.multiply(scale).tocsr(), target)
        weight[i] = model.coef_[0] * scale
        bias[i] = model.intercept_[0]
    return weight, bias


def count_ratios(columns: csr_matrix, target: np.ndarray) -> np.ndarray:
    """Return how much each feature tells about a tag: 1 plus the size of naive Bayes' log-count ratio.

    Scaled to a mean square of 1: (num_features). A feature whose column is multiplied by more costs a
    logistic regression less to use. Source: Wang and Manning (2012), "Baselines and Bigrams: Simple, Good
    Sentiment and Topic Classification", which multiplies by the ratio itself.
    """
    present = columns.astype(bool)
    counts = [1 + np.asarray(present[target == value].sum(axis=0)).ravel() for value in (1, 0)]
    shares = [count / count.sum() for count in counts]
    scale = 1 + np.abs(np.log(shares[0] / shares[1]))
    return scale / np.sqrt(np.mean(scale**2))


def _probabilities(columns: csr_matrix, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return expit(columns @ weight.T + bias)
