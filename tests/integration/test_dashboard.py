"""The dashboard as one opens it: views, links and who gets in. Two real openings; stand-ins for the rest."""

import html
import json
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import psutil
import pytest
import requests
from dashboard_parts import TAG, family, make_runs, ngrok, only, roles, stores, wait_for_none  # noqa: F401
from filelock import FileLock
from mlflow import MlflowClient

from support import dashboard
from support.dashboard import checks, launch, lease, server, tunnel, view
from support.dashboard.tunnel import TunnelError
from support.tracking import runs, store

PASSWORD = "correct-horse-battery"
STATE = {"server": "", "port": 5005, "secret": "s3cret", "public": None, "problem": ""}
SHARED = {**STATE, "public": "https://a.ngrok-free.app", "user": "reader", "password": PASSWORD}


def local(path: str = "", port: int = 5005) -> str:
    return f"http://127.0.0.1:{port}/s3cret{path}"


@pytest.fixture
def stand_in(stores, monkeypatch):  # noqa: F811
    """Return what lets `open` find a server with the given state, without a process."""

    def stand_in(state: dict) -> None:
        monkeypatch.setattr(launch, "find_or_start", lambda *_: state)

    stand_in(STATE)
    return stand_in


# What a real one does.


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """Return an open dashboard on a store with three runs."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TAG, str(folder))
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # as in a company's network
        patch.setenv("http_proxy", "http://127.0.0.1:9")
        make_runs(folder / "stores")
        with dashboard.open(stores_dir=folder / "stores") as board:
            yield board
    assert not wait_for_none(folder, 0)


def request(board, path: str, body: dict | None = None, **headers: str) -> int:
    """Return the status of a request to a path of the dashboard's port, the secret's path left out."""
    url = checks.origin_of(board.url) + path
    with requests.Session() as session:
        session.trust_env = False
        return session.request("POST" if body else "GET", url, json=body, headers=headers, timeout=60).status_code


def test_it_is_one_process_that_listens_to_this_machine_only(board):
    [process] = family(Path(board._folder).parents[1])
    assert process.children(recursive=True) == []
    connections = getattr(process, "net_connections", process.connections)  # Colab's psutil is older
    listening = [c for c in connections() if c.status == psutil.CONN_LISTEN]
    assert [c.laddr.ip for c in listening] == ["127.0.0.1"]
    board.check()


def test_who_has_not_the_secret_reaches_nothing(board):
    for path in (
        "/",
        "/health",
        "/version",
        "/api/2.0/mlflow/experiments/search?max_results=1",
        "/ajax-api/",
        "/graphql",
    ):
        assert request(board, path) == 404
    assert request(board, "/api/2.0/mlflow/experiments/delete", {"experiment_id": "1"}) == 404


def test_mlflows_assistant_runs_no_commands_and_does_not_open_by_itself(board):
    secret = board._state["secret"]
    assert request(board, f"/{secret}/ajax-api/3.0/mlflow/assistant/config") == 404
    assert request(board, f"/{secret}/ajax-api/3.0/mlflow/assistant/message", {"message": "ls"}) == 404
    page = checks.fetch(f"{board.url}/")[1]
    assert server.SEEN.decode() in page and page.rstrip().endswith("</html>")


def test_a_page_that_a_run_has_logged_keeps_its_bytes(board):
    store.connect(board._folder.parent)
    page = "<html><head><title>mine</title></head><body>as it is</body></html>"
    with mlflow.start_run(experiment_id=store.set_experiment("pages")) as run:
        mlflow.log_text(page, "page.html")
    assert checks.fetch(f"{board.url}/get-artifact?path=page.html&run_uuid={run.info.run_id}")[1].strip() == page


def test_exact_hosts_and_origins_get_in(board):
    secret, port = board._state["secret"], board._state["port"]
    search = f"/{secret}/ajax-api/2.0/mlflow/experiments/search"
    for host, status in {"elsewhere.example": 403, "127.0.0.1": 403, f"localhost:{port}": 200}.items():
        assert request(board, f"/{secret}/", Host=host) == status
    for origin, status in {"http://127.0.0.1:8888": 403, f"http://localhost:{port}": 200}.items():
        assert request(board, search, {"max_results": 1}, Origin=origin) == status


def test_artifacts_of_experiments_made_there_lie_in_the_store_and_work_in_a_notebook(board):
    create = f"/{board._state['secret']}/api/2.0/mlflow/experiments/create"
    assert request(board, create, {"name": "theirs", "artifact_location": "file:///tmp/elsewhere"}) == 400
    assert request(board, create, {"name": "made there"}) == 200
    store.connect(board._folder.parent)
    made = mlflow.get_experiment_by_name("made there")
    assert made.artifact_location.startswith((board._folder.parent / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=made.experiment_id) as run:
        mlflow.log_text("it works", "note.txt")
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/note.txt") == "it works"
    assert mlflow.get_experiment_by_name("theirs") is None


def test_many_may_search_at_once(board):
    search = f"/{board._state['secret']}/api/2.0/mlflow/runs/search"
    body = {"experiment_ids": ["1"], "order_by": ["metrics.f1 DESC"]}
    with ThreadPoolExecutor(40) as pool:
        assert set(pool.map(lambda _: request(board, search, body), range(200))) == {200}


def test_another_opening_finds_the_same_one_and_a_wrong_wish_is_refused(board, capsys):
    again = dashboard.open(stores_dir=board._folder.parent)
    assert again.url == board.url
    with pytest.raises(dashboard.DashboardError, match=rf"open .* at port {board._state['port']}. Close it first"):
        dashboard.open(stores_dir=board._folder.parent, port=1)
    board.check()  # and nothing was closed for it


def test_the_tunnel_asks_for_a_password_and_the_secrets_are_nowhere(stores, ngrok, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("NGROK_AUTHTOKEN", "good")
    with dashboard.open(password=PASSWORD) as board:
        assert board.url.startswith("https://lesson-under-test.ngrok-free.app")
        assert roles(tmp_path) == ["agent", "server"]
        board.check()
        origin, login = checks.origin_of(board.url), ("reader", PASSWORD)
        search = board.url + checks.SEARCH
        for answer in (
            checks.fetch(board.url),
            checks.fetch(search + "?max_results=1"),
            checks.fetch(search, origin=origin),
            checks.fetch(search, ("reader", "another-password"), origin=origin),
            checks.fetch(origin + "/health"),
        ):
            assert answer[0] == 401
        assert "experiments" in json.loads(checks.fetch(search, login, origin=origin)[1])
        assert checks.fetch(search, login, origin="https://other.ngrok-free.app")[0] == 403

        board.show_credentials()
        shown = capsys.readouterr().out + repr(board) + board._repr_html_() + repr(board.password)
        assert PASSWORD not in shown and board.password == PASSWORD
        for process in family(tmp_path):
            assert PASSWORD not in " ".join(process.cmdline()) + str(process.environ())
            assert "good" not in process.cmdline()
        assert "NGROK_AUTHTOKEN" not in only(tmp_path, "server").environ()
        state = stores / "dashboard" / "state.json"
        holding = [path for path in stores.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
        assert holding == [state] and state.stat().st_mode & 0o777 == 0o600


# What one sees.


def test_it_says_which_view_and_why(stand_in, capsys):
    board = dashboard.open()
    assert board.view == "An address that only this machine reaches, because there is no ngrok token."
    assert board.url == board.local_url == local()
    stand_in(SHARED)
    shared = dashboard.open()
    assert "because there is an ngrok token" in shared.view and shared.url == "https://a.ngrok-free.app/s3cret"
    assert shared.local_url == local() and shared.password == PASSWORD
    assert dashboard.open(share=False).view == "An address that only this machine reaches."
    assert capsys.readouterr().out.count("\n") == 3
    board._state = None  # it has no process to wait for


def test_a_fallback_says_its_reason(stand_in, monkeypatch):
    monkeypatch.setenv("NGROK_AUTHTOKEN", "108")
    stand_in({**STATE, "problem": "as many agents as it may."})
    board = dashboard.open()
    assert board.view == "No tunnel: as many agents as it may. An address that only this machine reaches."
    assert board.url == local() and board.password is None


def test_a_teams_server_is_the_dashboard(stores, monkeypatch):  # noqa: F811
    uri = "https://ada:hidden@team.example/mlflow/"
    monkeypatch.setattr(store, "connect", lambda _: uri)
    monkeypatch.setattr(runs, "find_experiment", lambda _: None)
    board = dashboard.open()
    assert board.view == "Your team's server, because MLFLOW_TRACKING_URI names it."
    assert board.url == "https://team.example/mlflow" and "hidden" not in repr(board)
    board.close()
    assert not (stores / "dashboard").exists()


def test_links_lead_to_comparable_runs_and_to_no_other(stand_in, stores):  # noqa: F811
    board = dashboard.open()
    assert list(board.links) == ["all experiments"]
    ids = make_runs(stores)
    unfinished = MlflowClient().create_run(runs.find_experiment(runs.EXPERIMENT).experiment_id)
    MlflowClient().log_metric(unfinished.info.run_id, "f1", 1.0)
    links = board.links
    assert list(links) == [
        "runs, best F1 first",
        "all runs, newest first",
        "the best run's curves",
        "a picture of the best run",
        "the runs compared",
    ]
    assert all(link.startswith(local("/#/")) for link in links.values())
    assert ids[0] in links["the best run's curves"] and ids[0] in links["a picture of the best run"]
    assert links["a picture of the best run"].partition("?")[0].endswith("/artifacts/plots/learning_curves.png")
    assert unfinished.info.run_id not in str(links)
    assert html.escape(links["the best run's curves"]) in board._repr_html_()


def test_what_the_links_show_is_kept_with_the_experiment(stand_in, stores):  # noqa: F811
    make_runs(stores)
    dashboard.open()
    tags = runs.find_experiment(runs.EXPERIMENT).tags
    table = json.loads(tags["mlflow.sharedViewState.support-table"])
    assert table["selectedColumns"][:3] == ["metrics.`f1`", "metrics.`precision`", "metrics.`recall`"]
    assert {"params.`lr`", "params.`num_filters`"} <= set(table["selectedColumns"])
    assert (table["orderByKey"], table["orderByAsc"]) == ("metrics.`f1`", False)
    assert table["searchFilter"] == "metrics.`f1` > 0"
    newest = json.loads(tags["mlflow.sharedViewState.support-newest"])
    assert newest["orderByKey"] == "attributes.start_time" and "searchFilter" not in newest
    compared = json.loads(tags["mlflow.sharedViewState.support-compared"])
    assert {chart["type"] for chart in compared["compareRunCharts"]} == {"PARALLEL", "BAR"}


@pytest.mark.parametrize("name", ["опыты", 'it\'s #1? 50% "a" <b> $x^$', "実験"])
def test_any_name_of_an_experiment_works_in_links(stand_in, stores, name):  # noqa: F811
    store.connect()
    experiment_id = store.set_experiment(name)
    board = dashboard.open(experiment=name)
    assert f"/experiments/{experiment_id}/runs" in board.links["all runs"]
    assert "<b>" not in board._repr_html_()


def test_it_stands_in_a_frame_unless_others_see_it_too(stand_in, monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    dashboard.open().show(height=300)
    assert shown[-1].src.startswith(local("/")) and shown[-1].height == 300
    stand_in(SHARED)
    shared = dashboard.open()
    shared.show()
    assert shown[-1] is shared
    stand_in(STATE)
    monkeypatch.setenv("CODESPACE_NAME", "fuzzy-disco")
    forwarded = dashboard.open()
    forwarded.show()
    assert shown[-1] is forwarded and forwarded.url == "https://fuzzy-disco-5005.app.github.dev/s3cret"


class Colab(types.ModuleType):
    """google.colab, with one secret or none."""

    class SecretNotFoundError(Exception):
        pass

    class NotebookAccessError(Exception):
        pass

    def __init__(self, secret=None, proxy="https://5005-m-s-1.prod.colab.dev/"):
        super().__init__("google.colab")
        self.secret, self.proxy, self.userdata, self.output, self.frames = secret, proxy, self, self, []

    def get(self, name):
        assert name == "NGROK_AUTHTOKEN"
        if self.secret is None:
            raise self.SecretNotFoundError
        return self.secret

    def eval_js(self, code):
        assert code.startswith("google.colab.kernel.proxyPort(5005")
        return self.proxy

    def serve_kernel_port_as_iframe(self, port, path, height):
        self.frames.append((port, path, height))


@pytest.fixture
def colab(monkeypatch):
    """Return what makes this process look like one of Colab's."""

    def colab(secret=None) -> Colab:
        module = Colab(secret)
        for name in ("google.colab", "google.colab.userdata", "google.colab.output"):
            monkeypatch.setitem(sys.modules, name, module)
        return module

    return colab


def test_colab_keeps_the_token_as_a_secret(colab, monkeypatch):
    colab("token-of-colab")
    assert checks.find_token() == "token-of-colab"
    colab()
    assert checks.find_token() is None


def test_colab_without_a_token_shows_it_by_its_own_proxy_and_frame(stand_in, colab):
    module = colab()
    board = dashboard.open()
    assert board.view == "Colab's own proxy, because there is no ngrok token."
    assert board.url == "https://5005-m-s-1.prod.colab.dev/s3cret" and board.local_url == local()
    board.show()
    [(port, path, height)] = module.frames
    assert (port, height) == (5005, "600") and path.startswith("/s3cret/#/")
    assert launch.hosts_of(5005)[-1] == "https://5005-m-s-1.prod.colab.dev"


# What goes wrong.


def test_a_notebook_that_opens_for_ever_does_not_hold_up_the_others(stores, monkeypatch):  # noqa: F811
    (stores / "dashboard").mkdir(parents=True)
    monkeypatch.setattr(view, "LOCK_TIMEOUT", 0.2)
    with (
        FileLock(stores / "dashboard" / "lock"),
        pytest.raises(dashboard.DashboardError, match=r"for more than 0\.2 s now\. Open this one again when"),
    ):
        dashboard.open()
    assert not lease.living(stores / "dashboard" / "leases")


def test_it_opens_on_the_store_that_one_is_connected_to(stand_in, stores, tmp_path):  # noqa: F811
    stand_in(STATE)
    uri = store.connect(tmp_path / "mine")
    dashboard.open()
    assert lease.living(tmp_path / "mine" / "dashboard" / "leases")
    assert mlflow.get_tracking_uri() == uri, "the next run would land in another store"
    store.connect()
    dashboard.open()
    assert lease.living(stores / "dashboard" / "leases")


@pytest.mark.parametrize("error", [KeyboardInterrupt, dashboard.DashboardError])
def test_what_stops_an_opening_leaves_no_lease_but_one_from_before(stand_in, stores, monkeypatch, error):  # noqa: F811
    def stop(*_):
        raise error

    monkeypatch.setattr(launch, "find_or_start", stop)
    with pytest.raises(error):
        dashboard.open()
    assert not lease.living(stores / "dashboard" / "leases")
    stand_in(STATE)
    dashboard.open()
    monkeypatch.setattr(launch, "find_or_start", stop)
    with pytest.raises(error):
        dashboard.open()
    assert lease.living(stores / "dashboard" / "leases")


@pytest.fixture
def in_place_of_the_server(stores, monkeypatch):  # noqa: F811
    """Return what starts some code where `launch` starts a server, and says how that ends."""

    def start(code: str) -> dict:
        monkeypatch.setattr(launch, "SERVER", [sys.executable, "-c", code])
        (stores / "dashboard").mkdir(parents=True, exist_ok=True)
        address = {"port": 5005, "secret": "s3cret"}
        return launch.start(stores / "dashboard", f"sqlite:///{stores}/mlflow.db", address, None, ("reader", PASSWORD))

    return start


def test_a_server_that_dies_while_it_starts_shows_its_last_lines(in_place_of_the_server, stores):  # noqa: F811
    for code in ("import os; os.write(2, b'no memory left')", "import os; input(); os.write(2, b'no memory left')"):
        with pytest.raises(dashboard.DashboardError, match=r"(?s)died while it started.*last log.*no memory left"):
            in_place_of_the_server(code)
        assert not (stores / "dashboard" / "state.json").exists()


def test_a_server_that_starts_too_slowly_is_explained(in_place_of_the_server, stores, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(launch, "START_TIMEOUT", 0.5)
    with pytest.raises(dashboard.DashboardError, match=r"did not start in 0\.5 s\. Open it again when .* less busy"):
        in_place_of_the_server("import time; time.sleep(60)")
    assert not (stores / "dashboard" / "state.json").exists() and not wait_for_none(tmp_path)


def test_what_the_server_says_becomes_the_state_that_only_its_owner_reads(in_place_of_the_server, stores):  # noqa: F811
    say = "import json, sys; told = json.loads(sys.stdin.readline()); print(json.dumps({'public': %s, 'told': told}))"
    state = in_place_of_the_server(say % None)
    assert state["told"]["hosts"] == ["http://127.0.0.1:5005", "http://localhost:5005"] and "password" not in state
    assert in_place_of_the_server(say % "'https://a.ngrok-free.app'")["password"] == PASSWORD
    assert (stores / "dashboard" / "state.json").stat().st_mode & 0o777 == 0o600


def test_a_taken_port_is_explained():
    with launch.socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            dashboard.DashboardError, match=f"port {port} of this machine cannot be used: .*Give another"
        ):
            launch.free_port(port)


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("4018", "verified account and authtoken."),
        ("105", "does not look like a proper"),
        ("107", "but it is invalid"),
        ("108", "limited to 1 simultaneous ngrok agent"),
        ("334", "already online"),
        ("http", "without encryption"),
        ("unlocked", "asks for no password"),
    ],
)
def test_a_broken_tunnel_is_explained_and_ended(stores, ngrok, tmp_path, monkeypatch, token, sentence):  # noqa: F811
    monkeypatch.setattr(checks, "TIMEOUT", 1)
    with launch.socket.create_server(("127.0.0.1", 0)) as listener:  # which does not answer yet
        config = {"folder": tmp_path, "port": listener.getsockname()[1], "token": token}
        public, problem = server.open_tunnel({**config, "user": "reader", "password": PASSWORD})
    assert public is None and sentence in problem and PASSWORD not in problem
    assert ("into NGROK_AUTHTOKEN" in problem) == (token in ("4018", "105", "107"))
    assert not wait_for_none(tmp_path, 1) and not (tmp_path / "ngrok.yml").exists()


def start_agent(tmp_path, token: str = "good") -> str:
    return tunnel.start(5005, token, "reader", PASSWORD, tmp_path / "ngrok.yml")


def test_an_agent_that_is_silent_or_cannot_be_had_is_explained(stores, ngrok, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(tunnel, "START_TIMEOUT", 1)
    with pytest.raises(TunnelError, match="no way to ngrok's cloud in 1 s"):
        start_agent(tmp_path, "silent")
    assert not wait_for_none(tmp_path, 1)
    ngrok.chmod(0o600)
    with pytest.raises(TunnelError, match="does not start"):
        start_agent(tmp_path)
    monkeypatch.setenv("PYNGROK_NGROK_PATH", str(tmp_path / "none" / "ngrok"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no network, at once
    with pytest.raises(TunnelError, match="not to be had"):
        start_agent(tmp_path)


def test_the_agent_of_a_server_that_was_killed_is_found_by_its_configuration(stores, tmp_path):  # noqa: F811
    config = tmp_path / "ngrok.yml"
    config.touch()
    program = [sys.executable, "-c", "import time; time.sleep(60)", "--config"]
    left, other = (psutil.Popen([*program, f"{config}{end}"]) for end in ("", "2"))
    tunnel.stop(config)
    assert left.wait(timeout=5) and other.is_running() and not config.exists()
    other.kill()
    other.wait()


def test_importing_does_nothing_and_a_server_needs_no_torch(stores):  # noqa: F811
    program = "import sys; import support.dashboard.server; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=launch.PROJECT_DIR, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
    assert not stores.exists()
