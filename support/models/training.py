"""Train the CNN: the loop, and what comes out of it.

trained = train_cnn(Params(), splits)
trained.performance["overall"]["f1"]
"""

import copy
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from support.data.splits import DataError, Splits
from support.environment import best_device, let_go
from support.models.checkpoint import Checkpoint, CheckpointError
from support.models.cnn import CNN
from support.models.encoding import LabelEncoder, Tokenizer
from support.models.evaluation import best_threshold, get_performance
from support.models.params import Params
from support.models.tagger import Tagger, Trained

OnEpoch = Callable[[int, dict[str, float]], None]
_RANDOM = {"cpu": torch, "cuda": torch.cuda, "mps": torch.mps}  # each device's generator of random numbers


@dataclass(frozen=True)
class Examples:
    """Tokens, int64 (N, L), and targets, float32 (N, num_classes), of one split on one device."""

    tokens: Tensor
    targets: Tensor

    def batches(self, size: int, shuffle: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the examples `size` at a time, in a new random order if asked for."""
        order = torch.randperm(len(self.tokens)) if shuffle else torch.arange(len(self.tokens))
        for rows in order.to(self.tokens.device).split(size):
            yield self.tokens[rows], self.targets[rows]


class Trainer:
    """The lesson's training loop: one object that holds the model and what moves it."""

    def __init__(self, model: CNN, loss_fn: nn.Module, params: Params) -> None:
        self.model = model
        self.loss_fn = loss_fn
        self.params = params
        self.optimizer = torch.optim.Adam(model.parameters(), lr=params.lr, fused=True)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, factor=0.1, patience=5)
        self.history: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}
        self.seconds = 0.0  # what the epochs have taken
        self.interrupted = False

    def train_step(self, examples: Examples) -> float:
        """Train for one epoch; return the mean loss of an example."""
        self.model.train()
        total = 0.0
        for tokens, targets in examples.batches(self.params.batch_size, shuffle=True):
            self.optimizer.zero_grad()
            loss = self.loss_fn(self.model(tokens), targets)
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(tokens)
        return total / len(examples.tokens)

    @torch.inference_mode()
    def eval_step(self, examples: Examples) -> tuple[float, np.ndarray]:
        """Return the mean loss of an example, and the probabilities (N, num_classes)."""
        self.model.eval()
        batches = list(examples.batches(self.params.batch_size))
        logits = torch.cat([self.model(tokens) for tokens, _ in batches])
        return self.loss_fn(logits, examples.targets).item(), logits.sigmoid().cpu().numpy()

    def predict_step(self, examples: Examples) -> np.ndarray:
        """Return the probabilities (N, num_classes)."""
        return self.eval_step(examples)[1]

    def train(
        self,
        train: Examples,
        val: Examples,
        on_epoch: OnEpoch | None = None,
        save: Callable[[dict], None] | None = None,
    ) -> list[dict[str, float]]:
        """Train until the validation loss has not improved for `patience` epochs; keep the best weights.

        After every epoch, the last included, `on_epoch(epoch, metrics)` is called, and then `save(state)`.
        Epochs that `load_state_dict` brought are told to `on_epoch` again. An interrupt ends a training that
        is saved early, with the best weights. Raise FloatingPointError when a loss is no longer a number.
        """
        on_epoch = on_epoch or (lambda epoch, metrics: None)
        for epoch, metrics in enumerate(self.history, start=1):
            on_epoch(epoch, metrics)
        started = time.monotonic() - self.seconds
        try:
            while not self.finished:
                epoch, lr = len(self.history) + 1, self.optimizer.param_groups[0]["lr"]
                metrics = {"train_loss": self.train_step(train), "val_loss": self.eval_step(val)[0], "lr": lr}
                if not all(map(math.isfinite, metrics.values())):
                    on_epoch(epoch, metrics)
                    raise FloatingPointError(
                        f"The loss of epoch {epoch} is not a finite number. Try an lr below {lr:g}."
                    )
                self.history.append(metrics)
                self.scheduler.step(metrics["val_loss"])
                if self.best_epoch == epoch:
                    self.best_weights = copy.deepcopy(self.model.state_dict())  # a copy: training goes on
                self.seconds = time.monotonic() - started
                on_epoch(epoch, metrics)
                if save:
                    save(self.state_dict())
        except KeyboardInterrupt as interrupt:
            if save is None or not self.history:
                raise
            let_go(interrupt)
            self.interrupted = True
        self.model.load_state_dict(self.best_weights)
        return self.history

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss, the first of equals; 0 before any."""
        losses = [metrics["val_loss"] for metrics in self.history]
        return losses.index(min(losses)) + 1 if losses else 0

    @property
    def finished(self) -> bool:
        """Whether all epochs are over, or the last `patience` of them brought nothing better."""
        epoch = len(self.history)
        return epoch >= self.params.num_epochs or epoch - self.best_epoch >= self.params.patience

    def state_dict(self) -> dict:
        """Return all that the rest of the training depends on."""
        weights = self.model.state_dict()
        return {
            "model": weights,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": {name: _RANDOM[name].get_rng_state() for name in {"cpu", best_device().type}},
            # The same tensors where they are the same: torch.save writes them once.
            "best_weights": weights if self.best_epoch == len(self.history) else self.best_weights,
            "history": self.history,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave, as if nothing had come between."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.best_weights, self.history = state["best_weights"], state["history"]
        self.seconds = state["seconds"]
        for name, random_state in state["random"].items():
            _RANDOM[name].set_rng_state(random_state)


def train_cnn(
    params: Params,
    splits: Splits,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
    start_from: Tagger | None = None,
) -> Trained:
    """Train a CNN on `splits` and measure it on the test split, as the lesson's function of that name.

    The same params, data and machine give the same result to the last digit. With a `checkpoint` the state is
    saved every two seconds, and a training that was cut off goes on from there, to the same result. With
    `start_from` the weights begin as that tagger's.
    """
    torch.manual_seed(params.seed)
    device = best_device()
    tokenizer = Tokenizer.fit(splits.train.text, params.char_level)
    label_encoder = LabelEncoder.of(splits)
    train, val, test = (
        Examples(tokenizer.encode(part.text).to(device), torch.from_numpy(label_encoder.encode(part.tags)).to(device))
        for part in (splits.train, splits.val, splits.test)
    )
    model = CNN(len(tokenizer), len(label_encoder), **params.architecture).to(device)
    if start_from:
        warm_start(model, tokenizer, label_encoder, start_from)
    weight = class_weights(splits.train.tags, label_encoder.classes).to(device)
    trainer = Trainer(model, nn.BCEWithLogitsLoss(weight=weight), params)
    # cuDNN may pick a kernel whose sums come in another order each time.
    deterministic = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with deterministic, model.tuned(train.tokens[: params.batch_size]):
        if checkpoint and (state := checkpoint.load()):
            try:
                trainer.load_state_dict(state)
            except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"{checkpoint.path} holds the state of another training. Delete it to start from the first "
                    "epoch, or train with the params and data that it was saved with."
                ) from error
        history = trainer.train(train, val, on_epoch, checkpoint.save if checkpoint else None)
        measured = [(part.targets.cpu().numpy(), trainer.predict_step(part)) for part in (val, test)]
    threshold = best_threshold(*measured[0])
    val_performance, performance = (
        get_performance(targets, probabilities >= threshold, label_encoder.classes)
        for targets, probabilities in measured
    )
    return Trained(
        params,
        Tagger(model, tokenizer, label_encoder, threshold, splits.cleaning),
        performance,
        val_f1=val_performance["overall"]["f1"],
        seconds=trainer.seconds,
        history=history,
        best_epoch=trainer.best_epoch,
        interrupted=trainer.interrupted,
    )


def warm_start(model: CNN, tokenizer: Tokenizer, label_encoder: LabelEncoder, tagger: Tagger) -> None:
    """Take over the weights of `tagger`, whose layers must have the same sizes.

    The rows of tokens and tags are matched by name; those that `tagger` does not know keep their own weights.
    """
    tags = [{name: i for i, name in enumerate(encoder.classes)} for encoder in (label_encoder, tagger.label_encoder)]
    by_name = {
        "embeddings.weight": (tokenizer.token_to_index, tagger.tokenizer.token_to_index),
        "fc2.weight": tags,
        "fc2.bias": tags,
    }
    learned = tagger.model.state_dict()
    for name, weights in model.state_dict().items():
        same = {row: row for row in range(len(weights))}
        now, before = by_name.get(name, (same, same))
        known = [key for key in now if key in before]
        rows = learned[name][[before[key] for key in known]]
        weights[[now[key] for key in known]] = rows.to(weights.device)


def class_weights(tags: Iterable[list[str]], classes: list[str]) -> Tensor:
    """Weigh each tag by one over its count in the training split, scaled to a mean of 1: (num_classes,)."""
    counts = Counter(tag for row in tags for tag in row)
    if missing := [name for name in classes if not counts[name]]:
        raise DataError(
            f"No example in the training split for: {', '.join(missing)}. Raise min_tag_count or bring more data."
        )
    weights = torch.tensor([1 / counts[name] for name in classes])
    return weights / weights.mean()
