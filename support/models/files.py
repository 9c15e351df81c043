"""Reading JSON files that may be damaged or hostile."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class ArtifactError(ValueError):
    """A file is damaged, or not what it should be. Says which file and why."""


def read_json(path: Path, build: Callable[[dict], T]) -> T:
    """Return what `build` makes of a JSON object. Raise ArtifactError when that fails."""
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
