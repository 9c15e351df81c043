"""A trained model with all that it needs to tag a text: what a run keeps and a fresh kernel loads.

tagger = Tagger.load(folder)
tagger.predict(["Transfer learning with BERT for self-supervised learning"])
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from support.cnn import CNN
from support.data import clean
from support.encoding import LabelEncoder, Tokenizer
from support.params import Params
from support.safe import need, read_json, read_weights

FILES = ["params.json", "performance.json", "tokenizer.json", "label_encoder.json", "model.pt"]
BATCH_SIZE = 512


@dataclass(frozen=True)
class Tagger:
    """Text in, tags out."""

    model: CNN
    tokenizer: Tokenizer
    label_encoder: LabelEncoder
    threshold: float

    def predict(self, texts: Iterable[str]) -> list[list[str]]:
        """Give each text's tags; a text that fits none gets an empty list."""
        return self.label_encoder.decode(self.predict_proba(texts) >= self.threshold)

    def predict_proba(self, texts: Iterable[str]) -> np.ndarray:
        """Give the probability of each tag of label_encoder.classes: float32 (N, num_classes)."""
        texts = None if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
        if texts is None or not all(isinstance(text, str) for text in texts):
            raise TypeError('Give a list of texts, such as ["a text"].')
        cleaned = [clean(text) for text in texts]
        device = self.model.fc2.weight.device
        self.model.eval()
        batches = [np.empty((0, len(self.label_encoder)), dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(cleaned), BATCH_SIZE):
                tokens = self.tokenizer.encode(cleaned[start : start + BATCH_SIZE]).to(device)
                batches.append(self.model(tokens).sigmoid().cpu().numpy())
        return np.concatenate(batches)

    @classmethod
    def load(cls, folder: str | Path) -> "Tagger":
        """Load a run's five artifacts from a folder: nothing else is needed, nothing is unpickled."""
        folder = Path(folder)
        params = read_json(folder / "params.json", _params)
        threshold = read_json(folder / "performance.json", _threshold)
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        label_encoder = LabelEncoder.load(folder / "label_encoder.json")
        architecture = ("embedding_dim", "num_filters", "filter_sizes", "hidden_dim", "dropout_p")
        sizes = {name: getattr(params, name) for name in architecture}
        with torch.device("meta"):  # shapes without memory: the params may be anything
            expected = CNN(len(tokenizer), len(label_encoder), **sizes).state_dict()
        weights = read_weights(folder / "model.pt", expected)
        model = CNN(len(tokenizer), len(label_encoder), **sizes)
        model.load_state_dict(weights)
        return cls(model.eval().requires_grad_(False), tokenizer, label_encoder, threshold)


def _params(values: dict) -> Params:
    return Params(**{f.name: values[f.name] for f in fields(Params)})  # later versions may add some


def _threshold(performance: dict) -> float:
    threshold = performance["threshold"]
    need(isinstance(threshold, float) and 0 <= threshold <= 1, "the threshold must be a number from 0 to 1")
    return threshold
