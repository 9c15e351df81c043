"""What every notebook keeps to: the address, the first cell, the shape, links, outputs that may be published."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from support.config import PROJECT_DIR

sys.path.insert(0, str(PROJECT_DIR / "tools"))
import notebooks

PATHS = notebooks.notebook_paths()
SECRET = re.compile(r"(?i)(authtoken|password|token)\s*[=:]\s*['\"]?[A-Za-z0-9_\-]{12,}")
PRIVATE_PATH = re.compile(r"/home/\w+/|/root/|/Users/|/tmp/|[A-Z]:\\\\Users")
LINK = re.compile(r"\]\(([^)\s]+)")


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS])
def path(request: pytest.FixtureRequest) -> Path:
    """Return each notebook's path in turn."""
    return request.param


@pytest.fixture
def notebook(path: Path) -> nbformat.NotebookNode:
    """Return each notebook in turn."""
    return nbformat.read(path, as_version=4)


def cells_of(notebook: nbformat.NotebookNode, kind: str = "code") -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def test_the_series_is_numbered_without_a_gap() -> None:
    assert [path.stem[:2] for path in PATHS] == [f"{number:02d}" for number in range(len(PATHS))]
    assert len(PATHS) >= 7


def test_the_address_is_the_projects(notebook: nbformat.NotebookNode, path: Path) -> None:
    stamped = nbformat.read(path, as_version=4)
    notebooks.stamp(stamped, path.name, notebooks.project_url())
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in stamped.cells]


def test_stamping_replaces_another_address_everywhere(notebook: nbformat.NotebookNode, path: Path) -> None:
    before = notebooks.project_url().removeprefix("https://github.com/")
    notebooks.stamp(notebook, path.name, "https://github.com/somebody/some-name")
    first = cells_of(notebook)[0].source
    assert 'url = "https://github.com/somebody/some-name"' in first
    assert 'Path("/content/some-name")' in first
    badge = notebook.cells[0].source.splitlines()[0]
    assert f"/github/somebody/some-name/blob/main/notebooks/{path.name}" in badge
    assert notebook.cells[0].source.count("colab-badge.svg") == 1
    assert before not in "".join(cell.source for cell in notebook.cells)


def test_no_link_leads_out_of_the_notebooks_folder(notebook: nbformat.NotebookNode, path: Path) -> None:
    for link in LINK.findall("\n".join(cell.source for cell in cells_of(notebook, "markdown"))):
        if not link.startswith(("https://", "#")):
            assert ".." not in link and (path.parent / link).is_file(), link


def test_the_first_cell_says_what_to_do_in_a_folder_elsewhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="open this notebook in the project's folder"):
        runpy.run_path(str(PROJECT_DIR / "tools" / "first_cell.py"))


def test_the_first_cell_finds_the_project_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    """From a folder within, as Jupyter's kernels start; from elsewhere as VS Code does, which says where it is."""
    cell = str(PROJECT_DIR / "tools" / "first_cell.py")
    monkeypatch.chdir(PROJECT_DIR / "notebooks" / "img")
    assert runpy.run_path(cell)["root"] == PROJECT_DIR
    monkeypatch.chdir(tmp_path)
    assert runpy.run_path(cell, {"__vsc_ipynb_file__": str(PATHS[0])})["root"] == PROJECT_DIR


def test_on_colab_the_first_cell_says_that_there_is_no_address_yet(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    monkeypatch.setattr(subprocess, "run", None)  # it clones nothing: that account may be somebody else's
    monkeypatch.chdir(tmp_path)
    cell = cells_of(nbformat.read(PATHS[0], as_version=4))[0].source
    unset = re.sub("github.com/[^/]+/", "github.com/your-account/", cell)
    with pytest.raises(AssertionError, match="No public address yet: `make address` sets it"):
        exec(unset, {})


def test_it_names_its_kernel(notebook: nbformat.NotebookNode) -> None:
    assert notebook.metadata.kernelspec == {"name": "python3", "display_name": "Python 3", "language": "python"}


def test_it_was_run_top_to_bottom_and_shows_no_error_or_warning(notebook: nbformat.NotebookNode) -> None:
    cells = cells_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert "warning" not in str(outputs).lower()


def test_its_printed_lines_fit(notebook: nbformat.NotebookNode) -> None:
    """JupyterLab breaks a longer line wherever it ends, in the middle of a word."""
    outputs = [output for cell in cells_of(notebook) for output in cell.outputs]
    texts = [output.get("text", "") for output in outputs]
    texts += [o.data.get("text/plain", "") for o in outputs if set(o.get("data", ())) == {"text/plain"}]
    assert [line for text in texts for line in re.split("[\r\n]", text) if len(line) > 100] == []


def test_a_bar_ends_at_its_end(notebook: nbformat.NotebookNode) -> None:
    for cell in cells_of(notebook):
        text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        assert {int(percent) for percent in re.findall(r"(\d+)%\|", text)} <= {100}


def test_its_outputs_may_be_published(notebook: nbformat.NotebookNode) -> None:
    shown = "\n".join(str(cell.outputs) for cell in cells_of(notebook))
    assert not PRIVATE_PATH.search(shown)
    assert not SECRET.search(shown)
    assert not notebooks.SECRET_PATH.search(shown), "the secret that a dashboard's links carry"
    assert "widgets" not in notebook.metadata
    assert len(nbformat.writes(notebook)) < 1_000_000


def test_its_outputs_are_of_the_lessons_corpus(notebook: nbformat.NotebookNode) -> None:
    """Texts and results.md speak of that one; without a network the sample corpus stands in, and says so."""
    assert "The sample corpus of this project" not in str([cell.outputs for cell in cells_of(notebook)])


def test_its_cells_are_short(notebook: nbformat.NotebookNode) -> None:
    sizes = sorted(len(cell.source.splitlines()) for cell in cells_of(notebook))
    assert sizes[len(sizes) // 2] <= 8
    assert sizes[-1] <= 30


def test_it_opens_and_closes_as_the_others(notebook: nbformat.NotebookNode) -> None:
    opening, closing = notebook.cells[0].source, notebook.cells[-1].source
    assert re.search(r"^# \S", opening, re.M)
    for part in ("**Aim.**", "**At the end you have**", "**Time:**", "**Needs:**"):
        assert part in opening, part
    assert re.search(r"^## Recap$", closing, re.M)
    assert "**Next:**" in closing
