"""What a training gives, whichever model it trains.

trained = train(params, splits)
trained.save(folder)
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from support.models.cnn import CNN
from support.models.encoding import LabelEncoder, Tokenizer
from support.models.params import Checked
from support.models.tagger import TextTagger


@dataclass(frozen=True)
class Trained:
    """The params, the tagger that came of them, and how good it is on the test split (`performance`).

    `val_f1` is its weighted F1 on what chose its threshold, and `seconds` what the training took. `history`
    holds one dict an epoch: train_loss, val_loss, lr. A model without epochs has an empty one, and None for
    `best_epoch` and `best_val_loss`.
    """

    params: Checked
    tagger: TextTagger
    performance: dict
    val_f1: float
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None

    @property
    def model(self) -> CNN:
        """The network. Only a CNN has one, and a tokenizer."""
        return self.tagger.model

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokens, numbered."""
        return self.tagger.tokenizer

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

    def save(self, folder: str | Path) -> None:
        """Write the artifacts into `folder`, for the tagger's `load`. A CNN's are the lesson's five."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        performance = {"threshold": self.threshold, **self.performance}
        for name, values in (("params.json", asdict(self.params)), ("performance.json", performance)):
            (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        self.label_encoder.save(folder / "label_encoder.json")
        self.tagger.save(folder)
