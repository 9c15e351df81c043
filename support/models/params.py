"""The arguments of a training, checked: what the params of all models have in common, and the CNN's.

params = Params(lr=1e-3)
Params.from_dict(asdict(params)) == params
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import ClassVar, Self

import numpy as np

Check = tuple[str, Callable[[object], bool]]


class Checked:
    """A frozen dataclass of params. `CHECKS` says of each field what it must be, and tells whether it is."""

    CHECKS: ClassVar[dict[str, Check]]

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _plain(getattr(self, f.name)))
        for name, value in asdict(self).items():
            wanted, holds = self.CHECKS[name]
            if not holds(value):
                raise ValueError(f"{name} must be {wanted}, and {value!r} is not.")

    @classmethod
    def from_dict(cls, values: dict) -> Self:
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


def is_int(value: object) -> bool:
    """Tell whether it is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Tell whether it is a float or an int, and no bool."""
    return isinstance(value, float) or is_int(value)


def _are_widths(value: object) -> bool:
    if not isinstance(value, list) or not all(is_int(k) and k > 0 for k in value):
        return False
    return 0 < len(set(value)) == len(value)


def named(kind: str) -> Check:
    """Want the one name of a kind of model."""
    return repr(kind), lambda value: value == kind


BOOL = ("True or False", lambda value: isinstance(value, bool))
COUNT = ("a whole number from 1", lambda value: is_int(value) and value > 0)
POSITIVE = ("a number above 0", lambda value: is_number(value) and 0 < value < math.inf)
SEED = ("a whole number from 0 to 2**32 - 1", lambda value: is_int(value) and 0 <= value < 2**32)


@dataclass(frozen=True)
class Params(Checked):
    """The arguments of the CNN's training; the defaults are the lesson's. Raises ValueError for a bad one."""

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
    model: str = "cnn"  # the kind, which no param changes

    CHECKS = {  # noqa: RUF012 - annotated in Checked
        **dict.fromkeys(
            ("batch_size", "embedding_dim", "num_filters", "hidden_dim", "num_epochs", "patience"), COUNT
        ),
        "char_level": BOOL,
        "filter_sizes": ("a list of different whole numbers from 1", _are_widths),
        "dropout_p": ("a number from 0 up to but not 1", lambda value: is_number(value) and 0 <= value < 1),
        "lr": POSITIVE,
        "seed": SEED,
        "model": named("cnn"),
    }
