"""Runs that say RUNNING though nobody works on them any more: a process that is killed cannot end its run.

A run carries the identity of its process in a tag. It is an orphan only when this very machine knows that the
process is gone. Runs of other machines are left alone.
"""

import hashlib
import os
import socket
import uuid
from functools import cache
from pathlib import Path

import mlflow
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

PROCESS = "support.process"  # the tag that holds the identity
BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """Return the identity of this process: "host boot pid start", which no setting of the clock changes."""
    return f"{host()} {_boot()} {os.getpid()} {_start(os.getpid())}"


def is_gone(identity: str) -> bool:
    """Return whether this was a process of this machine that has surely ended. When in doubt, it has not."""
    parts = identity.split()
    if len(parts) != 4 or parts[0] != host() or not parts[2].isdecimal():
        return False
    return parts[1] != _boot() or parts[3] != _start(int(parts[2]))


def is_orphan(run: Run) -> bool:
    """Return whether the run says RUNNING and its process is known to be gone."""
    return run.info.status == "RUNNING" and is_gone(run.data.tags.get(PROCESS, ""))


def end_orphans() -> list[str]:
    """Set the orphans that one may end to KILLED, and return their run ids. Call it under the store's lock."""
    here = f"attributes.status = 'RUNNING' and tags.`{PROCESS}` LIKE '{host()} %'"
    runs = mlflow.search_runs(search_all_experiments=True, filter_string=here, output_format="list")
    ended = []
    for run in filter(is_orphan, runs):
        try:
            MlflowClient().set_terminated(run.info.run_id, "KILLED")
        except MlflowException as error:  # on a server, of another member who shares this machine
            if error.error_code != "PERMISSION_DENIED":
                raise
        else:
            ended.append(run.info.run_id)
    return ended


@cache
def host() -> str:
    """Return 16 hex digits for this machine; containers that share one but not its process ids differ."""
    machine, namespace = Path("/etc/machine-id"), Path("/proc/self/ns/pid")
    name = machine.read_text().strip() if machine.exists() else f"{uuid.getnode()}"
    processes = os.readlink(namespace) if namespace.exists() else ""
    return hashlib.sha256(f"{name} {socket.gethostname()} {processes}".encode()).hexdigest()[:16]


def _boot() -> str:
    """Return what changes with each start of the machine; elsewhere than on Linux, start times tell it."""
    return BOOT.read_text().strip() if BOOT.exists() else "-"


def _start(pid: int) -> str | None:
    """Return when a process started, as its system counts it; None where no such process lives.

    Linux counts from its own start. psutil makes seconds since 1970 of that, which change with the clock.
    """
    try:
        if not BOOT.exists():
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
        # After the name, which may hold anything, in brackets: the state, and 19 fields on the start.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None
