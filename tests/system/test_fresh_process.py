"""What another process makes of the same params, data and files: the same, to the last digit."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from small import SMALL

from support.config import PROJECT_DIR
from support.data.corpus import SAMPLE_DIR
from support.models.linear import LinearParams, train_linear
from support.models.params import Params
from support.models.rules import RuleParams, train_rules
from support.models.training import train_cnn

TEXTS = ["Transfer learning with BERT", "Graphs!", "", "日本語", "Übertragenes Lernen", "x" * 300]


def fresh_process(code: str, folder: Path, *arguments: object) -> object:
    """Run code with another order of sets and dicts, as each process has; return what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT_DIR), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


def test_a_fresh_process_trains_to_the_same_last_digit(sample_splits, tmp_path):
    code = """
import json, sys
from support.data import load_projects, split
from support.models import Params, train_cnn
splits = split(load_projects(sys.argv[1]))
trained = train_cnn(Params(**json.loads(sys.argv[2])), splits)
print(json.dumps([splits.digest, trained.history, trained.threshold, trained.performance]))
"""
    params = Params(num_epochs=2, **SMALL)
    trained = train_cnn(params, sample_splits)
    wanted = [sample_splits.digest, trained.history, trained.threshold, trained.performance]
    assert fresh_process(code, tmp_path, SAMPLE_DIR, json.dumps(asdict(params))) == wanted


@pytest.fixture(scope="module")
def all_trained(trained, sample_splits) -> dict:
    return {
        "tagger:Tagger": trained,
        "linear:LinearTagger": train_linear(LinearParams(char_ngrams=3), sample_splits),
        "rules:RuleTagger": train_rules(RuleParams(), sample_splits),
    }


def test_lesson_fault_5_a_fresh_process_needs_nothing_but_the_folder(all_trained, tmp_path):
    code = """
import json, sys
from support.models.params import resolve
found = {}
for name in json.loads(sys.argv[1]):
    tagger = resolve(f"support.models.{name}").load(name)
    texts = json.loads(sys.argv[2])
    found[name] = [tagger.predict_proba(texts).tobytes().hex(), tagger.predict(texts)]
print(json.dumps(found))
"""
    for name, trained in all_trained.items():
        trained.save(tmp_path / name)
    wanted = {
        name: [each.tagger.predict_proba(TEXTS).tobytes().hex(), each.tagger.predict(TEXTS)]
        for name, each in all_trained.items()
    }
    assert fresh_process(code, tmp_path, json.dumps(list(wanted)), json.dumps(TEXTS)) == wanted
    assert {path.name for path in tmp_path.iterdir()} == set(wanted), "it leaves nothing behind"


def test_one_long_text_takes_memory_by_its_own_length(trained, tmp_path):
    code = """
import json, resource, sys
from support.models import Tagger
tagger = Tagger.load(sys.argv[1])
tagger.predict(["a text"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tagger.predict(["short"] * 63 + ["graph networks " * 27_000])
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6))
"""
    trained.save(tmp_path)
    assert fresh_process(code, tmp_path, tmp_path) < 0.5, "gigabytes"
