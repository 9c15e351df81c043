"""Measure the series against the lesson's way, and write results/: results.json, results.png, table.md.

python -m benchmarks.run        the benchmark
python -m benchmarks.run 2      a trial of at most two epochs, which writes nothing
"""

import json
import os
import platform
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from benchmarks import measures
from support.data import about, load_projects, split
from support.environment import best_device
from support.models import Params
from support.models.cnn import TOKENS_A_ROW

RESULTS = Path(__file__).parent / "results"
BLUE, ORANGE, GREY = "#1f77b4", "#ff7f0e", "#8c8c8c"


def main() -> None:
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # the benchmark fills stores of its own
    trial = len(sys.argv) > 1
    params = replace(Params(), num_epochs=int(sys.argv[1]) if trial else Params().num_epochs)
    projects = load_projects()
    splits = split(projects)
    print(about(projects))
    start = time.perf_counter()
    results = {
        "machine": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else best_device().type,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "corpus": projects.attrs["corpus"],
    }

    def measure(name: str, call) -> None:
        began = time.perf_counter()
        results[name] = call()
        print(f"{name}: {time.perf_counter() - began:.0f} s\n  {json.dumps(results[name])}", flush=True)

    print("training, the lesson's way and ours in turns", flush=True)
    results["training"], lesson, trained = measures.training(params, splits)
    print(f"  {json.dumps(results['training'])}", flush=True)
    measure("tagging", lambda: measures.tagging(lesson, trained, list(projects.text)))
    measure("tracking", lambda: measures.tracking_share(params, splits))
    measure("memory", measures.memory)
    measure("scaling", lambda: measures.scaling(params, splits))
    measure("best_run", measures.best_run)
    encoder = trained.label_encoder
    measure("tfidf", lambda: measures.tfidf(splits, encoder.classes, encoder.encode))
    measure("log_call_ms", measures.log_call)
    measure("crossover", measures.crossover)
    results["minutes"] = (time.perf_counter() - start) / 60

    print(f"\n{table(results)}\n\n{results['minutes']:.1f} minutes")
    if not trial:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (RESULTS / "table.md").write_text(table(results) + "\n", encoding="utf-8")
        picture(results, RESULTS / "results.png")


def spread(value: dict | float, unit: str = "s", scale: float = 1) -> str:
    """Write a median with its spread, or a single value: 0.27 s (0.25 to 0.31)."""
    if not isinstance(value, dict):
        return f"{scale * value:.3g} {unit}"
    median, low, high = (f"{scale * value[key]:.3g}" for key in ("median", "low", "high"))
    return f"{median} {unit}" + (f" ({low} to {high})" if value["times"] > 1 else "")


def table(results: dict) -> str:
    """Write the results as a Markdown table that says where a target is missed."""
    lines = [
        "| what | the lesson's way | here | ratio | target | holds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]

    def add(what, lesson="-", ours="-", ratio="", target="", holds=None) -> None:
        verdict = {True: "yes", False: "**missed**", None: ""}[holds]
        lines.append(f"| {what} | {lesson} | {ours} | {ratio} | {target} | {verdict} |")

    def compare(what, lesson, ours, target, unit="s", scale=1.0) -> None:
        ratio = (lesson["median"] if isinstance(lesson, dict) else lesson) / ours["median"]
        lesson, ours = spread(lesson, unit, scale), spread(ours, unit, scale)
        add(what, lesson, ours, f"{ratio:.1f} x", f"at least {target} x", ratio >= target)

    training, tagging = results["training"], results["tagging"]
    machine, memory = results["machine"], results["memory"]
    target = 20 if machine["device"] == "cpu" else 1
    epoch, whole, f1 = training["epoch"], training["whole_run"], training["f1"]
    compare("one epoch, training and validation", epoch["lesson"], epoch["ours"], target)
    count, timed, here = (training["epochs"][name] for name in ("lesson", "timed", "ours"))
    epochs = f"{count} epochs" + (f", {timed} of them timed" if timed < count else "")
    what = f"whole run until early stopping ({epochs}; here {', '.join(map(str, here))})"
    compare(what, whole["lesson"], whole["ours"], target)
    difference = statistics.mean(f1["lesson"]) - statistics.mean(f1["ours"])
    ends = [(min(f1[way]), max(f1[way])) for way in ("lesson", "ours")]
    add(
        f"F1, weighted, test split, {len(f1['ours'])} seeds",
        *("{:.3f} to {:.3f}".format(*pair) for pair in ends),
        f"{difference:+.3f}",
        "the ranges overlap",
        ends[0][0] <= ends[1][1] and ends[1][0] <= ends[0][1],
    )
    compare("tagging one text", *tagging["one_text"].values(), 5, "ms", 1000)
    compare("tagging 10,000 texts", *tagging["10000_texts"].values(), 10)
    tracked = results["tracking"]
    add(
        "share of tracking and checkpoints in the training time",
        ours=spread(tracked["share"], "%", 100),
        target="under 3 %",
        holds=tracked["share"]["median"] < 0.03,
    )
    add("tracking, once a run: params, dataset, artifacts, figures", ours=spread(tracked["once_a_run"]))
    add(
        "peak memory",
        f"{memory['lesson']:.0f} MB",
        f"{memory['ours']:.0f} MB",
        f"{memory['lesson'] / memory['ours']:.2f} x",
        "no more",
        memory["ours"] <= memory["lesson"],
    )
    for name, label in (("corpus", "as many texts"), ("text_length", "as long texts")):
        sizes = {int(size): value for size, value in results["scaling"][name].items()}
        growth = max(value / sizes[1] / size for size, value in sizes.items())
        add(
            f"an epoch with {', '.join(map(str, sizes))} times {label}",
            ours=", ".join(f"{value:.2f}" for value in sizes.values()) + " s",
            ratio=f"{growth:.2f} of linear",
            target="linear (at most 1.25)",
            holds=growth <= 1.25,
        )
    runs = {int(count): value for count, value in results["best_run"].items()}
    compare("best run among 10,000", runs[10_000]["lesson"], runs[10_000]["ours"], 100)
    add("best run among 100,000", ours=spread(runs[100_000]["ours"]))
    anchor = results["tfidf"]
    add(
        "*beside it:* TF-IDF and logistic regression",
        ours=f"F1 {anchor['f1']:.3f} in {anchor['seconds']:.1f} s",
    )
    for name, value in results["log_call_ms"].items():
        add(f"*beside it:* a call that logs three metrics: {name}", ours=spread(value, "ms"))
    note = (
        f"Median (lowest to highest). {machine['cores']} cores, {machine['device']}, "
        f"Python {machine['python']}, torch {machine['torch']}, the {results['corpus']} corpus."
    )
    if timed < count:
        note += f" Each of the lesson's {count - timed} other epochs counts as the mean of those timed."
    return "\n".join(lines) + f"\n\n{note}"


def picture(results: dict, path: Path) -> None:
    """Draw what grows with what, and how the two ways compare."""
    figure, ((ratios, scaling), (crossover, runs)) = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    training, tagging = results["training"], results["tagging"]
    pairs = {
        "one epoch": (training["epoch"]["lesson"]["median"], training["epoch"]["ours"]["median"]),
        "whole run": (training["whole_run"]["lesson"], training["whole_run"]["ours"]["median"]),
        "tagging 1 text": tuple(tagging["one_text"][way]["median"] for way in ("lesson", "ours")),
        "tagging 10,000": tuple(tagging["10000_texts"][way]["median"] for way in ("lesson", "ours")),
    }
    for place, (name, values) in enumerate(reversed(pairs.items())):
        ratios.plot(values, [place, place], color=GREY, zorder=1)
        ratios.scatter(values, [place, place], color=[ORANGE, BLUE], zorder=2)
        factor = f"{name}: {values[0] / values[1]:.0f} x"
        ratios.annotate(factor, ((values[0] * values[1]) ** 0.5, place + 0.12), ha="center")
    ratios.set(title="The lesson's way (orange) and ours (blue)", xlabel="seconds", xscale="log")
    ratios.set(yticks=[], ylim=(-0.6, 3.6), xmargin=0.2)

    for name, label, colour in (("corpus", "as many texts", BLUE), ("text_length", "as long texts", ORANGE)):
        sizes = {int(size): value for size, value in results["scaling"][name].items()}
        scaling.plot(sizes.keys(), sizes.values(), "o-", color=colour, label=label)
        scaling.plot(sizes.keys(), [sizes[1] * size for size in sizes], "--", color=GREY, zorder=0)
    scaling.set(title="An epoch of ours grows linearly (dashed)", xlabel="times", ylabel="seconds")
    scaling.legend(frameon=False)

    times = {int(size): value for size, value in results["crossover"].items()}
    for way, colour in (("look-up", BLUE), ("convolution", ORANGE)):
        steps = [1000 * value[way] for value in times.values()]
        crossover.plot(times.keys(), steps, "o-", color=colour, label=way)
    crossover.legend(frameon=False, loc="center left")
    choice = 64 * 128 / TOKENS_A_ROW  # what CNN.uses_lookup says of these batches
    crossover.axvline(choice, color=GREY, linestyle="--")
    crossover.set(title="A training step by vocabulary (dashed: the choice)", xlabel="tokens", xscale="log")
    crossover.set(ylabel="milliseconds", ylim=(0, None))

    found = {int(count): value for count, value in results["best_run"].items()}
    runs.plot(found.keys(), [value["ours"]["median"] for value in found.values()], "o-", color=BLUE)
    runs.plot(10_000, found[10_000]["lesson"], "o", color=ORANGE)
    runs.annotate("a frame of all runs", (10_000, found[10_000]["lesson"]), (8, 0), textcoords="offset points")
    runs.annotate(
        "tracking.best_run",
        (100_000, found[100_000]["ours"]["median"]),
        (-8, 6),
        ha="right",
        textcoords="offset points",
    )
    runs.set(title="Finding the best run", xlabel="runs", ylabel="seconds", xscale="log", yscale="log")
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
