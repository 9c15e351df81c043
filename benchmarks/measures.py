"""What the benchmark measures: one function a question. Times are seconds unless a name says else."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union

from benchmarks import lookup
from benchmarks.lesson import Lesson, LessonCNN
from benchmarks.store import fill
from support import tracking
from support.config import PROJECT_DIR
from support.data.splits import Splits
from support.environment import best_device
from support.models.checkpoint import Checkpoint
from support.models.cnn import CNN
from support.models.evaluation import best_threshold, get_performance
from support.models.params import Params
from support.models.tagger import Tagger, Trained
from support.models.training import Examples, Trainer, train_cnn
from support.tracking.store import EXPERIMENT

# For so long the lesson's epochs are timed: all 52 of them would take 5 to 12 minutes on two cores.
LESSON_SECONDS = 120
OTHER_SEEDS = 1, 2


def summary(values: Iterable[float]) -> dict[str, float]:
    """Give the median and the spread of repeated measurements."""
    values = sorted(values)
    return {
        "median": statistics.median(values),
        "low": values[0],
        "high": values[-1],
        "times": len(values),
    }


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def make_trainer(params: Params, splits: Splits) -> tuple[Trainer, Examples, Examples]:
    """Give what train_cnn sets up: the trainer, the training and the validation examples."""
    lesson = Lesson(params, splits, best_device())  # for its tokenizer, its encoder and its loss
    parts = [
        Examples(
            lesson.tokenizer.encode(part.text).to(lesson.device),
            torch.from_numpy(lesson.label_encoder.encode(part.tags)).to(lesson.device),
        )
        for part in (splits.train, splits.val)
    ]
    torch.manual_seed(params.seed)
    model = CNN(len(lesson.tokenizer), len(lesson.label_encoder)).to(lesson.device)
    return Trainer(model, lesson.loss_fn, params), *parts


def epoch(trainer: Trainer, train: Examples, val: Examples) -> float:
    """Time an epoch of ours, with the threads that train_cnn gives it."""
    with trainer.model.tuned(train.tokens[: trainer.params.batch_size]):
        return seconds(lambda: (trainer.train_step(train), trainer.eval_step(val)))


class Turns:
    """A process that takes a step of a generator when asked, so that two ways share no thread, no memory."""

    def __init__(self, generator: Callable, *arguments) -> None:
        self.process = ProcessPoolExecutor(1, get_context("spawn"))
        self.process.submit(_begin, generator, arguments).result()

    def next(self):
        """Give what the generator yields, or None when it has ended."""
        return self.process.submit(_next).result()

    def __enter__(self) -> "Turns":
        return self

    def __exit__(self, *_) -> None:
        self.process.shutdown()


def _begin(generator: Callable, arguments: tuple) -> None:
    global _steps
    _steps = generator(*arguments)


def _next():
    return next(_steps, None)


def lesson_turns(params: Params, splits: Splits) -> Iterator:
    """Give the seconds of the preparation and of each timed epoch; then the Lesson and the count of epochs.

    Epochs are timed for LESSON_SECONDS. The rest, until it stops, is trained in the same way, but for the
    convolutions: look-up computes the same sums.
    """
    start = time.perf_counter()
    lesson = Lesson(params, splits, best_device())
    train, val, _ = parts_of(lesson, splits)
    yield time.perf_counter() - start
    plain, timed, epochs = lesson.model, 0.0, 0
    for took in lesson.train(train, val):
        epochs += 1
        if lesson.model is plain:
            yield took
            timed += took
            if timed > LESSON_SECONDS:
                lesson.model = by_lookup(plain)
    lesson.model = plain
    yield lesson, epochs


def parts_of(lesson: Lesson, splits: Splits) -> list:
    """Give the batches of the three parts; those to train on are shuffled."""
    return [
        lesson.loader(part.text, part.tags, shuffle=part is splits.train)
        for part in (splits.train, splits.val, splits.test)
    ]


def lesson_f1(lesson: Lesson, splits: Splits) -> float:
    """Give the F1 on the test split; the threshold is chosen on the validation split, as ours is."""
    _, val, test = parts_of(lesson, splits)
    encode = lesson.label_encoder.encode
    threshold = best_threshold(encode(splits.val.tags), lesson.eval_step(val)[1])
    return f1_of(encode(splits.test.tags), lesson.eval_step(test)[1], threshold, lesson.label_encoder.classes)


def by_lookup(model: LessonCNN) -> CNN:
    """Give a CNN that has the very layers of `model`, so that to train one is to train the other."""
    widths = [conv.kernel_size[0] for conv in model.conv]
    twin = CNN(model.embeddings.num_embeddings, model.fc2.out_features, filter_sizes=widths)
    for name, layer in model.named_children():
        setattr(twin, name, layer)
    return twin


def our_turns(params: Params, splits: Splits) -> Iterator[float]:
    """Give the seconds of an epoch, again and again."""
    trainer, train, val = make_trainer(params, splits)
    while True:
        yield epoch(trainer, train, val)


def f1_of(targets, probabilities, threshold: float, classes: list[str]) -> float:
    return get_performance(targets, probabilities >= threshold, classes)["overall"]["f1"]


def training(params: Params, splits: Splits) -> tuple[dict, Lesson, Trained]:
    """Train the lesson's way until it stops, an epoch of ours after each timed one; then ours by itself."""
    lesson_epochs, our_epochs = [], []
    with Turns(lesson_turns, params, splits) as theirs, Turns(our_turns, params, splits) as ours:
        preparation = theirs.next()
        while isinstance(turn := theirs.next(), float):
            lesson_epochs.append(turn)
            our_epochs.append(ours.next())
            print(f"  epoch {len(our_epochs)}: {turn:.2f} s and {our_epochs[-1]:.2f} s", flush=True)
    lesson, count = turn
    lessons_f1 = [lesson_f1(lesson, splits)]
    for seed in OTHER_SEEDS:  # by look-up from the start: for the F1 alone
        other = Lesson(replace(params, seed=seed), splits, best_device())
        plain, other.model = other.model, by_lookup(other.model)
        with other.model.tuned(torch.ones(params.batch_size, 100, dtype=torch.int64)):
            list(other.train(*parts_of(other, splits)[:2]))
        other.model = plain
        lessons_f1.append(lesson_f1(other, splits))

    whole, f1, epochs, trained = [], [], [], None
    for seed in (params.seed, *OTHER_SEEDS):
        start = time.perf_counter()
        result = train_cnn(replace(params, seed=seed), splits)
        whole.append(time.perf_counter() - start)
        f1.append(result.performance["overall"]["f1"])
        epochs.append(len(result.history))
        trained = trained or result
    return (
        {
            "epoch": {"lesson": summary(lesson_epochs), "ours": summary(our_epochs)},
            "whole_run": {
                "lesson": preparation + count * statistics.mean(lesson_epochs),
                "ours": summary(whole),
            },
            "epochs": {"lesson": count, "timed": len(lesson_epochs), "ours": epochs},
            "f1": {"lesson": lessons_f1, "ours": f1},
        },
        lesson,
        trained,
    )


def tagging(lesson: Lesson, trained: Trained, texts: list[str]) -> dict:
    """Tag one text again and again, in turns, and 10,000 texts. Ours is a tagger as a run gives it.

    A turn with one text is 20 calls long, since each way empties the processor's cache for the other. With
    10,000 texts, the lesson's way takes half a minute, and so it has one turn.
    """
    result = {}
    with TemporaryDirectory() as folder:
        trained.save(folder)
        tagger = Tagger.load(folder)
    many = (texts * (10_000 // len(texts) + 1))[:10_000]
    lesson.predict(texts[:1]), tagger.predict_proba(texts[:1])
    plan = {"one_text": (texts[:1], 5, 20, 20), "10000_texts": (many, 1, 1, 3)}
    for name, (batch, turns, calls, our_calls) in plan.items():
        lesson_times, our_times = [], []
        for _ in range(turns):
            lesson_times += [seconds(lambda batch=batch: lesson.predict(batch)) for _ in range(calls)]
            our_times += [seconds(lambda batch=batch: tagger.predict_proba(batch)) for _ in range(our_calls)]
        result[name] = {"lesson": summary(lesson_times), "ours": summary(our_times)}
    return result


class TimedCheckpoint(Checkpoint):
    """A checkpoint that notes the seconds that each save takes."""

    def __init__(self, path: Path, took: list[float]) -> None:
        super().__init__(path)
        self.took = took

    def save(self, state: dict) -> None:
        self.took.append(seconds(lambda: super(TimedCheckpoint, self).save(state)))


def tracking_share(params: Params, splits: Splits, epochs: int = 20) -> dict:
    """Give the share of a training's time that tracking and checkpoints take; also time what is logged once a run.

    The calls are timed within the training: two trainings differ from each other by more than they take.
    """
    params = replace(params, num_epochs=min(epochs, params.num_epochs))
    shares, once = [], []
    with TemporaryDirectory() as folder:
        tracking.connect(folder)
        for turn in range(3):
            spent, logged = [], 0.0
            checkpoint = TimedCheckpoint(Path(folder) / f"{turn}.pt", spent)
            with tracking.start_run("cnn", EXPERIMENT):
                logged += seconds(lambda: mlflow.log_params(asdict(params)))
                logged += seconds(lambda: tracking.log_context(splits))
                start = time.perf_counter()
                with tracking.log_epochs(params.num_epochs, checkpoint=checkpoint) as on_epoch:

                    def timed(epoch, metrics, on_epoch=on_epoch, spent=spent):
                        spent.append(seconds(lambda: on_epoch(epoch, metrics)))

                    trained = train_cnn(params, splits, timed, checkpoint)
                shares.append(sum(spent) / (time.perf_counter() - start - sum(spent)))
                logged += seconds(lambda trained=trained: tracking.log_trained(trained, splits))
            once.append(logged)
        mlflow.set_tracking_uri(None)
    return {"share": summary(shares), "once_a_run": summary(once), "epochs": params.num_epochs}


def memory() -> dict:
    """Give the peak memory, in MB, of a process that trains each way."""
    peaks = {}
    for way in ("lesson", "ours"):
        command = [sys.executable, "-m", "benchmarks.memory", way]
        done = subprocess.run(command, cwd=PROJECT_DIR, capture_output=True, text=True, check=True)
        peaks[way] = float(done.stdout.split()[-1])
    return peaks


def scaling(params: Params, splits: Splits) -> dict:
    """Time our epoch on more texts, then on longer ones."""

    def fastest(texts: int, length: int) -> float:
        parts = {}
        for name in ("train", "val"):
            part = getattr(splits, name)
            part = part.assign(text=[" ".join([text] * length) for text in part.text])
            parts[name] = pd.concat([part] * texts, ignore_index=True)
        trainer, train, val = make_trainer(params, replace(splits, **parts))
        return min(epoch(trainer, train, val) for _ in range(2))  # the less disturbed

    return {
        "corpus": {texts: fastest(texts, 1) for texts in (1, 4, 16)},
        "text_length": {length: fastest(1, length) for length in (1, 2, 4)},
    }


def best_run() -> dict:
    """Find the best run among many, our way and by a frame of all of them."""
    result = {}
    for count in (10_000, 100_000):
        with TemporaryDirectory() as folder:
            tracking.connect(folder)
            best = fill(Path(folder) / "mlflow.db", tracking.set_experiment(), count)
            found = []
            times = [seconds(lambda found=found: found.append(tracking.best_run().info.run_id)) for _ in range(5)]
            if set(found) != {best}:
                raise AssertionError("tracking.best_run did not find the best run")
            result[count] = {"ours": summary(times)}
            if count == 10_000:  # at 100,000 it takes minutes
                result[count]["lesson"] = seconds(
                    lambda: mlflow.search_runs(experiment_names=[EXPERIMENT], order_by=["metrics.val_f1 DESC"])
                )
            mlflow.set_tracking_uri(None)
    return result


def crossover() -> dict:
    """Time a training step, by look-up and by convolution, for vocabularies of several sizes."""
    times = {}
    for vocab_size in (39, 128, 256, 512, 1024, 2048, 4096):
        took = lookup.milliseconds(vocab_size, torch.randint(1, vocab_size, (64, 128)), lookup.LESSON)
        times[vocab_size] = {"look-up": took[True] / 1000, "convolution": took[False] / 1000}
    return times


def tfidf(splits: Splits, classes: list[str], encode: Callable) -> dict:
    """Word and character n-grams with logistic regression, its threshold chosen as ours is."""
    start = time.perf_counter()
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=3)
    classifier = OneVsRestClassifier(LogisticRegression(solver="liblinear", C=10, class_weight="balanced"))
    model = make_pipeline(make_union(words, characters), classifier).fit(splits.train.text, encode(splits.train.tags))
    threshold = best_threshold(encode(splits.val.tags), model.predict_proba(splits.val.text))
    f1 = f1_of(encode(splits.test.tags), model.predict_proba(splits.test.text), threshold, classes)
    return {"f1": f1, "seconds": time.perf_counter() - start}


def log_call() -> dict:
    """Time a call that logs three metrics, in milliseconds: MLflow into SQLite, and W&B offline."""
    metrics = {"train_loss": 0.5, "val_loss": 0.4, "lr": 1e-4}
    result = {}
    with TemporaryDirectory() as folder:
        tracking.connect(folder)
        with tracking.start_run("calls"):
            for name, synchronous in (("mlflow", True), ("mlflow, asynchronous", False)):
                times = [
                    seconds(lambda s=step, w=synchronous: mlflow.log_metrics(metrics, step=s, synchronous=w))
                    for step in range(100)
                ]
                result[name] = summary(1000 * t for t in times)
                mlflow.flush_async_logging()
        mlflow.set_tracking_uri(None)
        try:
            import wandb
        except ImportError:
            return result
        os.environ["WANDB_SILENT"] = "true"
        with wandb.init(project="benchmark", mode="offline", dir=folder) as run:
            result["wandb, offline"] = summary(
                1000 * seconds(lambda s=step: run.log(metrics, step=s)) for step in range(100)
            )
    return result
