"""The guard: a small process of its own that owns a dashboard's server and tunnel, and ends both in time.

It is started by `support.dashboard.contact` and outlives the kernel by a second, not more. It stops everything when no
notebook that uses the dashboard is left alive, when their time is up, when the server dies, when told to, or
on SIGTERM. If the guard itself is killed, the server notices (see `support.dashboard.server`), ends the agent, and ends
itself. So no way of dying leaves anything behind.
"""

import hmac
import json
import os
import secrets
import signal
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from support.dashboard import tunnel as agent
from support.dashboard.contact import (
    ROOT,
    START_TIMEOUT,
    TOO_SLOW,
    DashboardError,
    process_of,
    read_state,
    sign,
    tail,
    tell,
)

TICK = 0.25  # seconds between two looks at who is still alive


class Guard:
    """Owns one server, at most one tunnel, and the list of notebooks for which it holds them."""

    def __init__(self, folder: str, owner: dict, store: str, artifacts: str, port: int, only_this: bool):
        self.folder = Path(folder)
        self.ngrok_config = self.folder / f"ngrok-{os.getpid()}.yml"
        self.config = {"store": store, "artifacts": artifacts, "ngrok_config": str(self.ngrok_config)}
        self.port, self.only_this = port, only_this
        self.key = secrets.token_hex(32)
        self.owners: dict[int, dict] = {}
        self.server: subprocess.Popen | None = None
        self.agent: psutil.Process | None = None
        self.tunnel: dict = {}
        self.hosts: list[str] = []
        self.stopping = threading.Event()
        self.one_at_a_time, self.counting = threading.RLock(), threading.RLock()
        self.claim(**owner)

    # What a notebook may ask for. Each gives a JSON object.

    def claim(self, pid: int, started: float, seconds: float | None = None) -> dict:
        """Keep the dashboard open for this notebook, so many seconds if told so; say if it is too late."""
        until = None if seconds is None else time.monotonic() + seconds
        with self.counting:
            self.owners[pid] = {"started": started, "until": until}
            return {"too_late": self.stopping.is_set()}

    def release(self, pid: int, everyone: bool = False) -> dict:
        """Stop keeping it open for this notebook; say how many others are left."""
        with self.counting:
            self.owners.pop(pid, None)
            if everyone:
                self.owners.clear()
        return {"left": self.count()}

    def status(self) -> dict:
        if self.agent and not self.agent.is_running():
            self.close_tunnel()
        return {
            "url": f"http://127.0.0.1:{self.port}",
            "store": self.config["store"],
            "hosts": self.hosts,
            **self.tunnel,
        }

    def bind(self) -> dict:
        """Start a server that has its port and answers nothing yet."""
        with self.one_at_a_time:
            self.end_server()
            with (self.folder / "server.log").open("w") as log:
                self.server = subprocess.Popen(
                    [sys.executable, "-m", "support.dashboard.server"],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
            started = time.monotonic()
            too_late = threading.Timer(START_TIMEOUT, self.server.kill)  # a pipe is read without a timeout
            too_late.daemon = True
            too_late.start()
            tell(self.server, {**self.config, "port": self.port, "only_this": self.only_this})
            said = json.loads(self.server.stdout.readline() or "{}")
            too_late.cancel()
            if "error" in said:
                raise DashboardError(
                    f"port {self.port} of this machine cannot be used: {said['error']}. Give another one, or none."
                )
            if "port" not in said:
                raise self.no_start(too_slow=time.monotonic() - started >= START_TIMEOUT)
            self.port, self.only_this = said["port"], True  # a server that follows keeps the address
            return {"port": self.port}

    def serve(self, hosts: list[str]) -> dict:
        """Let the server answer to `hosts`, and wait until it does. One that serves others starts anew."""
        with self.one_at_a_time:
            if self.hosts and self.hosts != hosts:
                self.bind()
            if self.hosts != hosts:
                tell(self.server, {"hosts": hosts})
                self.wait_for_server()
                self.hosts = hosts
            return {}

    def open_tunnel(self, token: str, user: str, password: str) -> dict:
        with self.one_at_a_time:
            try:
                url, self.agent = agent.start(self.port, token, user, password, self.ngrok_config)
            except agent.TunnelError as error:
                return {"error": str(error)}
            self.tunnel = {"public_url": url, "user": user, "password": password}
            return self.tunnel

    def close_tunnel(self) -> dict:
        self.tunnel, self.agent = {}, None
        agent.stop(self.ngrok_config)
        return {}

    # How it goes about it.

    def wait_for_server(self) -> None:
        """Wait for the first answer: the port is bound already, so one request waits as long as needed."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=START_TIMEOUT):
                return
        except (URLError, OSError) as error:
            raise self.no_start(too_slow="timed out" in str(error)) from error

    def no_start(self, too_slow: bool) -> DashboardError:
        """Give the error that says why there is no server; one that is too slow is not waited for again."""
        self.server.kill()
        why = f"gave no answer in {START_TIMEOUT} s. {TOO_SLOW}" if too_slow else "died while it started."
        return DashboardError(f"MLflow's server {why} {tail(self.folder / 'server.log')}")

    def end_server(self) -> None:
        if not self.server:
            return
        tell(self.server, "goodbye")
        self.server.stdin.close()
        try:
            self.server.wait(4)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        self.server.stdout.close()
        self.server, self.hosts = None, []

    def count(self) -> int:
        """Count the notebooks that are alive and whose time is not up; stop when there is none."""
        with self.counting:
            for pid, owner in list(self.owners.items()):
                due = owner["until"] is not None and time.monotonic() > owner["until"]
                if due or not process_of(pid, owner["started"]):
                    del self.owners[pid]
            if not self.owners:
                self.stopping.set()
            return len(self.owners)

    def server_died(self) -> bool:
        """Tell whether the server has ended by itself. One that a request ends just now has not."""
        if not self.one_at_a_time.acquire(blocking=False):
            return False
        try:
            return bool(self.hosts) and self.server.poll() is not None
        finally:
            self.one_at_a_time.release()

    def watch(self) -> None:
        """Run until there is a reason to stop, then leave nothing."""
        while self.count() and not self.stopping.wait(TICK):
            if self.server_died():
                break
        self.stopping.set()
        if (state := read_state(self.folder)) and state["pid"] == os.getpid():
            (self.folder / "guard.json").unlink()
        self.close_tunnel()
        self.end_server()
        agent.stop(self.ngrok_config)  # once more: one may have been on its way

    def listen(self) -> None:
        """Take requests from notebooks, in threads of their own, and say where in the state file."""
        control = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Requests)
        control.daemon_threads, control.guard = True, self
        threading.Thread(target=control.serve_forever, daemon=True).start()
        state = {
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "port": control.server_address[1],
            "key": self.key,
        }
        new = self.folder / f"guard-{os.getpid()}.json"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(state, file)
        new.replace(self.folder / "guard.json")


class Requests(socketserver.StreamRequestHandler):
    """One request a connection: a nonce, a proof of the key, and JSON. The answer is a proof and JSON."""

    timeout = 5  # seconds for whoever connects to say what it wants
    known = frozenset({"claim", "release", "status", "bind", "serve", "open_tunnel", "close_tunnel"})

    def handle(self) -> None:
        guard = self.server.guard
        nonce, _, signed = self.rfile.readline(1 << 16).decode(errors="replace").partition(" ")
        proof, _, request = signed.partition(" ")
        if not hmac.compare_digest(proof.encode(), sign(guard.key, nonce, request).encode()):
            return
        what = json.loads(request)
        try:
            if what["do"] not in self.known:
                raise DashboardError(f"the guard cannot {what['do']}")
            answer = getattr(guard, what.pop("do"))(**what)
        except DashboardError as error:
            answer = {"error": str(error)}
        answer = json.dumps(answer)
        self.wfile.write(f"{sign(guard.key, nonce, 'answer', answer)} {answer}\n".encode())


def main() -> None:
    """Read what to guard from standard input, and guard it."""
    config = json.loads(sys.stdin.readline())
    guard = Guard(**config)
    os.environ.pop("NGROK_AUTHTOKEN", None)  # the server has no business with it
    signal.signal(signal.SIGTERM, lambda *_: guard.stopping.set())
    guard.listen()
    guard.watch()


if __name__ == "__main__":
    main()
