"""The models beside the CNN: rules and the linear model, from params to a tagger in a fresh process."""

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import Hostile
from scipy.sparse import csr_matrix

from support.data.corpus import SAMPLE_DIR, load_projects
from support.data.splits import DataError, Splits
from support.models import linear
from support.models.encoding import LabelEncoder
from support.models.evaluation import best_threshold, measure
from support.models.files import ArtifactError
from support.models.linear import LinearParams, LinearTagger, train_linear
from support.models.params import Params
from support.models.rules import RuleParams, RuleTagger, train_rules
from support.models.tagger import Trained, tagger_files

LINEAR = LinearParams(char_ngrams=3)
TEXTS = [
    "Transfer learning with BERT for self-supervised learning",
    "",
    "the and of",
    "日本語のテキスト",
    "Übertragenes Lernen für große Graphen",
    "graph " * 20_000,
]
KINDS = ["rules", "linear"]


@pytest.fixture(scope="module")
def all_trained(sample_splits) -> dict[str, Trained]:
    """Give a trained model of each kind that has no epochs."""
    return {"rules": train_rules(RuleParams(), sample_splits), "linear": train_linear(LINEAR, sample_splits)}


@pytest.fixture(params=KINDS)
def any_trained(request, all_trained) -> Trained:
    return all_trained[request.param]


@pytest.fixture
def folder(any_trained, tmp_path) -> Path:
    any_trained.save(tmp_path / "artifacts")
    return tmp_path / "artifacts"


@pytest.fixture
def linear_folder(all_trained, tmp_path) -> Path:
    all_trained["linear"].save(tmp_path / "linear")
    return tmp_path / "linear"


def same(one: Trained, two: Trained) -> bool:
    """Tell whether two linear models have the same weights, to the last digit."""
    pairs = ((getattr(t, name) for t in (one.tagger, two.tagger)) for name in ("weight", "bias"))
    return one.threshold == two.threshold and all(np.array_equal(*pair) for pair in pairs)


# Params


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"C": 0}, "C must be a number above 0, and 0 is not"),
        ({"C": float("inf")}, "C must be"),
        ({"C": True}, "C must be"),
        ({"word_ngrams": 0}, "word_ngrams must be a whole number from 1"),
        ({"char_ngrams": 1}, "char_ngrams must be a whole number from 2 to 99, and 1 is not"),
        ({"char_ngrams": 3.0}, "char_ngrams must be"),
        ({"naive_bayes": 1}, "naive_bayes must be True or False"),
        ({"use_val": None}, "use_val must be True or False"),
        ({"seed": -1}, "seed must be"),
        ({"model": "cnn"}, "model must be 'linear', and 'cnn' is not"),
    ],
)
def test_a_bad_value_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        LinearParams(**values)


@pytest.mark.parametrize("params", [Params(), RuleParams(), LinearParams(C=0.5, use_val=True)])
def test_params_name_their_model_and_are_the_same_through_json(params):
    assert params.model in params.trained_by
    assert type(params)(**json.loads(json.dumps(asdict(params)))) == params
    with pytest.raises(ValueError, match="model must be"):
        replace(params, model="other")
    with pytest.raises(ValueError, match="Unknown params: depth"):
        type(params)(**{"depth": 3})


# Rules


@pytest.fixture
def rules(sample_splits) -> RuleTagger:
    aliases = {"graphs": ["knowledge graph"], "generative-adversarial-networks": ["GAN", "GANs"]}
    encoder = LabelEncoder(["generative-adversarial-networks", "graphs", "natural-language-processing"])
    aliases["natural-language-processing"] = ["nlp", "the", ""]
    return RuleTagger.of(encoder, replace(sample_splits, aliases=aliases))


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("Natural language, processing!", ["natural-language-processing"]),
        ("natural-language-processing", ["natural-language-processing"]),
        ("natural processing of language", []),
        ("a GAN for graphs", ["generative-adversarial-networks", "graphs"]),
        ("the Knowledge Graph", ["graphs"]),
        ("GANs", ["generative-adversarial-networks"]),
        ("organ elegant gan2", []),
        ("paragraphs and graph", []),
        ("nlp", ["natural-language-processing"]),
        ("nlp, graphs and nlp", ["graphs", "natural-language-processing"]),
        ("the", []),
        ("", []),
    ],
)
def test_rules_find_names_and_aliases_as_whole_words(rules, text, tags):
    assert rules.predict([text]) == [tags]
    assert set(rules.predict_proba([text]).ravel()) <= {0, 1}


def test_rules_take_the_aliases_of_the_corpus(all_trained, sample_splits):
    by_tag = dict(zip(all_trained["rules"].label_encoder.classes, all_trained["rules"].tagger.names, strict=True))
    assert by_tag["attention"] == ["attention", "attention mechanism", "self attention"]
    assert sample_splits.aliases["attention"] == ["attention mechanism", "self-attention"]


def test_aliases_travel_with_the_splits_and_bad_ones_are_refused(sample_splits, tmp_path):
    sample_splits.save(tmp_path / "data.json")
    loaded = Splits.load(tmp_path / "data.json")
    assert loaded.aliases == sample_splits.aliases
    assert loaded.digest == replace(sample_splits, aliases={}).digest  # other names change no data
    values = json.loads((tmp_path / "data.json").read_text())
    for bad in ([1], {"a": 1}, 3, "text"):
        (tmp_path / "data.json").write_text(json.dumps(values | {"aliases": bad}))
        with pytest.raises(DataError, match=r"data\.json"):
            Splits.load(tmp_path / "data.json")
    (tmp_path / "projects.json").write_bytes((SAMPLE_DIR / "projects.json").read_bytes())
    tags = json.loads((SAMPLE_DIR / "tags.json").read_text())
    for bad in ("cv", None, [3]):
        (tmp_path / "tags.json").write_text(json.dumps([*tags, {"tag": "new", "aliases": bad}]))
        with pytest.raises(DataError, match=f"entry {len(tags)}, aliases"):
            load_projects(tmp_path)


# The linear model


def test_a_feature_counts_more_the_more_it_tells():
    columns = csr_matrix([[0.3, 0.2, 0.0], [0.9, 0.0, 0.4], [0.1, 0.0, 0.7]])
    target = np.array([1.0, 0.0, 0.0])
    shares = np.array([[2, 2, 1], [3, 1, 3]]) / [[5], [7]]  # one more than the texts that have it
    wanted = 1 + np.abs(np.log(shares[0] / shares[1]))
    found = linear.count_ratios(columns, target)
    assert found == pytest.approx(wanted / np.sqrt((wanted**2).mean()))
    assert (found**2).mean() == pytest.approx(1)
    assert linear.count_ratios(columns, 1 - target) == pytest.approx(found)  # the size, whatever the sign


def test_the_same_params_give_the_same_to_the_last_digit(all_trained, sample_splits):
    assert same(train_linear(LINEAR, sample_splits), all_trained["linear"])


def test_nothing_is_learned_from_the_test_split(all_trained, sample_splits):
    """Nor from the validation split, unless asked to: so either can judge what was chosen without it."""
    s = sample_splits
    other = s.val.assign(text=s.val.text.iloc[::-1].to_list())
    changed = train_linear(LINEAR, replace(s, val=other, test=other))
    assert same(changed, all_trained["linear"])
    assert changed.performance != all_trained["linear"].performance
    with_val = replace(LINEAR, use_val=True)
    first, second = (train_linear(with_val, each) for each in (s, replace(s, test=other)))
    assert same(first, second)
    assert not same(first, all_trained["linear"])
    assert first.val_f1 == second.val_f1  # cross-validated within what it learned from


def test_the_threshold_is_not_chosen_on_texts_that_were_learned(all_trained, sample_splits):
    trained, train = all_trained["linear"], sample_splits.train
    targets = trained.label_encoder.encode(train.tags)
    assert trained.threshold < best_threshold(targets, trained.tagger.predict_proba(train.text)) - 0.1
    assert trained.val_f1 == measure(trained.tagger, sample_splits.val)["overall"]["f1"]


def test_a_tag_without_an_example_is_named(sample_splits):
    test = sample_splits.test.assign(tags=[[*tags, "brand-new"] for tags in sample_splits.test.tags])
    with pytest.raises(DataError, match="No example in the training split for: brand-new"):
        train_linear(LINEAR, replace(sample_splits, test=test))


# Every kind


def test_performance_is_that_of_the_tagger_on_the_test_split(any_trained, sample_splits):
    assert any_trained.performance == measure(any_trained.tagger, sample_splits.test)
    assert 0.3 < any_trained.performance["overall"]["f1"] < 1
    assert any_trained.history == [] and any_trained.best_epoch is None and any_trained.best_val_loss is None


def test_texts_of_all_kinds_are_tagged(any_trained):
    tagger = any_trained.tagger
    probabilities = tagger.predict_proba(TEXTS)
    assert probabilities.shape == (len(TEXTS), len(tagger.label_encoder)) and probabilities.dtype == np.float32
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    for i in (2, 3):  # nothing in them is known
        assert np.array_equal(probabilities[i], probabilities[1])
    assert tagger.predict([]) == [] and tagger.predict_proba([]).shape == (0, len(tagger.label_encoder))
    raw, clean = tagger.predict_proba(["Même the BIG-graphs, and_more!", "m big graphs"])
    assert np.array_equal(raw, clean)
    with pytest.raises(TypeError, match="Pass a list of texts"):
        tagger.predict("a text")


def test_company_does_not_change_a_text(any_trained, sample_splits):
    texts = list(sample_splits.test.text)
    one_by_one = np.concatenate([any_trained.tagger.predict_proba([text]) for text in texts])
    assert np.abs(any_trained.tagger.predict_proba(texts) - one_by_one).max() <= 1e-6


# Bad artifacts


def test_a_damaged_artifact_is_refused(any_trained, folder):
    load = type(any_trained.tagger).load
    for name in tagger_files(type(any_trained.tagger)):
        content = (folder / name).read_bytes()
        for bad in (b"", b"[]", b"null", content[: len(content) // 2], b"\x80\x04N."):
            (folder / name).write_bytes(bad)
            with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
                load(folder)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            load(folder)
        (folder / name).write_bytes(content)
    assert load(folder).predict(["graphs"])


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["words"].append(v["words"][0]),
        lambda v: v["words"].append("one more than weights"),
        lambda v: v["letters"].clear(),
        lambda v: v["letters"].append(3),
        lambda v: v.update(words={}),
        lambda v: v.update(more=[]),
        lambda v: v.pop("words"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(linear_folder, change):
    values = json.loads((linear_folder / "vocabulary.json").read_text())
    change(values)
    (linear_folder / "vocabulary.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"vocabulary\.json|model\.pt"):
        LinearTagger.load(linear_folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.pop("bias"),
        lambda w: w.update(extra=torch.zeros(1)),
        lambda w: w.update({"idf.words": w["idf.words"][1:].clone()}),
        lambda w: w.update(weight=w["weight"].double()),
        lambda w: w.update(bias="text"),
    ],
)
def test_weights_that_do_not_fit_are_refused(linear_folder, change):
    weights = torch.load(linear_folder / "model.pt", weights_only=True)
    change(weights)
    torch.save(weights, linear_folder / "model.pt")
    with pytest.raises(ArtifactError, match=r"model\.pt"):
        LinearTagger.load(linear_folder)


def test_a_pickle_is_not_executed(linear_folder, tmp_path):
    witness = tmp_path / "executed"
    torch.save({"weight": Hostile(witness)}, tmp_path / "hostile.pt")
    for content in ((tmp_path / "hostile.pt").read_bytes(), pickle.dumps(Hostile(witness), protocol=2)):
        (linear_folder / "model.pt").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"model\.pt"):
            LinearTagger.load(linear_folder)
    assert not witness.exists()


@pytest.mark.parametrize("bad", [3, "graphs", [3], None, {"a": "b"}])
def test_names_that_are_no_texts_are_refused(all_trained, tmp_path, bad):
    all_trained["rules"].save(tmp_path)
    values = json.loads((tmp_path / "names.json").read_text())
    values[next(iter(values))] = bad
    (tmp_path / "names.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"names\.json"):
        RuleTagger.load(tmp_path)
