"""The report is one file that stands alone: no server, no script, nothing fetched."""

import html.parser
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from dashboard_parts import make_runs
from mlflow import MlflowClient
from mlflow.entities import Param

from support.dashboard import report
from support.tracking import predictions, runs, store
from support.tracking.runs import differing_params


@pytest.fixture
def stores(tmp_path) -> Path:
    """Return the connected stores folder of the test."""
    store.connect()
    return tmp_path / "stores"


class Parts(html.parser.HTMLParser):
    """Collects what a page loads, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.sources, self.words = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def log(experiment: str, run_name: str, f1: float = 0.5, params: dict | None = None, curve: bool = False) -> str:
    """Log a comparable run and return its id."""
    store.set_experiment(experiment)
    with mlflow.start_run(run_name=run_name) as run:
        mlflow.log_input(mlflow.data.from_numpy(np.zeros(1)), "training")
        MlflowClient().log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in (params or {}).items()])
        mlflow.log_metric("f1", f1)
        for step in range(3) if curve else ():
            mlflow.log_metric("val_loss", 1 / (step + 1), step=step)
    return run.info.run_id


def test_it_is_one_file_that_stands_alone(stores):
    make_runs(stores, count=4)
    path = report.write()
    assert path == stores / "report-baselines.html"
    parts = Parts(path.read_text(encoding="utf-8"))
    assert parts.tags.count("img") == 2 and all(source.startswith("data:image/png") for source in parts.sources)
    assert not {"script", "link", "iframe"} & set(parts.tags)
    assert "url(" not in path.read_text() and path.stat().st_size < 1_000_000
    assert parts.tags.count("tr") == 5
    words = " ".join(parts.words)
    assert "best f1 first: 4. The best has 0.650" in words and "num_filters" in words
    assert "char_level" not in words, "a param that is the same in all runs tells nothing"


def test_it_is_of_the_store_that_one_is_connected_to(tmp_path):
    uri = store.connect(tmp_path / "mine")
    log("baselines", "bare", 0.4)
    assert report.write() == tmp_path / "mine" / "report-baselines.html"
    assert mlflow.get_tracking_uri() == uri, "the next run would land in another store"
    store.connect()
    with pytest.raises(runs.NoRunError):
        report.write()


def test_it_ranks_by_the_metric_that_is_named(stores):
    store.set_experiment("digits")
    for name, accuracy, val_accuracy in (("first", 0.8, 0.9), ("second", 0.85, 0.7)):
        with mlflow.start_run(run_name=name):
            mlflow.log_input(mlflow.data.from_numpy(np.zeros(1)), "training")
            mlflow.log_metrics({"accuracy": accuracy, "val_accuracy": val_accuracy})
    with pytest.raises(runs.NoRunError, match=r"metric 'f1'.* Name another one with metric="):
        report.write("digits")
    page = report.write("digits", metric="accuracy").read_text(encoding="utf-8")
    words = " ".join(Parts(page).words)
    assert "best val_accuracy first: 2. The best has 0.900" in words and "precision" not in words
    assert words.index("first") < words.index("second")


def test_with_a_server_in_the_environment_no_other_stores_report_is_overwritten(tmp_path, monkeypatch):
    store.connect(tmp_path / "two")
    log("baselines", "of two", 0.4)
    store.connect(tmp_path / "one")
    log("baselines", "of one", 0.4)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/two/mlflow.db")
    path = report.write()
    assert path == tmp_path / "two" / "report-baselines.html" and "of two" in path.read_text()


def test_the_f1_stands_with_its_interval(stores, digits):
    log("mine", "bare", 0.4)
    with mlflow.start_run(run_name="sure"):
        mlflow.log_input(mlflow.data.from_numpy(np.zeros(1)), "training")
        mlflow.log_metric("f1", 1.0)
        labels = digits.test.target.to_numpy()
        predictions.log_predictions("test", digits.test, np.eye(10)[labels], labels, labels, range(10))
    words = Parts(report.write("mine").read_text(encoding="utf-8")).words
    assert "1.000 (1.00 to 1.00)" in words and "0.400" in words


def test_one_run_without_figures_is_enough_and_its_name_is_text(stores):
    log("mine & yours", "<script>alert(1)</script>")
    page = report.write("mine & yours").read_text(encoding="utf-8")
    assert "<script" not in page and "It keeps no figures" in page and "mine &amp; yours" in page
    assert "<img" not in page, "there is no curve to draw"


def test_the_best_is_the_comparable_run_with_the_best_score(stores):
    best = log("mine", "good", 0.8)
    log("mine", "diverged", float("nan"))
    log("mine", "infinite", float("inf"))
    with mlflow.start_run(run_name="without data"):
        mlflow.log_metric("f1", 0.99)
    page = report.write("mine").read_text(encoding="utf-8")
    assert "The best run: good" in page and "Finished runs, best f1 first: 1." in page
    assert mlflow.get_run(best).info.run_name == "good"


def test_another_kind_of_model_has_no_curve_and_params_of_its_own(stores):
    make_runs(stores, count=2)
    best = log(runs.EXPERIMENT, "tfidf", 0.9, {"C": 10})
    ranked = runs.best_runs()
    assert ranked[0].info.run_id == best
    assert differing_params(ranked) == ["lr", "num_filters"], "C has one value only"
    table = report.table_of(ranked, ["lr"], "f1")
    assert list(table.run) == ["tfidf", "cnn", "cnn"] and list(table.lr.isna()) == [True, False, False]
    parts = Parts(report.write().read_text(encoding="utf-8"))
    assert "tfidf" in parts.words and parts.tags.count("img") == 1


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
def test_any_name_of_a_run_param_or_experiment_is_text_and_no_formula(stores):
    name = "cost $5^$ vs _x"
    for value, run_name in (("$GME^$", name), ("_b", "_hidden")):
        log("実験", run_name, params={"kind: a/b": value, "rate": "inf" if value == "_b" else 1}, curve=True)
    words = Parts(report.write("実験").read_text(encoding="utf-8")).words
    assert name in words and "_hidden" in words
    curves = report.learning_curves(runs.best_runs("実験"), "f1")
    assert sorted(text.get_text().split("  ")[1] for text in curves.axes[0].get_legend().get_texts()) == sorted(
        ["_hidden", name]
    )


def test_no_two_experiments_share_a_file():
    names = ["baselines", "Baselines", "опыты", "実験", "t t", "t-t", "t_t", "a" * 500, "a" * 501, "", "../x"]
    files = {report.file_name(name) for name in names}
    assert len({file.lower() for file in files}) == len(names)
    assert all(len(file) < 100 and "/" not in file for file in files)


def test_hundreds_of_params_end_in_a_few_and_a_word_on_the_rest(stores):
    for number in range(2):
        log("wide", f"run {number}", params={f"p{i:03}": number for i in range(80)} | {"only one": 1})
    parts = Parts(report.write("wide").read_text(encoding="utf-8"))
    words = " ".join(parts.words)
    assert "68 more params differ, and are left out" in words and "p011" in words and "p012" not in words
    wide = pd.DataFrame({f"p{i}": [0, 1] for i in range(720)}).astype(str).to_dict("records")
    ranked = [type("Run", (), {"data": type("Data", (), {"params": params})}) for params in wide]
    assert len(differing_params(ranked)) == 720


def test_no_run_is_explained(stores):
    with pytest.raises(runs.NoRunError, match="no finished run"):
        report.write()
    assert not list(stores.glob("*.html"))


def test_figures_of_any_name_are_shown_and_a_folder_is_none(stores, tmp_path):
    names = ["a #1.png", "why?.png", "50%25.png", "<b>&.png", "опыт.png", "folder.png/in.png"]
    log("odd", "one")
    with mlflow.start_run(runs.best_run("odd").info.run_id):
        for name in names:
            path = tmp_path / "odd" / "plots" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\x89PNG")
        mlflow.log_artifacts(str(tmp_path / "odd"))
    page = report.write("odd").read_text(encoding="utf-8")
    assert page.count("<img") == 5 and "a #1" in page and "50%25" in page and "&lt;b&gt;&amp;" in page
