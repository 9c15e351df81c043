"""Bad artifacts: each is a clear error, and none is executed."""

import json
import pickle
from pathlib import Path

import mlflow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.tracking import checksums as artifacts
from support.tracking import training_run as tracking
from support.models.files import ArtifactError
from support.models.tagger import FILES, Tagger
from support.models.training import Params

TEXTS = ["transfer learning with bert"]
SMALL = Params(num_epochs=1, embedding_dim=16, num_filters=8, filter_sizes=[1, 2], hidden_dim=16)
JSONS = [name for name in FILES if name.endswith(".json")]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def good(trained, tmp_path_factory) -> Path:
    """Give a folder with a run's five artifacts."""
    folder = tmp_path_factory.mktemp("good")
    trained.save(folder)
    return folder


@pytest.fixture(scope="module")
def spoil(good, tmp_path_factory):
    """Give a maker of copies in which one file has other content."""
    folder = tmp_path_factory.mktemp("bad")

    def copy(name: str, content: bytes) -> Path:
        for path in good.iterdir():
            (folder / path.name).write_bytes(content if path.name == name else path.read_bytes())
        return folder

    return copy


def refused(folder: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        Tagger.load(folder)


@given(name=st.sampled_from(FILES), part=st.floats(0, 0.99))
def test_truncated(good, spoil, name, part):
    content = (good / name).read_bytes().rstrip()
    refused(spoil(name, content[: int(len(content) * part)]), name)


@given(name=st.sampled_from(FILES), data=st.data())
def test_bits_flipped(good, spoil, name, data):
    content = bytearray((good / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        tagger = Tagger.load(spoil(name, bytes(content)))  # a folder has no digests, so this may well load
    except ArtifactError:
        return
    assert tagger.predict_proba(TEXTS).shape == (1, len(tagger.label_encoder))


@given(name=st.sampled_from(JSONS), value=anything)
def test_other_json(spoil, name, value):
    refused(spoil(name, json.dumps(value).encode()), name)


@given(name=st.sampled_from(JSONS), value=anything, data=st.data())
def test_keys_of_a_wrong_type(good, spoil, name, value, data):
    values = json.loads((good / name).read_text())
    values[data.draw(st.sampled_from(sorted(values)))] = value
    try:
        Tagger.load(spoil(name, json.dumps(values).encode()))
    except ArtifactError:
        return
    # Where one value may be as good as another: the tokenizer's char_level may be either.
    assert name in ("params.json", "performance.json") or (name == "tokenizer.json" and value is False)


@given(name=st.sampled_from(JSONS), data=st.data())
def test_missing_keys(good, spoil, name, data):
    values = json.loads((good / name).read_text())
    optional = {"performance.json": values.keys() - {"threshold"}, "params.json": {"model"}}
    needed = values.keys() - optional.get(name, set())
    del values[data.draw(st.sampled_from(sorted(needed)))]
    refused(spoil(name, json.dumps(values).encode()), name)


@given(content=st.binary(max_size=200))
def test_other_bytes_for_weights(spoil, content):
    refused(spoil("model.pt", content), "model.pt")


class Hostile:
    """What runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return (Path.touch, (self.witness,))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_for_weights_is_not_executed(spoil, tmp_path, protocol):
    witness = tmp_path / "executed"
    refused(spoil("model.pt", pickle.dumps(Hostile(witness), protocol)), "model.pt")
    torch.save({"fc1.weight": Hostile(witness)}, tmp_path / "hostile.pt")
    refused(spoil("model.pt", (tmp_path / "hostile.pt").read_bytes()), "model.pt")
    assert not witness.exists()
    pickle.loads(pickle.dumps(Hostile(witness)))  # noqa: S301 - the test of the test
    assert witness.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("fc1.bias"),
        lambda weights: weights.update(extra=torch.zeros(1)),
        lambda weights: weights.update({"fc1.bias": torch.zeros(3)}),
        lambda weights: weights.update({"fc1.bias": weights["fc1.bias"].double()}),
        lambda weights: weights.update({"fc1.bias": "text"}),
        lambda weights: weights.update({"fc1.bias": weights["fc1.bias"].to_sparse()}),
    ],
)
def test_weights_that_do_not_fit(good, spoil, tmp_path, change):
    weights = torch.load(good / "model.pt", weights_only=True)
    change(weights)
    torch.save(weights, tmp_path / "other.pt")
    refused(spoil("model.pt", (tmp_path / "other.pt").read_bytes()), "model.pt")


def test_params_too_large_for_memory(good, spoil):
    params = json.loads((good / "params.json").read_text()) | {"hidden_dim": 10**12}
    refused(spoil("params.json", json.dumps(params).encode()), "model.pt")


@pytest.fixture(scope="module")
def run_ids(sample_splits, tmp_path_factory) -> list[str]:
    """Give two runs of one store."""
    tracking.connect(tmp_path_factory.mktemp("stores"))
    params = [Params(**{**vars(SMALL), "seed": seed}) for seed in (1, 2)]
    return [tracking.train_and_log(each, sample_splits) for each in params]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_of_a_run_is_found(run_ids, name):
    path = path_of(run_ids[0], name)
    content = path.read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:]
    with_space = content + b" "  # loads as well as before, and yet is not what was logged
    swapped = path_of(run_ids[1], name).read_bytes() + (b"" if name in ("params.json", "model.pt") else b" ")
    try:
        for bad in (flipped, content[:-1], with_space, swapped, b""):
            path.write_bytes(bad)
            with pytest.raises(ArtifactError, match=rf"{run_ids[0]}: {name} is not the file that was logged"):
                tracking.load_tagger(run_ids[0])
        path.unlink()
        with pytest.raises(tracking.NoRunError, match=run_ids[0]):
            tracking.load_tagger(run_ids[0])
    finally:
        path.write_bytes(content)
    assert tracking.load_tagger(run_ids[0]).predict_proba(TEXTS).shape[0] == 1


@pytest.mark.parametrize("tag", ["[]", "{", '{"model.pt": "00"}', "null"])
def test_damaged_digests_are_refused(run_ids, tag):
    client = mlflow.MlflowClient()
    before = mlflow.get_run(run_ids[0]).data.tags[artifacts.DIGESTS]
    client.set_tag(run_ids[0], artifacts.DIGESTS, tag)
    with pytest.raises(ArtifactError, match=run_ids[0]):
        tracking.load_tagger(run_ids[0])
    client.set_tag(run_ids[0], artifacts.DIGESTS, before)


@pytest.mark.parametrize("run_id", ["", "..", "../../etc", "0" * 32, "a/b", "no run"])
def test_names_that_are_no_run(run_ids, run_id):
    with pytest.raises(tracking.NoRunError):
        tracking.load_tagger(run_id)


def path_of(run_id: str, name: str) -> Path:
    uri = mlflow.get_run(run_id).info.artifact_uri
    return Path(uri.removeprefix("file://")) / name
