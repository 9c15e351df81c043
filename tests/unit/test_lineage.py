"""The table that compares a run with its repetition, and the sentences on what differs."""

import math

from support.lineage.reproduce import compare
from support.lineage.shared import changes, data_changes, listed
from support.models.params import Params


def test_each_metric_gets_its_largest_difference_and_a_verdict() -> None:
    nan = math.nan
    logged = {
        "same": {1: 0.5, 2: nan},
        "off": {1: 1.0, 2: 2.0},
        "shorter": {1: 1.0, 2: 1.0},
        "gone": {0: 1.0},
    }
    again = {"same": {1: 0.5, 2: nan}, "off": {1: 1.0, 2: 2.25}, "shorter": {1: 1.0}, "new": {0: 1.0}}
    table = compare(logged, again)
    assert table.verdict.to_dict() == {
        "same": "equal",
        "off": "differs",
        "shorter": "other steps",
        "gone": "other steps",
        "new": "other steps",
    }
    assert table.difference.to_dict() == {"same": 0, "off": 0.25, "shorter": 0, "gone": 0, "new": 0}
    assert table.loc["off", ["logged", "reproduced", "steps"]].tolist() == [2.0, 2.25, 2]


def test_a_number_against_none_differs() -> None:
    table = compare({"loss": {1: 1.0}, "size": {1: math.inf}}, {"loss": {1: math.nan}, "size": {1: math.inf}})
    assert table.verdict.to_dict() == {"loss": "differs", "size": "equal"}


def test_params_of_any_kind_are_compared_by_name() -> None:
    assert changes(Params(), Params(lr=0.5)) == {"lr": (2e-4, 0.5)}
    assert changes({"depth": 3}, {"depth": 3, "seed": 1}) == {"seed": (None, 1)}
    assert listed({"depth": (3, 4)}) == "  depth: 3 there, 4 here"


def test_the_same_data_under_another_name_are_the_same(sample_splits) -> None:
    from dataclasses import replace

    assert data_changes(sample_splits, replace(sample_splits, corpus="other", seed=7)) == {}
    other = replace(sample_splits, train=sample_splits.train.iloc[1:])
    assert set(data_changes(sample_splits, other)) == {"digest", "train split"}


def test_the_packages_export_functions_that_share_their_modules_names() -> None:
    from support import comparison, lineage, registry

    for function in (lineage.resume, lineage.reproduce, lineage.retrain, comparison.diff, registry.promote):
        assert callable(function) and function.__module__.endswith(f".{function.__name__}")
