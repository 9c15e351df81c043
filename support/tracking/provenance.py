"""What made a run: its data, its code, its machine, recorded so that others can check it.

`log_context(splits)` logs to the current run the dataset with its digest, tags for what one filters by, and
files under provenance/ for what one reads: the data, the versions, the installed packages, the uncommitted
changes, and the notebook's cells. What may hold a secret is left out whole, and so is what git ignores; what
could not be recorded is said, in the run and here. No machine's name is kept.
"""

import hashlib
import inspect
import json
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
import torch
from mlflow.entities import Run

from support.config import PROJECT_DIR
from support.data.corpus import LESSON_URL
from support.data.splits import PARTS, DataError, Splits
from support.environment import best_device
from support.models.files import read_json
from support.tracking import checksums, remote, secrets
from support.tracking.runs import DATA, SPLITS, RecordError

ENVIRONMENT, DIFF = "provenance/environment.json", "provenance/uncommitted.diff"
GAPS = "support.not_recorded"  # the tag that says what could not be recorded
LIBRARIES = ("mlflow", "torch", "numpy", "pandas", "scikit-learn")
LARGEST = 500_000  # bytes of a file that still counts as code
MOST_FILES = 1_000  # new files that still count as changes to the code
# As git writes a diff unless its configuration says something else.
PLAIN = ("-U3", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")  # of another checkout, in a hook say
LEFT_OUT = "# This cell is left out: it may hold a secret ({})."


def log_context(splits: Splits, train: Callable | None = None) -> None:
    """Log to the current run what it starts from: the dataset, the code, the versions.

    With `train` the file of that function counts as code too.
    """
    everything = pd.concat([getattr(splits, name) for name in PARTS])
    if sparse := [str(name) for name in everything if isinstance(everything[name].dtype, pd.SparseDtype)]:
        raise DataError(f"Column {sparse[0]!r} is sparse, and MLflow logs none. Make it dense: df.sparse.to_dense().")
    if everything.empty:
        raise DataError("The splits have no rows or no columns: there is nothing that a run could be known by.")
    lists = [name for name in everything if everything[name].map(type).eq(list).any()]
    with warnings.catch_warnings():
        # It is about integers that may be missing when a model serves. This dataset serves nothing.
        warnings.filterwarnings("ignore", message=r"(?s).*schema contains integer column")
        dataset = mlflow.data.from_pandas(
            everything.assign(**{name: everything[name].map(_joined) for name in lists}),
            source=LESSON_URL if splits.corpus == "lesson" else None,
            name=splits.corpus,
            digest=splits.digest,
        )
        remote.log_dataset(lambda: mlflow.log_input(dataset, context=SPLITS))
    mlflow.set_tags({"corpus": splits.corpus, "split_seed": splits.seed})
    commit, changes, gaps = code_state()
    if commit:
        mlflow.set_tag("mlflow.source.git.commit", commit)
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        splits.save(folder / Path(DATA).name)
        facts = json.dumps(environment(train), indent=2)
        (folder / Path(ENVIRONMENT).name).write_text(facts + "\n", encoding="utf-8")
        packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
        (folder / "pip-freeze.txt").write_text("\n".join(packages) + "\n", encoding="utf-8")
        (folder / Path(DIFF).name).write_text(changes, "utf-8", "surrogateescape", newline="")
        cells, cell_gaps = executed_cells()
        if cells:
            (folder / "notebook.ipynb").write_text(cells, encoding="utf-8")
        checksums.log_files(folder, "provenance")
    if gaps := gaps + cell_gaps:
        mlflow.set_tag(GAPS, "; ".join(gaps)[:1000])
        print(f"Not recorded with the run: {'; '.join(gaps)}.")


def environment(train: Callable | None = None) -> dict[str, str]:
    """Return what decides about the last digit of a result: versions, platform, device, threads, code."""
    device = best_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    facts = {
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
        "platform": platform.platform(),
        "device": f"{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "code": code_digest(PROJECT_DIR / "support"),
    }
    source = Path(inspect.getsourcefile(train)) if train else None
    if source and not source.is_relative_to(PROJECT_DIR / "support"):
        facts[f"code of {source.name}"] = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    return facts


def recorded_environment(run: Run) -> dict[str, str]:
    """Return the `environment` that the run records; empty where it records none."""
    if ENVIRONMENT not in checksums.checksums_of(run):
        return {}
    with TemporaryDirectory() as folder:
        checksums.fetch(run, [ENVIRONMENT], folder)
        return read_json(Path(folder) / Path(ENVIRONMENT).name, dict)


def differences(run: Run, train: Callable | None = None) -> dict[str, tuple[str, str]]:
    """Compare this environment with the run's: name -> (the run's, this one's), only what differs."""
    then = recorded_environment(run)
    return {
        name: (then.get(name, "not recorded"), now) for name, now in environment(train).items() if then.get(name) != now
    }


def code_digest(folder: Path) -> str:
    """Return 16 hex digits that change with the code of a folder, committed or not."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def code_state() -> tuple[str | None, str, list[str]]:
    """Return the project's git commit, the diff to it, and what is missing in the diff, in words.

    New files are included, notebooks are not, since they hold outputs, and neither are large or binary files and those
    that may hold a secret. Outside a checkout there is neither commit nor diff.
    """
    if not any((place / ".git").exists() for place in (PROJECT_DIR, *PROJECT_DIR.parents)):
        return None, "", []
    try:
        commit = _git("rev-parse", "HEAD").strip()
        names = _git("diff", "--name-only", "-z", "--no-renames", "HEAD").split("\0")
        new = _git("ls-files", "-zo", "--exclude-standard", "--full-name").split("\0")
        gaps = [f"{len(new) - 1:,} new files, too many to be code"] if len(new) > MOST_FILES else []
        named = [*names, *([] if gaps else new)]
        chosen = [name for name in named if _is_code(name)]
        gaps += [f"the changes to {name}, {why}" for name in named if (why := _too_much(name))]
        with TemporaryDirectory() as folder:
            # An index and an object store of our own: git's own state stays as it is.
            objects = _git("rev-parse", "--path-format=absolute", "--git-path", "objects").strip()
            aside = {
                "GIT_INDEX_FILE": f"{folder}/index",
                "GIT_OBJECT_DIRECTORY": folder,
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
            }
            _git("read-tree", "HEAD", **aside)
            from_list = ("--pathspec-from-file=-", "--pathspec-file-nul")
            if chosen:
                _git("--literal-pathspecs", "add", "-A", *from_list, given="\0".join(chosen), **aside)
            diff = _git("diff", "--cached", *PLAIN, "HEAD", **aside)
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", b"").decode(errors="replace") or str(error)).strip().partition("\n")[0]
        return None, "", [f"the code, since git answers: {why}"]
    kept = []
    for change in filter(None, re.split(r"(?m)^(?=diff --git )", diff)):
        lines = change.split("\n")  # not splitlines(), for which more than \n ends a line
        added = "\n".join(line[1:] for line in lines if line.startswith("+"))
        name = lines[0].rpartition(" b/")[2]
        if any(line.startswith("Binary files ") for line in lines):
            gaps += [f"the changes to {name}, which git takes for no text"] * name.endswith(".py")
        elif found := secrets.finding(added, name):
            gaps.append(f"the changes to {name}, which may hold a secret ({found})")
        else:
            kept.append(change)
    return commit, "".join(kept), gaps


def executed_cells() -> tuple[str, list[str]]:
    """Return the cells that this notebook has run, as a notebook without outputs, and what is missing in it.

    Outside a notebook both are empty.
    """
    module = sys.modules.get("IPython")  # a program that never imported IPython is in no notebook
    shell = module.get_ipython() if module else None
    cells, gaps = [], []
    for number, source in enumerate(shell.history_manager.input_hist_raw if shell else []):
        if not number or not source.strip():
            continue
        if found := _secret_in_cell(source):
            gaps.append(f"cell {number}, which may hold a secret ({found})")
            source = LEFT_OUT.format(found)
        about = {"cell_type": "code", "id": f"cell-{number}", "metadata": {}, "outputs": []}
        cells.append({**about, "execution_count": number, "source": source})
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    return (json.dumps(notebook, indent=1) if cells else ""), gaps


def _secret_in_cell(source: str) -> str | None:
    for name, value in os.environ.items():
        if len(value) >= 8 and secrets.SECRET_NAME.search(name) and value in source:
            return f"the value of {name}"
    return secrets.finding(source)


def _is_code(name: str) -> bool:
    path = PROJECT_DIR / name
    if not name or name.endswith(("/", ".ipynb")) or secrets.holds_secrets_by_name(name):
        return False
    return not path.exists() or (path.is_file() and path.stat().st_size <= LARGEST)


def _too_much(name: str) -> str | None:
    """Return why changes that may be code are not recorded, in words."""
    path = PROJECT_DIR / name
    if name and path.is_dir():
        return "a repository of its own"
    return "a large file" if name.endswith(".py") and path.is_file() and path.stat().st_size > LARGEST else None


def _joined(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _git(*arguments: str, given: str = "", **variables: str) -> str:
    """Return what git prints for the project. Raise CalledProcessError where it refuses."""
    answer = subprocess.run(
        ["git", "-c", "core.quotePath=false", "-C", str(PROJECT_DIR), *arguments],
        input=given.encode("utf-8", "surrogateescape"),
        capture_output=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name not in ELSEWHERE} | variables,
    )
    return answer.stdout.decode("utf-8", "surrogateescape")  # as text it would lose each \r


def splits_of(run: Run) -> Splits:
    """Return the data that the run trained on, from its own copy. Raise RecordError where it has none."""
    if DATA not in checksums.checksums_of(run):
        raise RecordError(f"Run {run.info.run_id} has no copy of its data. Name the splits.")
    with TemporaryDirectory() as folder:
        checksums.fetch(run, [DATA], folder)
        return Splits.load(Path(folder) / Path(DATA).name)
