"""What of deploy/ runs on a database."""

import runpy
import sqlite3
import sys
from contextlib import closing

import pytest

from support import tracking
from support.config import PROJECT_DIR
from support.tracking import store


def test_a_lost_index_is_named_with_what_makes_it_again(monkeypatch, capsys) -> None:
    uri = tracking.connect()
    monkeypatch.setattr(sys, "argv", ["indexes.py", uri])

    def look() -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(PROJECT_DIR / "deploy" / "indexes.py"))
        return end.value.code, capsys.readouterr().out

    assert look() == (0, "0 indexes are missing.\n")
    with closing(sqlite3.connect(store.database_of(uri))) as database:
        database.execute("DROP INDEX index_metrics_run_uuid")
        status, said = look()
        assert status == 1 and said.startswith("CREATE INDEX index_metrics_run_uuid ON metrics (run_uuid);\n1 index")
        database.execute(said.splitlines()[0])
        assert look()[0] == 0
