"""What one sees while a run trains: its losses as a curve in a notebook, as a bar in a terminal.

with tracking.log_epochs(num_epochs=20) as on_epoch:      # in a run
    for epoch in range(1, 21):
        on_epoch(epoch, {"train_loss": ..., "val_loss": ...})

The curve is one picture, redrawn in place: no widget, so that every front end shows it.
"""

import io
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from tqdm import tqdm

from support import plots
from support.models.checkpoint import Checkpoint
from support.models.training import OnEpoch
from support.tracking import alerting
from support.tracking.runs import MEASURED, NoRunError, best_runs, data_digest, histories

EVERY, PATIENCE = 1.0, 30  # seconds between two pictures, at least, and 30 times what the last one took
ROUNDING = 1e-3  # by so much may an epoch differ that is trained again, with other versions or elsewhere
VAL_LOSS = "val_loss"


@contextmanager
def log_epochs(
    num_epochs: int | None = None, metric: str = "f1", checkpoint: Checkpoint | None = None
) -> Iterator[OnEpoch]:
    """Yield an `on_epoch(epoch, metrics)` that logs each epoch to the current run and shows it.

    Short epochs are logged some at a time, and all of them before `checkpoint` keeps a state. An epoch that the
    run has already is not logged again. `num_epochs` is how many there may be, and `metric` chooses the best run
    so far, whose validation loss is drawn in grey.
    """
    log = NewMetrics()
    if checkpoint:
        checkpoint.before_save = log.flush
    show, finish = _curve(log, num_epochs, metric) if _in_notebook() else _bar(num_epochs)

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        log(metrics, epoch, Checkpoint.EVERY)
        show(epoch, metrics)

    try:
        yield on_epoch
    finally:
        log.flush()
        finish()


class NewMetrics:
    """Logs metrics to the current run, but no step of a metric a second time, as MLflow would.

    A second value that is not the first is an error, unless it is one of MEASURED: then the first stays.
    """

    def __init__(self) -> None:
        client, self.run = MlflowClient(), mlflow.get_run(mlflow.active_run().info.run_id)
        names = [name for name in self.run.data.metrics if not name.startswith("system/")]
        history = {name: client.get_metric_history(self.run.info.run_id, name) for name in names}
        self.logged = {(m.key, m.step): m.value for metrics in history.values() for m in metrics}
        self.waiting, self.flushed = [], -math.inf

    def __call__(self, metrics: dict[str, float], step: int = 0, every: float = 0.0) -> None:
        """Log what is new; with `every`, in one request what comes in so many seconds.

        Raise RuntimeError for a value that the run has as another one.
        """
        for name, value in metrics.items():
            measured = name in MEASURED or not math.isfinite(value)
            if not measured and not math.isclose(self.logged.get((name, step), value), value, rel_tol=ROUNDING):
                raise RuntimeError(
                    f"{name} of step {step} is {value!r} now, and the run has logged "
                    f"{self.logged[name, step]!r}: this is not the same training. Start a new run."
                )
        new = {name: value for name, value in metrics.items() if (name, step) not in self.logged}
        self.waiting += [Metric(name, float(value), int(time.time() * 1000), step) for name, value in new.items()]
        alerting.at_metrics(self.run, new, step)
        if time.monotonic() - self.flushed >= every:
            self.flush()

    def epochs(self, before: int) -> list[dict[str, float]]:
        """Return the metrics of each epoch that the run has logged, up to this one."""
        steps = sorted({step for _, step in self.logged if 0 < step < before})
        return [{name: value for (name, at), value in self.logged.items() if at == step} for step in steps]

    def flush(self) -> None:
        """Log what waits."""
        self.flushed = time.monotonic()
        waiting, self.waiting = self.waiting, []  # first: what an interrupt meets here is not logged twice
        if waiting:
            MlflowClient().log_batch(self.run.info.run_id, waiting)


def _bar(num_epochs: int | None) -> tuple[Callable, Callable]:
    bar = tqdm(total=num_epochs, unit="epoch", file=sys.stdout, delay=1e-9)  # none before the first epoch

    def show(epoch: int, metrics: dict[str, float]) -> None:
        bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
        bar.update(max(epoch - bar.n, 1))  # more than one: a run that was resumed

    def finish() -> None:
        if bar.n and bar.total and bar.n < bar.total:
            bar.total = bar.n
            bar.set_description("stopped early")
        bar.close()

    return show, finish


def _curve(log: NewMetrics, num_epochs: int | None, metric: str) -> tuple[Callable, Callable]:
    from IPython.display import Image, display  # there where a notebook is

    run, history, due, output = log.run, [], 0.0, None
    best, resumed, started = _best_losses(run, metric), 0, time.monotonic()

    def draw(title: str, best_epoch: int | None = None) -> None:
        nonlocal output
        last = ", ".join(f"{name} {value:.4g}" for name, value in history[-1].items())
        figure, png = plots.learning_curves(history, best_epoch, f"{title}\n{last}", best), io.BytesIO()
        figure.savefig(png, dpi=90)
        image = Image(png.getvalue(), format="png")
        if output:
            output.update(image)
        else:
            output = display(image, display_id=True)

    def show(epoch: int, metrics: dict[str, float]) -> None:
        nonlocal due, resumed
        if not history:  # what was logged before the run was resumed
            history.extend(log.epochs(epoch))
            resumed = len(history)
        history.append(metrics)
        if (now := time.monotonic()) >= due:
            left = (now - started) / (len(history) - resumed) * ((num_epochs or 0) - len(history))
            until = f" of at most {num_epochs}, at most {left:.0f} s left" if num_epochs else ""
            draw(f"{run.info.run_name}: epoch {len(history)}{until}")
            due = time.monotonic() + max(EVERY, PATIENCE * (time.monotonic() - now))

    def finish() -> None:
        if not history:
            return
        losses = [metrics.get(VAL_LOSS, math.inf) for metrics in history]
        best_epoch = losses.index(min(losses)) + 1 if math.isfinite(min(losses)) else None
        early = "stopped at" if num_epochs and len(history) < num_epochs else "epoch"
        best_one = f", best {best_epoch}" if best_epoch else ""
        draw(f"{run.info.run_name}: {early} {len(history)}{best_one}", best_epoch)

    return show, finish


def _best_losses(run: Run, metric: str) -> dict[int, float]:
    """Return step -> validation loss of the best run on the same data that has one; empty for none."""
    try:
        best = best_runs(mlflow.get_experiment(run.info.experiment_id).name, metric)
    except NoRunError:
        return {}
    alike = [one for one in best if VAL_LOSS in one.data.metrics and data_digest(one) == data_digest(run)]
    return histories(alike[0].info.run_id)[VAL_LOSS] if alike else {}


def _in_notebook() -> bool:
    module = sys.modules.get("IPython")
    return hasattr(module.get_ipython(), "kernel") if module else False
