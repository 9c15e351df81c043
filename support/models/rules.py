"""The baseline that learns nothing: a text gets each tag whose name or alias stands in it.

trained = train_rules(RuleParams(), splits)
trained.tagger.predict(["Transfer learning with BERT"])  # [["transfer-learning"]]

The aliases are those of tags.json. Names and texts are cleaned alike and compared word by word, so "gan" is
not found in "organ". What it does not do: word forms, and parents of tags.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from support.data.cleaning import LESSON, clean
from support.data.splits import Splits
from support.models.checkpoint import Checkpoint
from support.models.encoding import LabelEncoder
from support.models.evaluation import measure
from support.models.files import ArtifactError, read_json
from support.models.params import checked
from support.models.tagger import TextTagger, Trained
from support.models.training import OnEpoch


@checked
class RuleParams:
    """There is nothing to choose."""

    model: Annotated[Literal["rules"], Field(description="'rules'")] = "rules"

    trained_by: ClassVar[str] = "support.models.rules:train_rules"
    loaded_by: ClassVar[str] = "support.models.rules:RuleTagger"


@dataclass(frozen=True)
class RuleTagger(TextTagger):
    """Probabilities are 1 where one of a tag's names is found, else 0. `names` are clean, one list a tag."""

    names: list[list[str]]
    label_encoder: LabelEncoder
    threshold: float = 0.5
    cleaning: str = LESSON

    PARAMS = RuleParams
    FILES: ClassVar = ["names.json"]

    @classmethod
    def of(cls, label_encoder: LabelEncoder, splits: Splits) -> Self:
        """Return one that knows the tags' own names and their aliases."""
        names = [[tag, *splits.aliases.get(tag, [])] for tag in label_encoder.classes]
        cleaned = [sorted({clean(name, splits.cleaning) for name in row} - {""}) for row in names]
        return cls(cleaned, label_encoder, cleaning=splits.cleaning)

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Return float32 (N, num_classes) of zeros and ones for clean texts."""
        found = [[any(f" {n} " in f" {text} " for n in row) for row in self.names] for text in texts]
        return np.array(found, dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Write the names as JSON."""
        names = dict(zip(self.label_encoder.classes, self.names, strict=True))
        (folder / "names.json").write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def rebuild(cls, folder: Path, params: RuleParams, label_encoder: LabelEncoder) -> dict[str, Any]:
        """Return the names."""
        names = read_json(folder / "names.json", lambda values: [values[tag] for tag in label_encoder.classes])
        if not all(isinstance(row, list) and all(isinstance(name, str) for name in row) for row in names):
            raise ArtifactError("names.json is damaged: the names of a tag must be a list of texts.")
        return {"names": names}


def train_rules(
    params: RuleParams, splits: Splits, on_epoch: OnEpoch | None = None, checkpoint: Checkpoint | None = None
) -> Trained:
    """Collect the names, and measure them on the test split. There are no epochs."""
    started = time.monotonic()
    label_encoder = LabelEncoder.of(splits)
    tagger = RuleTagger.of(label_encoder, splits)
    seconds = time.monotonic() - started
    val, test = (measure(tagger, part) for part in (splits.val, splits.test))
    return Trained(params, tagger, test, val["overall"]["f1"], seconds)
