"""A pickle that would run code."""

from pathlib import Path


class Hostile:
    """What makes the file `witness` when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return (Path.touch, (self.witness,))
