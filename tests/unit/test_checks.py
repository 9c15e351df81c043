"""Tokens, passwords, and what a server says about itself. Nothing here leaves the process but for localhost."""

import os
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.dashboard import checks, tunnel
from support.dashboard.tunnel import TunnelError

SECRET = "/s3cret"


@pytest.fixture
def serve():
    """Return what starts a server on this machine that answers by a function (path, origin) -> (status, text)."""
    servers = []

    def serve(answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, text = answer(self.path.partition("?")[0], self.headers.get("Origin"))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_GET

            def log_message(self, *_) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def mlflow_like(**changed):
    """Return what answers as the dashboard does, less what is changed: a status for a kind of request."""

    def answer(path, origin):
        kind = "outside" if not path.startswith(SECRET) else "stranger" if origin in checks.STRANGERS else "inside"
        status = changed.get(kind, {"outside": 404, "stranger": 403, "inside": 200}[kind])
        return status, "<title>MLflow</title>" if path == f"{SECRET}/" else "{}"

    return answer


def test_what_shows_mlflow_to_its_own_pages_alone_is_ours(serve):
    checks.prove_ours(serve(mlflow_like()) + SECRET)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"outside": 200}, "without the link's secret"),
        ({"stranger": 200}, "pages of other sites"),
        ({"inside": 500}, r"does not show MLflow, but HTTP 500"),
    ],
)
def test_what_lets_others_in_or_shows_something_else_is_not(serve, changed, message):
    with pytest.raises(TunnelError, match=message) as refused:
        checks.prove_ours(serve(mlflow_like(**changed)) + SECRET)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Invalid Host header", r"\(Invalid Host header\).*changes the Host or Origin header"),
        ("offline. ERR_NGROK_3200", r"offline.*errors/err_ngrok_3200"),
        ("", "does not show MLflow"),
    ],
)
def test_each_refusal_has_its_sentence(serve, text, message):
    with pytest.raises(TunnelError, match=message):
        checks.prove_ours(serve(lambda *_: (403, text)))


def test_no_answer_in_time_is_explained(monkeypatch):
    monkeypatch.setattr(checks, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TunnelError, match=r"no answer in 0\.2 s"):
        checks.prove_ours(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_tunnel_is_closed_only_if_it_asks_for_a_password_each_time(serve):
    checks.prove_closed(serve(lambda *_: (401, "")))
    for answer in (lambda *_: (200, ""), lambda path, origin: (200 if origin else 401, "")):
        with pytest.raises(TunnelError, match=r"asks for no password \(HTTP 200\)"):
            checks.prove_closed(serve(answer))
    with pytest.raises(TunnelError, match="errors/err_ngrok_3200"):
        checks.prove_closed(serve(lambda *_: (404, "ERR_NGROK_3200")))


def test_this_machine_is_never_asked_through_a_proxy(serve, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert checks.fetch(serve(lambda *_: (200, "here")))[0] == 200


def test_a_redirect_is_not_followed_with_the_password(serve):
    assert checks.fetch(serve(lambda *_: (307, "")), ("reader", "a password"))[0] == 307


def test_an_answer_that_is_cut_off_is_asked_for_again():
    """A server that refuses a POST unread resets the connection, at times before its answer is read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            for number in range(3):
                connection, _ = listener.accept()
                while b"}" not in connection.recv(1 << 16):  # its body's end
                    pass
                if number < 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
                connection.close()  # with a reset, the first two times

        threading.Thread(target=refuse, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert checks.fetch(url, origin=url) == (403, " no")


def test_each_password_is_new_and_none_is_shown():
    made = {checks.credentials("reader", None)[1] for _ in range(10)}
    assert len(made) == 10 and all(len(password) >= 24 for password in made)
    assert {repr(password) for password in made} == {"'(hidden)'"}


@pytest.mark.parametrize(("user", "password"), [("", None), ("a:b", None), ("reader", "short"), ("reader", "")])
def test_a_weak_login_is_refused(user, password):
    with pytest.raises(ValueError, match=r"user|password"):
        checks.credentials(user, password)


def test_an_error_of_ngroks_says_what_to_do_and_shows_no_secret():
    error = tunnel.explain("it failed\n with token-1 and pass-word-1\nERR_NGROK_108", ("token-1", "pass-word-1"))
    about = "https://ngrok.com/docs/errors/err_ngrok_108"
    assert str(error) == f"ngrok says: it failed with ... and ... ERR_NGROK_108 See {about}."
    assert "into NGROK_AUTHTOKEN" in str(tunnel.explain("no such token ERR_NGROK_107"))


def test_the_token_is_the_environments_and_nobody_is_asked_where_nobody_can_answer(monkeypatch):
    monkeypatch.setenv("NGROK_AUTHTOKEN", " token-of-environment\n")
    assert checks.find_token() == "token-of-environment"
    program = "from support.dashboard import checks; print(checks.find_token(ask=True))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name != "NGROK_AUTHTOKEN"} | {"PYTHONPATH": "."},
    )
    assert done.stdout.strip() == "None"
