"""The arguments of a training, checked by pydantic: what all have in common, and the CNN's.

params = Params(lr=1e-3)
Params(**json.loads(text))         # as params.json holds them
resolve(params.trained_by)         # the function that trains by them
"""

import importlib
from collections.abc import Callable
from dataclasses import field
from functools import wraps
from typing import Annotated, Any, ClassVar, Literal, TypeVar, dataclass_transform

import numpy as np
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

T = TypeVar("T", bound=type)


@dataclass_transform(frozen_default=True)
def checked(cls: T) -> T:
    """Make a class a frozen pydantic dataclass that says in one sentence what is wrong with a value.

    Each field's description says what the value must be. Creating one raises ValueError with the sentence.
    """
    made = dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))(cls)
    initialise, known = made.__init__, made.__pydantic_fields__

    @wraps(initialise)
    def __init__(self, *args, **kwargs) -> None:
        try:
            initialise(self, *args, **kwargs)
        except ValidationError as error:
            first = error.errors()[0]
            name = first["loc"][0] if first["loc"] else None
            if name in known:
                wanted = known[name].description or first["msg"]
                raise ValueError(
                    f"{name} must be {wanted}, and {kwargs.get(name, first['input'])!r:.100} is not."
                ) from None
            unknown = sorted(kwargs.keys() - known.keys())
            raise ValueError(f"Unknown params: {', '.join(unknown)}. Known are: {', '.join(known)}.") from None

    made.__init__ = __init__
    return made


def resolve(name: str) -> Any:
    """Return what "module:name" stands for. Raise ValueError where it cannot be imported."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name!r} cannot be imported ({error}). Run this where the module is: in its folder, or with that "
            "folder on PYTHONPATH."
        ) from error


def name_of(function: Callable) -> str:
    """Return "module:name" of a function or class that others can import. Raise ValueError where they cannot."""
    name = f"{function.__module__}:{function.__qualname__}"
    if function.__module__ == "__main__" or "<" in name:
        raise ValueError(
            f"{function.__qualname__} is known in this notebook alone, so nobody could repeat the run. Write it "
            "into a file beside the notebook, such as my_model.py, and import it."
        )
    return name


def _plain(value: object) -> object:
    """Return what JSON can hold: NumPy's numbers as Python's, a tuple or an array as a list."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [_plain(v) for v in value] if isinstance(value, list | tuple | range) else value


def _different(widths: list[int]) -> list[int]:
    if len(set(widths)) < len(widths):
        raise ValueError("a width stands there twice")
    return widths


PLAIN = BeforeValidator(_plain)
Count = Annotated[int, PLAIN, Field(gt=0, lt=2**31, description="a whole number from 1")]
Positive = Annotated[float, PLAIN, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
Flag = Annotated[bool, PLAIN, Field(description="True or False")]
Seed = Annotated[int, PLAIN, Field(ge=0, lt=2**32, description="a whole number from 0 to 2**32 - 1")]
Share = Annotated[float, PLAIN, Field(ge=0, lt=1, description="a number from 0 up to but not 1")]
Width = Annotated[int, Field(gt=0, le=1000)]
Widths = Annotated[
    list[Width],
    PLAIN,
    AfterValidator(_different),
    Field(min_length=1, max_length=100, description="a list of up to 100 different whole numbers from 1 to 1000"),
]


@checked
class Params:
    """The arguments of the CNN's training; the defaults are the lesson's. Raise ValueError for a bad one."""

    char_level: Flag = True
    filter_sizes: Widths = field(default_factory=lambda: list(range(1, 11)))
    batch_size: Count = 64
    embedding_dim: Count = 128
    num_filters: Count = 128
    hidden_dim: Count = 128
    dropout_p: Share = 0.5
    lr: Positive = 2e-4
    num_epochs: Count = 200
    patience: Count = 10
    seed: Seed = 1234
    model: Annotated[Literal["cnn"], Field(description="'cnn'")] = "cnn"  # a column to sort and filter by

    trained_by: ClassVar[str] = "support.models.training:train_cnn"
    loaded_by: ClassVar[str] = "support.models.tagger:Tagger"

    @property
    def architecture(self) -> dict[str, Any]:
        """The arguments of the CNN that are not told by the data."""
        names = ("embedding_dim", "num_filters", "filter_sizes", "hidden_dim", "dropout_p")
        return {name: getattr(self, name) for name in names}
