"""Texts and tags as numbers: what goes in comes out again, also through JSON."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.models.encoding import LabelEncoder, Tokenizer

TEXTS = st.lists(st.text(max_size=30), max_size=8)
TAGS = st.lists(st.sets(st.text(max_size=8), max_size=4), max_size=8)


def through_json(thing):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "thing.json"
        thing.save(path)
        return type(thing).load(path)


def sort_json(path: Path) -> None:
    """Write the file again as other tools may: with its keys in order."""
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))


# Tokenizer


def test_tokenizer_numbers_characters_in_order_after_padding_and_unknown():
    tokenizer = Tokenizer.fit(["cab", "b a"])
    assert tokenizer.token_to_index == {"<PAD>": 0, "<UNK>": 1, " ": 2, "a": 3, "b": 4, "c": 5}
    assert len(tokenizer) == 6
    tokens = tokenizer.encode(["cab", "a", "", "xa"])
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [[5, 3, 4], [3, 0, 0], [0, 0, 0], [1, 3, 0]]
    assert tokenizer.decode(tokens) == ["cab", "a", "", "<UNK>a"]


def test_tokenizer_numbers_words():
    tokenizer = Tokenizer.fit(["graph neural networks", "neural  nets"], char_level=False)
    assert tokenizer.token_to_index == {
        "<PAD>": 0,
        "<UNK>": 1,
        "graph": 2,
        "nets": 3,
        "networks": 4,
        "neural": 5,
    }
    tokens = tokenizer.encode(["neural graph", "nets", "deep nets"])
    assert tokens.tolist() == [[5, 2], [3, 0], [1, 3]]
    assert tokenizer.decode(tokens) == ["neural graph", "nets", "<UNK> nets"]


@pytest.mark.parametrize("char_level", [True, False])
def test_tokenizer_encodes_nothing_as_nothing(char_level):
    tokenizer = Tokenizer.fit([], char_level)
    assert tokenizer.encode([]).shape == (0, 0)
    assert tokenizer.encode(["", ""]).shape == (2, 0)
    assert tokenizer.encode(["ab"]).tolist() == ([[1, 1]] if char_level else [[1]])


@given(TEXTS)
def test_characters_come_back_exactly(texts):
    tokenizer = Tokenizer.fit(texts)
    assert tokenizer.decode(tokenizer.encode(texts)) == texts


@given(TEXTS)
def test_words_come_back_with_single_spaces(texts):
    tokenizer = Tokenizer.fit(texts, char_level=False)
    assert tokenizer.decode(tokenizer.encode(texts)) == [" ".join(text.split()) for text in texts]


@given(TEXTS, st.booleans(), TEXTS)
def test_tokenizer_is_the_same_through_json(texts, char_level, others):
    tokenizer = Tokenizer.fit(texts, char_level)
    loaded = through_json(tokenizer)
    assert loaded == tokenizer
    assert list(loaded.token_to_index.items()) == list(tokenizer.token_to_index.items())
    assert torch.equal(loaded.encode(others), tokenizer.encode(others))


@given(st.lists(st.text(alphabet="abc ", max_size=10), min_size=1))
def test_the_order_of_the_texts_does_not_change_the_numbers(texts):
    for char_level in (True, False):
        assert Tokenizer.fit(texts, char_level) == Tokenizer.fit(texts[::-1], char_level)


def test_words_that_look_like_padding_keep_the_numbers_in_order():
    tokenizer = Tokenizer.fit(["<UNK> a <PAD> b"], char_level=False)
    assert tokenizer.token_to_index == {"<PAD>": 0, "<UNK>": 1, "a": 2, "b": 3}
    assert tokenizer.decode(tokenizer.encode(["a b c"])) == ["a b <UNK>"]


def test_tokenizer_keeps_its_numbers_when_the_json_is_sorted(tmp_path):
    tokenizer = Tokenizer.fit(["1 ! a"])
    tokenizer.save(tmp_path / "tokenizer.json")
    sort_json(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.encode(["a1!"]).tolist() == tokenizer.encode(["a1!"]).tolist()
    assert loaded.decode(loaded.encode(["a1!"])) == ["a1!"]


# LabelEncoder


def test_label_encoder_gives_zeros_and_ones_in_sorted_order():
    encoder = LabelEncoder.fit([["graphs", "attention"], ["flask"], []])
    assert encoder.classes == ["attention", "flask", "graphs"]
    targets = encoder.encode([["graphs", "attention"], [], ["flask"]])
    assert targets.dtype == np.float32
    assert targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert encoder.decode(targets) == [["attention", "graphs"], [], ["flask"]]
    assert encoder.decode(targets > 0.5) == [["attention", "graphs"], [], ["flask"]]
    assert len(encoder) == 3


@given(TAGS.filter(any))
def test_tags_come_back(tags):
    encoder = LabelEncoder.fit(tags)
    assert encoder.decode(encoder.encode([sorted(row) for row in tags])) == [sorted(row) for row in tags]


@given(st.lists(st.text(max_size=8), unique=True, min_size=1, max_size=8))
def test_label_encoder_is_the_same_through_json_in_any_order_of_classes(classes):
    encoder = LabelEncoder(classes)
    loaded = through_json(encoder)
    assert loaded.classes == encoder.classes == classes
    tags = [classes, classes[:1], []]
    assert np.array_equal(loaded.encode(tags), encoder.encode(tags))
    assert loaded.decode(encoder.encode(tags)) == [classes, classes[:1], []]


def test_label_encoder_file_is_the_lessons(tmp_path):
    LabelEncoder(["flask", "graphs"]).save(tmp_path / "label_encoder.json")
    content = json.loads((tmp_path / "label_encoder.json").read_text())
    assert content == {"class_to_index": {"flask": 0, "graphs": 1}}


def test_label_encoder_keeps_its_numbers_when_the_json_is_sorted(tmp_path):
    LabelEncoder(["graphs", "attention"]).save(tmp_path / "label_encoder.json")
    sort_json(tmp_path / "label_encoder.json")
    assert LabelEncoder.load(tmp_path / "label_encoder.json").classes == ["graphs", "attention"]


def test_an_unknown_tag_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"Unknown tags: deep-learning\. The encoder knows flask, graphs"):
        LabelEncoder(["flask", "graphs"]).encode([["flask"], ["deep-learning"]])


def test_lesson_fault_7_encoders_do_not_share_their_classes():
    classes = ["a", "b"]
    first, second = LabelEncoder(classes), LabelEncoder(["c"])
    classes.append("d")
    assert (first.classes, second.classes) == (["a", "b"], ["c"])
    LabelEncoder.fit([["x"]])
    assert first.encode([["b"]]).tolist() == [[0, 1]]
    first.classes.append("e")
    assert LabelEncoder(["c"]).classes == second.classes == ["c"]


def test_tokenizers_do_not_share_their_tokens():
    first = Tokenizer.fit(["a"])
    Tokenizer.fit(["b"])
    assert list(first.token_to_index) == ["<PAD>", "<UNK>", "a"]
