"""This tier's stores are SQLite files whose tables are copied from a template."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small import SMALL

if TYPE_CHECKING:
    from support.data.splits import Splits


@pytest.fixture(scope="session", autouse=True)
def tables(tables_made_once: None) -> None:
    """Copy MLflow's tables in each test of this folder."""


@pytest.fixture(scope="session")
def digits() -> "Splits":
    """Return a table of numbers with one label, in three parts."""
    from sklearn.datasets import load_digits

    from support.data.splits import Splits

    table = load_digits(as_frame=True).frame.sample(frac=1, random_state=0)
    return Splits(table[:400], table[400:500], table[500:600], corpus="digits", seed=0)


@pytest.fixture(scope="session")
def original(tmp_path_factory, sample_splits: "Splits", digits: "Splits") -> tuple[Path, dict[str, str]]:
    """Return a stores folder with a run of each kind, and their ids by name. Tests work on copies: `runs`."""
    import mlflow
    import own_model
    import own_network

    from support.models.params import Params
    from support.models.rules import RuleParams
    from support.tracking.store import connect
    from support.tracking.training_run import train_and_log

    stores = tmp_path_factory.mktemp("original") / "stores"
    connect(stores)
    own = [
        ("sgd", own_model.OwnParams(), own_model.train),
        ("network", own_network.NetworkParams(), own_network.train),
    ]
    runs = {name: train_and_log(params, digits, name, "digits", train) for name, params, train in own}
    runs["rules"] = train_and_log(RuleParams(), sample_splits, "rules", "baselines")
    runs["cnn"] = train_and_log(Params(num_epochs=3, **SMALL), sample_splits, "cnn", "baselines")
    mlflow.set_tracking_uri(None)
    return stores, runs


@pytest.fixture
def runs(original: tuple[Path, dict[str, str]], tmp_path: Path) -> dict[str, str]:
    """Connect to a copy of that store, and return the ids of its runs by name: sgd, network, rules, cnn."""
    from support.tracking.store import connect

    shutil.copytree(original[0], tmp_path / "copy")
    connect(tmp_path / "copy")
    return original[1]
