"""How a notebook finds a dashboard's guard, starts one, and talks to it.

Notebooks find it through a file in the stores folder, readable by its owner alone: the guard's process id and
start time, its port on this machine and a key. With the key each side proves itself to the other; the
password of a tunnel is in no file. A guard that does not prove itself is neither used nor stopped.
"""

import contextlib
import hmac
import json
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from support.dashboard import tunnel as agent

ROOT = Path(__file__).resolve().parents[1]
TOO_SLOW = "Open it again when this machine is less busy."
START_TIMEOUT = 60  # seconds for the server to answer; it takes about 3 here, more on a cold disk
# For Popen: a process that outlives its parent, and that an interrupt in the notebook does not reach.
OF_ITS_OWN = (
    {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    if sys.platform == "win32"
    else {"start_new_session": True}
)


class DashboardError(RuntimeError):
    """The dashboard cannot be opened or reached; says why and what to do."""


def process_of(pid: int, started: float) -> psutil.Process | None:
    """Give the process with this id and start time (seconds since 1970), or None when it has ended."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def read_state(folder: Path) -> dict | None:
    """Give the state of the guard that runs for this folder, or None when none does."""
    try:
        state = json.loads((folder / "guard.json").read_text())
    except FileNotFoundError:
        return None
    return state if process_of(state["pid"], state["started"]) else None


def start(folder: Path, config: dict, owner: dict) -> dict:
    """Start a guard with its server for `folder` and give its state. Raises DashboardError."""
    for stale in folder.glob("ngrok-*.yml"):  # of a guard and a server that were killed at once
        agent.stop(stale)
    (folder / "guard.json").unlink(missing_ok=True)
    with (folder / "guard.log").open("w") as log:
        guard = subprocess.Popen(
            [sys.executable, "-m", "support.dashboard.guard"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            **OF_ITS_OWN,
        )
    threading.Thread(target=guard.wait, daemon=True).start()  # so that it leaves no zombie
    try:
        tell(guard, {"folder": str(folder), "owner": owner, **config})
        deadline = time.monotonic() + START_TIMEOUT
        while not (state := read_state(folder)):
            died = guard.poll() is not None
            if died or time.monotonic() > deadline:
                why = "died while it started." if died else f"did not start in {START_TIMEOUT} s. {TOO_SLOW}"
                raise DashboardError(f"the dashboard's guard {why} {tail(folder / 'guard.log')}")
            time.sleep(0.02)
    except BaseException:  # an interrupt too: leave nothing half open
        guard.kill()
        raise
    return state


def tell(process: subprocess.Popen, what: dict | str) -> None:
    """Write a line of JSON to a process. One that has ended hears nothing: who waits for it says why."""
    line = json.dumps(what).encode() + b"\n"
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except (OSError, ValueError):  # ValueError: closed below, when an earlier line could not be written
        with contextlib.suppress(OSError):  # the line is still in the buffer, and would fail again
            process.stdin.close()
        process.wait(START_TIMEOUT)


def ask(state: dict, do: str, timeout: float = START_TIMEOUT + agent.START_TIMEOUT, **what) -> dict:
    """Have the guard do something and give its answer. Raises DashboardError.

    Both sides prove that they have the key, over a nonce, without sending it.
    """
    nonce, request = secrets.token_hex(16), json.dumps({"do": do, **what})
    try:
        with socket.create_connection(("127.0.0.1", state["port"]), timeout) as connection:
            connection.sendall(f"{nonce} {sign(state['key'], nonce, request)} {request}\n".encode())
            proof, _, answer = connection.makefile(encoding="utf-8").readline().partition(" ")
    except OSError as error:
        raise DashboardError(f"the dashboard's guard does not answer ({error}). Open it again.") from error
    if not hmac.compare_digest(proof, sign(state["key"], nonce, "answer", answer)):
        raise DashboardError("what answers in place of the dashboard's guard is not ours. Open a new one.")
    answer = json.loads(answer)
    if "error" in answer:
        raise DashboardError(answer["error"])
    return answer


def sign(key: str, *parts: str) -> str:
    return hmac.new(bytes.fromhex(key), "\n".join(part.strip() for part in parts).encode(), "sha256").hexdigest()


def tail(log: Path, lines: int = 8) -> str:
    """Give the last lines of a log, as the end of an error message."""
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    return "Its last log lines:\n" + "\n".join(text.splitlines()[-lines:]) if text else "Its log is empty."
