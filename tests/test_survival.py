"""Real trainings, killed with SIGKILL: nothing is lost, nothing is there twice, and the end is the same."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import psutil
import pytest
import torch
import victims
from mlflow import MlflowClient

from support.lineage import lineage
from support.models.checkpoint import Checkpoint, CheckpointError
from support.tracking import orphans as ghosts
from support.tracking import provenance
from support.tracking import training_run as tracking

# `make soak` lets each of eight processes log 200 runs, and kills at 20 moments.
RUNS = int(os.environ.get("CLIENT_RUNS", 25))
RANDOM_MOMENTS = int(os.environ.get("TRAINING_KILLS", 6))
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(sys.platform == "win32", reason="There is no SIGKILL on Windows."),
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """Give one store for all the victims: each leaves its run there."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def whole(processes, stores) -> tuple[str, float]:
    """Give an uninterrupted run's id, and how many seconds it took."""
    process = processes(victims.train, stores)
    process.join()
    assert process.exitcode == 0
    tracking.connect(stores)
    run = tracking.best_run()
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
    return tracking.load_tagger(run_id).model.state_dict()


def resume(processes, stores: Path, run_id: str, named: bool = False) -> None:
    """Resume the run in a process of its own, and let it end."""
    process = processes(victims.resume, stores, run_id, named)
    process.join()
    assert process.exitcode == 0


def check_whole(stores: Path, run_id: str, whole_id: str) -> None:
    """The run is as whole as the one that nobody killed."""
    tracking.connect(stores)
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert lineage.histories(run_id) == lineage.histories(whole_id)
    doubled = "SELECT count(*) - count(DISTINCT key || ' ' || step) FROM metrics WHERE run_uuid = ?"
    assert count(stores, doubled, run_id) == 0
    expected = weights(whole_id)
    assert all(torch.equal(value, expected[name]) for name, value in weights(run_id).items())
    assert count(stores, "SELECT count(*) FROM runs WHERE status = 'RUNNING'") == 0
    assert not list((stores / "checkpoints").iterdir())
    assert count(stores, "PRAGMA integrity_check") == "ok"


@pytest.mark.parametrize("moment", victims.MOMENTS)
def test_killed_at_a_bad_moment(processes, stores, whole, moment):
    assert killed(processes(victims.train, stores, moment))
    run_id = newest(stores)
    assert run_id != whole[0]
    tracking.connect(stores)
    assert mlflow.get_run(run_id).info.status == "KILLED"
    logged = lineage.histories(run_id)

    named = moment == "before the data is recorded"  # else all that it takes is in the run
    resume(processes, stores, run_id, named)
    check_whole(stores, run_id, whole[0])
    after = lineage.histories(run_id)
    assert all(after[name].items() >= steps.items() for name, steps in logged.items())  # nothing was lost


@pytest.mark.parametrize("seed", range(RANDOM_MOMENTS))
def test_killed_at_a_random_moment(processes, stores, whole, seed):
    before = count(stores, "SELECT count(*) FROM runs")
    process = processes(victims.train, stores)
    while count(stores, "SELECT count(*) FROM runs") == before:
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, whole[1]))
    process.kill()
    process.join()
    run_id = newest(stores)
    tracking.connect(stores)
    if mlflow.get_run(run_id).info.status == "KILLED":
        resume(processes, stores, run_id, named=True)
    check_whole(stores, run_id, whole[0])


def test_killed_again_while_resumed(processes, stores, whole):
    assert killed(processes(victims.train, stores, "between checkpoint and metrics"))
    run_id = newest(stores)
    for moment in ("after an epoch's metrics", "with half a model written"):
        assert killed(processes(victims.resume, stores, run_id, False, moment))
    resume(processes, stores, run_id)
    check_whole(stores, run_id, whole[0])


def test_other_params_or_data_are_refused(processes, stores, whole):
    assert killed(processes(victims.train, stores, "after an epoch's metrics"))
    run_id = newest(stores)
    tracking.connect(stores)
    with pytest.raises(lineage.LineageError, match=r"lr: 0.01 there, 0.02 here"):
        lineage.resume(run_id, params=victims.Params(**{**vars(victims.PARAMS), "lr": 0.02}))
    others = victims.split(victims.load_projects(victims.SAMPLE_DIR), seed=1)
    with pytest.raises(lineage.LineageError, match=r"split seed: 1234 there, 1 here"):
        lineage.resume(run_id, splits=others)
    with pytest.raises(lineage.LineageError, match="finished"):
        lineage.resume(whole[0])
    assert mlflow.get_run(run_id).info.status == "KILLED"  # and can still be resumed


def test_live_runs_and_other_machines_are_left_alone(processes, tmp_path):
    stores = tmp_path / "stores"
    process = processes(victims.wait_in_run, stores)
    while not (stores / "waiting").exists():
        time.sleep(0.05)
    tracking.connect(stores)
    alive = newest(stores)
    client = MlflowClient()
    experiment = mlflow.get_run(alive).info.experiment_id

    def run_of(**tags) -> str:
        own = provenance.process_tags()
        tags = {**own, **{f"process.{name}": value for name, value in tags.items()}}
        return client.create_run(experiment, tags=tags).info.run_id

    elsewhere = run_of(host="another", pid="999999999")
    mine = run_of()
    by_hand = client.create_run(experiment).info.run_id
    gone = run_of(pid="999999999")
    # The id of a dead process was given to a new one.
    reused = run_of(started=str(psutil.Process().create_time() - 3600))

    def status(run_id: str) -> str:
        return mlflow.get_run(run_id).info.status

    assert sorted(ghosts.lay()) == sorted([gone, reused])
    assert {status(run_id) for run_id in (alive, elsewhere, mine, by_hand)} == {"RUNNING"}
    assert {status(run_id) for run_id in (gone, reused)} == {"KILLED"}
    with pytest.raises(lineage.LineageError, match="is running"):
        lineage.resume(alive, victims.PARAMS, victims.sample_splits())

    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        zombie = run_of(pid=str(child.pid), started=str(psutil.Process(child.pid).create_time()))
        assert ghosts.lay() == [alive]
        child.kill()  # and is not waited for, as in a notebook's kernel
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert ghosts.lay() == [zombie]


def test_many_processes_log_into_one_new_store(processes, tmp_path):
    stores = tmp_path / "stores"
    workers = [processes(victims.log_runs, stores, RUNS) for _ in range(8)]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert count(stores, "SELECT count(*) FROM runs WHERE status = 'FINISHED'") == 8 * RUNS
    assert count(stores, "SELECT count(*) FROM metrics") == 8 * RUNS
    assert count(stores, "SELECT count(*) FROM params") == 8 * RUNS


def test_a_damaged_checkpoint_is_a_clear_error(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    assert checkpoint.load() is None
    checkpoint.save({"epoch": 3})
    assert checkpoint.load() == {"epoch": 3}
    content = checkpoint.path.read_bytes()
    for damaged in (content[:-1], content[:40] + bytes([content[40] ^ 1]) + content[41:], b"", b"\x80\x04."):
        checkpoint.path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"run\.pt"):
            checkpoint.load()
