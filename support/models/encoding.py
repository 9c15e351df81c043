"""Texts to tokens and tags to zeros and ones, and back. Both encoders are saved as JSON.

tokenizer = Tokenizer.fit(splits.train.text)
tokens = tokenizer.encode(["transfer learning"])   # int64 (1, 17)
label_encoder = LabelEncoder.fit(splits.train.tags)
targets = label_encoder.encode([["graphs"]])        # float32 (1, 35)
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.preprocessing import MultiLabelBinarizer
from torch import Tensor

from support.data.splits import PARTS, Splits, checked
from support.models.files import need, read_json

PAD, UNKNOWN = "<PAD>", "<UNK>"


@dataclass(frozen=True)
class Tokenizer:
    """Numbers for the characters or the words of a text; 0 pads, 1 stands for all that is not known."""

    char_level: bool
    token_to_index: dict[str, int]

    @classmethod
    def fit(cls, texts: Iterable[str], char_level: bool = True) -> "Tokenizer":
        """Number the tokens of `texts` in sorted order, so that the order of the texts does not matter."""
        tokens = {token for text in texts for token in (text if char_level else text.split())}
        names = [PAD, UNKNOWN, *sorted(tokens - {PAD, UNKNOWN})]
        return cls(char_level, {token: index for index, token in enumerate(names)})

    def __len__(self) -> int:
        return len(self.token_to_index)

    def encode(self, texts: Iterable[str]) -> Tensor:
        """Return int64 (N, length of the longest), padded at the end with 0."""
        number, unknown = self.token_to_index.get, self.token_to_index[UNKNOWN]
        rows = [[number(t, unknown) for t in (text if self.char_level else text.split())] for text in texts]
        tokens = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.int64)
        for row, sequence in zip(tokens, rows, strict=True):
            row[: len(sequence)] = sequence
        return torch.from_numpy(tokens)

    def decode(self, tokens: Tensor) -> list[str]:
        """Return the texts back; unknown tokens read <UNK>."""
        names = {index: token for token, index in self.token_to_index.items()}
        joint = "" if self.char_level else " "
        return [joint.join(names[index] for index in row if index) for row in tokens.tolist()]

    def save(self, path: Path) -> None:
        """Write JSON to `path`."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Return what `save` wrote. Raise ArtifactError where the file holds something else."""

        def build(values: dict) -> "Tokenizer":
            char_level, index = values["char_level"], _numbered(values["token_to_index"])
            need(isinstance(char_level, bool), "char_level must be true or false")
            need(list(index)[:2] == [PAD, UNKNOWN], f"{PAD} must be 0 and {UNKNOWN} 1")
            return cls(char_level, index)

        return read_json(path, build)


class LabelEncoder:
    """Tags as rows of zeros and ones: scikit-learn's MultiLabelBinarizer, with JSON to save it."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self._binarizer = MultiLabelBinarizer(classes=self.classes).fit([])

    @classmethod
    def fit(cls, tags: Iterable[Iterable[str]]) -> "LabelEncoder":
        """Take the tags that occur, in sorted order."""
        return cls(sorted({tag for row in tags for tag in row}))

    @classmethod
    def of(cls, splits: Splits) -> "LabelEncoder":
        """Take the tags of all three parts. Raise DataError where they are not texts with tags."""
        return cls.fit(tags for name in PARTS for tags in checked(getattr(splits, name), splits.cleaning).tags)

    def __len__(self) -> int:
        return len(self.classes)

    def encode(self, tags: Iterable[Sequence[str]]) -> np.ndarray:
        """Return float32 (N, classes). Raise ValueError for a tag that was not there to fit."""
        tags = list(tags)
        if unknown := sorted({tag for row in tags for tag in row} - set(self.classes)):
            raise ValueError(f"Unknown tags: {', '.join(unknown)}. The encoder knows {', '.join(self.classes)}.")
        return self._binarizer.transform(tags).astype(np.float32)

    def decode(self, predictions: np.ndarray) -> list[list[str]]:
        """Turn zeros and ones, (N, classes), into lists of tags."""
        return [list(row) for row in self._binarizer.inverse_transform(np.asarray(predictions, dtype=int))]

    def save(self, path: Path) -> None:
        """Write JSON to `path`."""
        index = {name: number for number, name in enumerate(self.classes)}
        path.write_text(json.dumps({"class_to_index": index}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "LabelEncoder":
        """Return what `save` wrote. Raise ArtifactError where the file holds something else."""
        return read_json(path, lambda values: cls(list(_numbered(values["class_to_index"]))))


def _numbered(index: object) -> dict[str, int]:
    """Return a mapping of names to 0, 1, 2 and so on, in that order. Raise ValueError for anything else."""
    need(isinstance(index, dict) and len(index) > 0, "it must map names to numbers")
    numbers = [number for number in index.values() if type(number) is int]
    need(sorted(numbers) == list(range(len(index))), "the numbers must be 0, 1, 2 and so on")
    return dict(sorted(index.items(), key=lambda item: item[1]))
