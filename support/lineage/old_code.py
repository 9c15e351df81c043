"""The code that a run was trained with: rebuilt from git, and run in a process of its own.

A run records its commit, the diff to it, and digests of both together. Where the digests do not come out, since
the commit is not here or a part of the diff was left out, the code is not rebuilt.
"""

import hashlib
import inspect
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import mlflow
from mlflow.entities import Run

from support.config import PROJECT_DIR
from support.data.splits import Splits
from support.lineage.shared import LineageError
from support.tracking import checksums, provenance
from support.tracking.runs import train_function_of

# It runs in the code of then.
PROGRAM = """
import json, sys
from pathlib import Path
from support.data.splits import Splits
from support.lineage.shared import train_anew
from support.tracking.runs import get_run, params_of
from support.tracking.store import connect

folder, run_id, name, tags = Path(sys.argv[1]), *sys.argv[2:]
connect()
then, splits = get_run(run_id), Splits.load(folder / "data.json")
again = train_anew(name, then, params_of(then), splits, None, json.loads(tags))
(folder / "run_id.txt").write_text(again)
"""


def rebuild(run: Run, code: dict[str, str], folder: Path) -> bool:
    """Put the Python files of the run's time into `folder`; return whether they are just those.

    `code` holds the digests that the run records, of support and of the file with its train function.
    """
    commit = run.data.tags.get("mlflow.source.git.commit", "")
    if not commit.isalnum() or provenance.DIFF not in checksums.checksums_of(run):
        return False
    git = ["git", "-C", str(PROJECT_DIR), "archive", "--format=tar", commit, ":(top,glob)**/*.py"]
    answer = subprocess.run(git, capture_output=True, check=False)
    if answer.returncode:
        return False
    with tarfile.open(fileobj=io.BytesIO(answer.stdout)) as archive:
        archive.extractall(folder, filter="data")
    changes = checksums.fetch(run, [provenance.DIFF], folder) / Path(provenance.DIFF).name
    if changes.stat().st_size:
        # Not a checkout, else git takes the paths as relative to that one.
        apart = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        git = ["git", "apply", "--include=*.py", changes.name]
        if subprocess.run(git, cwd=folder, env=apart, capture_output=True, check=False).returncode:
            return False
    files = ((path.name, hashlib.sha256(path.read_bytes()).hexdigest()[:16]) for path in folder.rglob("*.py"))
    rebuilt = {(f"code of {name}", digest) for name, digest in files}
    return set(code.items()) <= rebuilt | {("code", provenance.code_digest(folder / "support"))}


def train(run: Run, folder: Path, splits: Splits, name: str, tags: dict[str, str]) -> str:
    """Train in a new run with the code in `folder`, and return its id. Raise LineageError where that fails."""
    splits.save(folder / "data.json")
    program = [sys.executable, "-c", PROGRAM, str(folder), run.info.run_id, name, json.dumps(tags)]
    places, own = [folder], Path(inspect.getsourcefile(train_function_of(run))).parent
    if not own.is_relative_to(PROJECT_DIR / "support"):  # the reader's own file: rebuilt, or as it is
        places += [folder / own.relative_to(PROJECT_DIR), own] if own.is_relative_to(PROJECT_DIR) else [own]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    variables["MLFLOW_TRACKING_URI"] = mlflow.get_tracking_uri()
    answer = subprocess.run(program, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        last = answer.stderr.strip().rpartition("\n")[2]
        raise LineageError(f"The code of then cannot train here any more: {last or answer.returncode}")
    return (folder / "run_id.txt").read_text(encoding="utf-8")
