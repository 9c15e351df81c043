"""Train the CNN: the arguments, the loop, and what comes out of it.

trained = train_cnn(Params(), splits)
trained.performance["overall"]["f1"]
"""

import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from support.cnn import CNN
from support.data import DataError, Splits
from support.encoding import LabelEncoder, Tokenizer
from support.evaluation import best_threshold, get_performance
from support.tagger import Tagger

OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Params:
    """The arguments of a training; the defaults are the lesson's. Raises ValueError for a bad value."""

    char_level: bool = True
    filter_sizes: list[int] = field(default_factory=lambda: list(range(1, 11)))
    batch_size: int = 64
    embedding_dim: int = 128
    num_filters: int = 128
    hidden_dim: int = 128
    dropout_p: float = 0.5
    lr: float = 2e-4
    num_epochs: int = 200
    patience: int = 10
    seed: int = 1234

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _plain(getattr(self, f.name)))
        checks = {
            "char_level": ("True or False", lambda value: isinstance(value, bool)),
            "filter_sizes": ("a list of different whole numbers from 1", _are_widths),
            "dropout_p": (
                "a number from 0 up to but not 1",
                lambda value: _is_number(value) and 0 <= value < 1,
            ),
            "lr": ("a number above 0", lambda value: _is_number(value) and 0 < value < math.inf),
            "seed": (
                "a whole number from 0 to 2**32 - 1",
                lambda value: _is_int(value) and 0 <= value < 2**32,
            ),
        }
        for name, value in asdict(self).items():
            wanted, holds = checks.get(
                name, ("a whole number from 1", lambda value: _is_int(value) and value > 0)
            )
            if not holds(value):
                raise ValueError(f"{name} must be {wanted}, and {value!r} is not.")

    @classmethod
    def from_dict(cls, values: dict) -> "Params":
        """Make params from a mapping, such as params.json holds. Raises ValueError for an unknown name."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"Unknown params: {', '.join(unknown)}. Known are: {', '.join(known)}.")
        return cls(**values)


def _plain(value: object) -> object:
    """Give what JSON can hold: NumPy's numbers as Python's, a tuple or an array as a list."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [_plain(v) for v in value] if isinstance(value, list | tuple | range) else value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_int(value)


def _are_widths(value: object) -> bool:
    if not isinstance(value, list) or not all(_is_int(k) and k > 0 for k in value):
        return False
    return 0 < len(set(value)) == len(value)


@dataclass(frozen=True)
class Trained:
    """What a training gives. `history` holds one dict an epoch: train_loss, val_loss, lr."""

    params: Params
    model: CNN
    tokenizer: Tokenizer
    label_encoder: LabelEncoder
    threshold: float
    performance: dict
    best_val_loss: float
    best_epoch: int
    history: list[dict[str, float]]

    @property
    def tagger(self) -> Tagger:
        """The model, ready to tag texts."""
        return Tagger(self.model, self.tokenizer, self.label_encoder, self.threshold)

    def save(self, folder: str | Path) -> None:
        """Write the lesson's five artifacts into `folder`; `Tagger.load` reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        performance = {"threshold": self.threshold, **self.performance}
        for name, values in (("params.json", asdict(self.params)), ("performance.json", performance)):
            (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        self.tokenizer.save(folder / "tokenizer.json")
        self.label_encoder.save(folder / "label_encoder.json")
        torch.save(self.model.state_dict(), folder / "model.pt")


@dataclass(frozen=True)
class Examples:
    """Tokens, int64 (N, L), and targets, float32 (N, num_classes), of one split on one device."""

    tokens: Tensor
    targets: Tensor

    def batches(self, size: int, shuffle: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the examples `size` at a time, in a new random order if asked for."""
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

    def train_step(self, examples: Examples) -> float:
        """Train for one epoch; give the mean loss of an example."""
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
        """Give the mean loss of an example, and the probabilities (N, num_classes)."""
        self.model.eval()
        batches = list(examples.batches(self.params.batch_size))
        logits = torch.cat([self.model(tokens) for tokens, _ in batches])
        return self.loss_fn(logits, examples.targets).item(), logits.sigmoid().cpu().numpy()

    def predict_step(self, examples: Examples) -> np.ndarray:
        """Give the probabilities (N, num_classes)."""
        return self.eval_step(examples)[1]

    def train(
        self, train: Examples, val: Examples, on_epoch: OnEpoch | None = None
    ) -> list[dict[str, float]]:
        """Train until the validation loss has not improved for `patience` epochs; keep the best weights.

        `on_epoch(epoch, metrics)` is called after every epoch, the last included. Raises
        FloatingPointError when a loss is no longer a number.
        """
        history: list[dict[str, float]] = []
        best, best_epoch, best_weights = math.inf, 0, {}
        for epoch in range(1, self.params.num_epochs + 1):
            lr = self.optimizer.param_groups[0]["lr"]
            metrics = {"train_loss": self.train_step(train), "val_loss": self.eval_step(val)[0], "lr": lr}
            history.append(metrics)
            if on_epoch:
                on_epoch(epoch, metrics)
            if not all(map(math.isfinite, metrics.values())):
                raise FloatingPointError(
                    f"The loss of epoch {epoch} is not a finite number. Try an lr below {lr:g}."
                )
            self.scheduler.step(metrics["val_loss"])
            if metrics["val_loss"] < best:
                best, best_epoch = metrics["val_loss"], epoch
                best_weights = copy.deepcopy(self.model.state_dict())  # a copy: training goes on
            elif epoch - best_epoch >= self.params.patience:
                break
        self.model.load_state_dict(best_weights)
        return history


def best_device() -> torch.device:
    """Give the GPU where there is one (CUDA, then Apple's MPS), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def train_cnn(params: Params, splits: Splits, on_epoch: OnEpoch | None = None) -> Trained:
    """Train a CNN on `splits` and measure it on the test split, as the lesson's function of that name.

    The same params, data and machine give the same result to the last digit.
    """
    torch.manual_seed(params.seed)
    device = best_device()
    tokenizer = Tokenizer.fit(splits.train.text, params.char_level)
    label_encoder = LabelEncoder.fit([*splits.train.tags, *splits.val.tags, *splits.test.tags])
    train, val, test = (
        Examples(
            tokenizer.encode(part.text).to(device),
            torch.from_numpy(label_encoder.encode(part.tags)).to(device),
        )
        for part in (splits.train, splits.val, splits.test)
    )
    model = CNN(
        vocab_size=len(tokenizer),
        num_classes=len(label_encoder),
        embedding_dim=params.embedding_dim,
        num_filters=params.num_filters,
        filter_sizes=params.filter_sizes,
        hidden_dim=params.hidden_dim,
        dropout_p=params.dropout_p,
    ).to(device)
    weight = class_weights(splits.train.tags, label_encoder.classes).to(device)
    trainer = Trainer(model, nn.BCEWithLogitsLoss(weight=weight), params)
    # cuDNN may pick a kernel whose sums come in another order each time.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        history = trainer.train(train, val, on_epoch)
        threshold = best_threshold(val.targets.cpu().numpy(), trainer.predict_step(val))
        predictions = trainer.predict_step(test) >= threshold
    performance = get_performance(test.targets.cpu().numpy(), predictions, label_encoder.classes)
    best_epoch = min(range(len(history)), key=lambda i: history[i]["val_loss"]) + 1
    best_val_loss = history[best_epoch - 1]["val_loss"]
    return Trained(
        params, model, tokenizer, label_encoder, threshold, performance, best_val_loss, best_epoch, history
    )


def class_weights(tags: Iterable[list[str]], classes: list[str]) -> Tensor:
    """Weigh each tag by one over its count in the training split, scaled to a mean of 1: (num_classes,)."""
    counts = Counter(tag for row in tags for tag in row)
    missing = [name for name in classes if not counts[name]]
    if missing:
        raise DataError(
            f"No example in the training split for: {', '.join(missing)}. "
            "Raise min_tag_count or bring more data."
        )
    weights = torch.tensor([1 / counts[name] for name in classes])
    return weights / weights.mean()
