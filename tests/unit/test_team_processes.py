"""When a team's server ends, and with it its database: never on a doubt."""

import os
import time

import pytest

from support.dashboard import lease
from support.team import processes, server
from support.tracking import orphans

GONE = f"{orphans.host()} another-boot 1 1"


@pytest.fixture
def folder(tmp_path):
    """A server's folder with a lease of this process."""
    lease.write(tmp_path / "server" / "leases")
    return tmp_path


def only_lease(folder):
    return lease.own(folder / "server" / "leases")


def test_it_ends_when_the_notebook_says_so_or_is_gone(folder):
    assert processes.is_needed(folder, orphans.this_process())
    lease.write(folder / "server" / "leases", seconds=0)
    assert not processes.is_needed(folder, orphans.this_process())
    lease.write_private(only_lease(folder), {"process": GONE, "until": None})
    assert not processes.is_needed(folder, GONE)


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("{"), os.truncate])
def test_a_lease_that_is_missing_or_damaged_ends_nothing_while_the_notebook_lives(folder, spoil):
    spoil(only_lease(folder), 0) if spoil is os.truncate else spoil(only_lease(folder))
    assert processes.is_needed(folder, orphans.this_process())
    assert not processes.is_needed(folder, GONE)


@pytest.mark.parametrize("step", [-86400, 2, 86400])
def test_no_step_of_the_clock_ends_it(folder, monkeypatch, step):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + step)
    assert processes.is_needed(folder, orphans.this_process())


def test_what_a_double_kill_left_is_removed_and_what_lives_or_is_unknown_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(server.tempfile, "gettempdir", lambda: str(tmp_path))
    lives, gone, unknown, foreign = (tmp_path / f"team-{name}" for name in ("lives", "gone", "unknown", "foreign"))
    for folder in (lives, gone, foreign):
        lease.write(folder / "server" / "leases")
    unknown.mkdir()
    lease.write_private(only_lease(gone), {"process": GONE, "until": None})
    lease.write_private(only_lease(foreign), {"process": "another-machine b 1 1", "until": None})
    server.remove_leftovers()
    assert {path for path in tmp_path.iterdir() if path.name.startswith("team-")} == {lives, unknown, foreign}


def test_without_the_projects_folder_it_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "COMPOSE", tmp_path / "deploy" / "compose.yaml")
    monkeypatch.setattr(server, "remove_leftovers", lambda: None)
    with pytest.raises(server.TeamError, match="needs deploy/, which only the project's folder has"):
        server.open()
