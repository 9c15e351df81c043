"""Params, the loop, and a training from splits to metrics; the lesson's faults one by one."""

import json
import math
import time
from collections import Counter
from dataclasses import asdict, fields, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL
from torch import nn

from support.data.splits import DataError, Splits, split
from support.environment import best_device
from support.models import training
from support.models.checkpoint import Checkpoint, CheckpointError
from support.models.cnn import CNN
from support.models.evaluation import best_threshold, get_performance
from support.models.params import Params
from support.models.tagger import Tagger
from support.models.training import Examples, Trainer, class_weights, train_cnn

LESSON_PARAMS = {
    "char_level": True,
    "filter_sizes": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    "batch_size": 64,
    "embedding_dim": 128,
    "num_filters": 128,
    "hidden_dim": 128,
    "dropout_p": 0.5,
    "lr": 2e-4,
    "num_epochs": 200,
    "patience": 10,
}
COUNTS = ["batch_size", "embedding_dim", "num_filters", "hidden_dim", "num_epochs", "patience"]

# Params


def test_the_defaults_are_the_lessons():
    values = asdict(Params())
    assert (values.pop("seed"), values.pop("model")) == (1234, "cnn")
    assert values == LESSON_PARAMS


good_params = st.fixed_dictionaries(
    {},
    optional={
        "char_level": st.booleans(),
        "filter_sizes": st.lists(st.integers(1, 50), min_size=1, max_size=6, unique=True),
        "dropout_p": st.floats(0, 1, exclude_max=True) | st.just(0),
        "lr": st.floats(0, 100, exclude_min=True) | st.just(1),
        "seed": st.integers(0, 2**32 - 1),
        **{name: st.integers(1, 10**6) for name in COUNTS},
    },
)


@given(good_params)
def test_params_are_the_same_through_json(values):
    params = Params(**values)
    assert asdict(params) == {**asdict(Params()), **values}
    assert Params(**json.loads(json.dumps(asdict(params)))) == params


anything = st.none() | st.text(max_size=3) | st.binary(max_size=3) | st.lists(st.none(), max_size=2)
not_whole = anything | st.booleans() | st.floats()
bad_value = st.one_of(
    st.tuples(st.just("char_level"), anything | st.integers() | st.floats()),
    st.tuples(st.sampled_from(COUNTS), not_whole | st.integers(max_value=0)),
    st.tuples(st.just("seed"), not_whole | st.integers(max_value=-1) | st.integers(min_value=2**32)),
    st.tuples(st.just("lr"), anything | st.booleans() | st.floats(max_value=0) | st.just(math.inf)),
    st.tuples(st.just("lr"), st.just(math.nan)),
    st.tuples(st.just("dropout_p"), anything | st.booleans() | st.floats(min_value=1)),
    st.tuples(st.just("dropout_p"), st.floats(max_value=0, exclude_max=True) | st.just(math.nan)),
    st.tuples(st.just("filter_sizes"), not_whole | st.integers() | st.lists(st.integers(max_value=0))),
    st.tuples(st.just("filter_sizes"), st.lists(st.floats() | st.booleans() | st.text(max_size=2))),
    st.tuples(st.just("filter_sizes"), st.just([3, 3]) | st.just({1: 2})),
)


@given(bad_value)
def test_a_bad_value_is_refused_by_name(case):
    name, value = case
    with pytest.raises(ValueError, match=rf"^{name} must be .+, and .* is not\.$") as error:
        Params(**{name: value})
    assert repr(value)[:100] in str(error.value)


@pytest.mark.parametrize("name", ["batch_size", "seed", "lr", "dropout_p"])
def test_a_bool_is_no_number(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Params(**{name: True})


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"Unknown params: epochs, learning_rate\. Known are: char_level, "):
        Params(**{"learning_rate": 1e-3, "epochs": 3, "lr": 1e-3})
    with pytest.raises(ValueError, match="Unknown params: 3e-4"):
        Params(**{"3e-4": 1})


def test_numpys_numbers_become_pythons():
    params = Params(
        lr=np.float32(0.5),
        batch_size=np.int64(32),
        char_level=np.bool_(False),
        filter_sizes=np.arange(1, 4),
        seed=np.random.default_rng(0).integers(10),
    )
    assert params == Params(lr=0.5, batch_size=32, char_level=False, filter_sizes=[1, 2, 3], seed=params.seed)
    for f in fields(params):
        assert type(getattr(params, f.name)) in (bool, int, float, list, str), f.name
    json.dumps(asdict(params))
    assert Params(filter_sizes=(np.int64(2), 3)).filter_sizes == [2, 3]
    assert Params(filter_sizes=range(1, 4)).filter_sizes == [1, 2, 3]
    with pytest.raises(ValueError, match="batch_size must be a whole number from 1"):
        Params(batch_size=np.float64(2))


def test_params_are_immutable_and_share_no_list():
    sizes = [1, 2]
    params = Params(filter_sizes=sizes)
    sizes.append(3)
    assert params.filter_sizes == [1, 2]
    assert Params().filter_sizes is not Params().filter_sizes
    with pytest.raises(AttributeError):
        params.lr = 1.0
    with pytest.raises(ValueError, match="lr must be"):
        replace(params, lr=-1)


# The loop


class Scripted(Trainer):
    """A trainer whose validation losses are given; the weights tell the epoch they come from."""

    def __init__(self, val_losses: list[float], **params) -> None:
        model = CNN(vocab_size=5, num_classes=2, **{k: v for k, v in SMALL.items() if k != "lr"})
        super().__init__(model, nn.BCEWithLogitsLoss(), Params(num_epochs=len(val_losses), **params))
        self.val_losses = val_losses
        self.epoch = 0

    def train_step(self, examples) -> float:
        self.epoch += 1
        with torch.no_grad():
            self.model.fc2.bias.fill_(self.epoch)
        return 1 / self.epoch

    def eval_step(self, examples) -> tuple[float, np.ndarray]:
        return self.val_losses[self.epoch - 1], np.zeros(0)

    def run(self) -> list[tuple[int, dict]]:
        """Train; give what on_epoch was called with."""
        calls = []
        try:
            history = self.train(None, None, lambda epoch, metrics: calls.append((epoch, metrics)))
        except FloatingPointError as error:
            self.error = str(error)
        else:
            assert [metrics for _, metrics in calls] == history
        return calls


def test_lesson_fault_1_the_best_weights_come_back():
    trainer = Scripted([3, 2, 1, 1.5, 2.5, 0.5], patience=2)
    trainer.run()
    assert trainer.epoch == 5, "early stopping"
    assert trainer.model.fc2.bias.tolist() == [3, 3]


def test_the_best_weights_come_back_also_without_early_stopping():
    trainer = Scripted([3, 1, 2])
    trainer.run()
    assert trainer.model.fc2.bias.tolist() == [2, 2]


def test_lesson_fault_2_the_last_epoch_is_logged_too():
    calls = Scripted([3, 2, 2.5, 2.6, 2.7], patience=3, lr=0.25).run()
    assert [epoch for epoch, _ in calls] == [1, 2, 3, 4, 5]
    assert calls[-1][1] == {"train_loss": 0.2, "val_loss": 2.7, "lr": 0.25}


@pytest.mark.parametrize(
    ("losses", "patience", "epochs"),
    [
        ([1, 1, 1, 1, 1, 1], 3, 4),  # as good as before is no better
        ([1, 2, 2, 0.9, 2, 2, 2, 2], 3, 7),  # a new best starts the count again
        ([5, 4, 3, 2, 1], 1, 5),
        ([1, 2, 0], 1, 2),
    ],
)
def test_early_stopping_waits_for_patience(losses, patience, epochs):
    assert len(Scripted(losses, patience=patience).run()) == epochs


def test_the_learning_rate_falls_on_a_plateau():
    calls = Scripted([1.0] * 16, patience=50, lr=0.5).run()
    rates = [metrics["lr"] for _, metrics in calls]
    # Epoch 1 is the best; six epochs no better, and the rate falls for the next.
    assert rates == pytest.approx([0.5] * 7 + [0.05] * 6 + [0.005] * 3)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training_and_loses_nothing(loss):
    trainer = Scripted([3, 2, loss, 1], lr=0.25)
    calls = trainer.run()
    assert [epoch for epoch, _ in calls] == [1, 2, 3]
    assert [metrics["val_loss"] for _, metrics in calls][:2] == [3, 2]
    assert trainer.error == "The loss of epoch 3 is not a finite number. Try an lr below 0.25."


def test_a_far_too_large_learning_rate_is_a_floating_point_error(sample_splits):
    calls = []
    params = Params(**{**SMALL, "lr": 1e30, "num_epochs": 5})
    with pytest.raises(FloatingPointError, match="is not a finite number"):
        train_cnn(params, sample_splits, lambda *call: calls.append(call))
    assert calls


def some_examples(count: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.integers(1, 20, (count, 12)))
    targets = torch.from_numpy(rng.integers(0, 2, (count, 3)).astype(np.float32))
    return Examples(tokens, targets)


def some_trainer(**params) -> Trainer:
    torch.manual_seed(0)
    params = Params(**{**SMALL, **params})
    model = CNN(20, 3, embedding_dim=16, num_filters=8, filter_sizes=[1, 2, 3], hidden_dim=16)
    return Trainer(model, nn.BCEWithLogitsLoss(), params)


def test_the_best_weights_give_the_best_loss_in_a_training_that_overfits():
    trainer, val = some_trainer(lr=0.05, num_epochs=40, patience=8, batch_size=8), some_examples(30, seed=1)
    history = trainer.train(some_examples(30), val)
    losses = [metrics["val_loss"] for metrics in history]
    assert losses[-1] > min(losses) + 0.01, "the case shows nothing: the last epoch is the best"
    assert len(losses) == losses.index(min(losses)) + 1 + 8
    assert trainer.eval_step(val)[0] == min(losses)


def test_train_step_lowers_the_loss_and_gives_the_mean_of_an_example():
    trainer, examples = some_trainer(dropout_p=0.0, batch_size=7), some_examples(30)
    trainer.model.dropout.p = 0.0
    first, *_, last = [trainer.train_step(examples) for _ in range(30)]
    assert last < first / 2
    trainer.optimizer.param_groups[0]["lr"] = 0.0  # now all batches meet the same weights
    assert trainer.train_step(examples) == pytest.approx(trainer.eval_step(examples)[0], rel=1e-5)


def test_eval_step_changes_nothing_and_switches_dropout_off():
    trainer, examples = some_trainer(), some_examples(30)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.model.train()
    loss, probabilities = trainer.eval_step(examples)
    assert (loss, probabilities.tolist()) == (
        trainer.eval_step(examples)[0],
        trainer.eval_step(examples)[1].tolist(),
    )
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_lesson_fault_4_predict_step_gives_probabilities():
    trainer, examples = some_trainer(), some_examples(30)
    with torch.no_grad():
        trainer.model.fc2.bias += torch.tensor([-9.0, 0.0, 9.0])  # logits far outside 0 to 1
    probabilities = trainer.predict_step(examples)
    with torch.inference_mode():
        logits = trainer.model(examples.tokens).numpy()
    assert logits.min() < -5 and logits.max() > 5
    assert probabilities == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)


def test_lesson_fault_10_the_training_shuffles_and_the_evaluation_does_not():
    trainer, examples = some_trainer(batch_size=7), some_examples(30)
    seen: list[list] = []
    trainer.model.register_forward_pre_hook(lambda _, tokens: seen.extend(tokens[0].tolist()))
    orders = []
    for step in (trainer.train_step, trainer.train_step, trainer.predict_step):
        seen.clear()
        step(examples)
        orders.append(list(seen))
    given_order = examples.tokens.tolist()
    assert all(sorted(order) == sorted(given_order) for order in orders), "each example once an epoch"
    assert orders[0] != given_order and orders[1] != given_order and orders[0] != orders[1]
    assert orders[2] == given_order


def test_batches_keep_tokens_and_targets_together():
    examples = Examples(torch.arange(10).unsqueeze(1), torch.arange(10.0).unsqueeze(1))
    batches = list(examples.batches(4, shuffle=True))
    assert [len(tokens) for tokens, _ in batches] == [4, 4, 2]
    assert all(torch.equal(tokens.float(), targets) for tokens, targets in batches)


@pytest.mark.parametrize(("cuda", "mps", "wanted"), [(1, 1, "cuda"), (1, 0, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_the_best_device_is_picked(monkeypatch, cuda, mps, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert best_device().type == wanted


# The checkpoint


def test_a_state_is_kept_every_two_seconds_after_what_has_to_be_done_before(tmp_path, monkeypatch):
    now, done = 0.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    kept = Checkpoint(tmp_path / "run.pt")
    kept.before_save = lambda: done.append(kept.load())
    for now in (1.0, 2.0, 2.9, 3.0, 3.1, 9.0):
        kept.save({"saved": now})
    assert done == [None, {"saved": 1.0}, {"saved": 3.0}] and kept.load() == {"saved": 9.0}


def test_a_damaged_state_is_refused_wherever_the_damage_is(tmp_path):
    kept = Checkpoint(tmp_path / "run.pt")
    kept.save(state := {"epoch": 1, "weights": torch.arange(3000.0)})
    whole = kept.path.read_bytes()
    for place in range(0, len(whole), 97):
        kept.path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            loaded = kept.load()
        except CheckpointError:
            continue
        assert loaded["epoch"] == 1 and torch.equal(loaded["weights"], state["weights"]), "what pads the zip"
    for length in (0, 30, len(whole) // 2, len(whole) - 1):
        kept.path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="is damaged"):
            kept.load()


# Class weights


def test_class_weights_are_one_over_the_count_with_mean_one():
    weights = class_weights([["a", "b"], ["a"], ["a"], ["a", "c"], ["c"]], ["a", "b", "c"])
    assert weights.mean().item() == pytest.approx(1)
    assert (weights / weights[0]).tolist() == pytest.approx([1, 4, 2])


def test_lesson_fault_6_class_weights_come_from_the_training_split_alone(sample_splits, monkeypatch):
    used = []

    class Recorder(Trainer):
        def __init__(self, model, loss_fn, params):
            used.append(loss_fn.weight.cpu())
            super().__init__(model, loss_fn, params)

    monkeypatch.setattr(training, "Trainer", Recorder)
    trained = train_cnn(Params(num_epochs=1, **SMALL), sample_splits)
    classes = trained.label_encoder.classes

    def by_hand(tags) -> np.ndarray:
        counts = Counter(tag for row in tags for tag in row)
        return np.array([counts[classes[0]] / counts[name] for name in classes])

    s = sample_splits
    found = (used[0] / used[0][0]).numpy()
    assert found == pytest.approx(by_hand(s.train.tags), rel=1e-5)
    assert found != pytest.approx(by_hand([*s.train.tags, *s.val.tags, *s.test.tags]), rel=1e-5)


def test_a_tag_missing_from_the_training_split_is_an_error_that_names_it(sample_splits):
    s = sample_splits
    test = s.test.assign(tags=[[*tags, "brand-new"] for tags in s.test.tags])
    with pytest.raises(DataError, match=r"training split for: brand-new\. Raise min_tag_count or bring more"):
        train_cnn(Params(num_epochs=1, **SMALL), Splits(s.train, s.val, test, "mine", 1))


# A whole training


def test_trained_holds_what_was_measured(trained, sample_splits):
    s, best = sample_splits, trained.best_epoch
    assert len(trained.history) == 3 and best in (1, 2, 3)
    assert trained.best_val_loss == min(metrics["val_loss"] for metrics in trained.history)
    assert trained.history[best - 1]["val_loss"] == trained.best_val_loss
    targets = trained.label_encoder.encode(s.test.tags)
    predictions = trained.tagger.predict_proba(s.test.text) >= trained.threshold
    assert trained.performance == get_performance(targets, predictions, trained.label_encoder.classes)
    assert 0 < trained.performance["overall"]["f1"] < 1


def test_lesson_fault_3_the_threshold_is_chosen_on_the_validation_split(trained, sample_splits):
    def chosen_on(part) -> float:
        targets = trained.label_encoder.encode(part.tags)
        return best_threshold(targets, trained.tagger.predict_proba(part.text))

    assert trained.threshold == pytest.approx(chosen_on(sample_splits.val), abs=1e-6)
    assert trained.threshold != pytest.approx(chosen_on(sample_splits.train), abs=1e-6)
    assert trained.threshold != pytest.approx(chosen_on(sample_splits.test), abs=1e-6)


def what_came_out(trained) -> dict:
    weights = {name: value.tolist() for name, value in trained.tagger.model.state_dict().items()}
    return {
        "history": trained.history,
        "threshold": trained.threshold,
        "performance": trained.performance,
        "tokens": trained.tagger.tokenizer.token_to_index,
        "weights": weights,
    }


@pytest.mark.parametrize("char_level", [True, False], ids=["characters", "words"])
def test_the_same_params_give_the_same_to_the_last_digit(sample_splits, char_level):
    params = Params(num_epochs=2, char_level=char_level, **SMALL)
    first = train_cnn(params, sample_splits)
    torch.rand(7)  # the state of the random numbers before does not matter
    np.random.rand(7)
    second = train_cnn(params, sample_splits)
    assert what_came_out(first) == what_came_out(second)
    other = train_cnn(replace(params, seed=1), sample_splits)
    assert other.history != first.history


@pytest.mark.parametrize("when", ["before", "later"])
def test_frozen_weights_stay(when):
    trainer = some_trainer()
    if when == "later":
        trainer.train_step(some_examples(30))
    layers = trainer.model.embeddings, trainer.model.conv
    frozen = [weight.requires_grad_(False) for layer in layers for weight in layer.parameters()]
    if when == "before":
        trainer = Trainer(trainer.model, trainer.loss_fn, trainer.params)
    before, head = [weight.clone() for weight in frozen], trainer.model.fc1.weight.detach().clone()
    trainer.train_step(some_examples(30))
    assert all(map(torch.equal, frozen, before))
    assert not torch.equal(trainer.model.fc1.weight, head)


def test_an_interrupt_passes_through(sample_splits):
    def interrupt(epoch, metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cnn(Params(num_epochs=2, **SMALL), sample_splits, interrupt)


def test_a_tiny_corpus_of_ones_own_can_be_trained():
    names = ["cats", "dogs"]
    df = pd.DataFrame(
        {
            "text": [f"{names[i % 2]} {i}" for i in range(40)],
            "tags": [[names[i % 2]] for i in range(40)],
        }
    )
    trained = train_cnn(Params(num_epochs=30, **SMALL), split(df))
    assert trained.tagger.predict(["cats 3", "dogs 3"]) == [["cats"], ["dogs"]]
    assert trained.performance["overall"]["f1"] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device on this machine.")
@pytest.mark.parametrize("char_level", [True, False], ids=["characters", "words"])
def test_on_cuda_the_same_params_give_the_same_and_a_cpu_can_load_it(sample_splits, tmp_path, char_level):
    params = Params(num_epochs=2, char_level=char_level, **SMALL)
    first, second = train_cnn(params, sample_splits), train_cnn(params, sample_splits)
    assert first.tagger.model.fc2.weight.is_cuda
    assert what_came_out(first) == what_came_out(second)
    first.save(tmp_path)
    loaded = Tagger.load(tmp_path)
    texts = list(sample_splits.test.text)
    assert loaded.model.fc2.weight.device.type == "cpu"
    assert loaded.predict_proba(texts) == pytest.approx(first.tagger.predict_proba(texts), abs=1e-4)
