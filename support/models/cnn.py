"""The lesson's multi-label CNN: embedding, convolutions of several widths, max over time, two layers.

Where they cost less, table look-ups take the place of the convolutions, to the same result: support/models/lookup.py.

    model = CNN(vocab_size=39, num_classes=35)
    logits = model(torch.randint(1, 39, (64, 120)))  # (64, 35)
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from support.models.lookup import PAD, conv_max, fold, lengths, pad, short_steps

# For a token of the vocabulary a table costs what convolutions cost for two of the texts: benchmarks/lookup.py.
# A kept table costs nothing.
TOKENS_A_ROW, KEPT = 2, 512


class CNN(nn.Module):
    """The lesson's model and state_dict. Source: https://madewithml.com/courses/mlops/experiment-tracking"""

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        embedding_dim: int = 128,
        num_filters: int = 128,
        filter_sizes: Sequence[int] = tuple(range(1, 11)),
        hidden_dim: int = 128,
        dropout_p: float = 0.5,
    ) -> None:
        super().__init__()
        self.filter_sizes = list(filter_sizes)
        self.embeddings = nn.Embedding(vocab_size, embedding_dim, padding_idx=PAD)
        self.conv = nn.ModuleList(nn.Conv1d(embedding_dim, num_filters, k) for k in self.filter_sizes)
        for conv in self.conv:
            # The same shape, laid out in memory so that a look-up table is one product without a copy.
            conv.weight = nn.Parameter(conv.weight.permute(1, 2, 0).contiguous().permute(2, 0, 1))
        self.dropout = nn.Dropout(dropout_p)
        self.fc1 = nn.Linear(num_filters * len(self.filter_sizes), hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, num_classes)
        self._kept: tuple[list, Tensor] | None = None  # see _table

    def forward(self, tokens: Tensor) -> Tensor:
        """Turn tokens, int64 (N, L), padded at the end with 0, into logits (N, num_classes).

        Each text is read as if padding without end came after it, so its logits depend neither on how
        far it is padded nor on the other texts.
        """
        if self.uses_lookup(tokens):
            pooled = conv_max(tokens, self._table(), self.filter_sizes) + torch.cat([conv.bias for conv in self.conv])
        else:
            pooled = self._convolve(tokens)
        return self.fc2(self.dropout(self.fc1(pooled)))

    def uses_lookup(self, tokens: Tensor) -> bool:
        """Return whether look-up tables pay for this batch: on the CPU, with twice as many tokens as the vocabulary."""
        most = max(int(tokens.count_nonzero()) // TOKENS_A_ROW, 0 if torch.is_grad_enabled() else KEPT)
        return tokens.device.type == "cpu" and self.embeddings.num_embeddings <= most

    def tuned(self, tokens: Tensor) -> AbstractContextManager:
        """Return the context in which the model trains and tags fastest on batches like this one."""
        return short_steps() if self.uses_lookup(tokens) else nullcontext()

    def _table(self) -> Tensor:
        """Return the look-up table. While no weight asks for a gradient, it is made once and kept."""
        convs = [conv.weight for conv in self.conv]
        weights = [self.embeddings.weight, *convs]
        if any(weight.requires_grad or weight.is_inference() for weight in weights):
            self._kept = None  # an optimiser may change the weights at any time
            # All rows of the embedding, by nn.Embedding's forward: the padding's row gets no gradient.
            return fold(self.embeddings(torch.arange(self.embeddings.num_embeddings)), convs)
        # A change in place, such as load_state_dict, counts the version up; any other moves the weight.
        state = [(weight.data_ptr(), weight._version) for weight in weights]
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False):
                self._kept = state, fold(self.embeddings.weight, convs)
        return self._kept[1]

    def _convolve(self, tokens: Tensor) -> Tensor:
        widest = max(self.filter_sizes)
        padded = pad(tokens, max(lengths(tokens).tolist(), default=0), widest)
        embedded = self.embeddings(padded).transpose(1, 2)
        starts = [(widest - 1) // 2 - (k - 1) // 2 for k in self.filter_sizes]
        pooled = [conv(embedded[:, :, s:]).amax(2) for s, conv in zip(starts, self.conv, strict=True)]
        return torch.cat(pooled, 1)
