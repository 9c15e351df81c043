"""A saved training is all that a fresh kernel needs, the same texts get the same tags, and no pickle runs."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from small import SMALL

from support.data.corpus import load_projects
from support.models.encoding import LabelEncoder, Tokenizer
from support.models.evaluation import get_performance
from support.models.files import ArtifactError
from support.models.lookup import short_steps
from support.models.params import Params
from support.models.tagger import Tagger
from support.models.training import train_cnn

TEXTS = ["Transfer learning with BERT for self-supervised learning", "Graphs!", "", "日本語", "x" * 300]
ARTIFACTS = ["label_encoder.json", "model.pt", "params.json", "performance.json", "tokenizer.json"]


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """Give the folder of a saved training. Tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("run") / "new" / "artifacts"
    trained.save(folder)
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    trained.save(tmp_path / "artifacts")
    return tmp_path / "artifacts"


# Saved and loaded


def test_the_five_artifacts_are_the_lessons(folder, trained):
    assert sorted(path.name for path in folder.iterdir()) == ARTIFACTS
    params = json.loads((folder / "params.json").read_text())
    assert Params(**params) == trained.params
    performance = json.loads((folder / "performance.json").read_text())
    assert performance.pop("threshold") == trained.threshold
    assert performance.pop("cleaning") == trained.tagger.cleaning
    assert performance == trained.performance
    assert Tokenizer.load(folder / "tokenizer.json") == trained.tagger.tokenizer
    assert LabelEncoder.load(folder / "label_encoder.json").classes == trained.label_encoder.classes
    weights = torch.load(folder / "model.pt", weights_only=True)
    learned = trained.tagger.model.state_dict()
    assert list(weights) == list(learned)
    assert all(torch.equal(weights[name], value.cpu()) for name, value in learned.items())


def test_a_loaded_tagger_is_the_same_bit_for_bit(folder, trained, sample_splits):
    loaded, texts = Tagger.load(folder), list(sample_splits.test.text)
    before = trained.tagger.predict_proba(texts)
    assert before.dtype == np.float32 and before.shape == (len(texts), len(trained.label_encoder))
    assert np.array_equal(loaded.predict_proba(texts), before)
    assert loaded.threshold == trained.threshold
    assert loaded.predict(texts) == trained.tagger.predict(texts)
    assert Tagger.load(str(folder)).predict(TEXTS) == trained.tagger.predict(TEXTS)


def test_a_word_level_training_is_the_same_after_loading(sample_splits, tmp_path):
    trained = train_cnn(Params(num_epochs=1, char_level=False, **SMALL), sample_splits)
    trained.save(tmp_path)
    texts = [*TEXTS, *sample_splits.test.text]
    assert np.array_equal(Tagger.load(tmp_path).predict_proba(texts), trained.tagger.predict_proba(texts))


def test_saving_again_overwrites(copy, trained):
    (copy / "params.json").write_text("{}")
    trained.save(copy)
    assert Tagger.load(copy).predict(TEXTS) == trained.tagger.predict(TEXTS)


def test_the_logged_f1_comes_again_from_the_folder(folder, trained, sample_splits):
    tagger = Tagger.load(folder)
    targets = tagger.label_encoder.encode(sample_splits.test.tags)
    predictions = tagger.label_encoder.encode(tagger.predict(sample_splits.test.text))
    again = get_performance(targets, predictions, tagger.label_encoder.classes)
    assert again == trained.performance


def test_raw_and_clean_texts_get_the_same(trained):
    raw = "Même the BIG-graphs, and_more!"
    assert np.array_equal(trained.tagger.predict_proba([raw]), trained.tagger.predict_proba(["m big graphs"]))


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_missing_artifact_is_an_error_that_names_it(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        Tagger.load(copy)


# Texts of all kinds


@pytest.mark.parametrize("texts", [[], (), iter([]), pd.Series([], dtype=str)])
def test_no_texts_give_no_tags(trained, texts):
    assert trained.tagger.predict(texts) == []
    assert trained.tagger.predict_proba([]).shape == (0, len(trained.label_encoder))
    assert trained.tagger.predict_proba([]).dtype == np.float32


@pytest.mark.parametrize("text", ["", " ", "the and of", "日本語のテキスト", "Привет, мир", "🙂", "\x00\n", "a"])
def test_a_text_without_a_known_character_gets_probabilities_all_the_same(trained, text):
    probabilities = trained.tagger.predict_proba([text])
    assert probabilities.shape == (1, len(trained.label_encoder))
    assert np.array_equal(probabilities, trained.tagger.predict_proba([""]))
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    (tags,) = trained.tagger.predict([text])
    assert set(tags) <= set(trained.label_encoder.classes)


def test_non_english_text_is_tagged_by_the_letters_that_are_known(trained):
    german = trained.tagger.predict_proba(["Übertragenes Lernen für große Graphen"])
    assert np.isfinite(german).all()
    assert not np.array_equal(german, trained.tagger.predict_proba([""]))


@pytest.mark.parametrize("texts", ["a text", b"a text", None, 3, ["a", None], ["a", 3], [["a"]], {"a": 1}.values()])
def test_what_is_no_list_of_texts_is_a_type_error_that_says_what_to_give(trained, texts):
    for call in (trained.tagger.predict, trained.tagger.predict_proba):
        with pytest.raises(TypeError, match=r'Pass a list of texts, such as \["a text"\]\.'):
            call(texts)


def test_any_iterable_of_texts_will_do(trained):
    wanted = trained.tagger.predict(TEXTS)
    for texts in (tuple(TEXTS), iter(TEXTS), (t for t in TEXTS), pd.Series(TEXTS), np.array(TEXTS)):
        assert trained.tagger.predict(texts) == wanted


@short_steps()  # 2,000 small steps
def test_lesson_fault_9_company_and_padding_do_not_change_a_text(trained):
    """2,000 texts in long batches, against one by one."""
    words = ["graph", "networks", "learn", "to", "see", "images", "of", "text", "with", "attention"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, rng.integers(0, 60))) for _ in range(2000)]
    together = trained.tagger.predict_proba(texts)
    one_by_one = np.concatenate([trained.tagger.predict_proba([text]) for text in texts])
    assert np.abs(together - one_by_one).max() <= 1e-6
    assert together.std(axis=0).max() > 1e-3, "the texts all look alike to this model: the case shows nothing"


def test_tags_are_those_at_or_above_the_threshold(trained):
    tagger = trained.tagger
    probabilities = tagger.predict_proba(TEXTS)
    wanted = [
        [name for name, p in zip(tagger.label_encoder.classes, row, strict=True) if p >= tagger.threshold]
        for row in probabilities
    ]
    assert tagger.predict(TEXTS) == wanted
    never = Tagger(tagger.model, tagger.tokenizer, tagger.label_encoder, threshold=1.1)
    assert never.predict(TEXTS) == [[]] * len(TEXTS)
    exact = Tagger(tagger.model, tagger.tokenizer, tagger.label_encoder, float(probabilities.max()))
    assert sum(map(len, exact.predict(TEXTS))) >= 1, "the threshold itself counts"


def test_a_tagger_predicts_without_dropout_even_after_training(trained):
    trained.tagger.model.train()
    first = trained.tagger.predict_proba(TEXTS)
    trained.tagger.model.train()
    assert np.array_equal(trained.tagger.predict_proba(TEXTS), first)


def test_params_of_a_later_version_are_refused_by_name(copy, trained):
    (copy / "params.json").write_text(json.dumps({**asdict(trained.params), "brand_new": 1}))
    with pytest.raises(ArtifactError, match=r"params\.json .*Unknown params: brand_new"):
        Tagger.load(copy)


def test_every_project_of_the_lesson_gets_a_row(lesson_dir, trained):
    df = load_projects(lesson_dir)
    probabilities = trained.tagger.predict_proba(df.text)
    assert probabilities.shape == (1444, len(trained.label_encoder))
    assert np.isfinite(probabilities).all()
