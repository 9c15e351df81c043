"""Text in, tags out: what the taggers of all models share, and the CNN's.

tagger = Tagger.load(folder)
tagger.predict(["Transfer learning with BERT for self-supervised learning"])

A run keeps SHARED and the FILES of its tagger: all that a fresh kernel needs. Nothing is unpickled.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch

from support.models.cnn import CNN
from support.data.corpus import clean
from support.models.encoding import LabelEncoder, Tokenizer
from support.models.params import Checked, Params
from support.models.files import ArtifactError, need, read_json, read_weights

SHARED = ["params.json", "performance.json", "label_encoder.json"]
BATCH_SIZE = 512


class TextTagger:
    """What all taggers can do. A kind of model says how it is rebuilt, saved, and comes to probabilities."""

    label_encoder: LabelEncoder
    threshold: float

    PARAMS: ClassVar[type[Checked]]
    FILES: ClassVar[list[str]]

    def predict(self, texts: Iterable[str]) -> list[list[str]]:
        """Give each text's tags; a text that fits none gets an empty list."""
        return self.label_encoder.decode(self.predict_proba(texts) >= self.threshold)

    def predict_proba(self, texts: Iterable[str]) -> np.ndarray:
        """Give the probability of each tag of label_encoder.classes: float32 (N, num_classes)."""
        texts = None if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
        if texts is None or not all(isinstance(text, str) for text in texts):
            raise TypeError('Give a list of texts, such as ["a text"].')
        cleaned = [clean(text) for text in texts]
        batches = [cleaned[start : start + BATCH_SIZE] for start in range(0, len(cleaned), BATCH_SIZE)]
        nothing = np.empty((0, len(self.label_encoder)), dtype=np.float32)
        return np.concatenate([nothing, *map(self.probabilities, batches)])

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Rebuild it from a folder with its artifacts, and from nothing else.

        Raises ArtifactError for a file that is damaged or not what it should be.
        """
        folder = Path(folder)
        params = read_json(folder / "params.json", cls._params)
        threshold = read_json(folder / "performance.json", _threshold)
        return cls.rebuild(folder, params, LabelEncoder.load(folder / "label_encoder.json"), threshold)

    @classmethod
    def _params(cls, values: dict) -> Checked:
        values = {"model": "cnn", **values}  # the first runs do not name it
        return cls.PARAMS(
            **{f.name: values[f.name] for f in fields(cls.PARAMS)}
        )  # later versions may add some

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Give float32 (N, num_classes) for clean texts."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write FILES into the folder."""
        raise NotImplementedError

    @classmethod
    def rebuild(cls, folder: Path, params: Checked, label_encoder: LabelEncoder, threshold: float) -> Self:
        """Make it from FILES in the folder and what SHARED held."""
        raise NotImplementedError


@dataclass(frozen=True)
class Tagger(TextTagger):
    """The CNN's."""

    model: CNN
    tokenizer: Tokenizer
    label_encoder: LabelEncoder
    threshold: float

    PARAMS = Params
    FILES: ClassVar = ["tokenizer.json", "model.pt"]

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Give float32 (N, num_classes) for clean texts."""
        tokens = self.tokenizer.encode(texts).to(self.model.fc2.weight.device)
        self.model.eval()
        with torch.inference_mode(), self.model.tuned():
            return self.model(tokens).sigmoid().cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write the tokens and the weights."""
        self.tokenizer.save(folder / "tokenizer.json")
        torch.save(self.model.state_dict(), folder / "model.pt")

    @classmethod
    def rebuild(cls, folder: Path, params: Params, label_encoder: LabelEncoder, threshold: float) -> Self:
        """Make it from the tokens and the weights."""
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        if tokenizer.char_level != params.char_level:
            raise ArtifactError("tokenizer.json does not fit params.json: one is for letters, one for words.")
        architecture = ("embedding_dim", "num_filters", "filter_sizes", "hidden_dim", "dropout_p")
        sizes = {name: getattr(params, name) for name in architecture}
        with torch.device("meta"):  # shapes without memory: the params may be anything
            expected = CNN(len(tokenizer), len(label_encoder), **sizes).state_dict()
        weights = read_weights(folder / "model.pt", expected)
        model = CNN(len(tokenizer), len(label_encoder), **sizes)
        model.load_state_dict(weights)
        return cls(model.eval().requires_grad_(False), tokenizer, label_encoder, threshold)


FILES = [*SHARED, *Tagger.FILES]  # of a CNN's run


def _threshold(performance: dict) -> float:
    threshold = performance["threshold"]
    need(isinstance(threshold, float) and 0 <= threshold <= 1, "the threshold must be a number from 0 to 1")
    return threshold
