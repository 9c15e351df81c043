"""MLflow's app in a process of ours: what it is told, and that it ends when nobody holds it."""

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from dashboard_parts import ROOT, stores  # noqa: F401

from support.dashboard import server

pytestmark = pytest.mark.once


def start(tmp_path, **config) -> subprocess.Popen:
    config = {
        "port": 0,
        "only_this": False,
        "store": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "artifacts": str(tmp_path),
        "ngrok_config": str(tmp_path / "ngrok-1.yml"),
        **config,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "support.dashboard.server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    process.stdin.write(json.dumps(config).encode() + b"\n")
    process.stdin.flush()
    return process


def test_the_names_that_it_sets_are_mlflows():
    """They are private to MLflow: a release that renames them must fail here, not in a reader's notebook."""
    source = Path(find_spec("mlflow").origin).with_name("server") / "constants.py"
    known = {node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant)}
    ours = {
        server.STORE,
        server.REGISTRY,
        server.ARTIFACT_ROOT,
        server.ARTIFACT_FOLDER,
        server.SERVE_ARTIFACTS,
    }
    assert ours <= known


def test_it_allows_exactly_what_it_is_told():
    told = server.environment("sqlite:///x", "x", ["http://127.0.0.1:5005", "https://a.ngrok-free.app"])
    assert told["MLFLOW_SERVER_ALLOWED_HOSTS"] == "127.0.0.1:5005,a.ngrok-free.app"
    assert told["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:5005,https://a.ngrok-free.app"
    assert told["MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"] == "false"
    assert not any("*" in value for value in told.values())


def test_it_ends_before_it_serves_when_its_guard_is_gone(stores, tmp_path):  # noqa: F811
    process = start(tmp_path)
    assert json.loads(process.stdout.readline())["port"] > 0
    process.communicate()  # closes its input without a goodbye
    assert process.returncode == 0


def test_a_goodbye_before_it_serves_ends_it(stores, tmp_path):  # noqa: F811
    process = start(tmp_path)
    process.stdout.readline()
    process.communicate(server.GOODBYE)
    assert process.returncode == 0


def test_an_orphan_ends_the_agent_of_its_guard(stores, tmp_path):  # noqa: F811
    config = str(tmp_path / "ngrok-1.yml")
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "--config", config])
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "--config", config + "2"])
    start(tmp_path, ngrok_config=config).communicate()
    assert left.wait(timeout=5) and other.poll() is None
    other.kill()
    other.wait()


def test_a_taken_port_is_reported(stores, tmp_path):  # noqa: F811
    first = start(tmp_path)
    port = json.loads(first.stdout.readline())["port"]
    second = start(tmp_path, port=port, only_this=True)
    assert "in use" in json.loads(second.communicate()[0])["error"]
    third = start(tmp_path, port=port)
    assert json.loads(third.stdout.readline())["port"] != port
    for process in (first, third):
        process.communicate(server.GOODBYE)
