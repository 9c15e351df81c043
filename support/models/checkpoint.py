"""A training's state on disk: written whole or not at all, and never read when it is not what was written.

    checkpoint = Checkpoint("run.pt")
    train_cnn(params, splits, on_epoch, checkpoint)  # saves as it trains, goes on from what is there

The file is what torch.save writes, a zip whose checksums tell damage. It is loaded with weights_only=True.
"""

import io
import math
import os
import time
import zipfile
from pathlib import Path

import torch


class CheckpointError(ValueError):
    """The checkpoint is damaged or belongs to another training. Says which file and what to do."""


class Checkpoint:
    """One file that always holds the last complete state, whatever happens while the next is written."""

    EVERY = 2.0  # seconds between two saves, at least: what a kill may cost

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, self.begun = Path(path), -math.inf
        self.before_save = lambda: None  # tracking logs here what came before the state

    def save(self, state: dict) -> None:
        """Replace the state, unless the last save is younger than EVERY. A process killed meanwhile leaves the last."""
        if time.monotonic() - self.begun < self.EVERY:
            return
        self.begun = time.monotonic()
        self.before_save()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        half = self.path.with_suffix(".half")
        half.write_bytes(buffer.getbuffer())
        # No fsync, which can take as long as the epoch: what a power cut damages, the checksums tell.
        half.replace(self.path)

    def load(self) -> dict | None:
        """Return the state, its tensors on the CPU, or None where none was saved. Raise CheckpointError."""
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as content:
                if damaged := content.testzip():
                    raise zipfile.BadZipFile(damaged)
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever damaged bytes lead zipfile and torch to
            raise CheckpointError(f"{self.path} is damaged: {error!r}. Delete it to start from epoch 1.") from error

    def remove(self) -> None:
        """Delete the file and what a killed process may have left beside it."""
        for path in (self.path, self.path.with_suffix(".half")):
            path.unlink(missing_ok=True)
