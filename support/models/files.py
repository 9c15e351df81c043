"""Reading files that may be damaged or hostile: JSON and weights, never a pickle that runs code."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class ArtifactError(ValueError):
    """A file is damaged, or not what it should be. Says which file and why."""


def read_json(path: Path, build: Callable[[dict], T]) -> T:
    """Read a JSON object and give what `build` makes of it. Raises ArtifactError when that fails."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise TypeError(f"it holds a {type(values).__name__} where an object should be")
        return build(values)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(f"{path.name} is damaged or not what it should be: {error!r}.") from error


def need(condition: bool, wanted: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(wanted)


def read_weights(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read a state_dict whose names, shapes and types are those of `expected`, which may be on "meta".

    Raises ArtifactError for anything else. Nothing in the file is executed.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        raise ArtifactError(f"{path.name} is refused: it holds more than weights. {error}") from error
    except Exception as error:  # torch's readers raise whatever damaged bytes lead them to
        raise ArtifactError(f"{path.name} is damaged: {error!r}.") from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ArtifactError(f"{path.name} holds no weights by name.")
    found, wanted = (
        {name: (tuple(weight.shape), weight.dtype, weight.layout) for name, weight in each.items()}
        for each in (weights, expected)
    )
    if found != wanted:
        names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
        raise ArtifactError(
            f"{path.name} does not fit params, tokens and tags: see {', '.join(map(str, names))}."
        )
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise ArtifactError(f"{path.name} is damaged: not all weights are finite numbers.")
    return weights
