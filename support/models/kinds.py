"""The kinds of models: params in, the right training; a run's folder in, the right tagger.

trained = train(LinearParams(), splits)
tagger = load(folder)

Each kind has params of its own, whose `model` is its name: "cnn", "linear" or "rules".
"""

from pathlib import Path

from support.models.checkpoint import Checkpoint
from support.data.corpus import Splits
from support.models.linear import LinearTagger, train_linear
from support.models.params import Checked
from support.models.rules import RuleTagger, train_rules
from support.models.files import read_json
from support.models.tagger import SHARED, Tagger, TextTagger
from support.models.trained import Trained
from support.models.training import OnEpoch, train_cnn

TAGGERS: dict[str, type[TextTagger]] = {"cnn": Tagger, "linear": LinearTagger, "rules": RuleTagger}


def train(
    params: Checked,
    splits: Splits,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
    start_from: Tagger | None = None,
) -> Trained:
    """Train the model that the params are for. Only the CNN has epochs, and so a use for the last three.

    Raises ValueError for a `start_from` that is not a CNN's, or is for another model.
    """
    if params.model == "cnn":
        if start_from and not isinstance(start_from, Tagger):
            raise ValueError(f"start_from must be a CNN's tagger, and a {type(start_from).__name__} is not.")
        return train_cnn(params, splits, on_epoch, checkpoint, start_from)
    if start_from:
        raise ValueError(f"A {params.model} model starts from no other: leave start_from out.")
    return {"linear": train_linear, "rules": train_rules}[params.model](params, splits)


def files_of(folder: str | Path) -> list[str]:
    """Give the names of the artifacts that make up the tagger, by the params.json in the folder."""
    return [*SHARED, *_tagger_type(folder).FILES]


def load(folder: str | Path) -> TextTagger:
    """Rebuild the tagger from a folder with its artifacts. Raises ArtifactError for a bad one."""
    return _tagger_type(folder).load(folder)


def _tagger_type(folder: str | Path) -> type[TextTagger]:
    return read_json(Path(folder) / "params.json", lambda values: TAGGERS[values.get("model", "cnn")])
