"""Finding runs: which may be compared, which is best, and what a run gives back of its record."""

import json
import math

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from small import SMALL

from support.data.splits import Splits
from support.models.params import Params
from support.models.rules import RuleParams
from support.tracking import checksums
from support.tracking.provenance import log_context, splits_of
from support.tracking.runs import (
    NoRunError,
    RecordError,
    best_run,
    best_runs,
    data_digest,
    find_run,
    get_run,
    histories,
    params_of,
    score,
    seconds_of,
    train_function_of,
    why_left_out,
)
from support.tracking.store import connect, set_experiment
from support.tracking.training_run import start_run, train_and_log

NO_NUMBERS = [math.nan, math.inf, -math.inf]


def table(value: float = 1.0) -> Splits:
    part = pd.DataFrame({"size": [value, 2.0], "ripe": [True, False]})
    return Splits(part, part, part, corpus="fruit", seed=0)


@pytest.fixture(autouse=True)
def store() -> None:
    connect()
    set_experiment()


def a_run(name: str = "run", splits: Splits | None = None, status: str = "FINISHED", **metrics: float) -> Run:
    """Return a run as MLflow's calls alone log it, on `splits` or on a dataset that all of these share."""
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_metrics(metrics)
        splits = splits or table()
        mlflow.log_input(mlflow.data.from_pandas(splits.train, name="fruit", digest=splits.digest))
    if status != "FINISHED":
        MlflowClient().set_terminated(run.info.run_id, status)
    return mlflow.get_run(run.info.run_id)


# Which may be compared


def test_a_run_of_mlflows_calls_alone_may_be_compared() -> None:
    assert why_left_out(a_run(f1=0.5)) is None
    assert why_left_out(a_run(f1=0.5), digest=table().digest) is None


@pytest.mark.parametrize(("status", "reason"), [("FAILED", "failed"), ("KILLED", "killed"), ("RUNNING", "unfinished")])
def test_a_run_that_is_not_finished_is_left_out(status: str, reason: str) -> None:
    assert why_left_out(a_run(f1=0.5, status=status)) == reason


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("name", ["f1", "val_f1"])
def test_a_figure_that_is_no_number_is_left_out(name: str, value: float) -> None:
    run = a_run(**{"f1": 0.5, name: value})  # MLflow stores infinity as 1.797e308
    assert why_left_out(run) == "without a finite f1"


def test_a_run_without_the_metric_or_a_dataset_is_left_out() -> None:
    assert why_left_out(a_run(f1=0.5), "accuracy") == "without the metric accuracy"
    with mlflow.start_run() as run:
        mlflow.log_metric("f1", 0.5)
    assert why_left_out(mlflow.get_run(run.info.run_id)) == "without a recorded dataset"


def test_the_splits_may_be_any_of_a_runs_datasets() -> None:
    mine, own = table(3.0), mlflow.data.from_pandas(table().train, name="own", digest="0123456789abcdef")
    with start_run("with a dataset of its own first") as run:
        mlflow.log_input(own, context="lookup")
        log_context(mine)
        mlflow.log_input(own, context="after")
        mlflow.log_metric("f1", 0.5)
    run = mlflow.get_run(run.info.run_id)
    assert why_left_out(run, digest=mine.digest) is None
    assert why_left_out(run, digest=table().digest) == "on other data"
    assert data_digest(run) == mine.digest
    assert splits_of(run).digest == mine.digest


def test_a_run_without_a_dataset_has_no_digest() -> None:
    with mlflow.start_run() as run:
        pass
    assert data_digest(mlflow.get_run(run.info.run_id)) is None


# Which is best


def test_runs_are_chosen_on_the_validation_split_where_they_have_its_figure() -> None:
    assert score(a_run(f1=0.9, val_f1=0.2)) == 0.2
    assert score(a_run(f1=0.9)) == 0.9
    assert math.isnan(score(a_run(loss=1.0)))
    a_run("good on test alone", f1=0.9, val_f1=0.3)
    assert best_run().info.run_name == "run", "0.9 without a validation figure"
    best = a_run("good on validation", f1=0.5, val_f1=0.95)
    assert best_run().info.run_id == best.info.run_id


def test_the_best_run_is_the_comparable_one_with_the_highest_score() -> None:
    a_run("low", f1=0.1)
    best = a_run("high", f1=0.9)
    a_run("failed", f1=0.99, status="FAILED")
    a_run("of another metric", accuracy=0.99)
    for value in NO_NUMBERS:
        a_run("diverged", f1=value)
        a_run("diverged on validation", f1=0.95, val_f1=value)
    assert best_run().info.run_id == best.info.run_id
    assert [run.info.run_name for run in best_runs()] == ["high", "low"]
    assert best_run(metric="accuracy").info.run_name == "of another metric"


@pytest.mark.parametrize("metric", ["rmse", "val_loss", "mean_absolute_error"])
def test_a_metric_of_which_lower_is_better_ranks_nothing(metric: str) -> None:
    run = [a_run(**{metric: value, f"neg_{metric}": -value}) for value in (53.9, 78.9)][-1]
    with pytest.raises(ValueError, match=f"of {metric} lower is better. Log it negated"):
        best_run("baselines", metric)
    with pytest.raises(ValueError, match="lower is better"):
        why_left_out(run, metric)
    assert best_run("baselines", f"neg_{metric}").data.metrics[metric] == 53.9


def test_of_equals_the_latest_is_best() -> None:
    a_run("first", f1=0.5)
    a_run("second", f1=0.5)
    assert [run.info.run_name for run in best_runs()] == ["second", "first"]


def test_the_data_decide_where_splits_are_named() -> None:
    a_run("on other data", table(5.0), f1=0.99)
    mine = a_run("mine", f1=0.5)
    assert best_run(splits=table()).info.run_id == mine.info.run_id
    assert len(best_runs(splits=table())) == 1
    with pytest.raises(NoRunError, match=r"on the data of these splits \(fruit, seed 0\)"):
        best_run(splits=table(7.0))


def test_as_many_as_are_asked_for_are_found_behind_many_that_do_not_count() -> None:
    for number in range(45):
        a_run("diverged", f1=math.nan)
        if number < 25:
            a_run(f"{number}", table(9.0), f1=0.9)
    wanted = [a_run(f"good {number}", f1=number / 10).info.run_id for number in range(3)]
    assert [run.info.run_id for run in best_runs(splits=table(), max_results=2)] == wanted[:0:-1]


def test_no_run_is_a_clear_error() -> None:
    with pytest.raises(NoRunError, match=r"'baselines' has no finished run.*notebook 01_tracked_training"):
        best_run()
    a_run(f1=0.5)
    with pytest.raises(NoRunError, match="'accuracy'"):
        best_run(metric="accuracy")
    with pytest.raises(NoRunError, match="'others'"):
        best_runs(experiment="others")


def test_a_run_that_has_not_ended_has_no_seconds() -> None:
    assert seconds_of(MlflowClient().create_run(set_experiment())) is None


# What a run gives back


def test_a_run_that_is_not_there_or_in_the_trash_is_a_clear_error() -> None:
    run_id = a_run(f1=0.5).info.run_id
    MlflowClient().delete_run(run_id)
    with pytest.raises(NoRunError, match=rf"Run {run_id} was deleted\. .*restore_runs\(\['{run_id}'\]\)"):
        get_run(run_id)
    for unknown in ("0" * 32, "", "..", "../../etc", "a/b", "no run"):
        with pytest.raises(NoRunError, match="is not in this store"):
            get_run(unknown)


def test_params_and_splits_come_back_as_they_were(sample_splits) -> None:
    params = Params(num_epochs=1, **SMALL)
    run = mlflow.get_run(train_and_log(params, sample_splits))
    assert params_of(run) == params and type(params_of(run)) is Params
    assert splits_of(run).digest == sample_splits.digest
    assert splits_of(run).aliases == sample_splits.aliases
    run = mlflow.get_run(train_and_log(RuleParams(), sample_splits))
    assert params_of(run) == RuleParams()


def test_what_a_run_does_not_record_is_said() -> None:
    run = a_run(f1=0.5)
    for call in (params_of, splits_of):
        with pytest.raises(RecordError, match=run.info.run_id):
            call(run)


def test_histories_leave_out_what_the_machine_decides() -> None:
    with mlflow.start_run() as run:
        for step in (1, 2):
            mlflow.log_metrics({"loss": 1 / step, "system/cpu": 50.0}, step=step)
        mlflow.log_metrics({"f1": 0.5, "training_seconds": 3.0, "latency_ms": 1.0})
    assert histories(run.info.run_id) == {"f1": {0: 0.5}, "loss": {1: 1.0, 2: 0.5}}


def test_a_table_of_numbers_with_one_label_takes_part() -> None:
    """Nothing of it is the lesson's: another metric, other columns, a dict of params."""
    run_id = train_and_log({"depth": 3, "names": ["a", "b"]}, table(), "tree", train=an_own_model)
    run = mlflow.get_run(run_id)
    assert best_run(metric="accuracy", splits=table()).info.run_id == run_id
    assert why_left_out(run, "accuracy", table().digest) is None
    assert params_of(run) == {"depth": 3, "names": ["a", "b"]}
    assert splits_of(run).train.equals(table().train)
    assert run.data.tags["support.train"].endswith(":an_own_model")


def an_own_model(params, splits, on_epoch=None, checkpoint=None) -> dict:
    on_epoch(1, {"loss": 0.5})
    return {"accuracy": float(np.mean(splits.test.ripe)), "val_accuracy": 0.5, "depth_used": params["depth"]}


@pytest.mark.parametrize(
    "name", ["it's", "' OR '1'='1", "a\\'b", "both ' and \"", 'dq"q', "end\\", "1__%", "new\nline", "実験"]
)
def test_a_run_of_any_name_is_found_and_no_other(name: str) -> None:
    with start_run("100%"):
        pass
    assert find_run(name) is None
    with start_run(name) as run:
        pass
    assert find_run(name).info.run_id == run.info.run_id


@pytest.mark.parametrize("name", ["subprocess:run", "os:system", "builtins:exec"])
def test_a_tag_that_names_another_function_runs_nothing(tmp_path, name: str) -> None:
    (tmp_path / "record").mkdir()
    hostile = {"args": f"touch {tmp_path}/witness", "shell": True} if name.startswith("sub") else {"command": "exit 3"}
    (tmp_path / "record" / "params.json").write_text(json.dumps(hostile))
    with start_run(
        "hostile", tags={"support.params": name, "support.train": name.replace("subprocess:run", "os:system")}
    ) as run:
        checksums.log_files(tmp_path / "record")
    run = get_run(run.info.run_id)
    with pytest.raises(RecordError, match=f"{name} is no dataclass"):
        params_of(run)
    with pytest.raises(RecordError, match="was trained by a function that is not here"):
        train_function_of(run)
    assert not (tmp_path / "witness").exists()
