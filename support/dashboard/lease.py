"""Leases: the files by which a server knows which notebooks use it, so that it can end after the last one.

A notebook keeps a lease in a folder that the server reads every TICK seconds. The lease holds the identity of
the notebook's process and, if its time is limited, when that is over. Nobody has to say goodbye: the lease of
a process that is gone does not count. No step of the clock matters: a process is known by boot id and start
ticks, and `until` is in seconds of the monotonic clock, which all processes of a machine share.
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from support.tracking import orphans

TICK = 0.25  # seconds between two looks at the leases
PR_SET_PDEATHSIG = 1  # from Linux's sys/prctl.h


def write(folder: Path, seconds: float | None = None) -> None:
    """Keep a lease for this process, for so many seconds from now or for as long as it lives."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = None if seconds is None else time.monotonic() + seconds
    write_private(own(folder), {"process": orphans.this_process(), "until": until})


def own(folder: Path) -> Path:
    """Return the file of this process's lease."""
    return folder / f"{os.getpid()}.json"


def living(folder: Path) -> list[Path]:
    """Return the files of the leases that count."""
    return [path for path in folder.glob("*.json") if counts(read(path))]


def counts(lease: dict) -> bool:
    """Return whether the process of a lease lives on this machine, and its time is not over."""
    until = lease.get("until")
    return lives(lease.get("process")) and (until is None or time.monotonic() < until)


def lives(identity: str | None) -> bool:
    """Return whether this is the identity of a process of this machine that is not gone."""
    return str(identity).startswith(f"{orphans.host()} ") and not orphans.is_gone(identity)


def read(path: Path) -> dict:
    """Return what `write_private` has written; {} where there is no file, or another's. Raise OSError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_private(path: Path, content: dict) -> None:
    """Write a JSON file that its owner alone may read, whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
        json.dump(content, file)
    os.replace(file.name, path)


def wait_for_end(identity: str, seconds: float) -> bool:
    """Wait until a process is gone, at most so long; return whether it is."""
    deadline = time.monotonic() + seconds
    while lives(identity) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not lives(identity)


def kill(identity: str) -> None:
    """Kill the process with this identity, if it is still there, and wait until it is gone."""
    if lives(identity):
        psutil.Process(int(identity.split()[2])).kill()
        wait_for_end(identity, 5)


def ends_with_parent(how: int = getattr(signal, "SIGKILL", signal.SIGTERM)) -> dict:
    """Return options for Popen, by which Linux sends a child the signal `how` when this thread ends.

    However it ends: so start such a child from the main thread. Elsewhere there are no such options.
    """
    if sys.platform != "linux":
        return {}
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, how)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    return {"preexec_fn": in_child}
