"""Bad artifacts: each is a clear error, and none is executed."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hostile import Hostile
from hypothesis import given
from hypothesis import strategies as st

from support.models.files import ArtifactError
from support.models.tagger import Tagger, tagger_files

FILES = tagger_files(Tagger)
TEXTS = ["transfer learning with bert"]
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
    """Loading is refused, and the file is named; other params show in the weights that do not fit them."""
    names = [name, *(["tokenizer.json", "model.pt"] if name == "params.json" else [])]
    with pytest.raises(ArtifactError, match="|".join(names).replace(".", r"\.")):
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
    built_from = {"embedding_dim", "num_filters", "filter_sizes", "hidden_dim"}  # the rest has defaults
    needed = {"performance.json": {"threshold"}, "params.json": built_from}.get(name, values.keys())
    del values[data.draw(st.sampled_from(sorted(needed)))]
    refused(spoil(name, json.dumps(values).encode()), name)


@given(content=st.binary(max_size=200))
def test_other_bytes_for_weights(spoil, content):
    refused(spoil("model.pt", content), "model.pt")


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


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1).expand(2**40), torch.zeros(1).expand(2**62), torch.zeros(1).expand(16, 2**30)],
    ids=["2**40", "2**62", "two dimensions"],
)
def test_weights_that_claim_to_be_huge_are_refused_without_the_memory(good, spoil, tmp_path, tensor):
    weights = torch.load(good / "model.pt", weights_only=True)
    torch.save(weights | {"fc1.bias": tensor}, tmp_path / "huge.pt")
    refused(spoil("model.pt", (tmp_path / "huge.pt").read_bytes()), "model.pt")


def test_weights_that_unpack_to_gigabytes_or_hold_nothing_are_refused(good, spoil, tmp_path):
    weights = torch.load(good / "model.pt", weights_only=True)
    torch.save(weights | {"fc1.bias": weights["fc1.bias"].to("meta")}, tmp_path / "meta.pt")
    refused(spoil("model.pt", (tmp_path / "meta.pt").read_bytes()), "model.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(100_000_000))
    with pytest.raises(ArtifactError, match=r"model\.pt is damaged: .*unpacked it takes 100 MB"):
        Tagger.load(spoil("model.pt", (tmp_path / "bomb.pt").read_bytes()))


@pytest.mark.parametrize("not_a_number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(good, spoil, tmp_path, not_a_number):
    weights = torch.load(good / "model.pt", weights_only=True)
    weights["fc1.bias"][0] = not_a_number
    torch.save(weights, tmp_path / "other.pt")
    refused(spoil("model.pt", (tmp_path / "other.pt").read_bytes()), "model.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_dim": 10**12},
        {"hidden_dim": 2**31 - 1},
        {"embedding_dim": 2**31 - 1, "hidden_dim": 2**31 - 1, "num_filters": 2**31 - 1},
        {"filter_sizes": list(range(1, 200_001))},
        {"filter_sizes": [10**9]},
    ],
    ids=lambda change: str(change)[:30],
)
def test_params_of_a_model_too_large_are_refused_without_the_memory(good, spoil, change):
    params = json.loads((good / "params.json").read_text()) | change
    refused(spoil("params.json", json.dumps(params).encode()), "params.json")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'"\\ud800"', b"[]", b"\xff"])
@pytest.mark.parametrize("name", JSONS)
def test_json_that_is_deep_or_no_text_is_refused(spoil, name, content):
    refused(spoil(name, content), name)
