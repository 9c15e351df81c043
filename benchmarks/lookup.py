"""Time a training step by look-up and by convolution, in turns, over 30 cases: does CNN choose the cheaper way?

    python -m benchmarks.lookup

Prints a row a case, and at the end how far the choice is from the better way.
"""

import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from support.models.cnn import CNN

LESSON, SMALL = (128, 128, range(1, 11)), (64, 64, (3, 4, 5))
# What they stand for: vocabulary, texts a batch, tokens a text. All with the lesson's layers, then with small ones.
CASES = {
    "letters, Latin": [(39, 64, 30), (39, 64, 130), (39, 8, 130)],
    "letters, Russian": [(75, 64, 130), (75, 16, 60)],
    "letters, Chinese": [(3000, 64, 40), (3000, 64, 150), (6000, 64, 150), (3000, 8, 150)],
    "words": [(500, 16, 20), (2000, 64, 20), (2000, 64, 100), (8000, 64, 100), (8000, 128, 200), (20000, 32, 40)],
}
REPEATS = 3
DECIDES = CNN.uses_lookup


def one_step(vocabulary: int, tokens: torch.Tensor, layers: tuple) -> tuple[CNN, Callable[[], None]]:
    """Return a model and its training step on a batch."""
    embedding_dim, num_filters, widths = layers
    model = CNN(vocabulary, 35, embedding_dim=embedding_dim, num_filters=num_filters, filter_sizes=widths)
    optimizer, targets = torch.optim.Adam(model.parameters(), fused=True), torch.ones(len(tokens), 35)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(tokens), targets).backward()
        optimizer.step()

    return model, step


def milliseconds(vocabulary: int, tokens: torch.Tensor, layers: tuple) -> dict[bool, float]:
    """Return the median of a step by look-up (True) and by convolution (False)."""
    model, step = one_step(vocabulary, tokens, layers)
    took: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(REPEATS + 1):
        for way, times in took.items():
            CNN.uses_lookup = lambda self, batch, way=way: way
            with model.tuned(tokens):
                start = time.perf_counter()
                step()
                times += [1000 * (time.perf_counter() - start)] if turn else []  # the first one warms up
    CNN.uses_lookup = DECIDES
    return {way: statistics.median(times) for way, times in took.items()}


def main() -> None:
    print("| text | vocabulary | texts | tokens | layers | look-up ms | convolution ms | chosen | to the better |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    worst = []
    for layers, name in ((LESSON, "the lesson's"), (SMALL, "small")):
        for kind, cases in CASES.items():
            for vocabulary, texts, length in cases:
                torch.manual_seed(0)
                tokens = torch.randint(1, vocabulary, (texts, length))
                chosen = DECIDES(one_step(vocabulary, tokens, layers)[0], tokens)
                took = milliseconds(vocabulary, tokens, layers)
                worst.append(took[chosen] / min(took.values()))
                ways = f"{took[True]:.1f} | {took[False]:.1f} | {'look-up' if chosen else 'convolution'}"
                print(f"| {kind} | {vocabulary} | {texts} | {length} | {name} | {ways} | {worst[-1]:.2f} |", flush=True)
    within = sum(ratio <= 1.2 for ratio in worst)
    print(f"\n{within} of {len(worst)} within 1.2 of the better way, the worst at {max(worst):.2f}. ", end="")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
