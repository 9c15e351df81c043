"""Runs that come of runs: finished after a cut, repeated, trained further. Kills are in the system tier."""

from collections.abc import Callable
from dataclasses import replace

import mlflow
import own_model
import own_network
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from small import SMALL

from support.data.cleaning import ALL_SCRIPTS
from support.data.splits import Splits
from support.lineage import LineageError, reproduce, resume, retrain
from support.models.checkpoint import Checkpoint, CheckpointError
from support.models.params import Params
from support.models.rules import RuleParams
from support.tracking.orphans import this_process
from support.tracking.runs import NoRunError, RecordError, histories, params_of
from support.tracking.training_run import checkpoint_of, load_tagger, train_and_log

CNN = Params(num_epochs=3, **SMALL)
OWN = {
    "sgd": (own_model.OwnParams(), own_model.train),
    "network": (own_network.NetworkParams(), own_network.train),
}


@pytest.fixture
def cut_off(runs, digits: Splits, sample_splits: Splits, monkeypatch) -> Callable[[str], str]:
    """Return what trains a run like the one of a name, cut off after its second epoch, and returns its id."""
    save, saved = Checkpoint.save, []

    def then_fail(checkpoint: Checkpoint, state: dict) -> None:
        save(checkpoint, state)
        saved.append(state)
        if len(saved) == 2:
            raise MemoryError

    def cut_off(name: str) -> str:
        params, train = OWN.get(name, (CNN, None))
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(Checkpoint, "save", then_fail)
            train_and_log(params, sample_splits if name == "cnn" else digits, "cut off", "digits", train)
        saved.clear()
        [run] = mlflow.search_runs(search_all_experiments=True, filter_string="status = 'FAILED'", output_format="list")
        return run.info.run_id

    return cut_off


def everything_of(run_id: str) -> tuple:
    """Return what a refusal must not change."""
    run = mlflow.get_run(run_id)
    return run.info.status, run.info.end_time, run.data.to_dictionary(), checkpoint_of(run_id).path.exists()


@pytest.mark.parametrize("name", ["cnn", "sgd", "network"])
def test_a_run_that_was_cut_off_ends_as_if_nothing_had_happened(cut_off, runs, name: str, capsys) -> None:
    run_id = cut_off(name)
    logged = max(step for steps in histories(run_id).values() for step in steps)
    assert resume(run_id) == run_id
    assert f"Goes on from epoch {logged + 1}." in capsys.readouterr().out
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert histories(run_id) == histories(runs[name])
    assert not checkpoint_of(run_id).path.exists()


def test_a_training_that_the_reader_stopped_goes_on(runs, sample_splits: Splits, monkeypatch, capsys) -> None:
    save = Checkpoint.save

    def then_interrupt(checkpoint: Checkpoint, state: dict) -> None:
        save(checkpoint, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", then_interrupt)
        run_id = train_and_log(CNN, sample_splits, "stopped", "baselines")
    assert mlflow.get_run(run_id).info.status == "KILLED"
    resume(run_id)
    assert histories(run_id) == histories(runs["cnn"])


def test_what_is_refused_stays_as_it_is(cut_off, runs, digits: Splits) -> None:
    run_id = cut_off("sgd")
    client, before = MlflowClient(), everything_of(run_id)
    with pytest.raises(LineageError, match="seed: 0 there, 1 here"):
        resume(run_id, params=own_model.OwnParams(seed=1))
    others = replace(digits, seed=1, test=digits.test.iloc[1:])
    with pytest.raises(LineageError, match=r"(?s)split seed: 0 there, 1 here.*test split: 100 examples there, 99"):
        resume(run_id, splits=others)
    with pytest.raises(LineageError, match="is finished"):
        resume(runs["sgd"])
    with pytest.raises(NoRunError, match="not in this store"):
        resume("0" * 32)
    with (
        mlflow.start_run(run_name="left open"),
        pytest.raises(LineageError, match=r"still open.*mlflow\.end_run"),
    ):
        resume(run_id)
    client.delete_run(run_id)
    with pytest.raises(NoRunError, match=r"was deleted.*restore_runs"):
        resume(run_id)
    client.restore_run(run_id)
    assert everything_of(run_id) == before
    state = checkpoint_of(run_id).path
    whole = state.read_bytes()
    state.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        resume(run_id)
    state.write_bytes(whole)
    assert everything_of(run_id) == before
    resume(run_id)


def test_a_running_run_is_refused_unless_its_process_is_gone_or_is_this_one(cut_off) -> None:
    run_id = cut_off("sgd")
    client = MlflowClient()
    client.update_run(run_id, "RUNNING")
    client.set_tag(run_id, "support.process", "another-host 1 2 3")
    before = everything_of(run_id)
    with pytest.raises(LineageError, match="running, here or on another machine"):
        resume(run_id)
    assert everything_of(run_id) == before
    host, boot, _, start = this_process().split()
    client.set_tag(run_id, "support.process", f"{host} {boot} 999999999 {start}")
    resume(run_id)
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_a_run_that_was_cut_off_before_its_record_needs_it_passed(runs, digits: Splits, capsys) -> None:
    experiment = mlflow.get_experiment_by_name("digits").experiment_id
    tags = {"support.train": "own_model:train"}
    run_id = MlflowClient().create_run(experiment, tags=tags).info.run_id
    MlflowClient().set_terminated(run_id, "KILLED")
    with pytest.raises(RecordError, match="Name them"):
        resume(run_id)
    resume(run_id, own_model.OwnParams(), digits)
    assert "There is no checkpoint" in capsys.readouterr().out
    assert histories(run_id) == histories(runs["sgd"])


def test_a_run_that_names_no_function_says_so(runs) -> None:
    with mlflow.start_run(run_name="by MLflow's calls alone") as run:
        mlflow.log_metric("f1", 0.5)
    for call in (reproduce, retrain):
        with pytest.raises(RecordError, match="does not name the function"):
            call(run.info.run_id)
    MlflowClient().set_terminated(run.info.run_id, "KILLED")
    with pytest.raises(RecordError, match="does not name the function"):
        resume(run.info.run_id)
    MlflowClient().set_tag(runs["sgd"], "support.train", "no_such_module:train")
    with pytest.raises(RecordError, match="no_such_module"):
        reproduce(runs["sgd"])


@pytest.mark.parametrize("name", ["cnn", "rules", "sgd", "network"])
def test_reproduce_gives_the_same_to_the_last_digit(runs, name: str, capsys) -> None:
    table = reproduce(runs[name])
    assert "as they were" in capsys.readouterr().out
    assert set(table.verdict) == {"equal"} and not table.difference.any()
    assert table.logged.equals(table.reproduced)
    first, again = (mlflow.get_run(run_id) for run_id in (runs[name], table.attrs["run_id"]))
    assert again.info.run_id != first.info.run_id
    assert again.info.experiment_id == first.info.experiment_id
    assert again.data.tags["support.reproduces"] == runs[name]


def test_reproduce_says_what_is_not_as_it_was(runs, digits: Splits, capsys, monkeypatch) -> None:
    monkeypatch.setattr("support.tracking.provenance.version", lambda name: f"{name} 99")
    table = reproduce(runs["sgd"], replace(digits, train=digits.train.iloc[1:]))
    said = capsys.readouterr().out
    said = said[: said.index("%|")]  # before it starts
    assert "torch: " in said and "there, torch 99 here" in said
    assert "train split: 400 examples there, 399 examples here" in said
    assert "differs" in set(table.verdict)


def test_retrain_starts_from_the_weights(runs) -> None:
    child = mlflow.get_run(retrain(runs["cnn"], replace(CNN, lr=1e-12, num_epochs=1)))
    assert child.data.tags["mlflow.parentRunId"] == runs["cnn"]
    begun = load_tagger(child.info.run_id).model.state_dict()
    for name, weights in load_tagger(runs["cnn"]).model.state_dict().items():
        assert torch.allclose(weights, begun[name], atol=1e-9), name
    assert set(reproduce(child.info.run_id).verdict) == {"equal"}  # it starts from the same weights too


def test_retrain_takes_the_model_that_an_own_run_has_logged(runs) -> None:
    child = retrain(runs["network"])
    before, after = (histories(run_id)["train_loss"] for run_id in (runs["network"], child))
    assert after[1] < before[4] < before[1]


def test_retrain_takes_new_tags_and_characters(runs, sample_splits: Splits) -> None:
    more = pd.DataFrame({"text": ["été graphs"] * 3, "tags": [["brand-new"]] * 3})
    parts = {
        name: pd.concat([getattr(sample_splits, name), more], ignore_index=True) for name in ("train", "val", "test")
    }
    child = retrain(
        runs["cnn"], replace(CNN, lr=1e-12, num_epochs=1), replace(sample_splits, **parts, cleaning=ALL_SCRIPTS)
    )
    tagger, old = load_tagger(child), load_tagger(runs["cnn"])
    assert tagger.label_encoder.classes == sorted([*old.label_encoder.classes, "brand-new"])
    known = [tagger.label_encoder.classes.index(name) for name in old.label_encoder.classes]
    texts = list(sample_splits.test.text)
    assert abs(tagger.predict_proba(texts)[:, known] - old.predict_proba(texts)).max() < 1e-5


def test_retrain_refuses_what_cannot_start_from_these_weights(runs) -> None:
    number = len(mlflow.search_runs(search_all_experiments=True))
    with pytest.raises(LineageError, match="num_filters: 8 there, 9 here"):
        retrain(runs["cnn"], replace(CNN, num_filters=9))
    for name, function in (("rules", "train_rules"), ("sgd", "own_model:train")):
        with pytest.raises(LineageError, match=rf"{function}, which starts from no weights"):
            retrain(runs[name])
    assert len(mlflow.search_runs(search_all_experiments=True)) == number
    assert params_of(mlflow.get_run(runs["rules"])) == RuleParams()
