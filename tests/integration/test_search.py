"""The search: what a trial sees, what it leaves, and that nothing is lost or tried twice."""

import json
import math
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState
from search_processes import Point, measure, numbers, script, space
from small import SMALL

from support import search as package
from support.models.linear import LinearParams
from support.models.params import Params
from support.search import plots, worker
from support.search.search import SPACES, SearchError, best_params, search, trials, verdict
from support.search.space import Space
from support.tracking.orphans import PROCESS, this_process
from support.tracking.predictions import log_predictions
from support.tracking.runs import NoRunError, best_run, why_left_out
from support.tracking.store import connect, set_experiment
from support.tracking.training_run import train_and_log

DEAD = this_process().rsplit(" ", 1)[0] + " 1"  # this process's id, but started at another time


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> None:
    connect(tmp_path_factory.mktemp("stores"))


@pytest.fixture(autouse=True)
def own_experiment(store, request, monkeypatch) -> None:
    """Give each test an experiment. Only two log all that a search logs once, since that takes a second."""
    set_experiment(request.node.name)
    script.clear()
    if request.function not in (
        test_each_trial_is_a_child_run_that_is_never_ranked,
        test_our_models_are_searched_and_the_best_params_train_as_a_run_of_their_own,
    ):
        monkeypatch.setattr(plots, "draw", lambda *_: {})
        monkeypatch.setattr(sys.modules["support.search.search"], "log_context", lambda splits: None)


def ends_with(*losses_and_end):
    """Return a training that reports validation losses, and then returns or raises what it ends with."""
    *losses, end = losses_and_end

    def train(params, splits, on_epoch):
        for epoch, loss in enumerate(losses, start=1):
            on_epoch(epoch, {"val_loss": loss})
        if isinstance(end, BaseException):
            raise end
        return end if isinstance(end, dict) else {"f1": end}

    return train


def outcomes(run_id: str) -> dict[str, int]:
    return dict(Counter(trials(run_id).outcome))


def status(run_id: str) -> str:
    return mlflow.get_run(run_id).info.status


def only_search() -> str:
    """Return the id of the one search of the test."""
    [run] = mlflow.search_runs(filter_string="tags.`support.search` != ''", output_format="list")
    return run.info.run_id


def study_of(run_id: str) -> optuna.Study:
    database = Path(mlflow.get_tracking_uri().removeprefix("sqlite:///")).parent / "searches.db"
    return optuna.load_study(study_name=f"{run_id}/point", storage=f"sqlite:///{database}")


def test_the_package_exports_what_a_notebook_calls():
    assert package.search is search
    assert package.SPACES is SPACES
    assert {"trials", "best_params", "Space", "SearchError"} <= set(package.__all__)


def test_each_trial_is_a_child_run_that_is_never_ranked(request, capsys):
    splits = numbers()
    run_id = search(splits, space(5))
    table = trials(run_id)
    assert list(table.trial.sort_values()) == [f"point-{number}" for number in range(5)]
    assert table.val_f1.is_monotonic_decreasing
    client = MlflowClient()
    for child in map(mlflow.get_run, table.index):
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == run_id
        assert child.data.tags["outcome"] == "measured"
        assert child.data.params.keys() == asdict(Point()).keys()
        assert child.data.metrics.keys() == {"val_loss", "val_f1"}
        assert [m.step for m in client.get_metric_history(child.info.run_id, "val_loss")][:3] == [1, 2, 3]
        assert why_left_out(child)
    assert float(table.set_index("trial").x["point-0"]) == Point().x
    assert table.x.nunique() == 5
    best = best_params(run_id)
    assert best == Point(x=float(table.x.iloc[0]))
    with pytest.raises(SearchError, match="no trial in the space 'cnn'"):
        best_params(run_id, "cnn")

    parent = mlflow.get_run(run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_val_f1"] == table.val_f1.max()
    assert parent.data.metrics["trials_measured"] == 5
    assert "numbers corpus. Trials: 5 measured. Best" in parent.data.tags["mlflow.note.content"]
    assert "f1" not in parent.data.metrics
    with pytest.raises(NoRunError):
        best_run(request.node.name)
    written = mlflow.artifacts.load_dict(f"{parent.info.artifact_uri}/spaces.json")
    assert {name: Space.from_dict(values) for name, values in written.items()} == space(5)
    pictures = {artifact.path for artifact in client.list_artifacts(run_id, "plots")}
    assert pictures == {f"plots/point-{name}.png" for name in ("parallel_coordinates", "importance")}

    # The same call returns the same run at once; a longer one goes on; another one is another search.
    capsys.readouterr()
    assert search(splits, space(5)) == run_id
    assert "over already" in capsys.readouterr().out
    assert mlflow.get_run(run_id).info.end_time == parent.info.end_time
    assert search(splits, space(7)) == run_id
    assert outcomes(run_id) == {"measured": 7}
    assert search(replace(splits, val=splits.train), space(1)) != run_id
    assert search(splits, space(1), seed=2) != run_id


def test_our_models_are_searched_and_the_best_params_train_as_a_run_of_their_own(request, sample_splits):
    spaces = {
        "cnn": Space(Params(num_epochs=2, **SMALL), {"num_filters": IntDistribution(4, 12)}, 2),
        "linear": Space(LinearParams(word_ngrams=1, char_ngrams=2), {"C": FloatDistribution(1, 100, log=True)}, 2),
    }
    run_id = search(sample_splits, spaces)
    table = trials(run_id)
    assert outcomes(run_id) == {"measured": 4}
    assert table[["val_f1", "val_precision", "val_recall"]].gt(0).all(axis=None)
    assert isinstance(best_params(run_id, "cnn"), Params)
    best = best_params(run_id, "linear")
    assert str(best.C) == table[table.space == "linear"].C.iloc[0]
    own = train_and_log(best, sample_splits)
    assert best_run(request.node.name).info.run_id == own  # and no trial
    assert mlflow.get_run(own).data.metrics["val_f1"] == table[table.space == "linear"].val_f1.iloc[0]


def test_a_trial_never_sees_the_test_split():
    splits, seen = numbers(), []
    script.append(lambda params, splits, on_epoch: seen.append(splits) or {"f1": 1.0})
    search(splits, space(1))
    assert seen[0].train is splits.train
    assert seen[0].test is seen[0].val is splits.val


def test_one_worker_finds_the_same_each_time_even_after_an_interrupt(request):
    found = []
    for number, (seed, count) in enumerate([(1, 11), (1, 11), (2, 2)]):
        set_experiment(f"{request.node.name} {number}")
        if number == 1:
            script.extend([measure, measure, ends_with(KeyboardInterrupt())])
            with pytest.raises(KeyboardInterrupt):
                search(numbers(), space(count, epochs=1), seed=seed)
        run_id = search(numbers(), space(count, epochs=1), seed=seed)
        found.append(set(trials(run_id).query("outcome == 'measured'").x))
    assert found[0] == found[1]
    assert found[0] & found[2] == {"0.5"}  # the base


def test_a_trial_that_lags_behind_is_pruned():
    good, bad = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5], [2.0] * 6
    script.extend([ends_with(*good, 0.5), ends_with(*good, 0.6), ends_with(*bad, 0.9), ends_with(*good, 0.4)])
    run_id = search(numbers(), space(4))
    assert outcomes(run_id) == {"measured": 3, "pruned": 1}
    [(pruned, name)] = trials(run_id).query("outcome == 'pruned'").trial.items()
    assert name == "point-2"
    assert status(pruned) == "FINISHED"
    assert "val_f1" not in mlflow.get_run(pruned).data.metrics
    assert 0 < len(MlflowClient().get_metric_history(pruned, "val_loss")) < 6
    assert mlflow.get_run(run_id).data.metrics["trials_pruned"] == 1


def test_a_trial_that_fails_or_measures_no_number_never_ends_the_search_or_wins():
    failures = {
        "KeyError: 'x'": KeyError("x"),
        "ValueError: search_processes:train gave nan as val_f1, which is no finite number.": math.nan,
        "ValueError: search_processes:train gave inf as val_f1, which is no finite number.": math.inf,
        "ValueError: search_processes:train gave nan as val_f1, which is no finite number. ": {"loss": 1.0},
    }
    script.extend([ends_with(1.0, 0.5), *(ends_with(math.nan, end) for end in failures.values())])
    run_id = search(numbers(), space(6))
    assert outcomes(run_id) == {"measured": 2, "failed": 4}
    failed = trials(run_id).query("outcome == 'failed'").index
    errors = {mlflow.get_run(each).data.tags["error"] for each in failed}
    assert errors == {text.strip() for text in failures}
    assert best_params(run_id).x != 0.5
    assert search(numbers(), space(6)) == run_id  # and they are not tried again
    assert len(trials(run_id)) == 6


def test_a_search_in_which_all_fail_says_why():
    script.extend([ends_with(RuntimeError("no memory"))] * 2)
    with pytest.raises(SearchError, match=r"\(2 failed\)\. The first error is RuntimeError: no memory\."):
        search(numbers(), space(2))
    assert status(only_search()) == "FAILED"
    with pytest.raises(SearchError, match="has measured no trial"):
        best_params(only_search())


@pytest.mark.parametrize("error", [MlflowException, KeyboardInterrupt])
def test_what_is_no_trials_fault_ends_the_search_and_the_same_call_goes_on(error):
    seen = []

    def end(params, splits, on_epoch):
        seen.append(params)
        if error is KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C or Jupyter's stop button
        raise MlflowException("the store is gone")

    script.append(end)
    with pytest.raises(error):
        search(numbers(), space(3))
    run_id = only_search()
    interrupted = error is KeyboardInterrupt
    assert mlflow.active_run() is None
    assert status(run_id) == ("KILLED" if interrupted else "FAILED")
    assert outcomes(run_id) == {"cut off" if interrupted else "failed": 1}
    assert search(numbers(), space(3)) == run_id
    assert status(run_id) == "FINISHED"
    assert outcomes(run_id)["measured"] == 3
    assert str(seen[0].x) in set(trials(run_id).query("outcome == 'measured'").x)


def test_the_verdict_compares_the_best_trial_with_the_default_on_the_same_examples():
    examples = pd.DataFrame({"n": range(100)})

    def ends_with_right(number: int):
        """Return a training that is right about so many of the examples, the first ones."""

        def train(params, splits, on_epoch):
            said = (examples.n < number).astype(int)
            log_predictions("val", examples, np.eye(2)[said], [1] * 100, said, [0, 1])
            return {"accuracy": number / 100}

        return train

    for ends, wanted in (
        ((80, 95, 70), r"Against the default: \+0\.150 \(.* on 100 examples: more than chance"),
        ((80, 82, 70), r"Against the default: \+0\.020 \(.*: a tie"),
        ((80, 70, 70), r"point-0, val_accuracy 0\.800 .*It is the default: nothing better was found\."),
    ):
        script.extend(map(ends_with_right, ends))
        run_id = search(numbers(), space(3), metric="accuracy", seed=ends[1])
        said = verdict(run_id)
        assert re.search(rf"^point: the best of 3 measured trials is .*{wanted}", said)
        assert f"(lowest 0.700, median {sorted(ends)[1] / 100:.3f})" in said
    script.extend([ends_with(0.1), ends_with(0.2)])
    assert "is not known: not both keep their predictions" in verdict(search(numbers(), space(2)))
    script.extend([ends_with(KeyError("x")), ends_with(0.2)])
    assert "The default was not measured." in verdict(search(numbers(), space(2), seed=5))


def test_the_search_ends_in_time_and_goes_on_later(monkeypatch):
    """The time is up in an epoch."""
    late = [0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late[0], sleep=time.sleep)
    monkeypatch.setattr(worker, "time", clock)

    def too_long(params, splits, on_epoch):
        on_epoch(1, {"val_loss": 1.0})
        late[0] += 1000
        on_epoch(2, {"val_loss": 1.0})

    script.extend([measure, too_long])
    run_id = search(numbers(), space(4))
    assert status(run_id) == "FINISHED"
    assert outcomes(run_id) == {"measured": 1, "cut off": 1}
    late[0] = 0
    assert search(numbers(), space(4)) == run_id
    assert outcomes(run_id) == {"measured": 4, "cut off": 1}


def test_the_search_stops_when_nothing_better_comes():
    script.extend([ends_with(f1) for f1 in (0.3, 0.5, 0.4, 0.5, 0.6)])
    run_id = search(numbers(), space(10), patience=2)
    assert list(trials(run_id).val_f1) == [0.5, 0.5, 0.4, 0.3]
    assert search(numbers(), space(10), patience=2) == run_id
    assert len(trials(run_id)) == 4


def test_another_metric_another_experiment_and_no_run_of_the_environment(monkeypatch):
    set_experiment("mine")
    with mlflow.start_run(run_name="older") as older:
        mlflow.log_metric("f1", 0.9)
    before = mlflow.get_run(older.info.run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", older.info.run_id)
    run_id = search(numbers(), space(4), metric="accuracy")
    assert run_id != older.info.run_id
    assert mlflow.get_run(older.info.run_id).to_dictionary() == before.to_dictionary()
    table = trials(run_id)
    assert float(table.x.iloc[0]) == table.val_accuracy.iloc[0] == table.val_accuracy.max()
    assert best_params(run_id).x == table.val_accuracy.max()
    assert mlflow.get_experiment(mlflow.get_run(run_id).info.experiment_id).name == "mine"
    other = search(numbers(), space(1), experiment="other")
    assert mlflow.get_experiment(mlflow.get_run(other).info.experiment_id).name == "other"


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"seconds": 0}, {"patience": 0}, {"spaces": {}}])
def test_a_search_without_means_is_refused(wrong):
    with pytest.raises(ValueError, match="A search needs"):
        search(numbers(), **{"spaces": SPACES, **wrong})
    with pytest.raises(ValueError, match="SQLite or PostgreSQL"):
        search(numbers(), SPACES, storage="mysql://reader@host/name")
    with pytest.raises(ValueError, match=r"(?s)cannot be opened: .*Connection refused") as refused:
        search(numbers(), SPACES, storage="postgresql://reader:pa55word@127.0.0.1:1/searches")
    assert "pa55word" not in str(refused.value)


def left_by_a_dead_process(process: str | None, child: str | None, value: float | None = None) -> str:
    """Leave a search whose second trial a process was at when it died, and return the search's run id.

    `process` is what the trial says of it, and `child` the status that the trial's run has; None for not yet.
    """
    run_id = search(numbers(), space(1))
    study, client = study_of(run_id), MlflowClient()
    trial = study.ask({"x": FloatDistribution(0, 1)})
    if process:
        trial.set_user_attr("process", process)
    if child:
        parent = mlflow.get_run(run_id).info
        tags = {"mlflow.parentRunId": run_id, "mlflow.runName": "point-1", "space": "point", PROCESS: process}
        run = client.create_run(parent.experiment_id, tags=tags)
        client.log_param(run.info.run_id, "x", trial.params["x"])
        trial.set_user_attr("run_id", run.info.run_id)
        if value:
            trial.set_user_attr("value", value)
            client.set_tag(run.info.run_id, "outcome", "measured")
            client.log_metric(run.info.run_id, "val_f1", value)
        client.set_terminated(run.info.run_id, child)
    return run_id


@pytest.mark.parametrize("child", [None, "RUNNING", "KILLED"])
def test_the_trial_of_a_dead_process_is_tried_again(child):
    run_id = left_by_a_dead_process(DEAD, child)
    lost = study_of(run_id).trials[1]
    search(numbers(), space(3))
    table = trials(run_id)
    assert outcomes(run_id) == {"measured": 3} | ({"cut off": 1} if child else {})
    assert f"{lost.params['x']:.3g}" in set(table.query("outcome == 'measured'").x)
    assert "RUNNING" not in set(map(status, table.index))
    states = Counter(trial.state.name for trial in study_of(run_id).trials)
    assert states == {"COMPLETE": 3, "FAIL": 1}


def test_a_trial_that_had_only_not_been_told_is_not_tried_again():
    run_id = left_by_a_dead_process(DEAD, "FINISHED", value=0.99)
    search(numbers(), space(3))
    assert outcomes(run_id) == {"measured": 3}
    told = study_of(run_id).get_trials(states=(TrialState.COMPLETE,))
    assert sorted(trial.value for trial in told) == sorted(trials(run_id).val_f1)


def test_a_process_of_another_machine_counts_as_dead_without_a_heartbeat(monkeypatch):
    monkeypatch.setattr(worker, "HEARTBEAT", 1)
    monkeypatch.setattr(worker, "GRACE", 1)
    run_id = left_by_a_dead_process("elsewhere boot 1 2", "RUNNING")
    study = study_of(run_id)
    storage = optuna.storages.RDBStorage(study._storage._backend.url, heartbeat_interval=1)
    storage.record_heartbeat(study.trials[1]._trial_id)
    search(numbers(), space(2))
    assert outcomes(run_id) == {"measured": 2, "cut off": 1}


def test_a_trial_whose_process_died_before_it_could_sign_is_tried_again(monkeypatch):
    monkeypatch.setattr(worker, "HEARTBEAT", 1)
    monkeypatch.setattr(worker, "GRACE", 1)
    run_id = left_by_a_dead_process(None, None)
    search(numbers(), space(3))
    assert outcomes(run_id) == {"measured": 3}
    states = Counter(trial.state.name for trial in study_of(run_id).trials)
    assert states == {"COMPLETE": 3, "FAIL": 1}


def test_a_search_outlives_a_laptops_sleep():
    """While a process sleeps, its trial counts as lost for the others."""

    def sleep(params, splits, on_epoch):
        study = study_of(only_search())
        [trial] = study.get_trials(states=(TrialState.RUNNING,))
        study.tell(trial.number, state=TrialState.FAIL)
        return {"f1": 1.0}

    script.append(sleep)
    run_id = search(numbers(), space(2))
    states = Counter(trial.state.name for trial in study_of(run_id).trials)
    assert states == {"COMPLETE": 2, "FAIL": 1}


def test_a_helper_that_dies_at_once_is_told_and_a_password_is_nowhere(monkeypatch, tmp_path, capsys):
    commands, password = [], uuid.uuid4().hex

    class Popen(subprocess.Popen):
        def __init__(self, args: list[str], **how) -> None:
            helper = "take_part" in args[-1]
            if helper:
                commands.append((args, how["env"]))
                args = [args[0], "-c", f"exit('no memory left at postgresql://me:{password}@host')"]
            super().__init__(args, **how)
            if helper:
                self.wait()

    monkeypatch.setattr(subprocess, "Popen", Popen)
    run_id = search(numbers(), space(2), workers=2, storage=f"sqlite:///{tmp_path}/{password}.db")
    assert outcomes(run_id) == {"measured": 2}
    said = capsys.readouterr().out
    assert "ended with exit code 1. no memory left" in said
    assert password not in said + json.dumps(commands)
    kept = Path(mlflow.get_tracking_uri().removeprefix("sqlite:///")).parent
    assert not [path for path in kept.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
