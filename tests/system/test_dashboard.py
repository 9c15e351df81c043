"""The dashboard's life: it opens, is found again, and leaves nothing behind, whoever is killed and when.

DASHBOARD_CYCLES and DASHBOARD_KILLS say how often; `make soak` runs 50 cycles and 20 kills.
"""

import os
import random
import signal
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
    only,
    role,
    roles,
    stores,
    wait_for_none,
)
from jupyter_client.manager import KernelManager

from support import dashboard
from support.dashboard import checks, launch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="There is no SIGKILL on Windows.")
CYCLES = int(os.environ.get("DASHBOARD_CYCLES", 2))
KILLS = int(os.environ.get("DASHBOARD_KILLS", 3))
KERNEL = """
import sys, time
from support import dashboard
board = dashboard.open(**eval(sys.argv[1]))
print(board.url, board.local_url, flush=True)
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
    """Wait until the kernel's dashboard is open and return its URL, which it prints after words for the reader."""
    line = "words"
    while not line.startswith("http"):
        line = kernel.stdout.readline()
        assert line, "The kernel ended."
    return line.split()[0]


def end(*kernels: subprocess.Popen) -> None:
    for kernel in kernels:
        kernel.kill()
        kernel.communicate()


def test_others_find_the_same_one_and_it_outlives_who_opened_it(stores, tmp_path, capsys):  # noqa: F811
    kernels = [start_kernel() for _ in range(2)]  # at once
    [url] = {url_of(kernel) for kernel in kernels}
    assert roles(tmp_path) == ["kernel", "kernel", "server"]
    with dashboard.open() as board:
        assert board.url == url
        end(kernels[0])
        time.sleep(1)
        board.check()
    assert "Still open for other notebooks: 1." in capsys.readouterr().out
    dashboard.open().close(everyone=True)
    assert roles(tmp_path) == ["kernel"]
    end(kernels[1])


def test_one_that_is_about_to_end_is_not_adopted(stores, tmp_path):  # noqa: F811
    board = dashboard.open(auto_close=0.01)
    with dashboard.open() as again:
        again.check()
        assert roles(tmp_path) == ["server"]
        assert again._state["key"] == board._state["key"] or not launch.lease.lives(board._state["server"])


def test_auto_close_ends_it_in_time(stores, tmp_path):  # noqa: F811
    dashboard.open(auto_close=1)
    assert not wait_for_none(tmp_path, 6)


def test_one_that_hangs_is_replaced_at_the_same_address(stores, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(checks, "TIMEOUT", 1)
    monkeypatch.setattr(launch, "END_TIMEOUT", 1)
    first = dashboard.open()
    only(tmp_path, "server").suspend()
    with dashboard.open() as second:
        second.check()
        assert second.url == first.url
    assert "cannot be used, so a new one opens" in capsys.readouterr().out


def test_a_tunnel_opens_anew_at_the_same_local_address_and_one_that_changes_hosts_is_given_up(
    stores,  # noqa: F811
    ngrok,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    local = dashboard.open(share=False)
    monkeypatch.setenv("NGROK_AUTHTOKEN", "good")
    shared = dashboard.open()
    assert shared.local_url == local.url and shared.url.startswith("https://")
    only(tmp_path, "agent").send_signal(signal.SIGUSR1)
    with pytest.raises(dashboard.TunnelError, match="ERR_NGROK_3200"):
        shared.check()
    assert checks.fetch(local.url + "/")[0] == 200
    monkeypatch.setenv("NGROK_AUTHTOKEN", "rewrite")  # an edge that changes the Host header
    again = dashboard.open()
    assert "changes the Host or Origin header" in again.view and again.url == local.url and again.password is None
    assert roles(tmp_path) == ["server"]
    again.close()


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
        before = [process for process in family(tmp_path) if role(process) in ("server", "agent")]
        assert len(before) == 2
        end()
        psutil.wait_procs(before, timeout=5)
        assert not set(before) & set(family(tmp_path))  # one that has ended may still be a zombie

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


@pytest.mark.parametrize("victims", [["kernel"], ["server"], ["server", "kernel"]])
def test_what_is_killed_takes_all_else_along(victims, stores, ngrok, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("NGROK_AUTHTOKEN", "good")
    kernel = start_kernel()
    url_of(kernel)
    assert roles(tmp_path) == ["agent", "kernel", "server"]
    for process in [only(tmp_path, name) for name in victims]:
        process.kill()
    started = time.monotonic()
    while set(roles(tmp_path)) - {"kernel"} and time.monotonic() < started + 6:
        time.sleep(0.05)
    print(f"{victims}: nothing was left after {time.monotonic() - started:.2f} s")
    assert set(roles(tmp_path)) <= {"kernel"}
    end(kernel)


def test_cycles_leave_nothing(stores, tmp_path):  # noqa: F811
    make_runs(stores, count=1)
    for cycle in range(CYCLES):
        with dashboard.open():
            assert roles(tmp_path) == ["server"], cycle
        assert not family(tmp_path), cycle


def kill_at_random(seed: int, folder, dice: random.Random) -> None:
    """Open a shared dashboard, kill one of its processes at some moment, then its kernel; see what stays."""
    tag = folder / str(seed)
    tag.mkdir()
    kernel = start_kernel({TAG: str(tag), "STORES_DIR": str(tag / "stores"), "NGROK_AUTHTOKEN": "good"})
    time.sleep(dice.uniform(0.5, 12))
    victim = dice.choice(family(tag) or [psutil.Process(kernel.pid)])
    name = role(victim)
    victim.send_signal(dice.choice([signal.SIGKILL, signal.SIGTERM]))
    if name == "server":
        deadline = time.monotonic() + 5
        while "agent" in roles(tag) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "agent" not in roles(tag), f"seed {seed}: the agent outlived the server"
    end(kernel)
    assert not wait_for_none(tag), f"seed {seed}: left after {name} was killed: {roles(tag)}"


def test_kills_at_random_moments_leave_nothing(stores, ngrok, tmp_path):  # noqa: F811
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda seed: kill_at_random(seed, tmp_path, random.Random(seed)), range(KILLS)))
