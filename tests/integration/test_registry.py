"""Promotion: who becomes the champion, who is refused with nothing left behind, and what a version holds."""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput
from mlflow.entities.model_registry import ModelVersion

from support.data.splits import Splits
from support.models.files import ArtifactError
from support.models.linear import LinearParams
from support.registry import PromotionError, champion, promote
from support.tracking.intervals import with_interval
from support.tracking.predictions import log_predictions, read_predictions
from support.tracking.provenance import log_context
from support.tracking.runs import NoRunError
from support.tracking.store import connect
from support.tracking.training_run import load_tagger, start_run, train_and_log

TEXTS = ["transfer learning with bert", "", "Здравствуй, мир", "graph neural networks for molecules"]


@pytest.fixture(autouse=True)
def path_as_it_was(monkeypatch) -> None:
    """A model that is loaded may change sys.path."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def database() -> Path:
    return Path(mlflow.get_tracking_uri().removeprefix("sqlite:///"))


def everything() -> list[str]:
    """Return all that the store holds."""
    with closing(sqlite3.connect(database())) as rows:
        return [*rows.iterdump(), *map(str, sorted(database().parent.rglob("*")))]


def add(splits: Splits | None, *, model: bool = True, experiment: str = "digits", **metrics: float) -> str:
    """Log a run by MLflow's calls alone, and return its id."""
    with start_run("bare", experiment) as run:
        mlflow.log_metrics(metrics)
        if splits:
            log_context(splits)
        if model:
            mlflow.sklearn.log_model(constant(), name="model", pip_requirements=["scikit-learn"])
    return run.info.run_id


def said(splits: Splits, right: int, *, predictions: bool = True, **costs: float) -> str:
    """Log a run that has so many of the 100 validation examples right, the first ones, and return its id."""
    true = splits.val.target.to_numpy()
    guesses = np.where(np.arange(len(true)) < right, true, (true + 1) % 10)
    with start_run("said", "digits") as run:
        mlflow.log_metrics({"val_accuracy": right / 100, "accuracy": 0.5, **costs})
        client = MlflowClient()
        client.log_inputs(run.info.run_id, [DatasetInput(Dataset("digits", splits.digest, "code", "{}"))])
        if predictions:
            log_predictions("val", splits.val, np.eye(10)[guesses], true, guesses, range(10))
        model = client.create_logged_model(run.info.experiment_id, "model", run.info.run_id)
        client.finalize_logged_model(model.model_id, "READY")
    return run.info.run_id


def files_of(version: ModelVersion) -> Path:
    return Path(mlflow.artifacts.download_artifacts(version.source))


def constant():
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="constant", constant=7).fit([[0], [1]], [7, 7])


def test_a_better_run_becomes_the_champion_by_its_validation_figure(runs, sample_splits, capsys) -> None:
    scores = {name: mlflow.get_run(runs[name]).data.metrics["val_f1"] for name in ("rules", "cnn")}
    poor, good = sorted(scores, key=scores.get)
    assert champion() is None
    first = promote(runs[poor])
    assert (int(first.version), first.run_id, first.aliases) == (1, runs[poor], ["champion"])
    assert promote().run_id == runs[good] == champion().run_id
    before = everything()
    capsys.readouterr()
    assert int(promote(runs[good]).version) == 2  # again: nothing happens, and it says so
    assert "is the champion already: version 2" in capsys.readouterr().out
    with pytest.raises(PromotionError, match=rf"val_f1 {scores[poor]:.4f}.*does not beat the champion, version 2"):
        promote(runs[poor])
    lucky = add(sample_splits, val_f1=scores[good] - 0.01, f1=0.999, experiment="baselines")
    before = everything()
    with pytest.raises(PromotionError, match="does not beat"):  # a better test figure chooses nothing
        promote(lucky)
    assert everything() == before


@pytest.mark.parametrize(
    ("right", "refusal"),
    [
        (80, r"\+0\.000 \(\+0\.000 to \+0\.000\) on 100 examples: a tie.*accept_tie=True"),
        (82, r"val_accuracy is \+0\.020 \(\+0\.000 to \+0\.050\) on 100 examples: a tie"),
        (78, r"-0\.020 \(.*: a tie"),
        (60, r"-0\.200 \(-0\.[\d .to-]+\) on 100 examples: more than chance"),
        (95, None),
    ],
)
def test_a_run_must_be_better_by_more_than_chance(digits, right: int, refusal: str | None) -> None:
    connect()
    how = {"name": "digits", "metric": "accuracy"}
    first, second = said(digits, 80), said(digits, right)
    promote(first, **how)
    before = everything()
    if refusal is None:
        assert promote(second, **how).run_id == second
        return
    with pytest.raises(PromotionError, match=rf"does not beat the champion.*{refusal}.*The champion stays"):
        promote(second, **how)
    assert everything() == before and champion("digits").run_id == first


@pytest.mark.parametrize(
    ("right", "costs", "taken"),
    [
        (80, {"training_seconds": 5, "latency_ms": 2}, True),
        (78, {"training_seconds": 5}, True),
        (80, {"training_seconds": 10, "latency_ms": 2}, False),  # costs the same
        (82, {"training_seconds": 5, "latency_ms": 3}, False),  # one cost is higher
        (82, {"size_bytes": 1}, False),  # which the champion has not logged
        (60, {"training_seconds": 1}, False),  # cheaper, and worse
    ],
)
def test_a_run_that_ties_and_is_cheaper_is_taken_when_told_so(digits, right: int, costs: dict, taken: bool) -> None:
    connect()
    how = {"name": "digits", "metric": "accuracy"}
    first, second = said(digits, 80, training_seconds=10, latency_ms=2), said(digits, right, **costs)
    promote(first, **how)
    with pytest.raises(PromotionError):
        promote(second, **how)
    if taken:
        assert promote(second, accept_tie=True, **how).run_id == second
    else:
        with pytest.raises(PromotionError, match="more than chance" if right == 60 else "but it is not cheaper"):
            promote(second, accept_tie=True, **how)


def test_without_the_same_validation_examples_the_higher_figure_decides(digits) -> None:
    connect()
    how = {"name": "digits", "metric": "accuracy"}
    promote(said(digits, 80), **how)
    none = said(digits, 81, predictions=False)
    assert promote(none, **how).run_id == none
    with pytest.raises(PromotionError, match=r"does not beat .* on the same data\. The champion stays"):
        promote(said(digits, 81), accept_tie=True, **how)


def test_each_look_at_the_test_split_is_counted_in_the_card(digits) -> None:
    connect()
    how = {"name": "digits", "metric": "accuracy"}
    promote(said(digits, 60), **how)
    with pytest.raises(PromotionError, match=r"val_accuracy 0\.4000\) does not beat .*val_accuracy 0\.6000"):
        promote(said(digits, 40), **how)  # by validation alone: no look
    assert "looked at 2 times" in promote(said(digits, 80), **how).description
    with pytest.raises(PromotionError, match=r"\(accuracy 0\.7000\) does not beat"):
        promote(add(digits, accuracy=0.7), **how)  # it has no validation figure: a look
    version = promote(add(digits, val_accuracy=0.9, accuracy=0.5), **how)
    assert "looked at 4 times" in version.description
    promote(said(digits, 70), name="second", metric="accuracy")
    assert "looked at once" in champion("second").description


def test_what_was_learned_from_the_validation_split_is_not_compared_on_it(sample_splits) -> None:
    connect()
    params = LinearParams(word_ngrams=1, char_ngrams=2, use_val=True)
    run = mlflow.get_run(train_and_log(params, sample_splits, experiment="linear"))
    assert read_predictions(run, "val") is None and read_predictions(run, "test") is not None


def test_a_run_on_other_data_is_refused_with_the_way_out(runs, digits) -> None:
    promote(runs["rules"])
    elsewhere = add(digits, f1=0.99)
    before = everything()
    with pytest.raises(PromotionError, match=r"on other data.*delete_registered_model_alias\('tagger', 'champion'\)"):
        promote(elsewhere)
    assert everything() == before
    MlflowClient().delete_registered_model_alias("tagger", "champion")  # as the message says
    assert int(promote(elsewhere).version) == 2


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"f1": float("nan")}, "without a finite"),
        ({"f1": float("inf")}, "without a finite"),
        ({"f1": 0.5, "val_f1": float("nan")}, "without a finite"),
        ({"val_f1": 0.9}, "without the metric f1"),
        ({"f1": 0.9, "splits": None}, "without a recorded dataset"),
        ({"f1": 0.9, "model": False}, r"keeps no model.*log_model"),
    ],
)
def test_a_run_that_cannot_be_promoted_is_refused_and_leaves_nothing(runs, digits, how: dict, why: str) -> None:
    run_id = add(**{"splits": digits, **how})
    before = everything()
    with pytest.raises(PromotionError, match=why):
        promote(run_id)
    assert everything() == before


def test_runs_that_are_gone_and_names_that_are_none_are_refused(runs) -> None:
    MlflowClient().delete_run(runs["cnn"])
    before = everything()
    with pytest.raises(NoRunError, match=r"was deleted.*restore_runs"):
        promote(runs["cnn"])
    with pytest.raises(NoRunError, match="not in this store"):
        promote("0" * 32)
    with pytest.raises(NoRunError, match="'none' has no finished run"):
        promote(experiment="none")
    for name in ("a/b", "a:b", " ", ".."):
        with pytest.raises(PromotionError, match="cannot be registered as"):
            promote(runs["rules"], name=name)
    for name in ("why?", "two\nlines"):
        with pytest.raises(PromotionError, match="cannot be loaded as"):
            promote(runs["rules"], name=name)
    assert everything() == before
    MlflowClient().restore_run(runs["cnn"])
    assert promote(runs["cnn"]).run_id == runs["cnn"]


def test_a_damaged_run_is_refused_and_leaves_nothing(runs) -> None:
    [weights] = database().parent.rglob("model.pt")
    weights.write_bytes(weights.read_bytes()[:-1] + b"0")
    before = everything()
    with pytest.raises(ArtifactError, match=r"model\.pt is not the file that was logged"):
        promote(runs["cnn"])
    assert everything() == before


@pytest.mark.parametrize("gone", ["deleted", "no run", "no metric"])
def test_a_champion_that_cannot_be_compared_is_named_with_the_way_out(runs, digits, gone: str) -> None:
    client = MlflowClient()
    promote(runs["cnn"])
    if gone == "deleted":
        client.delete_run(runs["cnn"])
    elif gone == "no run":
        version = client.create_model_version("tagger", files_of(champion()).as_uri()).version
        client.set_registered_model_alias("tagger", "champion", version)
    else:
        other = add(digits, model=False, other=1)
        version = client.create_model_version("tagger", champion().source, other).version
        client.set_registered_model_alias("tagger", "champion", version)
    before = everything()
    why = {"deleted": "was deleted", "no run": "comes from no run", "no metric": "run is without the metric f1"}[gone]
    with pytest.raises(PromotionError, match=rf"the champion, version \d.*{why}.*To begin without"):
        promote(runs["rules"])
    assert everything() == before
    client.delete_registered_model_alias("tagger", "champion")
    assert promote(runs["rules"]).run_id == runs["rules"]


@pytest.mark.parametrize(
    "cut",
    [
        "log_model_artifacts",
        "log_outputs",
        "finalize_logged_model",
        "update_model_version",
        "set_registered_model_alias",
    ],
)
def test_a_promotion_that_was_cut_off_is_completed_by_the_next(runs, monkeypatch, cut: str) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(MlflowClient, cut)
        with pytest.raises(AttributeError):
            promote(runs["rules"])
    assert champion() is None
    assert int(promote(runs["rules"]).version) == 1
    assert len(MlflowClient().search_model_versions("name = 'tagger'")) == 1
    [output] = mlflow.get_run(runs["rules"]).outputs.model_outputs
    assert mlflow.get_logged_model(output.model_id).status == "READY"
    assert len(list(database().parent.rglob("model_card.md"))) == 1
    assert mlflow.pyfunc.load_model("models:/tagger@champion").predict(TEXTS) == load_tagger(runs["rules"]).predict(
        TEXTS
    )


def test_a_version_says_what_it_is(runs, sample_splits) -> None:
    before = mlflow.get_run(runs["cnn"])
    version = promote(runs["cnn"])
    after = mlflow.get_run(runs["cnn"])
    assert dict(after.info) == dict(before.info)
    assert after.data.to_dictionary() == before.data.to_dictionary()
    assert len(MlflowClient().get_metric_history(runs["cnn"], "f1")) == 1
    card = Path(files_of(version), "model_card.md").read_text(encoding="utf-8")
    assert version.description == card.partition("\n\n")[2][: len(version.description)]
    figures = before.data.metrics
    for fact in (
        "MIT",
        sample_splits.digest,
        f"its val_f1, {with_interval(before, 'val_f1')}, of the validation split",
        f"on the test split, {len(sample_splits.test)} examples",
        f"| {with_interval(before, 'f1')}",
        "this test split was looked at once",
        "| attention",
        "never right on the test split",
        "classes have fewer than 10 test examples",
        "A text may have 10,000 characters",
    ):
        assert fact in card, fact
    info = mlflow.models.get_model_info("models:/tagger@champion")
    assert info.signature.inputs.to_dict() == [{"type": "string", "required": True}]
    assert info.signature.outputs.to_dict()[0]["items"] == {"type": "string"}
    logged = mlflow.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in logged.metrics}["val_f1"] == figures["val_f1"]
    assert "tagger" in logged.tags["mlflow.modelVersions"]


def test_a_version_holds_what_it_needs_and_no_path_of_this_machine(runs) -> None:
    version = promote(runs["cnn"])
    folder = files_of(version)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    code = {name for name in files if name.startswith("code/")}
    assert {"code/support/models/tagger.py", "code/support/models/cnn.py"} <= code
    assert not {name for name in code if "corpus" in name or "linear" in name or "tracking" in name}
    assert not {name for name in files if "__pycache__" in name or name.endswith(".pkl")}
    for name in ("MLmodel", "model_card.md", "requirements.txt", "conda.yaml", "input_example.json"):
        text = files[name].read_text(encoding="utf-8")
        assert not [path for path in (str(database().parent), os.getcwd(), "/tmp", "file:") if path in text], name
    assert "torch==" in files["requirements.txt"].read_text()


def test_odd_names_of_artifacts_tags_and_params_are_no_hindrance(runs, tmp_path) -> None:
    names = ["notes #1.md", "why?.txt", "50%25.txt", "deep/er/x.txt"]
    with mlflow.start_run(runs["cnn"]):
        for name in names:
            mlflow.log_text("x", name)
        mlflow.log_param("odd", "1 | 2\n3 $x^2$ <b>")
    version = promote(runs["cnn"])
    assert "1 \\| 2 3 \\$x^2\\$ &lt;b&gt;" in version.description
    assert {path.name for path in Path(files_of(version), "artifacts", "run").iterdir()} == {
        "params.json",
        "performance.json",
        "label_encoder.json",
        "tokenizer.json",
        "model.pt",
    }


def test_every_kind_of_run_of_the_readers_own_is_promoted_and_loads_by_name(runs, digits) -> None:
    rows = digits.test.drop(columns="target")
    for name in ("sgd", "network"):
        version = promote(runs[name], name=name, metric="accuracy")
        assert version.run_id == runs[name]
        for fact in ("100 examples", "its val_accuracy", "## Quality by class", "| 7"):
            assert fact in version.description, fact
        assert "A text may have" not in version.description
        given = rows if name == "sgd" else (rows.to_numpy("float32") / 16)
        said = np.asarray(mlflow.pyfunc.load_model(f"models:/{name}@champion").predict(given))
        right = (said if said.ndim == 1 else said.argmax(axis=1)) == digits.test.target.to_numpy()
        assert right.mean() == pytest.approx(mlflow.get_run(runs[name]).data.metrics["accuracy"])
    bare = add(digits, val_accuracy=1.0, accuracy=0.1)
    assert promote(name="sgd", experiment="digits", metric="accuracy").run_id == bare
    assert set(mlflow.pyfunc.load_model("models:/sgd@champion").predict(rows)) == {7}


def test_one_run_is_registered_under_two_names_by_one_model(runs) -> None:
    assert promote(runs["rules"]).source == promote(runs["rules"], name="second").source
    assert len(mlflow.get_run(runs["rules"]).outputs.model_outputs) == 1


def test_a_long_card_is_cut_for_mlflows_pages_and_whole_in_the_model(runs) -> None:
    with mlflow.start_run(runs["rules"]):
        mlflow.log_params({f"param {n}": "x" * 200 for n in range(60)})
    version = promote(runs["rules"])
    assert 4000 < len(version.description) <= 5000 and version.description.endswith("|")
    assert len(Path(files_of(version), "model_card.md").read_text(encoding="utf-8")) > 12_000
