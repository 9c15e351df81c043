"""A run is repeated with the code that it was trained with, rebuilt from git, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PROGRAM = """
import my_model
from support import lineage, tracking
from support.data.corpus import SAMPLE_DIR, load_projects
from support.data.splits import split
from support.models import Params

tracking.connect()
params = Params(num_epochs=2, embedding_dim=16, num_filters=8, filter_sizes=[1, 2], hidden_dim=16)
splits = split(load_projects(SAMPLE_DIR))
"""
MODEL = """
def train(params, splits, on_epoch=None, checkpoint=None):
    return {"accuracy": 0.5}
"""


@pytest.mark.skipif(not shutil.which("git"), reason="There is no git here.")
def test_reproduce_with_the_code_of_then(tmp_path: Path):
    project, support = tmp_path / "project", tmp_path / "project" / "support"
    shutil.copytree(ROOT / "support", support, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "my_model.py").write_text(MODEL)

    def git(*arguments: str) -> None:
        command = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        subprocess.run(command, check=True)

    def python(code: str) -> str:
        variables = os.environ | {"PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", PROGRAM + code]
        answer = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    training = support / "models" / "training.py"
    code = training.read_text()
    changed = code.replace("patience=5", "patience=4")
    assert changed != code
    training.write_text(changed)  # never committed, but in the run's diff
    ids = python(
        "runs = [tracking.train_and_log(params, splits)]\n"
        "runs += [tracking.train_and_log({'depth': 3}, splits, 'own', train=my_model.train)]\n"
        "print(*runs)"
    ).split()[-2:]
    other = code.replace("torch.manual_seed(params.seed)", "torch.manual_seed(params.seed + 1)")
    assert other != code
    training.write_text(other)
    (project / "my_model.py").write_text(MODEL.replace("0.5", "0.6"))
    git("commit", "-qam", "second")
    out = python(f"for run_id in {ids!r}: print('verdict', lineage.reproduce(run_id).verdict.to_json())")
    assert out.count("that of then is rebuilt") == 2
    verdicts = [json.loads(line.partition(" ")[2]) for line in out.splitlines() if line.startswith("verdict")]
    assert [set(verdict.values()) for verdict in verdicts] == [{"equal"}, {"equal"}]
