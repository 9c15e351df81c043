"""`make run` on small notebooks: two at a time, and what happens when one fails."""

import asyncio
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import notebooks  # noqa: E402

# Each of two notebooks goes on when the other has come as far, so they must run at the same time.
MEET = """
import pathlib, time
pathlib.Path({folder!r}, {own!r}).touch()
while not pathlib.Path({folder!r}, {other!r}).exists():
    time.sleep(0.02)
"""
WAIT = """
import os, pathlib, time
pathlib.Path({folder!r}, "kernel").write_text(str(os.getpid()))
time.sleep(600)
"""
FAIL = """
import pathlib, time
while not pathlib.Path({folder!r}, "kernel").exists():
    time.sleep(0.02)
1 / 0
"""


def write(monkeypatch: pytest.MonkeyPatch, folder: Path, sources: list[str]) -> None:
    """Put notebooks of one cell each in the place of the series."""
    for number, source in enumerate(sources):
        source = source.format(folder=str(folder), own=f"at {number}", other=f"at {5 - number}")
        notebook = v4.new_notebook(cells=[v4.new_code_cell(source)], metadata={"language_info": {"name": "python"}})
        nbformat.write(notebook, folder / f"{number:02d}.ipynb")
    monkeypatch.setattr(notebooks, "notebook_paths", lambda: sorted(folder.glob("*.ipynb")))


def test_from_the_third_notebook_on_two_run_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write(monkeypatch, tmp_path, ["1", "2", MEET, MEET])
    target = tmp_path / "executed"
    target.mkdir()
    asyncio.run(notebooks.run_all(target))
    done = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert done[:2] == [["00", "ok"], ["01", "ok"]]
    assert sorted(done[2:]) == [["02", "ok"], ["03", "ok"]]
    assert len(list(target.glob("*.html"))) == 4


def test_one_that_fails_is_named_and_ends_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write(monkeypatch, tmp_path, ["1", "2", WAIT, FAIL, "5"])
    assert notebooks.run() == 1
    said = capsys.readouterr().out
    assert "03 FAILED in cell 1: ZeroDivisionError: division by zero" in said
    assert "02 stopped, as the other one failed" in said and "04" not in said
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "kernel").read_text()), 0)


@pytest.mark.parametrize(
    ("source", "said"),
    [("import os; os._exit(3)", "FAILED: its kernel died"), ("import time; time.sleep(60)", "timed out")],
)
def test_whatever_ends_a_notebook_its_name_is_said(
    tmp_path: Path, source: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write(monkeypatch, tmp_path, ["1", source])
    monkeypatch.setattr(notebooks, "CELL_TIMEOUT", 2)
    assert notebooks.run() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("01 FAILED") and said in lines[1]
