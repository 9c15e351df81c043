"""The dashboard's life: it opens, is found again, and leaves nothing behind, however it ends.

DASHBOARD_CYCLES and DASHBOARD_KILLS say how often; `make soak` runs 50 cycles and 20 kills.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from dashboard_parts import (  # noqa: F401
    ROOT,
    TAG,
    family,
    make_runs,
    ngrok,
    role,
    stores,
    wait_for_none,
)
from filelock import FileLock
from jupyter_client.manager import KernelManager
from mlflow import MlflowClient

from support.dashboard import checks as tunnel
from support.dashboard import contact
from support.dashboard import view as dashboard
from support.dashboard.contact import DashboardError
from support.dashboard.tunnel import TunnelError
from support.tracking import training_run as tracking

pytestmark = pytest.mark.once

CYCLES = int(os.environ.get("DASHBOARD_CYCLES", 4))
KILLS = int(os.environ.get("DASHBOARD_KILLS", 4))
KERNEL = """
import sys, time
from support.dashboard import view as dashboard
board = dashboard.open(**eval(sys.argv[1]))
print(board.url, flush=True)
time.sleep(600)
"""


def start_kernel(environment=None, **options) -> subprocess.Popen:
    """Start a process that opens a dashboard and sleeps, as a notebook's kernel does."""
    return subprocess.Popen(
        [sys.executable, "-c", KERNEL, repr(options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def url_of(kernel: subprocess.Popen) -> str:
    """Wait until the kernel's dashboard is open and give its URL, the second line that it prints."""
    return [kernel.stdout.readline() for _ in range(2)][1].strip()


def roles(tmp_path) -> list[str]:
    return sorted(role(process) for process in family(tmp_path))


def test_opens_says_which_view_and_why_and_closes(stores, tmp_path, capsys):  # noqa: F811
    with dashboard.open() as board:
        assert capsys.readouterr().out.count("\n") == 1
        assert board.view == "An address that only this machine reaches, because there is no ngrok token."
        assert roles(tmp_path) == ["guard", "server"]
        board.check()
        processes = family(tmp_path)
    assert not any(process.is_running() for process in processes)
    board.close()


def test_the_server_listens_to_this_machine_only_and_to_exact_names(stores, tmp_path):  # noqa: F811
    with dashboard.open() as board:
        server = next(process for process in family(tmp_path) if role(process) == "server")
        listening = [c for c in server.net_connections() if c.status == psutil.CONN_LISTEN]
        assert [c.laddr.ip for c in listening] == ["127.0.0.1"]
        for host, status in {
            "elsewhere.example": 403,
            "127.0.0.1": 403,
            f"localhost:{listening[0].laddr.port}": 200,
        }.items():
            request = tunnel.Request(board.url + "/", headers={"Host": host})
            try:
                assert tunnel.build_opener().open(request).status == status
            except tunnel.HTTPError as error:
                assert error.code == status


def test_many_may_search_at_once(stores):  # noqa: F811
    make_runs(stores, runs=1)
    with dashboard.open() as board:
        body = json.dumps({"experiment_ids": ["1"], "order_by": ["metrics.f1 DESC"]}).encode()

        def search(_) -> int:
            request = tunnel.Request(
                f"{board.url}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
            )
            with tunnel.build_opener().open(request, timeout=60) as answer:
                return len(json.load(answer)["runs"])

        with ThreadPoolExecutor(40) as pool:
            assert set(pool.map(search, range(400))) == {1}


def test_links_lead_to_the_runs(stores):  # noqa: F811
    with dashboard.open() as board:
        assert list(board.links) == ["all experiments"]
        ids = make_runs(stores)
        cut_off = MlflowClient().create_run(tracking.find_experiment(tracking.EXPERIMENT).experiment_id)
        MlflowClient().log_metric(cut_off.info.run_id, "f1", 1.0)
        links = board.links
        assert list(links) == [
            "runs, best F1 first",
            "the best run's charts",
            "the best run's artifacts",
            "the top runs compared",
        ]
        assert all(link.startswith(board.url) for link in links.values())
        assert ids[0] in links["the best run's charts"] and all(i in links["the top runs compared"] for i in ids)
        assert cut_off.info.run_id not in str(links)
        assert links["the best run's charts"] in board._repr_html_()


def test_reopening_finds_the_same_one(stores, tmp_path, capsys):  # noqa: F811
    kernel = start_kernel()
    url = url_of(kernel)
    with dashboard.open() as board:
        assert board.url == url and roles(tmp_path) == ["guard", "kernel", "server"]
    assert "Still open for 1 other notebook" in capsys.readouterr().out
    assert tunnel.fetch(url)[0] == 200
    dashboard.open().close(everyone=True)
    assert roles(tmp_path) == ["kernel"]
    kernel.kill()
    kernel.communicate()


def test_it_outlives_the_kernel_that_opened_it_while_another_uses_it(stores, tmp_path):  # noqa: F811
    kernel = start_kernel()
    url_of(kernel)
    with dashboard.open() as board:
        kernel.kill()
        kernel.communicate()
        time.sleep(1)
        board.check()


def test_two_opens_at_once_give_one_dashboard(stores, tmp_path):  # noqa: F811
    kernels = [start_kernel() for _ in range(2)]
    assert len({url_of(kernel) for kernel in kernels}) == 1
    assert roles(tmp_path) == ["guard", "kernel", "kernel", "server"]
    for kernel in kernels:
        kernel.kill()
        kernel.communicate()
    assert not wait_for_none(tmp_path)


def test_one_that_is_about_to_end_is_not_adopted(stores, monkeypatch, capsys):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as free:  # not the usual one, which other tests use now
        monkeypatch.setattr(dashboard, "PORT", free.getsockname()[1])
    board = dashboard.open()
    contact.ask(board._state, "release", pid=os.getpid())
    with dashboard.open() as again:
        assert again._state["pid"] != board._state["pid"] and again.url == board.url
        again.check()
    assert "cannot be used" not in capsys.readouterr().out


def test_auto_close(stores, tmp_path):  # noqa: F811
    board = dashboard.open(auto_close=1)
    assert not wait_for_none(tmp_path, 6)
    board.close()


def answer_nonsense(stranger: socket.socket) -> None:
    connection = stranger.accept()[0]
    with connection:
        connection.recv(1 << 16)
        connection.sendall(b'00 {"url": "http://127.0.0.1:1", "store": "", "hosts": []}\n')


def test_what_cannot_prove_itself_is_neither_used_nor_stopped(stores, tmp_path, capsys):  # noqa: F811
    (stores / "dashboard").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        state = {
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "port": stranger.getsockname()[1],
            "key": "00" * 32,
        }
        (stores / "dashboard" / "guard.json").write_text(json.dumps(state))
        with ThreadPoolExecutor() as pool:
            pool.submit(answer_nonsense, stranger)
            with dashboard.open() as board:
                board.check()
                assert board._state["pid"] != os.getpid()
    assert "is not ours" in capsys.readouterr().out


def test_a_guard_answers_only_to_its_key(stores):  # noqa: F811
    with dashboard.open() as board:
        forged = {**board._state, "key": "00" * 32}
        with pytest.raises(DashboardError, match="is not ours"):
            contact.ask(forged, "release", pid=os.getpid(), everyone=True)
        with pytest.raises(DashboardError, match="the guard cannot watch"):
            contact.ask(board._state, "watch")
        board.check()


def test_a_taken_port_is_explained_and_the_usual_one_is_only_a_wish(stores, monkeypatch):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DashboardError, match=f"port {port} of this machine cannot be used: .*Give another"):
            dashboard.open(port=port)
        monkeypatch.setattr(dashboard, "PORT", port)
        with dashboard.open() as board:
            assert board.url != f"http://127.0.0.1:{port}"
            board.check()


def test_a_server_that_dies_while_starting_shows_its_last_lines(stores, monkeypatch, tmp_path):  # noqa: F811
    broken = tmp_path / "broken.db"
    broken.write_text("this is no database, whatever its name says")
    monkeypatch.setattr(tracking, "connect", lambda _: f"sqlite:///{broken}")
    with pytest.raises(DashboardError, match=r"(?s)died while it started.*file is not a database"):
        dashboard.open()
    assert not wait_for_none(tmp_path)


@pytest.fixture
def disturb(stores, tmp_path, monkeypatch):  # noqa: F811
    """Give what has Python run some code at the start of our guards or servers, `support.<which>`."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))

    def disturb(**programs: str) -> None:
        (site / "sitecustomize.py").write_text(
            f"import sys\nexec({programs!r}.get(sys.orig_argv[-1].removeprefix('support.'), ''))\n"
        )

    return disturb


# As on a machine so busy, or with a disk so slow, that it takes ten minutes.
SLOW = "import time; time.sleep(600)"
SLOW_TO_SERVE = """
from importlib.machinery import PathFinder
def find_spec(name, *where, find=PathFinder.find_spec):
    if name == "uvicorn":
        import time; time.sleep(600)
    return find(name, *where)
PathFinder.find_spec = find_spec
"""
IMPATIENT = "import support.contact; support.contact.START_TIMEOUT = 2"


def assert_nothing_started(stores, tmp_path) -> None:  # noqa: F811
    """No process is left, and no file that would make the next notebook look for one."""
    assert not wait_for_none(tmp_path)
    assert {path.name for path in (stores / "dashboard").iterdir()} <= {"lock", "guard.log", "server.log"}


def test_a_guard_that_starts_too_slowly_is_explained(disturb, stores, tmp_path, monkeypatch):  # noqa: F811
    disturb(guard=SLOW)
    monkeypatch.setattr(contact, "START_TIMEOUT", 1)
    with pytest.raises(DashboardError, match=r"guard did not start in 1 s\. Open it again when .* less busy"):
        dashboard.open()
    assert_nothing_started(stores, tmp_path)


def test_a_guard_that_dies_while_starting_shows_its_last_lines(disturb, stores, tmp_path):  # noqa: F811
    disturb(guard="import os; os.write(2, b'no memory left'); os._exit(1)")
    with pytest.raises(DashboardError, match=r"(?s)guard died while it started.*last log.*no memory left"):
        dashboard.open()
    assert_nothing_started(stores, tmp_path)


def test_a_guard_that_dies_before_it_is_told_anything_shows_its_last_lines(stillborn, stores, tmp_path):  # noqa: F811
    stillborn("support.dashboard.guard")
    with pytest.raises(DashboardError, match=r"(?s)guard died while it started.*last log.*no memory left"):
        dashboard.open()
    assert_nothing_started(stores, tmp_path)


def test_a_process_that_has_ended_may_be_told_things_again_and_again():
    with subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE) as process:
        process.wait()
        for _ in range(3):
            contact.tell(process, "goodbye")
        assert process.stdin.closed


@pytest.mark.parametrize("slow", [SLOW, SLOW_TO_SERVE], ids=["before its port", "after its port"])
def test_a_server_that_starts_too_slowly_is_explained(disturb, stores, tmp_path, slow):  # noqa: F811
    disturb(guard=IMPATIENT, server=slow)
    with pytest.raises(DashboardError, match=r"gave no answer in 2 s\. Open it again when .* is less busy"):
        dashboard.open()
    assert_nothing_started(stores, tmp_path)
    disturb()
    with dashboard.open() as board:  # the same notebook, when the machine is less busy
        board.check()


def test_a_server_that_dies_before_it_has_a_port_shows_its_last_lines(disturb, stores, tmp_path):  # noqa: F811
    disturb(server="import os; os.write(2, b'no memory left'); os._exit(1)")
    with pytest.raises(DashboardError, match=r"(?s)server died while it started.*last log.*no memory left"):
        dashboard.open()
    assert_nothing_started(stores, tmp_path)


def test_a_notebook_that_opens_for_ever_does_not_hold_up_the_others(stores, monkeypatch):  # noqa: F811
    (stores / "dashboard").mkdir(parents=True)
    monkeypatch.setattr(dashboard, "LOCK_TIMEOUT", 0.2)
    with (
        FileLock(stores / "dashboard" / "lock"),
        pytest.raises(DashboardError, match=r"for more than 0\.2 s now\. Open this one again when"),
    ):
        dashboard.open()


def test_a_server_that_hangs_is_explained(stores, tmp_path, monkeypatch):  # noqa: F811
    with dashboard.open() as board:
        server = next(process for process in family(tmp_path) if role(process) == "server")
        server.suspend()
        with monkeypatch.context() as impatient:
            impatient.setattr(tunnel, "TIMEOUT", 1)
            with pytest.raises(TunnelError, match=r"no answer in 1 s\. Try again .*; if it stays so, close"):
                board.check()
        server.resume()
        board.check()


def test_a_guard_that_hangs_is_left_and_a_new_one_opens(stores, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(dashboard, "STATUS_TIMEOUT", 1)
    first = dashboard.open()
    guard = psutil.Process(first._state["pid"])
    guard.suspend()
    with dashboard.open() as second:
        assert second.url != first.url
        second.check()
    said = capsys.readouterr().out
    assert "cannot be used, so a new one opens: the dashboard's guard does not answer (timed out)" in said
    guard.resume()
    first.close()
    assert not wait_for_none(tmp_path)


def test_a_server_that_dies_later_takes_the_guard_along(stores, tmp_path):  # noqa: F811
    board = dashboard.open()
    next(process for process in family(tmp_path) if role(process) == "server").kill()
    assert not wait_for_none(tmp_path)
    board.close()
    with dashboard.open() as again:
        again.check()


def test_an_interrupt_while_opening_leaves_nothing(stores, monkeypatch, tmp_path):  # noqa: F811
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tunnel, "prove_ours", interrupt)
    with pytest.raises(KeyboardInterrupt):
        dashboard.open()
    assert not wait_for_none(tmp_path)


def test_a_teams_server_is_the_dashboard(stores, monkeypatch, tmp_path):  # noqa: F811
    with dashboard.open() as team:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", team.url + "/")
        before = roles(tmp_path)
        board = dashboard.open()
        assert board.url == team.url and roles(tmp_path) == before
        assert board.view == "Your team's server, because MLFLOW_TRACKING_URI names it."
        board.check()
        board.close()
        assert roles(tmp_path) == before


def test_a_kernel_that_restarts_or_shuts_down_leaves_nothing(stores, ngrok, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("NGROK_AUTHTOKEN", "good")
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(60)
    code = "from support import dashboard; board = dashboard.open()"

    def run(code, **how) -> str:
        said = []
        reply = client.execute_interactive(code, timeout=120, output_hook=said.append, **how)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(message["content"].get("text", message["msg_type"]) for message in said)

    def ends(end) -> None:
        before = [process for process in family(tmp_path) if role(process) in ("guard", "server", "agent")]
        assert len(before) == 3
        end()
        psutil.wait_procs(before, timeout=5)
        assert not [process for process in before if process.is_running()]

    try:
        assert "because there is an ngrok token" in run(code, allow_stdin=False)
        # Nobody sits there: nothing is shown. Somebody does: it is shown until Enter, in no output.
        assert "shown only to somebody" in run("board.show_credentials()", allow_stdin=False)
        prompts = []

        def press_enter(message):
            prompts.append(message["content"]["prompt"])
            client.input("")

        said = run("board.show_credentials()", allow_stdin=True, stdin_hook=press_enter)
        assert "user reader, password " in prompts[0]
        assert "clear_output" in said and "password" not in said
        ends(lambda: manager.restart_kernel(now=True))
        client.wait_for_ready(60)
        run(code, allow_stdin=False)
        ends(manager.shutdown_kernel)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_cycles_leave_nothing(stores, tmp_path):  # noqa: F811
    make_runs(stores, runs=1)
    for cycle in range(CYCLES):
        with dashboard.open():
            assert roles(tmp_path) == ["guard", "server"], cycle
        assert not family(tmp_path), cycle


def kill_at_random(seed: int, folder, dice: random.Random) -> None:
    """Open a shared dashboard, kill one of its processes at some moment, then its kernel; see what stays."""
    tag = folder / str(seed)
    tag.mkdir()
    kernel = start_kernel({TAG: str(tag), "STORES_DIR": str(tag / "stores"), "NGROK_AUTHTOKEN": "good"})
    time.sleep(dice.uniform(0.5, 9))
    victim = dice.choice(family(tag) or [psutil.Process(kernel.pid)])
    name = role(victim)
    victim.send_signal(dice.choice([signal.SIGKILL, signal.SIGTERM]))
    if name == "guard":
        deadline = time.monotonic() + 5
        while (left := set(roles(tag)) - {"kernel"}) and time.monotonic() < deadline and kernel.poll() is None:
            time.sleep(0.1)
        # A kernel that is still opening may open anew only when asked again.
        assert not left, f"seed {seed}: {left} outlived the guard"
    kernel.kill()
    kernel.communicate()
    assert not wait_for_none(tag), f"seed {seed}: left after {name} was killed: {roles(tag)}"


def test_kills_at_random_moments_leave_nothing(stores, ngrok, tmp_path):  # noqa: F811
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda seed: kill_at_random(seed, tmp_path, random.Random(seed)), range(KILLS)))


def test_importing_does_nothing(stores, tmp_path):  # noqa: F811
    program = "import mlflow; before = mlflow.get_tracking_uri(); import support.dashboard.view, os\n"
    program += "assert mlflow.get_tracking_uri() == before"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert not stores.exists()
    assert tracking.EXPERIMENT == "baselines"
