"""The models beside the CNN: rules and the linear model, from params to a tagger in a fresh process."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from test_safe import SMALL, Hostile

from support.comparison import diff as compare
from support.lineage import lineage
from support.models import linear
from support.models import kinds as models
from support.tracking import training_run as tracking
from support.data.corpus import SAMPLE_DIR, DataError, Splits, load_projects, split
from support.models.encoding import LabelEncoder
from support.models.evaluation import best_threshold, measure
from support.models.linear import LinearParams
from support.models.params import Params
from support.models.rules import RuleParams, RuleTagger
from support.models.files import ArtifactError
from support.tracking.store import PROJECT_DIR
from support.models.trained import Trained

pytestmark = pytest.mark.once

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
    return {params.model: models.train(params, sample_splits) for params in (RuleParams(), LINEAR)}


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
        ({"char_ngrams": 1}, "char_ngrams must be a whole number from 2, and 1 is not"),
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
    assert params.model in models.TAGGERS
    assert type(params).from_dict(json.loads(json.dumps(asdict(params)))) == params
    with pytest.raises(ValueError, match="model must be"):
        replace(params, model="other")
    with pytest.raises(ValueError, match="Unknown params: depth"):
        type(params).from_dict({"depth": 3})


# Rules


@pytest.fixture
def rules() -> RuleTagger:
    aliases = {"graphs": ["knowledge graph"], "generative-adversarial-networks": ["GAN", "GANs"]}
    encoder = LabelEncoder(["generative-adversarial-networks", "graphs", "natural-language-processing"])
    return RuleTagger.of(encoder, aliases | {"natural-language-processing": ["nlp", "the", ""]})


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
    by_tag = dict(
        zip(all_trained["rules"].label_encoder.classes, all_trained["rules"].tagger.names, strict=True)
    )
    assert by_tag["attention"] == ["attention", "attention mechanism", "self attention"]
    assert sample_splits.aliases["attention"] == ["attention mechanism", "self-attention"]


def test_aliases_travel_with_the_splits_and_bad_ones_are_refused(sample_splits, tmp_path):
    sample_splits.save(tmp_path / "data.json")
    loaded = Splits.load(tmp_path / "data.json")
    assert loaded.aliases == sample_splits.aliases
    assert loaded.digest == replace(sample_splits, aliases={}).digest  # runs of before are on the same data
    values = json.loads((tmp_path / "data.json").read_text())
    for bad in ([1], {"a": 1}, 3, "text"):
        (tmp_path / "data.json").write_text(json.dumps(values | {"aliases": bad}))
        with pytest.raises(DataError, match=r"data\.json"):
            Splits.load(tmp_path / "data.json")
    del values["aliases"]
    (tmp_path / "data.json").write_text(json.dumps(values))
    assert Splits.load(tmp_path / "data.json").aliases == {}
    (tmp_path / "projects.json").write_bytes((SAMPLE_DIR / "projects.json").read_bytes())
    tags = json.loads((SAMPLE_DIR / "tags.json").read_text())
    for bad in ("cv", None, [3]):
        (tmp_path / "tags.json").write_text(json.dumps([*tags, {"tag": "new", "aliases": bad}]))
        with pytest.raises(DataError, match=f"entry {len(tags)} has aliases that are no list of str"):
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
    assert same(models.train(LINEAR, sample_splits), all_trained["linear"])


def test_nothing_is_learned_from_the_test_split(all_trained, sample_splits):
    """Nor from the validation split, unless asked to: so either can judge what was chosen without it."""
    s = sample_splits
    other = s.val.assign(text=s.val.text.iloc[::-1].to_list())
    changed = models.train(LINEAR, replace(s, val=other, test=other))
    assert same(changed, all_trained["linear"])
    assert changed.performance != all_trained["linear"].performance
    with_val = replace(LINEAR, use_val=True)
    first, second = (models.train(with_val, each) for each in (s, replace(s, test=other)))
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
        models.train(LINEAR, replace(sample_splits, test=test))


# Every kind


def test_performance_is_that_of_the_tagger_on_the_test_split(any_trained, sample_splits):
    assert any_trained.performance == measure(any_trained.tagger, sample_splits.test)
    assert 0.3 < any_trained.performance["overall"]["f1"] < 1
    assert any_trained.history == [] and any_trained.best_epoch is None and any_trained.best_val_loss is None


def test_a_fresh_process_tags_the_same_with_nothing_but_the_folder(any_trained, folder, tmp_path):
    code = (
        "import json, sys\n"
        "from support import models\n"
        "tagger = models.load(sys.argv[1])\n"
        "texts = json.loads(sys.stdin.read())\n"
        "print(json.dumps([tagger.predict_proba(texts).tobytes().hex(), tagger.predict(texts)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        input=json.dumps(TEXTS),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT_DIR)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    probabilities, tags = json.loads(done.stdout)
    assert probabilities == any_trained.tagger.predict_proba(TEXTS).tobytes().hex()
    assert tags == any_trained.tagger.predict(TEXTS)
    assert sorted(path.name for path in folder.iterdir()) == sorted(models.files_of(folder))


def test_texts_of_all_kinds_are_tagged(any_trained):
    tagger = any_trained.tagger
    probabilities = tagger.predict_proba(TEXTS)
    assert (
        probabilities.shape == (len(TEXTS), len(tagger.label_encoder)) and probabilities.dtype == np.float32
    )
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    for i in (2, 3):  # nothing in them is known
        assert np.array_equal(probabilities[i], probabilities[1])
    assert tagger.predict([]) == [] and tagger.predict_proba([]).shape == (0, len(tagger.label_encoder))
    raw, clean = tagger.predict_proba(["Même the BIG-graphs, and_more!", "m big graphs"])
    assert np.array_equal(raw, clean)
    with pytest.raises(TypeError, match="Give a list of texts"):
        tagger.predict("a text")


def test_company_does_not_change_a_text(any_trained, sample_splits):
    texts = list(sample_splits.test.text)
    one_by_one = np.concatenate([any_trained.tagger.predict_proba([text]) for text in texts])
    assert np.abs(any_trained.tagger.predict_proba(texts) - one_by_one).max() <= 1e-6


def test_nothing_starts_from_weights_but_the_cnn(all_trained, sample_splits):
    with pytest.raises(ValueError, match="A linear model starts from no other"):
        models.train(LINEAR, sample_splits, start_from=all_trained["linear"].tagger)


# Bad artifacts


def test_a_damaged_artifact_is_refused(folder):
    for name in models.files_of(folder):
        content = (folder / name).read_bytes()
        for bad in (b"", b"[]", b"{}", b"null", content[: len(content) // 2], b"\x80\x04N."):
            (folder / name).write_bytes(bad)
            with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
                models.load(folder)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            models.load(folder)
        (folder / name).write_bytes(content)
    assert models.load(folder).predict(["graphs"])


@pytest.mark.parametrize("kind", ["svm", "", None, 3, [], {}])
def test_an_unknown_kind_is_refused(folder, kind):
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(params | {"model": kind}))
    with pytest.raises(ArtifactError, match=r"params\.json"):
        models.load(folder)


def test_what_names_no_kind_is_a_cnn(trained, tmp_path):
    trained.save(tmp_path)
    params = json.loads((tmp_path / "params.json").read_text())
    assert params.pop("model") == "cnn"
    (tmp_path / "params.json").write_text(json.dumps(params))
    assert models.load(tmp_path).predict(TEXTS[:5]) == trained.tagger.predict(TEXTS[:5])


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
        models.load(linear_folder)


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
        models.load(linear_folder)


def test_a_pickle_is_not_executed(linear_folder, tmp_path):
    witness = tmp_path / "executed"
    torch.save({"weight": Hostile(witness)}, tmp_path / "hostile.pt")
    for content in ((tmp_path / "hostile.pt").read_bytes(), pickle.dumps(Hostile(witness), protocol=2)):
        (linear_folder / "model.pt").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"model\.pt"):
            models.load(linear_folder)
    assert not witness.exists()


@pytest.mark.parametrize("bad", [3, "graphs", [3], None, {"a": "b"}])
def test_names_that_are_no_texts_are_refused(all_trained, tmp_path, bad):
    all_trained["rules"].save(tmp_path)
    values = json.loads((tmp_path / "names.json").read_text())
    values[next(iter(values))] = bad
    (tmp_path / "names.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"names\.json"):
        models.load(tmp_path)


# In a tracked run


@pytest.fixture(scope="module")
def run_ids(sample_splits, tmp_path_factory) -> dict[str, str]:
    """Give a run of each kind; their store is the current one from here on."""
    tracking.connect(tmp_path_factory.mktemp("stores"))
    return {p.model: tracking.train_and_log(p, sample_splits) for p in (RuleParams(), LINEAR, SMALL)}


@pytest.mark.parametrize("kind", ["rules", "linear", "cnn"])
def test_a_run_of_any_kind_holds_the_same(run_ids, kind, sample_splits):
    run = mlflow.get_run(run_ids[kind])
    assert run.info.run_name == run.data.params["model"] == kind
    wanted = {"precision", "recall", "f1", "val_f1", "training_seconds", "size_bytes", "latency_ms"}
    assert wanted <= run.data.metrics.keys()
    plots = {
        Path(file.path).stem for file in mlflow.artifacts.list_artifacts(f"{run.info.artifact_uri}/plots")
    }
    assert plots == {"precision_recall", "f1_by_tag"} | ({"learning_curves"} if kind == "cnn" else set())
    tagger = tracking.load_tagger(run.info.run_id)
    assert measure(tagger, sample_splits.test)["overall"]["f1"] == run.data.metrics["f1"]


@pytest.mark.parametrize("kind", KINDS)
def test_reproduce_gives_the_same(run_ids, kind):
    table = lineage.reproduce(run_ids[kind])
    assert set(table.verdict) == {"equal"}
    assert {"f1", "val_f1"} <= set(table.index) and "training_seconds" not in table.index
    assert (
        type(lineage.params_of(mlflow.get_run(table.attrs["run_id"]))).__name__.lower().startswith(kind[:4])
    )


@pytest.mark.parametrize("kind", KINDS)
def test_resume_finishes_what_was_cut_off(run_ids, kind, sample_splits, monkeypatch):
    params = {"rules": RuleParams(), "linear": LINEAR}[kind]

    def killed(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(models, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            tracking.train_and_log(params, sample_splits, "cut off")
    [run] = mlflow.search_runs(
        experiment_names=["baselines"], filter_string="status = 'KILLED'", output_format="list"
    )
    lineage.resume(run.info.run_id)
    finished, whole = mlflow.get_run(run.info.run_id), mlflow.get_run(run_ids[kind])
    assert finished.info.status == "FINISHED"
    assert finished.data.metrics["f1"] == whole.data.metrics["f1"]


@pytest.mark.parametrize("kind", KINDS)
def test_retrain_says_that_there_are_no_weights_to_start_from(run_ids, kind):
    with pytest.raises(
        lineage.LineageError, match=rf"is a {kind} model, which starts from no weights\. Train"
    ):
        lineage.retrain(run_ids[kind])


def test_a_cnn_is_not_retrained_as_something_else(run_ids):
    with pytest.raises(lineage.LineageError, match="num_filters: 8 there, None here"):
        lineage.retrain(run_ids["cnn"], LINEAR)


def test_models_of_different_kinds_are_compared(run_ids):
    difference = compare.diff(run_ids["rules"], run_ids["linear"])
    assert tuple(difference.facts.loc["param model"]) == ("rules", "linear")
    assert {"f1", "latency_ms"} <= set(difference.metrics.index)
    assert len(difference.texts)


def test_what_the_machine_decides_may_differ_and_the_rest_may_not(run_ids, all_trained, sample_splits):
    run = mlflow.get_run(run_ids["linear"])
    slower = replace(all_trained["linear"], seconds=1e6)
    with tracking.start_run(run_id=run.info.run_id):
        tracking.log_trained(slower, sample_splits)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "training_seconds")
    assert [metric.value for metric in history] == [run.data.metrics["training_seconds"]]
    with (
        pytest.raises(RuntimeError, match=r"val_f1 of step 0 is 0\.5 now"),
        tracking.start_run(run_id=run.info.run_id),
    ):
        tracking.log_trained(replace(slower, val_f1=0.5), sample_splits)
    mlflow.MlflowClient().set_terminated(run.info.run_id, "FINISHED")


# The acceptance: the lesson's corpus


def test_the_linear_model_reaches_075_and_the_plain_one_less(lesson_dir):
    """Mean weighted F1 on the test split over three split seeds; chosen on the other splits of 1234."""
    df = load_projects(lesson_dir)
    recipes = {
        "champion": LinearParams(use_val=True),
        "plain": LinearParams(naive_bayes=False, C=10.0, char_ngrams=5),
        "rules": RuleParams(),
    }
    scores = {
        name: [models.train(params, split(df, s)).performance["overall"]["f1"] for s in (1234, 1, 2)]
        for name, params in recipes.items()
    }
    means = {name: np.mean(values) for name, values in scores.items()}
    assert means["champion"] >= 0.75, scores
    assert means["champion"] > means["plain"] + 0.01 > means["rules"] + 0.1, scores
