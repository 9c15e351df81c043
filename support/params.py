"""The arguments of a training, checked."""

import math
from dataclasses import asdict, dataclass, field, fields

import numpy as np


@dataclass(frozen=True)
class Params:
    """The arguments of a training; the defaults are the lesson's. Raises ValueError for a bad value."""

    char_level: bool = True
    filter_sizes: list[int] = field(default_factory=lambda: list(range(1, 11)))
    batch_size: int = 64
    embedding_dim: int = 128
    num_filters: int = 128
    hidden_dim: int = 128
    dropout_p: float = 0.5
    lr: float = 2e-4
    num_epochs: int = 200
    patience: int = 10
    seed: int = 1234

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _plain(getattr(self, f.name)))
        checks = {
            "char_level": ("True or False", lambda value: isinstance(value, bool)),
            "filter_sizes": ("a list of different whole numbers from 1", _are_widths),
            "dropout_p": (
                "a number from 0 up to but not 1",
                lambda value: _is_number(value) and 0 <= value < 1,
            ),
            "lr": ("a number above 0", lambda value: _is_number(value) and 0 < value < math.inf),
            "seed": (
                "a whole number from 0 to 2**32 - 1",
                lambda value: _is_int(value) and 0 <= value < 2**32,
            ),
        }
        for name, value in asdict(self).items():
            wanted, holds = checks.get(
                name, ("a whole number from 1", lambda value: _is_int(value) and value > 0)
            )
            if not holds(value):
                raise ValueError(f"{name} must be {wanted}, and {value!r} is not.")

    @classmethod
    def from_dict(cls, values: dict) -> "Params":
        """Make params from a mapping, such as params.json holds. Raises ValueError for an unknown name."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"Unknown params: {', '.join(unknown)}. Known are: {', '.join(known)}.")
        return cls(**values)


def _plain(value: object) -> object:
    """Give what JSON can hold: NumPy's numbers as Python's, a tuple or an array as a list."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [_plain(v) for v in value] if isinstance(value, list | tuple | range) else value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_int(value)


def _are_widths(value: object) -> bool:
    if not isinstance(value, list) or not all(_is_int(k) and k > 0 for k in value):
        return False
    return 0 < len(set(value)) == len(value)
