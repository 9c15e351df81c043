"""What every notebook keeps to: the address, the first cell, the shape, outputs that may be published."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

from support.tracking.store import PROJECT_DIR

sys.path.insert(0, str(PROJECT_DIR / "tools"))
import notebooks

PATHS = notebooks.notebook_paths()
SECRET = re.compile(r"(?i)(authtoken|password|token)\s*[=:]\s*['\"]?[A-Za-z0-9_\-]{12,}")
PRIVATE_PATH = re.compile(r"/home/\w+/|/root/|/Users/|/tmp/|[A-Z]:\\\\Users")


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS])
def path(request: pytest.FixtureRequest) -> Path:
    """Give each notebook's path in turn."""
    return request.param


@pytest.fixture
def notebook(path: Path) -> nbformat.NotebookNode:
    """Give each notebook in turn."""
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_series_is_numbered_without_a_gap() -> None:
    assert [path.stem[:2] for path in PATHS] == [f"{number:02d}" for number in range(len(PATHS))]
    assert len(PATHS) >= 4


def test_the_address_is_the_projects(notebook: nbformat.NotebookNode, path: Path) -> None:
    stamped = nbformat.read(path, as_version=4)
    notebooks.stamp(stamped, path.name, notebooks.project_url())
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in stamped.cells]


def test_stamping_replaces_another_address(notebook: nbformat.NotebookNode, path: Path) -> None:
    notebooks.stamp(notebook, path.name, "https://github.com/somebody/some-name")
    first = code_cells(notebook)[0].source
    assert 'url = "https://github.com/somebody/some-name"' in first
    assert 'Path("/content/some-name")' in first
    badge = notebook.cells[0].source.splitlines()[0]
    assert f"/github/somebody/some-name/blob/main/notebooks/{path.name}" in badge
    assert notebook.cells[0].source.count("colab-badge.svg") == 1


def test_it_was_run_top_to_bottom_and_shows_no_error_or_warning(notebook: nbformat.NotebookNode) -> None:
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert "warning" not in str(outputs).lower()


def test_its_outputs_may_be_published(notebook: nbformat.NotebookNode) -> None:
    shown = "\n".join(str(cell.outputs) for cell in code_cells(notebook))
    assert not PRIVATE_PATH.search(shown)
    assert not SECRET.search(shown)
    assert "widgets" not in notebook.metadata
    assert len(nbformat.writes(notebook)) < 1_000_000


def test_its_cells_are_short(notebook: nbformat.NotebookNode) -> None:
    sizes = sorted(len(cell.source.splitlines()) for cell in code_cells(notebook))
    assert sizes[len(sizes) // 2] <= 8
    assert sizes[-1] <= 30


def test_it_opens_and_closes_as_the_others(notebook: nbformat.NotebookNode) -> None:
    opening, closing = notebook.cells[0].source, notebook.cells[-1].source
    assert re.search(r"^# \S", opening, re.M)
    for part in ("**Aim.**", "**At the end you have**", "**Time:**", "**Needs:**"):
        assert part in opening, part
    assert re.search(r"^## Recap$", closing, re.M)
    assert "**Next:**" in closing
