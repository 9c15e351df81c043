"""Real trainings, killed with SIGKILL: nothing is lost, nothing is there twice, and the end is the same."""

import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
import torch
import training_processes
from mlflow import MlflowClient

from support.lineage import LineageError, resume
from support.tracking.orphans import PROCESS, end_orphans, this_process
from support.tracking.runs import best_run, histories
from support.tracking.store import connect
from support.tracking.training_run import load_tagger

# `make soak` lets each of eight processes log 200 runs, and kills at 20 moments.
RUNS = int(os.environ.get("CLIENT_RUNS", 25))
RANDOM_MOMENTS = int(os.environ.get("TRAINING_KILLS", 4))
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="There is no SIGKILL on Windows.")


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """Return one stores folder for all processes: each leaves its run there."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def whole(processes, stores) -> tuple[str, float]:
    """Return an uninterrupted run's id, and how many seconds it took."""
    process = processes(training_processes.train, stores)
    process.join()
    assert process.exitcode == 0
    connect(stores)
    run = best_run()
    return run.info.run_id, (run.info.end_time - run.info.start_time) / 1000


def killed(process) -> bool:
    process.join()
    return process.exitcode == -signal.SIGKILL


def newest(stores: Path) -> str:
    with closing(sqlite3.connect(stores / "mlflow.db", timeout=60)) as database:
        return database.execute("SELECT run_uuid FROM runs ORDER BY start_time DESC LIMIT 1").fetchone()[0]


def count(stores: Path, query: str, *values: str) -> int:
    with closing(sqlite3.connect(stores / "mlflow.db", timeout=60)) as database:
        return database.execute(query, values).fetchone()[0]


def weights(run_id: str) -> dict[str, torch.Tensor]:
    return load_tagger(run_id).model.state_dict()


def resume_elsewhere(processes, stores: Path, run_id: str, named: bool = False) -> None:
    """Resume the run in a process of its own, and let it end."""
    process = processes(training_processes.resume_run, stores, run_id, named)
    process.join()
    assert process.exitcode == 0


def check_whole(stores: Path, run_id: str, whole_id: str) -> None:
    """The run is as whole as the one that nobody killed."""
    connect(stores)
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert histories(run_id) == histories(whole_id)
    doubled = "SELECT count(*) - count(DISTINCT key || ' ' || step) FROM metrics WHERE run_uuid = ? "
    assert count(stores, f"{doubled} AND key NOT LIKE 'system/%'", run_id) == 0
    expected = weights(whole_id)
    assert all(torch.equal(value, expected[name]) for name, value in weights(run_id).items())
    assert count(stores, "SELECT count(*) FROM runs WHERE status = 'RUNNING'") == 0
    assert not list((stores / "checkpoints").iterdir())
    assert count(stores, "PRAGMA integrity_check") == "ok"


@pytest.mark.parametrize("moment", training_processes.MOMENTS)
def test_killed_at_a_bad_moment(processes, stores, whole, moment):
    assert killed(processes(training_processes.train, stores, moment))
    run_id = newest(stores)
    assert run_id != whole[0]
    connect(stores)
    assert mlflow.get_run(run_id).info.status == "KILLED"
    logged = histories(run_id)

    named = moment == "before the data is recorded"  # else all that it takes is in the run
    resume_elsewhere(processes, stores, run_id, named)
    check_whole(stores, run_id, whole[0])
    after = histories(run_id)
    assert all(after[name].items() >= steps.items() for name, steps in logged.items())  # nothing was lost


@pytest.mark.parametrize("seed", range(RANDOM_MOMENTS))
def test_killed_at_a_random_moment(processes, stores, whole, seed):
    before = count(stores, "SELECT count(*) FROM runs")
    process = processes(training_processes.train, stores)
    while count(stores, "SELECT count(*) FROM runs") == before:
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, whole[1]))
    process.kill()
    process.join()
    run_id = newest(stores)
    connect(stores)
    if mlflow.get_run(run_id).info.status == "KILLED":
        resume_elsewhere(processes, stores, run_id, named=True)
    check_whole(stores, run_id, whole[0])


def test_killed_again_while_resumed(processes, stores, whole):
    assert killed(processes(training_processes.train, stores, "before an epoch's metrics"))
    run_id = newest(stores)
    for moment in ("between metrics and checkpoint", "with half a model written"):
        assert killed(processes(training_processes.resume_run, stores, run_id, False, moment))
    resume_elsewhere(processes, stores, run_id)
    check_whole(stores, run_id, whole[0])


def test_live_runs_and_other_machines_are_left_alone(processes, tmp_path):
    stores = tmp_path / "stores"
    process = processes(training_processes.wait_in_run, stores)
    while not (stores / "waiting").exists():
        time.sleep(0.05)
    connect(stores)
    alive, client = newest(stores), MlflowClient()
    experiment = mlflow.get_run(alive).info.experiment_id
    host, boot, pid, start = this_process().split()

    def run_of(identity: str | None) -> str:
        return client.create_run(experiment, tags={PROCESS: identity} if identity else {}).info.run_id

    def status(run_id: str) -> str:
        return mlflow.get_run(run_id).info.status

    left = [run_of(f"elsewhere {boot} 999999999 {start}"), run_of(this_process()), run_of(None)]
    gone = run_of(f"{host} {boot} 999999999 {start}")
    reused = run_of(f"{host} {boot} {pid} {int(start) - 1}")  # the id of a dead process was given to this one
    before_the_start = run_of(f"{host} another-boot {pid} {start}")
    assert sorted(end_orphans()) == sorted([gone, reused, before_the_start])
    assert {status(run_id) for run_id in (alive, *left)} == {"RUNNING"}
    assert {status(run_id) for run_id in (gone, reused, before_the_start)} == {"KILLED"}
    with pytest.raises(LineageError, match="is running"):
        resume(alive, training_processes.PARAMS, training_processes.sample_splits())

    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert end_orphans() == [alive]


def test_many_processes_log_into_one_new_store(processes, tmp_path):
    stores = tmp_path / "stores"
    workers = [processes(training_processes.log_runs, stores, RUNS) for _ in range(8)]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert count(stores, "SELECT count(*) FROM runs WHERE status = 'FINISHED'") == 8 * RUNS
    assert count(stores, "SELECT count(*) FROM metrics") == 8 * RUNS
    assert count(stores, "SELECT count(*) FROM params") == 8 * RUNS
