"""What a notebook shows while a run trains: the epochs, logged and counted."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow import MlflowClient
from tqdm import tqdm

from support.models.training import OnEpoch
from support.tracking.runs import MEASURED


@contextmanager
def log_epochs(num_epochs: int | None = None) -> Iterator[OnEpoch]:
    """Yield an `on_epoch(epoch, metrics)` that logs each epoch to the current run and moves a progress bar.

    An epoch that the run has already is not logged again. The bar ends at its end, also where the training
    stopped early.
    """
    log, bar = NewMetrics(), None
    try:

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            nonlocal bar
            log(metrics, step=epoch)
            bar = bar or tqdm(total=num_epochs, unit="epoch", file=sys.stdout)
            bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
            bar.update()

        yield on_epoch
        if bar is not None and num_epochs and bar.n < num_epochs:
            bar.total = bar.n
            bar.set_description("stopped early")
    finally:
        if bar is not None:
            bar.close()


class NewMetrics:
    """Logs metrics to the current run, but no step of a metric a second time, as MLflow would.

    A second value that is not the first is an error, unless it is one of MEASURED: then the first stays.
    """

    def __init__(self) -> None:
        client, run = MlflowClient(), mlflow.get_run(mlflow.active_run().info.run_id)
        names = [name for name in run.data.metrics if not name.startswith("system/")]
        history = {name: client.get_metric_history(run.info.run_id, name) for name in names}
        self.logged = {(m.key, m.step): m.value for metrics in history.values() for m in metrics}

    def __call__(self, metrics: dict[str, float], step: int = 0) -> None:
        """Log what is new. Raise RuntimeError for a value that the run has as another one."""
        for name, value in metrics.items():
            measured = name in MEASURED or not math.isfinite(value)
            if not measured and self.logged.get((name, step), value) != value:
                raise RuntimeError(
                    f"{name} of step {step} is {value!r} now, and the run has logged "
                    f"{self.logged[name, step]!r}: this is not the same training. Start a new run."
                )
        new = {name: value for name, value in metrics.items() if (name, step) not in self.logged}
        if new:
            mlflow.log_metrics(new, step=step)
