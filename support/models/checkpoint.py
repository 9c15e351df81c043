"""A training's state on disk: written whole or not at all, and never read when it is not what was written.

    checkpoint = Checkpoint("run.pt")
    train_cnn(params, splits, on_epoch, checkpoint)  # saves after every epoch, goes on from what is there

The file is a sha256 followed by what torch.save wrote. It is loaded with weights_only=True.
"""

import hashlib
import io
import os
import pickle
from pathlib import Path

import torch

DIGEST_SIZE = hashlib.sha256().digest_size


class CheckpointError(ValueError):
    """The checkpoint is damaged or belongs to another training. Says which file and what to do."""


class Checkpoint:
    """One file that always holds the last complete state, whatever happens while the next is written."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def save(self, state: dict) -> None:
        """Replace the state. A process that is killed meanwhile leaves the one before."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        half = self.path.with_suffix(".half")
        with half.open("wb") as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
        # No fsync, which can take as long as the epoch: what a power cut damages, the digest tells.
        half.replace(self.path)

    def load(self) -> dict | None:
        """Return the state, its tensors on the CPU, or None where none was saved. Raise CheckpointError."""
        if not self.path.exists():
            return None
        content = self.path.read_bytes()
        if hashlib.sha256(content[DIGEST_SIZE:]).digest() != content[:DIGEST_SIZE]:
            raise CheckpointError(f"{self.path} is damaged. Delete it to start from the first epoch again.")
        try:
            return torch.load(io.BytesIO(content[DIGEST_SIZE:]), map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self.path} holds no state of a training: {error}") from error

    def remove(self) -> None:
        """Delete the file and what a killed process may have left beside it."""
        for path in (self.path, self.path.with_suffix(".half")):
            path.unlink(missing_ok=True)
