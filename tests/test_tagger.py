"""A saved training is all that a fresh kernel needs, the same texts get the same tags, and no pickle runs."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL

from support.data.corpus import load_projects
from support.models.encoding import LabelEncoder, Tokenizer
from support.models.evaluation import get_performance
from support.models.lookup import short_steps
from support.models.files import ArtifactError
from support.tracking.store import PROJECT_DIR
from support.models.tagger import BATCH_SIZE, Tagger
from support.models.training import Params, train_cnn

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
    assert Params.from_dict(params) == trained.params
    performance = json.loads((folder / "performance.json").read_text())
    assert performance.pop("threshold") == trained.threshold
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


def test_lesson_fault_5_a_fresh_process_needs_nothing_but_the_folder(folder, trained, tmp_path):
    code = (
        "import json, sys\n"
        "from support.models.tagger import Tagger\n"
        "tagger = Tagger.load(sys.argv[1])\n"
        "texts = json.loads(sys.argv[2])\n"
        "print(json.dumps([tagger.predict_proba(texts).tobytes().hex(), tagger.predict(texts)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), json.dumps(TEXTS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT_DIR)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    probabilities, tags = json.loads(done.stdout)
    assert probabilities == trained.tagger.predict_proba(TEXTS).tobytes().hex()
    assert tags == trained.tagger.predict(TEXTS)
    assert not (tmp_path / "stores").exists()


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


# No pickle


class Touch:
    """Pickled, it makes a file as soon as it is loaded."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("write", ["torch", "pickle", "inside"])
def test_a_pickle_in_place_of_the_weights_is_refused_and_does_not_run(copy, tmp_path, trained, write):
    trap = tmp_path / "trap"
    if write == "pickle":
        (copy / "model.pt").write_bytes(pickle.dumps(Touch(trap), protocol=2))
    elif write == "torch":
        torch.save(Touch(trap), copy / "model.pt")
    else:
        torch.save({**trained.tagger.model.state_dict(), "extra": Touch(trap)}, copy / "model.pt")
    with pytest.raises(ArtifactError, match=r"model\.pt is (damaged|refused)"):
        Tagger.load(copy)
    assert not trap.exists()


def test_the_trap_is_a_trap(tmp_path):
    """Loaded the unsafe way, the file of the test above does run: else that test would prove nothing."""
    torch.save(Touch(tmp_path / "trap"), tmp_path / "model.pt")
    torch.load(tmp_path / "model.pt", weights_only=False).close()
    assert (tmp_path / "trap").exists()


def test_a_damaged_file_of_weights_is_an_error(copy):
    content = (copy / "model.pt").read_bytes()
    (copy / "model.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match=r"model\.pt is damaged"):
        Tagger.load(copy)
    (copy / "model.pt").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"model\.pt is damaged"):
        Tagger.load(copy)


def test_weights_of_another_model_are_an_error(copy):
    params = json.loads((copy / "params.json").read_text())
    (copy / "params.json").write_text(json.dumps({**params, "num_filters": params["num_filters"] + 1}))
    with pytest.raises(ArtifactError, match=r"model\.pt does not fit"):
        Tagger.load(copy)


# Texts of all kinds


@pytest.mark.parametrize("texts", [[], (), iter([]), pd.Series([], dtype=str)])
def test_no_texts_give_no_tags(trained, texts):
    assert trained.tagger.predict(texts) == []
    assert trained.tagger.predict_proba([]).shape == (0, len(trained.label_encoder))
    assert trained.tagger.predict_proba([]).dtype == np.float32


@pytest.mark.parametrize(
    "text", ["", " ", "the and of", "日本語のテキスト", "Привет, мир", "🙂", "\x00\n", "a"]
)
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


@pytest.mark.parametrize(
    "texts", ["a text", b"a text", None, 3, ["a", None], ["a", 3], [["a"]], {"a": 1}.values()]
)
def test_what_is_no_list_of_texts_is_a_type_error_that_says_what_to_give(trained, texts):
    for call in (trained.tagger.predict, trained.tagger.predict_proba):
        with pytest.raises(TypeError, match=r'Give a list of texts, such as \["a text"\]\.'):
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
    assert len(texts) > 3 * BATCH_SIZE
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


def test_params_of_a_later_version_do_not_disturb(copy, trained):
    values = {**asdict(trained.params), "brand_new": 1}
    (copy / "params.json").write_text(json.dumps(values))
    assert Tagger.load(copy).predict(TEXTS) == trained.tagger.predict(TEXTS)


def test_every_project_of_the_lesson_gets_a_row(lesson_dir, trained):
    df = load_projects(lesson_dir)
    probabilities = trained.tagger.predict_proba(df.text)
    assert probabilities.shape == (1444, len(trained.label_encoder))
    assert np.isfinite(probabilities).all()
