"""The tunnel: it opens with a password, proves itself, and every failure has a sentence and a remedy."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import types

import psutil
import pytest
from dashboard_parts import family, make_runs, ngrok, role, stores  # noqa: F401

from support.dashboard import checks as tunnel
from support.dashboard import tunnel as agent
from support.dashboard import view as dashboard
from support.dashboard.tunnel import TunnelError

pytestmark = pytest.mark.once

SECRET = "correct-horse-battery"


@pytest.fixture
def open_with(stores, ngrok, monkeypatch):  # noqa: F811
    """Open a dashboard with a token, and close it at the end."""
    boards = []

    def open_with(token, **options):
        monkeypatch.setenv("NGROK_AUTHTOKEN", token)
        boards.append(dashboard.open(**options))
        return boards[-1]

    yield open_with
    for board in boards:
        board.close()


def agent_of(tmp_path) -> psutil.Process:
    return next(process for process in family(tmp_path) if role(process) == "agent")


def test_opens_with_a_password_and_proves_itself(open_with, capsys):
    board = open_with("good", password=SECRET)
    assert board.url.startswith("https://lesson-under-test.ngrok-free.app")
    assert "because there is an ngrok token" in capsys.readouterr().out
    board.check()
    login = ("reader", SECRET)
    search = board.url + tunnel.SEARCH
    for answer in (
        tunnel.fetch(board.url),
        tunnel.fetch(search + "?max_results=1"),
        tunnel.fetch(search, origin=board.url),
        tunnel.fetch(search, ("reader", "another-password"), origin=board.url),
        tunnel.fetch(board.url + "/health"),
    ):
        assert answer[0] == 401
    assert "experiments" in json.loads(tunnel.fetch(search, login, origin=board.url)[1])
    assert tunnel.fetch(search, login, origin="https://other.ngrok-free.app")[0] == 403


def test_the_secrets_are_nowhere(open_with, tmp_path, stores, capsys, monkeypatch):  # noqa: F811
    board = open_with("good", password=SECRET)
    repr(board), board._repr_html_(), board.show_credentials()
    assert SECRET not in capsys.readouterr().out + repr(board) + board._repr_html_() + repr(board.password)
    assert board.password == SECRET
    for process in family(tmp_path):
        assert SECRET not in " ".join(process.cmdline()) and "good" not in process.cmdline()
        assert SECRET not in str(process.environ())
        assert role(process) == "agent" or role(process) == "guard" or "NGROK_AUTHTOKEN" not in process.environ()
    for file in stores.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file
    assert stat_mode(stores / "dashboard" / "guard.json") == 0o600


def stat_mode(path) -> int:
    return path.stat().st_mode & 0o777


def test_each_password_is_new(stores):  # noqa: F811
    made = {tunnel.credentials("reader", None)[1] for _ in range(10)}
    assert len(made) == 10 and all(len(password) >= 24 for password in made)


@pytest.mark.parametrize(("user", "password"), [("", None), ("a:b", None), ("reader", "short"), ("reader", "")])
def test_a_weak_login_is_refused_before_anything_opens(stores, user, password):  # noqa: F811
    with pytest.raises(ValueError, match=r"user|password"):
        dashboard.open(user=user, password=password)


def test_a_broken_tunnel_is_explained_and_leaves_the_local_dashboard(open_with, tmp_path, capsys):
    for token, sentence in {
        "4018": "ngrok wants an authtoken",
        "105": "does not look like one",
        "107": "it was revoked",
        "108": "as many agents running as it may",
        "334": "in use by another tunnel",
        "http": "without encryption",
        "unlocked": "asks for no password",
        "rewrite": "refuses what its own page sends",
    }.items():
        board = open_with(token)
        said = capsys.readouterr().out
        assert sentence in said and "No tunnel:" in said and "Your authtoken" not in said
        assert board.url.startswith("http://127.0.0.1:") and board.password is None
        board.check()
        assert sorted(role(process) for process in family(tmp_path)) == ["guard", "server"]


def test_a_silent_agent_times_out(open_with, monkeypatch, tmp_path):
    monkeypatch.setattr(agent, "START_TIMEOUT", 1)
    with pytest.raises(TunnelError, match="no way to ngrok's cloud in 1 s"):
        agent.start(5005, "silent", "reader", SECRET, tmp_path / "ngrok-1.yml")
    assert not family(tmp_path) and not (tmp_path / "ngrok-1.yml").exists()


def test_an_agent_that_cannot_be_had_is_explained(open_with, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PYNGROK_NGROK_PATH", str(tmp_path / "none" / "ngrok"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no network, at once
    board = open_with("good")
    assert "cannot be downloaded" in capsys.readouterr().out
    board.check()


def test_an_agent_that_does_not_run_is_explained(open_with, ngrok, capsys):  # noqa: F811
    ngrok.chmod(0o600)
    board = open_with("good")
    assert "cannot be started" in capsys.readouterr().out
    board.check()


def test_a_tunnel_that_vanishes_is_explained(open_with, tmp_path):
    board = open_with("good")
    agent_of(tmp_path).send_signal(signal.SIGUSR1)
    with pytest.raises(TunnelError, match=r"the tunnel is gone.*ERR_NGROK_3200"):
        board.check()
    assert tunnel.fetch(board.local_url)[0] == 200


def test_an_agent_that_dies_leaves_the_local_dashboard_and_opens_anew(open_with, tmp_path):
    board = open_with("good")
    agent_of(tmp_path).kill()
    assert tunnel.fetch(board.local_url)[0] == 200
    again = open_with("good")
    again.check()
    assert again.local_url == board.local_url and again.url.startswith("https://")


def test_a_local_dashboard_gains_a_tunnel(open_with, stores):  # noqa: F811
    local = dashboard.open(share=False)
    shared = open_with("good")
    shared.check()
    assert shared.local_url == local.url


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
        assert tunnel.fetch(url, origin=url) == (403, " no")


def test_an_unknown_error_is_passed_on_without_secrets():
    error = agent.explain("it failed with token-1 and pass-word-1 ERR_NGROK_9999", ("token-1", "pass-word-1"))
    assert str(error) == "ngrok says: it failed with ... and ... ERR_NGROK_9999"


def test_nobody_is_asked_where_nobody_can_answer(stores):  # noqa: F811
    program = "from support import tunnel; print(tunnel.find_token(ask=True))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": "."},
    )
    assert done.stdout.strip() == "None"


class Colab(types.ModuleType):
    """google.colab, with one secret or none."""

    class SecretNotFoundError(Exception):
        pass

    class NotebookAccessError(Exception):
        pass

    def __init__(self, secret, proxy=""):
        super().__init__("google.colab")
        self.secret, self.proxy, self.userdata, self.output = secret, proxy, self, self

    def get(self, name):
        assert name == "NGROK_AUTHTOKEN"
        if self.secret is None:
            raise self.SecretNotFoundError
        return self.secret

    def eval_js(self, code):
        assert code.startswith("google.colab.kernel.proxyPort(")
        return self.proxy


def use_colab(monkeypatch, colab) -> None:
    for name in ("google.colab", "google.colab.userdata", "google.colab.output"):
        monkeypatch.setitem(sys.modules, name, colab)


def test_colab_keeps_the_token_as_a_secret(stores, monkeypatch):  # noqa: F811
    use_colab(monkeypatch, Colab("token-of-colab"))
    assert tunnel.find_token() == "token-of-colab"
    use_colab(monkeypatch, Colab(None))
    assert tunnel.find_token() is None
    monkeypatch.setenv("NGROK_AUTHTOKEN", "token-of-environment")
    assert tunnel.find_token() == "token-of-environment"


def test_colab_without_a_token_uses_its_proxy(stores, monkeypatch, capsys):  # noqa: F811
    use_colab(monkeypatch, Colab(None, proxy="https://5005-m-s-1.europe.prod.colab.dev/"))
    with dashboard.open() as board:
        assert board.url == "https://5005-m-s-1.europe.prod.colab.dev"
        assert "Colab's own proxy" in capsys.readouterr().out
        request = tunnel.Request(board.local_url + "/", headers={"Host": "5005-m-s-1.europe.prod.colab.dev"})
        assert tunnel.build_opener().open(request).status == 200
