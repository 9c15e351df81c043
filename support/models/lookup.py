"""Convolution and max over time by table look-up: why a character CNN trains some 18 times faster here.

A character vocabulary has 39 tokens. So all that one place of a filter can ever add is one of 39
values. Fold the embedding into the filters once a step, and the convolution is a sum of table rows:

    table[v, j] = embeddings[v] @ weight[:, :, j].T          one row of num_filters for (token, place)

    text           t   r   a   n   s   f   e   r             a filter of width 3 at "ans":
                           |   |   |
    convolution        table[a,0] + table[n,1] + table[s,2]

Two more facts make the rest cheap. Only the window that wins the maximum gets a gradient, so the backward
pass adds to the winners' rows and touches nothing else. And the sums of a few texts fit in the
processor's cache, so they are pooled there, a piece of the batch at a time, and never stored.

The result equals nn.Embedding + nn.Conv1d + max to rounding: tests/unit/test_cnn.py compares them.
What it does not do: an activation before the maximum. The lesson's model has none.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

PAD = 0
WINDOWS_A_PIECE = 1_000
MOST_WINDOWS = 20_000  # of one text at a time: each takes num_filters sums a width


@contextmanager
def short_steps() -> Iterator[None]:
    """Set PyTorch up for many steps of milliseconds each: one thread, and memory that stays.

    More threads wait for each other by spinning, which does not pay. With one, the sums also come out the same
    to the last digit on any number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # New pages would cost a quarter of the time. glibc keeps freed memory of up to twice the largest block ever
    # freed (M_MMAP_THRESHOLD, https://man7.org/linux/man-pages/man3/mallopt.3.html): 31 MiB teach it so.
    torch.empty(31 * 2**20, dtype=torch.uint8)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def lengths(tokens: Tensor) -> Tensor:
    """Count each row's tokens up to the last that is not padding: (N, L) -> (N,)."""
    position = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return F.pad((tokens != PAD) * position, (0, 1)).amax(1)


def pad(tokens: Tensor, longest: int, widest: int) -> Tensor:
    """Return tokens (N, longest + (widest - 1) // 2 + widest): what windows centred on each token see.

    In front stands the padding of the lesson's "same" convolution, behind room for one window of padding alone.
    """
    return F.pad(tokens[:, :longest], ((widest - 1) // 2, widest), value=PAD)


def fold(embeddings: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Fold the embedding into the filters: the table (vocab_size, sum of all k, num_filters).

    embeddings: (vocab_size, embedding_dim). weights: one (num_filters, embedding_dim, k) a width k, as
    nn.Conv1d holds them.
    """
    columns = [embeddings @ weight.permute(1, 2, 0).flatten(1) for weight in weights]
    return torch.cat(columns, 1).unflatten(1, (-1, len(weights[0])))


@cache
@torch.inference_mode(False)  # what tagging keeps here, training uses too
def columns(widths: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return which token of a window each column reads, for which width; and the first column of each width."""
    widest = max(widths)
    reads = torch.cat([torch.arange(k) + (widest - 1) // 2 - (k - 1) // 2 for k in widths])
    width_of = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    return reads, width_of, torch.tensor([0, *widths[:-1]]).cumsum(0)


def conv_max(tokens: Tensor, table: Tensor, widths: Sequence[int]) -> Tensor:
    """Embed, convolve without bias and take the maximum over time, for several filter widths at once.

    tokens: int64 (N, L), padded at the end with 0. table: what `fold` gives. Returns (N, widths * num_filters).
    """
    # Texts of like length share a piece, with little padding. The longest take the memory that all then use again.
    order = lengths(tokens).argsort(descending=True)
    return LookupMax.apply(tokens[order], table, tuple(widths))[order.argsort()]


class LookupMax(torch.autograd.Function):
    """Sum the table rows of every window, and keep each filter's maximum over a text. The longest text comes first."""

    @staticmethod
    def forward(ctx, tokens: Tensor, table: Tensor, widths: tuple[int, ...]) -> Tensor:
        widest, (_, num_columns, _) = max(widths), table.shape
        reads, width_of, first_column = columns(widths)
        longest = lengths(tokens).tolist()
        padded = pad(tokens, max(longest, default=0), widest).int()
        first_row = padded * num_columns  # of each token, where all columns of all tokens stand below one another
        flat_table, column = table.detach().flatten(0, 1), torch.arange(num_columns, dtype=torch.int32)
        most = min(max([WINDOWS_A_PIECE, *(length + widest for length in longest[:1])]), MOST_WINDOWS)
        bags = (torch.arange(0, most * num_columns, num_columns).unsqueeze(1) + first_column).flatten().int()
        best = table.new_empty(len(tokens), len(widths) * table.shape[2])
        winners = torch.empty_like(best, dtype=torch.int64)
        start = 0
        while start < len(tokens):
            windows = longest[start] + (widest - 1) // 2 + 1
            stop = start + max(1, WINDOWS_A_PIECE // windows)
            for first in range(0, windows, MOST_WINDOWS):
                some = min(windows - first, MOST_WINDOWS)
                seen = first_row[start:stop, first : first + some + widest - 1].unfold(1, widest, 1)
                rows = seen.index_select(2, reads).add_(column)
                sums = F.embedding_bag(rows.flatten(), flat_table, bags[: len(seen) * some * len(widths)], mode="sum")
                # As a channels-last picture of height 1, the pooling that also tells the winners'
                # positions takes all filters at once: six times faster than sums.max(1).
                picture = sums.view(len(seen), some, -1).transpose(1, 2).unsqueeze(2)
                values, positions = (part.flatten(1) for part in F.max_pool2d(picture, (1, some), return_indices=True))
                if first:
                    higher = values > best[start:stop]
                    values = values.where(higher, best[start:stop])
                    positions = positions.add_(first).where(higher, winners[start:stop])
                best[start:stop], winners[start:stop] = values, positions
            start = stop
        ctx.save_for_backward(padded, winners.unflatten(1, (len(widths), -1)), reads, width_of)
        ctx.table_shape = table.shape
        return best

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, None]:
        padded, winners, reads, width_of = ctx.saved_tensors
        # The token that each column of each filter read where the filter won: (N, columns * num_filters).
        read = winners.index_select(1, width_of).add_(reads.unsqueeze(1)).flatten(1)
        seen = padded.long().gather(1, read)
        table_grad = grad.new_zeros(ctx.table_shape)
        table_grad.flatten(1).scatter_add_(0, seen, grad.view_as(winners).index_select(1, width_of).flatten(1))
        return None, table_grad, None
