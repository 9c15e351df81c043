"""Reading files that may be damaged or hostile."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
RATIO, SMALL = 50, 64_000_000  # unpacked, a zip may be 50 times as large, or 64 MB


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


def need_small(path: Path) -> None:
    """Raise ValueError for a zip that fills the memory when it is read, and BadZipFile for what is no zip."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    need(
        {m.compress_type for m in members} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}, "it is packed in another way"
    )
    size, limit = sum(member.file_size for member in members), max(SMALL, RATIO * path.stat().st_size)
    need(size <= limit, f"unpacked it takes {size / 1e6:,.0f} MB, and {limit / 1e6:,.0f} MB are the limit for its size")


def need(condition: bool, wanted: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(wanted)
