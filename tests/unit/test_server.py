"""The dashboard's server: who gets in, where artifacts may lie, and when it ends. No process, no store."""

import ast
import asyncio
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

from support.dashboard import lease, server

HOSTS = ["http://127.0.0.1:5005", "http://localhost:5005", "https://5005-m-s-1.prod.colab.dev", "https://hub.example"]
PUBLIC = "https://lesson.ngrok-free.app"


def ask(path: str, host: str = HOSTS[0], origin: str | None = None, kind: str = "http") -> dict:
    """Return what a request gets: status, headers, and the path that MLflow's app would see."""
    seen, sent = {}, []

    async def app(scope, receive, send):
        seen["path"] = scope["path"]
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = [(b"host", host.partition("://")[2].encode())]
    headers += [(b"origin", origin.encode())] if origin else []
    asgi = server.behind_secret(app, "s3cret", [*HOSTS, PUBLIC], PUBLIC)
    asyncio.run(asgi({"type": kind, "path": path, "headers": headers}, None, send))
    return {**sent[0], **seen, "headers": dict(sent[0].get("headers", ()))}


@pytest.mark.parametrize("path", ["/", "/health", "/api/2.0/mlflow/runs/get", "/s3cre", "/s3cretx/", "//s3cret/", "/é"])
def test_without_the_secret_everything_is_404(path):
    assert ask(path)["status"] == 404


def test_under_the_secret_mlflow_sees_its_own_paths():
    assert ask("/s3cret/ajax-api/x") | {"headers": 0} == ask("/s3cret/ajax-api/x") | {"headers": 0}
    assert ask("/s3cret/ajax-api/x")["path"] == "/ajax-api/x"
    assert ask("/s3cret/")["path"] == "/"
    answer = ask("/s3cret")
    assert answer["status"] == 307 and answer["headers"][b"location"] == b"/s3cret/"
    assert ask("/s3cret/", kind="websocket")["type"] == "websocket.close"


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8888", "http://localhost:1", "https://a.example", "null"])
def test_pages_of_other_origins_get_403(origin):
    assert ask("/s3cret/", origin=origin)["status"] == 403


def test_its_own_pages_get_in():
    assert {ask("/s3cret/", origin=origin)["status"] for origin in [*HOSTS, PUBLIC]} == {200}


@pytest.mark.parametrize(
    ("host", "frames"),
    [
        (HOSTS[0], "'self' http://127.0.0.1:* http://localhost:*"),
        (HOSTS[2], "'self' https://colab.research.google.com https://*.googleusercontent.com"),
        (HOSTS[3], "'self'"),
        (PUBLIC, "'none'"),
        ("http://elsewhere.example", "'none'"),
    ],
)
def test_pages_stand_in_frames_of_the_notebook_alone_and_never_through_the_tunnel(host, frames):
    policy = ask("/s3cret/", host)["headers"][b"content-security-policy"]
    assert policy.decode() == f"frame-ancestors {frames}"


def test_the_private_names_that_it_sets_are_mlflows():
    """A release that renames them must fail here, not in a reader's notebook."""
    folder = Path(find_spec("mlflow").origin).with_name("server")
    source = (folder / "constants.py").read_text()
    known = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    assert {server.STORE, server.ARTIFACT_ROOT} <= known
    assert f'prefix="{server.ASSISTANT}"' in (folder / "assistant" / "api.py").read_text()
    scripts = folder.glob("js/build/static/js/main.*.js")
    key = server.SEEN.decode().partition("['")[2].partition("_v1']")[0]
    assert any(f'key:"{key}",version:1' in script.read_text(encoding="utf-8") for script in scripts)


def test_mlflow_is_told_exact_hosts_and_origins():
    told = server.environment("sqlite:///x", "file:///x", [HOSTS[0], PUBLIC])
    assert told["MLFLOW_SERVER_ALLOWED_HOSTS"] == "127.0.0.1:5005,lesson.ngrok-free.app"
    assert told["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:5005,https://lesson.ngrok-free.app"
    assert told["MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"] == "false"
    assert not any("*" in value for value in told.values())


@pytest.mark.parametrize(
    ("location", "status"),
    [
        ("", 200),
        ("{inside}", 200),
        ("{inside}/mine", 200),
        ("{inside}/../../etc", 400),
        ("{inside}%2F..%2F..%2Fetc", 400),
        ("{inside}-beside", 400),
        ("file:///etc", 400),
        ("/etc", 400),
        ("etc", 400),
        ("file://elsewhere/etc", 400),
        ("mlflow-artifacts:/2", 400),
        ("s3://bucket", 400),
        ("runs:/1", 400),
    ],
)
@pytest.mark.parametrize("name", ["artifact_location", "artifactLocation"])
def test_artifacts_stay_in_the_stores_folder(tmp_path, location, status, name):
    import json

    from flask import Flask

    inside = (tmp_path / "Опыты 50%" / "artifacts").as_uri()
    app = Flask(__name__)
    app.before_request(server.refuse_foreign_locations(inside))
    app.add_url_rule("/create", "create", lambda: "done", methods=["POST"])
    body = {"name": "x", name: location.format(inside=inside)}
    for text in (json.dumps(body), json.dumps(json.dumps(body))):
        assert app.test_client().post("/create", data=text).status_code == status


def test_requests_without_json_pass(tmp_path):
    from flask import Flask

    app = Flask(__name__)
    app.before_request(server.refuse_foreign_locations(tmp_path.as_uri()))
    app.add_url_rule("/", "home", lambda: "done", methods=["GET", "POST"])
    client = app.test_client()
    assert {
        client.get("/").status_code,
        client.post("/", data="x").status_code,
        client.post("/", json=[]).status_code,
    } == {200}


@pytest.fixture
def folder(tmp_path):
    """A dashboard's folder whose state names the server "ours", with a lease of this process."""
    lease.write(tmp_path / "leases")
    lease.write_private(tmp_path / "state.json", {"key": "ours"})
    return tmp_path


def test_it_is_needed_while_a_lease_counts_and_the_state_names_it(folder):
    assert server.is_needed(folder, "ours") and not server.is_needed(folder, "another")
    lease.own(folder / "leases").unlink()
    assert not server.is_needed(folder, "ours")
    assert not (folder / "state.json").exists(), "else a notebook could adopt a server that ends"


def test_it_does_not_end_while_a_notebook_opens_one(folder):
    lease.own(folder / "leases").unlink()
    with FileLock(folder / "lock"):
        assert server.is_needed(folder, "ours") and (folder / "state.json").exists()


def test_it_does_not_end_on_a_doubt(folder, monkeypatch):
    monkeypatch.setattr(lease, "read", lambda _: (_ for _ in ()).throw(OSError("stale handle")))
    assert server.is_needed(folder, "ours")


def test_it_ends_with_the_stores_folder(folder):
    import shutil

    shutil.rmtree(folder)
    assert not server.is_needed(folder, "ours")
