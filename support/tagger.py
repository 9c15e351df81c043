"""A trained model with all that it needs to tag a text: what a run keeps and a fresh kernel loads.

tagger = Tagger.load(folder)
tagger.predict(["Transfer learning with BERT for self-supervised learning"])
"""

import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from support.cnn import CNN
from support.data import clean
from support.encoding import LabelEncoder, Tokenizer

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
        params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
        performance = json.loads((folder / "performance.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        label_encoder = LabelEncoder.load(folder / "label_encoder.json")
        architecture = ("embedding_dim", "num_filters", "filter_sizes", "hidden_dim", "dropout_p")
        model = CNN(len(tokenizer), len(label_encoder), **{name: params[name] for name in architecture})
        with (folder / "model.pt").open("rb") as file:
            try:
                weights = torch.load(file, map_location="cpu", weights_only=True)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                raise pickle.UnpicklingError(
                    f"{file.name} is damaged or holds more than weights, so it is not loaded. Train again."
                ) from error
        model.load_state_dict(weights)
        return cls(model.eval().requires_grad_(False), tokenizer, label_encoder, performance["threshold"])
