"""The report is one file that stands alone: no server, no script, nothing fetched."""

import html.parser

import mlflow
import pytest
from dashboard_parts import make_runs, stores  # noqa: F401

from support.dashboard import report
from support.tracking import training_run as tracking

pytestmark = pytest.mark.once


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


def test_it_is_one_file_that_stands_alone(stores):  # noqa: F811
    make_runs(stores, runs=4)
    path = report.write()
    assert path == stores / "report-baselines.html"
    parts = Parts(path.read_text(encoding="utf-8"))
    assert parts.tags.count("img") == 3 and all(source.startswith("data:image/png") for source in parts.sources)
    assert not {"script", "link", "iframe"} & set(parts.tags)
    assert "url(" not in path.read_text() and path.stat().st_size < 1_000_000
    assert parts.tags.count("tr") == 5
    words = " ".join(parts.words)
    assert "The best reaches 0.650" in words and "num_filters" in words
    assert "char_level" not in words, "a param that is the same in all runs tells nothing"


def test_one_run_without_figures_is_enough(stores):  # noqa: F811
    tracking.connect(stores)
    mlflow.create_experiment("mine & yours", artifact_location=(stores / "artifacts").as_uri())
    mlflow.set_experiment("mine & yours")
    with mlflow.start_run(run_name="<script>alert(1)</script>"):
        mlflow.log_metric("f1", 0.5)
    page = report.write("mine & yours").read_text(encoding="utf-8")
    assert "<script" not in page and "It keeps no figures" in page and "mine &amp; yours" in page
    assert "<img" not in page, "there is no curve and no param to draw"


def test_another_kind_of_model_has_no_curve_and_params_of_its_own(stores):  # noqa: F811
    make_runs(stores, runs=2)
    with tracking.start_run("tfidf") as run:
        mlflow.log_params({"C": 10})
        mlflow.log_metric("f1", 0.9)
    runs = tracking.best_runs()
    assert runs[0].info.run_id == run.info.run_id
    params = report.differing(runs)
    assert params == ["lr", "num_filters"], "C has one value only"
    panels = report.params_against_f1(runs, params).axes
    assert [len(panel.collections[0].get_offsets()) for panel in panels] == [2, 2]
    parts = Parts(report.write().read_text(encoding="utf-8"))
    assert "tfidf" in parts.words and parts.tags.count("img") == 2
    assert "Validation loss by epoch; the best is the thick line." in parts.words


def test_no_run_is_explained(stores):  # noqa: F811
    with pytest.raises(tracking.NoRunError, match="no finished run"):
        report.write()
    assert not list(stores.glob("*.html"))
