"""The first use of a store: by several processes at once, by one that is killed, in a folder of any name."""

import os
import subprocess
import sys
import time

import mlflow
from store_processes import connect_only, first_use

from support.config import PROJECT_DIR
from support.tracking.store import connect

KILLED_AFTER = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2]  # seconds; making the tables takes one


def runs_of(stores) -> list:
    connect(stores)
    return mlflow.search_runs(experiment_names=["first use"], output_format="list")


def test_processes_that_start_together_make_one_store(processes, tmp_path) -> None:
    started = [processes(first_use, tmp_path, 3) for _ in range(4)]
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4
    runs = runs_of(tmp_path)
    assert len({run.info.run_name for run in runs}) == 12
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_store_whose_first_process_is_killed_works_for_the_next(processes, tmp_path) -> None:
    for seconds in KILLED_AFTER:
        stores = tmp_path / str(seconds)
        process = processes(connect_only, stores)
        time.sleep(seconds)
        process.kill()
        process.join()
        process = processes(first_use, stores)
        process.join()
        assert process.exitcode == 0, f"killed after {seconds} s"
        assert len(runs_of(stores)) == 1
        assert not list(stores.glob("*.new*"))


def test_a_cyrillic_folder_works_in_the_c_locale(tmp_path) -> None:
    stores = tmp_path / "Опыты"
    code = f"import store_processes; store_processes.first_use({str(stores)!a})"
    path = os.pathsep.join(map(str, [PROJECT_DIR, PROJECT_DIR / "tests"]))
    environment = {**os.environ, "LC_ALL": "C", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert len(runs_of(stores)) == 1


def test_importing_support_makes_no_folder_and_sets_no_uri(tmp_path) -> None:
    code = (
        "import mlflow; before = mlflow.get_tracking_uri()\n"
        "from support import data, environment, models, plots, tracking\n"
        "from support.tracking import store, training_run\n"
        "assert mlflow.get_tracking_uri() == before\n"
    )
    environment = {**os.environ, "STORES_DIR": str(tmp_path / "none"), "PYTHONPATH": str(PROJECT_DIR)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
