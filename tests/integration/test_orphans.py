"""Runs of dead processes are found, and no run of a live one: by what no clock changes."""

import multiprocessing
import os
import time

import mlflow
import psutil
import pytest
from mlflow import MlflowClient

from support.tracking import orphans
from support.tracking.orphans import PROCESS, end_orphans, host, is_gone, is_orphan, this_process
from support.tracking.store import connect, set_experiment
from support.tracking.training_run import start_run


@pytest.fixture(autouse=True)
def store() -> None:
    connect()
    set_experiment()


def a_running_run(identity: str) -> str:
    """Return the id of a run that says RUNNING, of the process with this identity."""
    run = MlflowClient().create_run(mlflow.get_experiment_by_name("baselines").experiment_id)
    MlflowClient().set_tag(run.info.run_id, PROCESS, identity)
    return run.info.run_id


@pytest.fixture(scope="module")
def dead() -> str:
    """Return the identity of a process of this machine that has ended."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
    process.start()
    identity = f"{host()} {orphans._boot()} {process.pid} {orphans._start(process.pid)}"
    assert not is_gone(identity)
    process.kill()
    process.join()
    return identity


def test_this_process_is_alive_and_a_dead_one_is_gone(dead) -> None:
    assert not is_gone(this_process())
    assert is_gone(dead)


def test_a_process_that_nobody_has_waited_for_yet_is_gone() -> None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
    process.start()
    identity = f"{host()} {orphans._boot()} {process.pid} {orphans._start(process.pid)}"
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert is_gone(identity)
    process.join()


def test_a_process_that_has_the_id_of_an_earlier_one_is_another() -> None:
    *others, start = this_process().split()
    assert is_gone(" ".join([*others, str(int(start) - 1)]))


def test_an_earlier_start_of_the_machine_leaves_no_process() -> None:
    where, _, pid, start = this_process().split()
    assert is_gone(f"{where} of-an-earlier-boot {pid} {start}")


@pytest.mark.parametrize("step", [2, -2, 60, -3600, 10**6])
def test_a_clock_that_is_set_ends_nobody(monkeypatch, step: float) -> None:
    before = this_process()
    now, boot_time = time.time, psutil.boot_time
    monkeypatch.setattr(time, "time", lambda: now() + step)
    monkeypatch.setattr(psutil, "boot_time", lambda: boot_time() + step)
    assert this_process() == before and not is_gone(before)


@pytest.mark.parametrize(
    "identity", ["", "abc", "a b c", "HOST BOOT abc 1", "HOST BOOT -1 1", "HOST BOOT 1 2 3", "other BOOT 1 1"]
)
def test_when_in_doubt_a_process_has_not_ended(identity: str) -> None:
    assert not is_gone(identity.replace("HOST", host()).replace("BOOT", orphans._boot()))


def test_a_dead_processs_run_is_ended_and_all_others_are_left_alone(dead) -> None:
    gone = a_running_run(dead)
    elsewhere = a_running_run(" ".join(["0123456789abcdef", *dead.split()[1:]]))
    foreign = a_running_run("pid abc")
    with start_run("alive") as alive:
        assert end_orphans() == [gone]
        statuses = [mlflow.get_run(run_id).info.status for run_id in (gone, elsewhere, foreign)]
        assert statuses == ["KILLED", "RUNNING", "RUNNING"]
        assert mlflow.get_run(alive.info.run_id).info.status == "RUNNING"
    assert end_orphans() == []


def test_a_question_changes_nothing_and_connect_ends_orphans(dead) -> None:
    gone = a_running_run(dead)
    assert is_orphan(mlflow.get_run(gone))
    assert mlflow.get_run(gone).info.status == "RUNNING"
    connect()
    assert mlflow.get_run(gone).info.status == "KILLED"
    assert not is_orphan(mlflow.get_run(gone))


def test_a_host_is_no_name() -> None:
    assert len(host()) == 16 and int(host(), 16) >= 0
    assert os.uname().nodename not in this_process()
