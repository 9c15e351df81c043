"""The code that a run was trained with: rebuilt from git, and run in a process of its own.

A run records its commit, the diff to it, and a digest of both together. Where the digest does not come out,
since the commit is not here or a secret was masked in the diff, the code is not rebuilt.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import asdict
from pathlib import Path

import mlflow
from mlflow.entities import Run

from support.tracking import checksums as artifacts
from support.tracking import provenance
from support.data.corpus import Splits
from support.models.params import Checked, Params
from support.tracking.store import PROJECT_DIR, database_of

# It runs in the code of then, so it calls only what has always been there.
PROGRAM = """
import importlib, json, sys
from pathlib import Path
from support.tracking import training_run as tracking
from support.data.corpus import Splits

folder, name, module, kind = Path(sys.argv[1]), *sys.argv[2:]
Params = getattr(importlib.import_module(module), kind)
params = Params(**json.loads((folder / "again.json").read_text()))
tracking.connect()
run_id = tracking.train_and_log(params, Splits.load(folder / "data.json"), name)
(folder / "run_id.txt").write_text(run_id)
"""


def rebuild(run: Run, folder: Path) -> bool:
    """Put the run's code into `folder`; tell whether it is exactly that code."""
    commit = run.data.tags.get("mlflow.source.git.commit")
    if commit is None or "provenance/uncommitted.diff" not in artifacts.digests_of(run):
        return False
    git = ["git", "-C", str(PROJECT_DIR), "archive", "--format=tar", commit, "support"]
    answer = subprocess.run(git, capture_output=True, check=False)
    if answer.returncode:
        return False
    with tarfile.open(fileobj=io.BytesIO(answer.stdout)) as archive:
        archive.extractall(folder, filter="data")
    artifacts.fetch(run, ["provenance/uncommitted.diff"], folder)
    if (folder / "uncommitted.diff").stat().st_size:
        # Not a checkout, else git takes the paths as relative to that one.
        apart = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        apply = ["git", "apply", "--include=support/*", "uncommitted.diff"]
        if subprocess.run(apply, cwd=folder, env=apart, capture_output=True, check=False).returncode:
            return False
    return provenance.code_digest(folder / "support") == run.data.tags.get("code")


def train(folder: Path, params: Checked, splits: Splits, name: str) -> str:
    """Train in a tracked run with the code in `folder`, and give the run's id. Raises CalledProcessError."""
    values = asdict(params)
    del values["model"]  # the class says it, and the CNN's once had no such field
    (folder / "again.json").write_text(json.dumps(values), encoding="utf-8")
    kind = type(params)
    module = "support.models.training" if kind is Params else kind.__module__  # where the CNN's were first
    splits.save(folder / "data.json")
    variables = os.environ | {"PYTHONPATH": str(folder)}
    uri = mlflow.get_tracking_uri()
    database = database_of(uri)
    variables |= {"STORES_DIR": str(database.parent)} if database else {"MLFLOW_TRACKING_URI": uri}
    program = [sys.executable, "-c", PROGRAM, str(folder), name, module, kind.__name__]
    subprocess.run(program, cwd=folder, env=variables, check=True)
    return (folder / "run_id.txt").read_text(encoding="utf-8")
