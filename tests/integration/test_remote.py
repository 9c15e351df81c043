"""A team's server: there, away, refusing, or no MLflow server at all; and no login of it is ever shown."""

import threading
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.tracking import remote
from support.tracking.remote import ServerAway, ServerRefuses, ask, is_away, is_server, uri_or_local, without_login

NOBODY = "http://127.0.0.1:9"  # the port of the discard service, which no machine offers any more
LOCAL = "sqlite:///here.db"


@pytest.fixture
def server():
    """Return answer(status) -> the address of a server that gives this answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()

        def answer(status: int) -> str:
            http.status = status
            return f"http://127.0.0.1:{http.server_port}"

        yield answer
        http.shutdown()


def test_a_server_that_answers_is_there(server) -> None:
    ask(server(200))
    assert not is_away(server(200)) and not is_away(LOCAL)
    assert uri_or_local(server(200), LOCAL) == server(200)


@pytest.mark.parametrize(("status", "error"), [(401, ServerRefuses), (403, ServerRefuses), (404, ValueError)])
def test_a_server_that_refuses_or_is_another_is_said(server, status: int, error: type) -> None:
    for call in (ask, is_away, lambda uri: uri_or_local(uri, LOCAL)):
        with pytest.raises(error, match=rf"http://127\.0\.0\.1:\d+ answers {status}"):
            call(server(status))


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_that_is_not_well_is_away(server, status: int) -> None:
    assert is_away(server(status))
    with pytest.raises(ServerAway, match=f"is away: it answers {status}"):
        ask(server(status))


def test_while_a_server_is_away_runs_go_into_the_local_store(capsys) -> None:
    assert uri_or_local(NOBODY, LOCAL) == LOCAL
    assert "is away: nothing answers there. Runs go into the store on this machine" in capsys.readouterr().out
    assert uri_or_local(None, LOCAL) == LOCAL


@pytest.mark.parametrize("status", [401, 404, 503])
def test_no_login_is_shown(server, capsys, status: int) -> None:
    uri = server(status).replace("://", "://ada:hunter22@")
    with pytest.raises((ServerAway, ServerRefuses, ValueError)) as error:
        ask(uri)
    with pytest.raises((ServerRefuses, ValueError)) if status < 500 else nullcontext():
        uri_or_local(uri, LOCAL)
    assert "hunter22" not in str(error.value) + capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ada:x@team.example/a", "http://team.example/a"),
        ("postgresql://ada:p@ss@db/x", "postgresql://db/x"),
        ("no address at all", "no address at all"),
        ("mail to ada@team.example", "mail to ada@team.example"),
    ],
)
def test_a_login_is_taken_out_of_a_text(text: str, shown: str) -> None:
    assert without_login(text) == shown


@pytest.mark.parametrize(("uri", "server"), [("http://a", True), ("https://a", True), (LOCAL, False), ("", False)])
def test_what_is_a_server(uri: str, server: bool) -> None:
    assert is_server(uri) is server


def test_the_server_of_the_environment(monkeypatch) -> None:
    assert remote.server_of_environment() is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    assert remote.server_of_environment() == NOBODY
