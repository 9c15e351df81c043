"""Text in, tags out: what the taggers of all models share, the CNN's, and what a training returns.

tagger = Tagger.load(folder)
tagger.predict(["Transfer learning with BERT for self-supervised learning"])

A run keeps SHARED and the FILES of its tagger: all that a fresh kernel needs. Nothing is unpickled.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from support.data.cleaning import CLEANINGS, LESSON, clean
from support.models.cnn import CNN
from support.models.encoding import LabelEncoder, Tokenizer
from support.models.files import ArtifactError, need, read_json
from support.models.params import Params
from support.models.weights import read_weights

SHARED = ["params.json", "performance.json", "label_encoder.json"]
BATCH_TOKENS = 200_000  # of a batch, padding included: what tagging needs grows with the texts' own length


class TextTagger:
    """What all taggers can do. A kind of model adds what its `Tagger` has: probabilities, save and rebuild.

    `PARAMS` is the class of its params, and FILES are the names of the files that `save` writes.
    """

    label_encoder: LabelEncoder
    threshold: float
    cleaning: str

    PARAMS: ClassVar[type]
    FILES: ClassVar[list[str]]

    def predict(self, texts: Iterable[str]) -> list[list[str]]:
        """Return each text's tags; a text that fits none gets an empty list."""
        return self.label_encoder.decode(self.predict_proba(texts) >= self.threshold)

    def predict_proba(self, texts: Iterable[str]) -> np.ndarray:
        """Return the probability of each tag of label_encoder.classes: float32 (N, num_classes)."""
        texts = None if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
        if texts is None or not all(isinstance(text, str) for text in texts):
            raise TypeError('Pass a list of texts, such as ["a text"].')
        cleaned = [clean(text, self.cleaning) for text in texts]
        found = np.empty((len(texts), len(self.label_encoder)), dtype=np.float32)
        for rows in _batches(cleaned):
            found[rows] = self.probabilities([cleaned[row] for row in rows])
        return found

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Return the tagger that a folder's artifacts, and nothing else, make up.

        Raise ArtifactError for a file that is damaged or not what it should be.
        """
        folder = Path(folder)
        params = read_json(folder / "params.json", lambda values: cls.PARAMS(**values))
        shared = read_json(folder / "performance.json", _threshold_and_cleaning)
        label_encoder = LabelEncoder.load(folder / "label_encoder.json")
        return cls(**cls.rebuild(folder, params, label_encoder), label_encoder=label_encoder, **shared)


@dataclass(frozen=True)
class Tagger(TextTagger):
    """The CNN's."""

    model: CNN
    tokenizer: Tokenizer
    label_encoder: LabelEncoder
    threshold: float
    cleaning: str = LESSON

    PARAMS = Params
    FILES: ClassVar = ["tokenizer.json", "model.pt"]

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Return float32 (N, num_classes) for clean texts."""
        tokens = self.tokenizer.encode(texts).to(self.model.fc2.weight.device)
        self.model.eval()
        with torch.inference_mode(), self.model.tuned(tokens):
            return self.model(tokens).sigmoid().cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write the tokens and the weights."""
        self.tokenizer.save(folder / "tokenizer.json")
        torch.save(self.model.state_dict(), folder / "model.pt")

    @classmethod
    def rebuild(cls, folder: Path, params: Params, label_encoder: LabelEncoder) -> dict[str, Any]:
        """Return the model and the tokenizer. Raise ArtifactError where the files do not fit each other."""
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        if tokenizer.char_level != params.char_level:
            raise ArtifactError("tokenizer.json does not fit params.json: one is for letters, one for words.")
        try:
            with torch.device("meta"):  # shapes without memory: the params may be anything
                expected = CNN(len(tokenizer), len(label_encoder), **params.architecture).state_dict()
        except RuntimeError as error:
            raise ArtifactError("params.json asks for a model too large for any machine.") from error
        weights = read_weights(folder / "model.pt", expected)
        model = CNN(len(tokenizer), len(label_encoder), **params.architecture)
        model.load_state_dict(weights)
        return {"model": model.eval().requires_grad_(False), "tokenizer": tokenizer}


@dataclass(frozen=True)
class Trained:
    """The params, the tagger that came of them, and how good it is on the test split (`performance`).

    `val_f1` is its weighted F1 on what chose its threshold, and `seconds` what the training took. `history`
    holds one dict an epoch: train_loss, val_loss, lr. A model without epochs has an empty one, and None for
    `best_epoch` and `best_val_loss`. `interrupted` says that the reader stopped it before its end.
    """

    params: Any
    tagger: TextTagger
    performance: dict
    val_f1: float
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    interrupted: bool = False

    @property
    def label_encoder(self) -> LabelEncoder:
        """The tags, numbered."""
        return self.tagger.label_encoder

    @property
    def threshold(self) -> float:
        """The probability from which on a tag counts."""
        return self.tagger.threshold

    @property
    def best_val_loss(self) -> float | None:
        """The validation loss of the best epoch."""
        return self.history[self.best_epoch - 1]["val_loss"] if self.history else None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures that sum it up: precision, recall, f1 (test split), val_f1, and those of the epochs."""
        found = {name: self.performance["overall"][name] for name in ("precision", "recall", "f1")}
        found["val_f1"] = self.val_f1
        if self.history:
            found |= {"best_val_loss": self.best_val_loss, "best_epoch": self.best_epoch}
        return found

    def save(self, folder: str | Path) -> None:
        """Write the artifacts into `folder`, for the tagger's `load`. A CNN's are the lesson's five."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        performance = {"threshold": self.threshold, "cleaning": self.tagger.cleaning, **self.performance}
        for name, values in (("params.json", asdict(self.params)), ("performance.json", performance)):
            (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        self.label_encoder.save(folder / "label_encoder.json")
        self.tagger.save(folder)


def tagger_files(tagger_type: type[TextTagger]) -> list[str]:
    """Return the names of the artifacts that make up a tagger of this type."""
    return [*SHARED, *tagger_type.FILES]


def _batches(texts: list[str]) -> Iterator[list[int]]:
    """Yield the rows of the texts in batches of like length, so that one long text pads no other."""
    batch: list[int] = []
    for row in sorted(range(len(texts)), key=lambda row: len(texts[row])):
        if batch and (len(batch) + 1) * len(texts[row]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _threshold_and_cleaning(performance: dict) -> dict:
    threshold, cleaning = performance["threshold"], performance.get("cleaning", LESSON)
    need(isinstance(threshold, float) and 0 <= threshold <= 1, "the threshold must be a number from 0 to 1")
    need(cleaning in CLEANINGS, f"the cleaning must be one of {', '.join(CLEANINGS)}")
    return {"threshold": threshold, "cleaning": cleaning}
