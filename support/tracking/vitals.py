"""What the machine did while a run trained: MLflow's system metrics, at an interval that grows with the run.

MLflow samples every 10 seconds, so a short run logs nothing and a long one thousands of rows. Here the pause
is a twentieth of the time gone by, from one second on: 15 samples for 15 seconds, some 200 for an hour.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logger = logging.getLogger(__name__)
SHORTEST = 1.0  # seconds
SAMPLES_A_FACTOR = 20


@contextmanager
def watch(run_id: str) -> Iterator[None]:
    """Log the system metrics of this block to the run; a resumed run goes on counting where it was."""
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = _Monitor(run_id, sampling_interval=SHORTEST, resume_logging=True)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


class _Monitor(SystemMetricsMonitor):
    @property
    def sampling_interval(self) -> float:
        return max(self._shortest, (time.monotonic() - self._began) / SAMPLES_A_FACTOR)

    @sampling_interval.setter
    def sampling_interval(self, seconds: float) -> None:
        self._shortest, self._began = seconds, time.monotonic()

    def monitor(self) -> None:
        super().monitor()
        try:
            self.publish_metrics(self.aggregate_metrics())  # the last sample, else a short run has none
        except MlflowException as error:  # a full disk, say: no reason to lose the run's own words about it
            logger.warning("The last sample of the machine's load is lost: %s", error)
