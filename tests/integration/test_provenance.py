"""What a run records of its data, code and machine; and what it leaves out, saying so."""

import json
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest
from mlflow.entities import Run

from support.data.splits import DataError, Splits
from support.tracking import provenance
from support.tracking.checksums import checksums_of, fetch
from support.tracking.provenance import differences, executed_cells, log_context
from support.tracking.store import connect
from support.tracking.training_run import start_run

SECRET = "2Zx9QfTt7LmNpRsVwYb3Kd5Hg8J"  # made up
FILES = ["data.json", "environment.json", "pip-freeze.txt", "uncommitted.diff"]


@pytest.fixture(autouse=True)
def store() -> None:
    connect()


def a_run(splits) -> Run:
    with start_run("own") as run:
        log_context(splits)
    return mlflow.get_run(run.info.run_id)


def text_of(run: Run, name: str, folder: Path) -> str:
    return (fetch(run, [f"provenance/{name}"], folder) / name).read_text()


def test_a_run_records_its_data_its_versions_and_its_code(sample_splits, tmp_path) -> None:
    run = a_run(sample_splits)
    assert {name for name in checksums_of(run) if "notebook" not in name} == {f"provenance/{n}" for n in FILES}
    [given] = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("sample", sample_splits.digest)
    assert (run.data.tags["corpus"], run.data.tags["split_seed"]) == ("sample", "1234")
    environment = json.loads(text_of(run, "environment.json", tmp_path))
    assert {"python", "torch", "mlflow", "platform", "device", "threads", "code"} <= environment.keys()
    assert f"torch=={version('torch')}" in text_of(run, "pip-freeze.txt", tmp_path)
    assert differences(run) == {}


def test_no_name_of_the_machine_and_no_long_tag_is_recorded(sample_splits) -> None:
    tags = a_run(sample_splits).data.tags
    shown = {name: value for name, value in tags.items() if name not in ("mlflow.source.name", "mlflow.user")}
    assert os.uname().nodename not in str(shown)
    assert max(map(len, tags.values())) <= 1000


def test_what_is_not_as_it_was_is_named(sample_splits, monkeypatch) -> None:
    run = a_run(sample_splits)
    now = provenance.environment()
    monkeypatch.setattr(provenance, "environment", lambda train=None: now | {"torch": "9.9"})
    assert differences(run) == {"torch": (now["torch"], "9.9")}


# The notebook's cells


@pytest.fixture
def in_a_notebook(monkeypatch):
    """Return a function that lets this process be a notebook which has run some cells."""

    def notebook(*cells: str) -> None:
        shell = SimpleNamespace(history_manager=SimpleNamespace(input_hist_raw=["", *cells]))
        monkeypatch.setattr("IPython.get_ipython", lambda: shell)

    return notebook


def test_outside_a_notebook_there_are_no_cells() -> None:
    assert executed_cells() == ("", [])


def test_cells_are_recorded_and_one_with_a_secret_is_left_out_whole(in_a_notebook, monkeypatch) -> None:
    monkeypatch.setenv("MY_PASSWORD", "value-of-variable")
    in_a_notebook("1 + 1", f'login(password="{SECRET}")\nx = 3', "", "print('value-of-variable')")
    text, gaps = executed_cells()
    sources = [cell["source"] for cell in json.loads(text)["cells"]]
    assert sources[0] == "1 + 1" and len(sources) == 3
    assert all(source.startswith("# This cell is left out") for source in sources[1:])
    assert SECRET not in text and "value-of-variable" not in text and "x = 3" not in text
    assert len(gaps) == 2 and all("may hold a secret" in gap for gap in gaps)


def test_the_run_and_the_notebook_say_what_is_not_recorded(in_a_notebook, sample_splits, capsys, tmp_path) -> None:
    in_a_notebook("import mlflow", f"%env TOKEN={SECRET}")
    run = a_run(sample_splits)
    assert "cell 2, which may hold a secret" in capsys.readouterr().out
    assert "cell 2, which may hold a secret" in run.data.tags["support.not_recorded"]
    assert SECRET not in text_of(run, "notebook.ipynb", tmp_path) + str(run.to_dictionary())


# The code's changes


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return git(*arguments) for a checkout of two files, which takes the project's place."""
    if not shutil.which("git"):
        pytest.skip("There is no git here.")
    project = tmp_path / "project"
    project.mkdir()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    (project / "kept.py").write_text("one\ntwo\n")
    (project / "gone.py").write_text("x\n")
    (project / ".gitignore").write_text("ignored.py\n")
    git("add", "-A")
    git("commit", "-qm", "first")
    monkeypatch.setattr(provenance, "PROJECT_DIR", project)
    git.folder = project
    return git


def test_the_diff_holds_changes_and_new_files_and_applies(checkout) -> None:
    project = checkout.folder
    (project / "kept.py").write_text("one\nthree\n")
    (project / "new file ü.py").write_text("x = 1\n")
    (project / "big.bin").write_bytes(b"0" * 1_000_000)
    (project / "outputs.ipynb").write_text("{}")
    (project / "gone.py").unlink()
    before = checkout("status", "--porcelain"), checkout("count-objects")
    commit, changes, gaps = provenance.code_state()
    assert commit == checkout("rev-parse", "HEAD").strip() and gaps == []
    assert "big.bin" not in changes and "outputs" not in changes
    assert (checkout("status", "--porcelain"), checkout("count-objects")) == before, "git's own state stays"
    (project.parent / "changes.diff").write_text(changes)
    checkout("stash", "-qu", "--", "kept.py", "new file ü.py", "gone.py")
    checkout("apply", "../changes.diff")
    assert (project / "kept.py").read_text() == "one\nthree\n"
    assert (project / "new file ü.py").exists() and not (project / "gone.py").exists()


def test_ends_of_lines_and_binary_files_leave_the_diff_as_it_applies(checkout) -> None:
    project = checkout.folder
    checkout("config", "diff.context", "0")
    (project / "windows.py").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    checkout("add", "windows.py")
    checkout("commit", "-qm", "ends")
    now = b"one\r\ntwo and a half \r\nthree\r\n"
    (project / "windows.py").write_bytes(now)
    (project / "picture.png").write_bytes(b"\x89PNG\0\0")
    (project / "kept.py").write_text("one\nthree\n")
    _, changes, gaps = provenance.code_state()
    assert gaps == [] and "picture" not in changes
    (project.parent / "changes.diff").write_text(changes, newline="")
    checkout("stash", "-qu")
    checkout("apply", "../changes.diff")
    assert (project / "windows.py").read_bytes() == now and (project / "kept.py").read_text() == "one\nthree\n"


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x85", "\u2028"])
def test_a_secret_behind_what_may_end_a_line_is_found(checkout, end) -> None:
    (checkout.folder / "kept.py").write_text(f'x = 1 {end}password = "{SECRET}"\n', newline="")
    _, changes, gaps = provenance.code_state()
    assert SECRET not in changes and "kept.py, which may hold a secret" in gaps[0]


def test_a_file_with_a_secret_is_left_out_whole_and_named(checkout) -> None:
    project = checkout.folder
    (project / "kept.py").write_text(f'one\ntoken = "{SECRET}"\n')
    (project / "new.py").write_text("fine = 1\n")
    _, changes, gaps = provenance.code_state()
    assert SECRET not in changes and "fine = 1" in changes and "kept.py" not in changes
    assert len(gaps) == 1 and "kept.py, which may hold a secret" in gaps[0]


def test_files_that_hold_secrets_or_are_ignored_are_never_read(checkout) -> None:
    for name in (".env", "id_rsa", ".netrc", "ignored.py"):
        (checkout.folder / name).write_text(f"HARMLESS_LOOKING {SECRET}")
        (checkout.folder / name).chmod(0)
    assert provenance.code_state()[1:] == ("", [])


def test_a_record_that_cannot_be_made_is_said(checkout, sample_splits, capsys) -> None:
    shutil.rmtree(checkout.folder / ".git" / "objects")
    commit, changes, gaps = provenance.code_state()
    assert (commit, changes) == (None, "") and gaps[0].startswith("the code, since git answers: ")
    run = a_run(sample_splits)
    assert "Not recorded with the run: the code, since git answers" in capsys.readouterr().out
    assert "the code, since git answers" in run.data.tags["support.not_recorded"]


def test_an_empty_checkout_says_that_there_is_no_commit(checkout) -> None:
    shutil.rmtree(checkout.folder / ".git")
    checkout("init", "-q")
    commit, changes, gaps = provenance.code_state()
    assert (commit, changes) == (None, "") and len(gaps) == 1


def test_an_empty_checkout_inside_hides_nothing(checkout) -> None:
    (checkout.folder / "inner").mkdir()
    subprocess.run(["git", "-C", str(checkout.folder / "inner"), "init", "-q"], check=True)
    (checkout.folder / "kept.py").write_text("one\nthree\n")
    commit, changes, gaps = provenance.code_state()
    assert commit and "three" in changes, gaps


def test_many_new_files_are_no_code_and_that_is_said(checkout, monkeypatch) -> None:
    monkeypatch.setattr(provenance, "MOST_FILES", 10)
    for number in range(20):
        (checkout.folder / f"{number}.py").write_text("x")
    (checkout.folder / "kept.py").write_text("one\nthree\n")
    _, changes, gaps = provenance.code_state()
    assert gaps == ["20 new files, too many to be code"] and "three" in changes and "19.py" not in changes


def test_outside_a_checkout_there_is_neither_commit_nor_diff(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(provenance, "PROJECT_DIR", tmp_path)
    assert provenance.code_state() == (None, "", [])


def test_code_in_a_repository_of_its_own_or_too_large_is_said(checkout) -> None:
    inner = checkout.folder / "inner"
    inner.mkdir()
    subprocess.run(["git", "-C", str(inner), "init", "-q"], check=True)
    (inner / "x.py").write_text("x")
    (checkout.folder / "large.py").write_text("x = 1\n" * 200_000)
    (checkout.folder / "data.csv").write_text("1,2\n" * 200_000)
    gaps = provenance.code_state()[2]
    assert gaps == ["the changes to inner/, a repository of its own", "the changes to large.py, a large file"]


def test_what_git_is_set_to_elsewhere_changes_no_record(checkout, tmp_path, monkeypatch) -> None:
    (checkout.folder / "kept.py").write_text("one\nthree\n")
    before = provenance.code_state()
    settings = {
        "color.ui": "always",
        "diff.noprefix": "true",
        "diff.mnemonicPrefix": "true",
        "diff.external": "/bin/true",
    }
    for name, value in settings.items():
        checkout("config", name, value)
        assert provenance.code_state() == before, name
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # as in a hook of another checkout
        monkeypatch.setenv(name, str(tmp_path))
    assert provenance.code_state() == before


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"x": pd.arrays.SparseArray([0, 0, 1])}), "'x' is sparse"),
        (pd.DataFrame({"x": []}), "no rows"),
    ],
)
def test_data_that_mlflow_cannot_log_are_refused_in_a_sentence(table: pd.DataFrame, message: str) -> None:
    connect()
    splits = Splits(table, table, table, corpus="odd", seed=0)
    with pytest.raises(DataError, match=message), mlflow.start_run():
        log_context(splits)
