"""The lesson's way to train and to tag, as a yardstick: Dataset, DataLoader, plain layers, Adam.

Written after the design that the lesson publishes, with what changes its results mended, so that time and
memory compare like with like: shuffled batches, the best weights kept, probabilities for logits. The
threshold and F1 come from support/models/evaluation.py for both ways.
Source: https://madewithml.com/courses/mlops/experiment-tracking
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from support.data.cleaning import clean
from support.data.splits import Splits
from support.models.encoding import LabelEncoder, Tokenizer
from support.models.params import Params
from support.models.training import class_weights


class LessonCNN(nn.Module):
    """Embedding, "same" convolutions one after the other, max over time, two layers."""

    def __init__(self, vocab_size: int, num_classes: int, params: Params) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, params.embedding_dim, padding_idx=0)
        self.conv = nn.ModuleList(nn.Conv1d(params.embedding_dim, params.num_filters, k) for k in params.filter_sizes)
        self.dropout = nn.Dropout(params.dropout_p)
        self.fc1 = nn.Linear(params.num_filters * len(params.filter_sizes), params.hidden_dim)
        self.fc2 = nn.Linear(params.hidden_dim, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Turn tokens, int64 (N, L), into logits (N, num_classes)."""
        embedded = self.embeddings(tokens).transpose(1, 2)
        pooled = []
        for conv in self.conv:
            (k,) = conv.kernel_size
            features = conv(F.pad(embedded, ((k - 1) // 2, math.ceil((k - 1) / 2))))
            pooled.append(F.max_pool1d(features, features.shape[2]).squeeze(2))
        return self.fc2(self.dropout(self.fc1(torch.cat(pooled, 1))))


class TextDataset(Dataset):
    """Token lists and targets; a batch is padded to its longest text, and at least to the widest filter."""

    def __init__(self, tokens: Sequence[np.ndarray], targets: np.ndarray, widest: int) -> None:
        self.tokens, self.targets, self.widest = tokens, targets, widest

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.tokens[index], self.targets[index]

    def collate(self, batch: list) -> tuple[Tensor, Tensor]:
        """Make a batch: tokens int64 (N, L) and targets float32 (N, num_classes)."""
        padded = np.zeros((len(batch), max(self.widest, *(len(tokens) for tokens, _ in batch))))
        for row, (tokens, _) in zip(padded, batch, strict=True):
            row[: len(tokens)] = tokens
        targets = np.stack([target for _, target in batch])
        return torch.from_numpy(padded.astype(np.int64)), torch.from_numpy(targets)

    def loader(self, batch_size: int, shuffle: bool = False) -> DataLoader:
        return DataLoader(self, batch_size=batch_size, shuffle=shuffle, collate_fn=self.collate)


class Lesson:
    """A model with its training and its tagging, the lesson's way."""

    def __init__(self, params: Params, splits: Splits, device: torch.device) -> None:
        torch.manual_seed(params.seed)
        self.params, self.device = params, device
        self.tokenizer = Tokenizer.fit(splits.train.text, params.char_level)
        self.label_encoder = LabelEncoder.fit([*splits.train.tags, *splits.val.tags, *splits.test.tags])
        self.model = LessonCNN(len(self.tokenizer), len(self.label_encoder), params).to(device)
        weight = class_weights(splits.train.tags, self.label_encoder.classes).to(device)
        self.loss_fn = nn.BCEWithLogitsLoss(weight=weight)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=params.lr)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, factor=0.1, patience=5)

    def loader(self, texts: Sequence[str], tags: Sequence[list[str]], shuffle: bool = False) -> DataLoader:
        """Give batches of clean texts with their tags."""
        number = self.tokenizer.token_to_index
        tokens = [np.array([number.get(character, 1) for character in text]) for text in texts]
        dataset = TextDataset(tokens, self.label_encoder.encode(tags), max(self.params.filter_sizes))
        return dataset.loader(self.params.batch_size, shuffle)

    def train_step(self, loader: DataLoader) -> float:
        """Train for one epoch; give the mean loss of a batch."""
        self.model.train()
        total = 0.0
        for tokens, targets in loader:
            self.optimizer.zero_grad()
            loss = self.loss_fn(self.model(tokens.to(self.device)), targets.to(self.device))
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(loader)

    @torch.inference_mode()
    def eval_step(self, loader: DataLoader) -> tuple[float, np.ndarray]:
        """Give the mean loss of a batch, and the probabilities (N, num_classes)."""
        self.model.eval()
        total, probabilities = 0.0, []
        for tokens, targets in loader:
            logits = self.model(tokens.to(self.device))
            total += self.loss_fn(logits, targets.to(self.device)).item()
            probabilities.extend(logits.sigmoid().cpu().numpy())
        return total / len(loader), np.stack(probabilities)

    def train(self, train: DataLoader, val: DataLoader) -> Iterator[float]:
        """Train until early stopping, giving each epoch's seconds; then go back to the best weights."""
        best, best_weights, waited = math.inf, {}, 0
        for _ in range(self.params.num_epochs):
            start = time.perf_counter()
            self.train_step(train)
            val_loss, _ = self.eval_step(val)
            self.scheduler.step(val_loss)
            waited += 1
            if val_loss < best:
                best, best_weights, waited = val_loss, copy.deepcopy(self.model.state_dict()), 0
            yield time.perf_counter() - start
            if waited == self.params.patience:
                break
        self.model.load_state_dict(best_weights)

    @torch.inference_mode()
    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Give the probability of each tag for raw texts: (N, num_classes)."""
        self.model.eval()
        cleaned = [clean(text) for text in texts]
        batches = self.loader(cleaned, [[] for _ in texts])
        return np.vstack([self.model(tokens.to(self.device)).sigmoid().cpu().numpy() for tokens, _ in batches])
