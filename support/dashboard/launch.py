"""How a notebook finds the server of its stores, starts one, and ends it.

What notebooks know of a server is in stores/dashboard/state.json, readable by its owner alone: its process,
port and secret, the hosts that it answers, and, if there is a tunnel, the tunnel's address and password.
A notebook writes it under the lock. A server that it does not name any more ends.
"""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from support.config import PROJECT_DIR
from support.dashboard import checks, lease, places, tunnel
from support.dashboard.tunnel import TunnelError
from support.tracking import store

SERVER = [sys.executable, "-m", "support.dashboard.server"]
START_TIMEOUT = 80  # seconds for the server to start: about 3 here, more on a cold disk, 20 for a tunnel
END_TIMEOUT = 5  # seconds for a server that nobody needs to end


class DashboardError(RuntimeError):
    """The dashboard cannot be opened; says why and what to do."""


def find_or_start(folder: Path, uri: str, port: int | None, token: str | None, login: tuple[str, str]) -> dict:
    """Return the state of a server for the store `uri` that proves itself: the one that runs, or a new one.

    A server without a tunnel, where there is a token now, is replaced by one at the same address: the links
    of other notebooks stay good. Needs the lock. Raise DashboardError.
    """
    state = lease.read(folder / "state.json")
    state = state if lease.lives(state.get("server")) else {}
    if state and (state["store"] != uri or port not in (None, state["port"])):
        raise DashboardError(f"another dashboard is open in {folder.parent}, at port {state['port']}. Close it first.")
    if state and (state["public"] or not token) and set(hosts_of(state["port"])) <= set(state["hosts"]):
        try:
            checks.prove_ours(url_of(state))
            prove_public(state)
            return state
        except TunnelError as error:
            print(f"The dashboard that runs on these stores cannot be used, so a new one opens: {error}")
    if state:
        end(folder, state)
    address = state or {"port": free_port(port), "secret": secrets.token_urlsafe(18)}
    state = start(folder, uri, address, token, login)
    try:
        prove_public(state)
    except TunnelError as error:  # the server goes on without the tunnel
        tunnel.stop(folder / "ngrok.yml")
        state |= {"public": None, "problem": str(error)}
        lease.write_private(folder / "state.json", state)
    try:
        checks.prove_ours(url_of(state))
    except TunnelError as error:
        end(folder, state)
        raise DashboardError(str(error)) from error
    return state


def prove_public(state: dict) -> None:
    """Make sure that a tunnel, if there is one, leads to the server. Raise TunnelError."""
    if state["public"]:
        checks.prove_ours(url_of(state, state["public"]), (state["user"], state["password"]))


def start(folder: Path, uri: str, address: dict, token: str | None, login: tuple[str, str]) -> dict:
    """Start a server at the port and the secret of `address`, and return its state. Raise DashboardError."""
    tunnel.stop(folder / "ngrok.yml")  # of a server that was killed
    artifacts = store.artifact_location(uri) or (folder.parent / "artifacts").as_uri()
    login = {"user": login[0], "password": login[1]}
    # The key names the server in the state file before it can say which process it is.
    known = {"key": secrets.token_hex(8), "store": uri, "port": address["port"], "secret": address["secret"]}
    told = known | login | {"folder": str(folder), "artifacts": artifacts, "token": token}
    told["hosts"] = hosts_of(address["port"])
    lease.write_private(folder / "state.json", known)
    environment = {name: value for name, value in os.environ.items() if name != "NGROK_AUTHTOKEN"}
    try:
        _, said = start_process(SERVER, told, folder / "server.log", START_TIMEOUT, environment)
        state = known | said | (login if said["public"] else {})
        lease.write_private(folder / "state.json", state)
    except BaseException:  # an interrupt too: leave nothing half open
        (folder / "state.json").unlink(missing_ok=True)
        raise
    return state


def start_process(
    command: list[str], told: dict, log: Path, timeout: float, environment: dict
) -> tuple[subprocess.Popen, dict]:
    """Start a process that outlives this one, tell it a line of JSON, and return it and the line it answers.

    What else it prints goes to `log`. Raise DashboardError where it does not answer in `timeout` seconds.
    """
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=PROJECT_DIR,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,  # an interrupt in the notebook does not reach it
        )
    deadline = time.monotonic() + timeout
    too_late = threading.Timer(timeout, process.kill)  # a pipe is read without a timeout
    too_late.start()
    try:
        with contextlib.suppress(BrokenPipeError):  # it has died: its log says why
            process.stdin.write(json.dumps(told).encode() + b"\n")
            process.stdin.close()
        if line := process.stdout.readline():
            return process, json.loads(line)
        slow = f"did not start in {timeout} s. Open it again when this machine is less busy."
        why = slow if time.monotonic() > deadline else "died while it started."
        raise DashboardError(f"MLflow's server {why} {tail(log)}")
    except BaseException:  # an interrupt too
        process.kill()
        raise
    finally:
        too_late.cancel()
        process.stdout.close()
        threading.Thread(target=process.wait, daemon=True).start()  # so that it leaves no zombie


def wait_for_end(folder: Path, state: dict) -> int:
    """Wait until a server is gone, as long as no notebook uses it; return the number of those that do."""
    deadline = time.monotonic() + END_TIMEOUT
    while not lease.wait_for_end(state["server"], lease.TICK):
        if left := len(lease.living(folder / "leases")):
            return left
        if time.monotonic() > deadline:  # it hangs
            end(folder, state)
    return 0


def end(folder: Path, state: dict) -> None:
    """End a server, whoever uses it, and its tunnel."""
    (folder / "state.json").unlink(missing_ok=True)
    if not lease.wait_for_end(state["server"], END_TIMEOUT):
        lease.kill(state["server"])
    tunnel.stop(folder / "ngrok.yml")


def free_port(port: int | None = None) -> int:
    """Return `port`, or any that is free. Raise DashboardError for one that cannot be used."""
    try:
        with socket.create_server(("127.0.0.1", port or 0)) as listener:
            return listener.getsockname()[1]
    except OSError as error:
        why = f"port {port} of this machine cannot be used: {error.strerror}. Give another one, or none."
        raise DashboardError(why) from error


def url_of(state: dict, address: str | None = None) -> str:
    """Return a server's address with the secret; `address` leads to its port, by default on this machine."""
    return f"{address or 'http://127.0.0.1:' + str(state['port'])}/{state['secret']}"


def hosts_of(port: int) -> list[str]:
    """Return what a browser has in its address bar, or says that it has, when its user reaches a port."""
    place = places.place_of(port)
    return [f"http://127.0.0.1:{port}", f"http://localhost:{port}", *(place.origins if place else ())]


def tail(log: Path, lines: int = 8) -> str:
    """Return the last lines of a log, as the end of an error message."""
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    return "Its last log lines:\n" + "\n".join(text.splitlines()[-lines:]) if text else "Its log is empty."
