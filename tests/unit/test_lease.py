"""Leases: what counts, whatever the clock says, and what a child inherits from its parent's end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.dashboard import lease
from support.tracking import orphans

GONE = f"{orphans.host()} another-boot 1 1"


def test_a_lease_counts_while_its_process_lives_and_its_time_lasts(tmp_path):
    lease.write(tmp_path)
    assert lease.living(tmp_path) == [lease.own(tmp_path)]
    lease.write(tmp_path, seconds=60)
    assert lease.living(tmp_path)
    lease.write(tmp_path, seconds=-1)
    assert not lease.living(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"process": GONE, "until": None},
        {"process": f"another-machine b {os.getpid()} 1", "until": None},
        {"process": None},
        {},
        [],
        "no lease",
    ],
)
def test_what_is_no_lease_of_a_live_process_here_does_not_count(tmp_path, content):
    (tmp_path / "1.json").write_text(json.dumps(content))
    (tmp_path / "2.json").write_text("{")
    assert not lease.living(tmp_path)


@pytest.mark.parametrize("step", [-3600, 3600])
def test_no_step_of_the_clock_ends_a_lease(tmp_path, monkeypatch, step):
    lease.write(tmp_path, seconds=60)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + step)
    assert lease.living(tmp_path)
    assert lease.lives(orphans.this_process())


def test_a_lease_is_private_and_written_whole(tmp_path, monkeypatch):
    folder = tmp_path / "leases"
    lease.write(folder)
    assert folder.stat().st_mode & 0o777 == 0o700 and lease.own(folder).stat().st_mode & 0o777 == 0o600
    before = lease.own(folder).read_text()
    monkeypatch.setattr(json, "dump", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lease.write(folder, 60)
    assert lease.own(folder).read_text() == before and len(lease.living(folder)) == 1


def test_a_file_that_cannot_be_read_is_a_doubt_and_no_end(tmp_path):
    with pytest.raises(OSError, match="directory"):
        lease.read(tmp_path)


def test_a_process_is_killed_by_its_identity_and_no_other_is(tmp_path):
    program = "from support.tracking import orphans; print(orphans.this_process(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        identity = process.stdout.readline().strip()
        lease.kill(identity.rpartition(" ")[0] + " 1")  # another that had its id before
        assert process.poll() is None and lease.lives(identity)
        lease.kill(identity)
        assert process.wait() == -signal.SIGKILL and lease.wait_for_end(identity, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux ends a child with its parent.")
def test_a_child_ends_with_its_parent(tmp_path):
    program = f"""
import os, signal, subprocess, sys
from support.dashboard import lease
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, **lease.ends_with_parent())
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    pid = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()
