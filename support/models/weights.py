"""Reading weights that may be damaged or hostile: never a pickle that runs code."""

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from support.models.files import ArtifactError, need_small


def read_weights(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state_dict whose names, shapes and types are those of `expected`, which may be on "meta".

    Raise ArtifactError for anything else. Nothing in the file is executed.
    """
    try:
        if zipfile.is_zipfile(path):
            need_small(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        raise ArtifactError(f"{path.name} is refused: it holds more than weights. {error}") from error
    except Exception as error:  # torch's readers raise whatever damaged bytes lead them to
        raise ArtifactError(f"{path.name} is damaged: {error!r}.") from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) and w.is_cpu for w in weights.values()):
        raise ArtifactError(f"{path.name} holds no weights by name.")
    found, wanted = (
        {name: (tuple(weight.shape), weight.dtype, weight.layout) for name, weight in each.items()}
        for each in (weights, expected)
    )
    if found != wanted:
        names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
        raise ArtifactError(f"{path.name} does not fit params, tokens and tags: see {', '.join(map(str, names))}.")
    if sum(weight.nbytes for weight in weights.values()) > path.stat().st_size:
        raise ArtifactError(f"{path.name} is refused: its weights claim to be larger than the file.")
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise ArtifactError(f"{path.name} is damaged: not all weights are finite numbers.")
    return weights
