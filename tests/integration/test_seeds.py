"""Several seeds: a child a seed, the mean and the spread on the parent, which is never ranked."""

from statistics import mean, stdev

import mlflow
import pytest
from own_model import OwnParams, train

from support.tracking.runs import best_run, why_left_out
from support.tracking.seeds import train_with_seeds
from support.tracking.store import connect


def test_the_parent_has_the_mean_and_the_spread_of_its_children(digits) -> None:
    connect()
    parent_id = train_with_seeds(OwnParams(num_epochs=1), digits, [3, 5], "many", "digits", train)
    parent = mlflow.get_run(parent_id)
    where = f"tags.`mlflow.parentRunId` = '{parent_id}'"
    children = mlflow.search_runs(experiment_names=["digits"], filter_string=where, output_format="list")
    assert {(run.info.run_name, run.data.params["seed"]) for run in children} == {("many-3", "3"), ("many-5", "5")}
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    figures = [run.data.metrics["val_accuracy"] for run in children]
    assert len(set(figures)) == 2
    assert parent.data.metrics["mean_val_accuracy"] == pytest.approx(mean(figures))
    assert parent.data.metrics["std_val_accuracy"] == pytest.approx(stdev(figures))
    assert parent.data.params["seed"] == "[3, 5]"
    assert why_left_out(parent, "accuracy") == "without the metric accuracy"
    assert best_run("digits", "accuracy").info.run_id in {run.info.run_id for run in children}


@pytest.mark.parametrize(("params", "seeds"), [(OwnParams(), [1]), (OwnParams(), [1, 1]), ({"C": 1}, [1, 2])])
def test_what_gives_no_spread_is_refused_before_a_run_begins(digits, params, seeds: list[int]) -> None:
    connect()
    with pytest.raises(ValueError, match="two different seeds or more"):
        train_with_seeds(params, digits, seeds, experiment="refused", train=train)
    assert mlflow.get_experiment_by_name("refused") is None
