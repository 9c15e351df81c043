"""Which run is best, among those that may be compared: finished, and measured on the same test split.

    board = leaderboard.rank()   # show it in a notebook, or print it
    board.table                  # the same as a DataFrame, best first, by run id
    board.plot()                 # F1 against training time
    board.plot_tags()            # F1 by tag of the best runs

F1 on another corpus, or on another split of the same, is another examination. Such runs are left out, as are
those that have no F1, and the board says how many there are of each kind.
"""

import gc
import html
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from support.tracking import checksums as artifacts
from support import plots
from support.models import files as safe
from support.tracking import training_run as tracking
from support.data.corpus import Splits
from support.lineage.lineage import STARTED_FROM

SHOWN = 20  # rows; the table has all
PERFORMANCE = "performance.json"
# Column of the table: its heading and how a value is written. None where the run has not logged it.
COLUMNS = {
    "run": ("run", str),
    "model": ("model", str),
    "f1": ("F1", "{:.3f}".format),
    "precision": ("precision", "{:.3f}".format),
    "recall": ("recall", "{:.3f}".format),
    "seconds": ("training (s)", "{:,.1f}".format),
    "megabytes": ("size (MB)", "{:.2f}".format),
    "latency_ms": ("latency (ms)", "{:.2f}".format),
    "corpus": ("corpus", str),
}
ENDED = {"RUNNING": "unfinished", "SCHEDULED": "unfinished", "FAILED": "failed", "KILLED": "killed"}
OF_A_SEARCH, NO_F1, NO_DATA = "part of a search", "without an F1", "without a recorded dataset"
OTHER_SEED, OTHER_DATA = "on another split seed", "on other data"


@dataclass(frozen=True)
class Leaderboard:
    """The runs, best first, and how many were left out: reason -> number."""

    runs: list[Run]
    left_out: dict[str, int]

    @property
    def table(self) -> pd.DataFrame:
        """A row a run, by run id. Seconds are those of the training, megabytes those of the model's files,
        and the latency is of tagging one text, in milliseconds. What a run has not logged is missing."""
        index = pd.Index([run.info.run_id for run in self.runs], name="run_id")
        return pd.DataFrame([_row(run) for run in self.runs], index, list(COLUMNS))

    def __str__(self) -> str:
        """Say in a sentence or two what is ranked, and what is left out."""
        corpus, seed = (self.runs[0].data.tags.get(name, "unknown") for name in ("corpus", "split_seed"))
        number = "1 run" if len(self.runs) == 1 else f"{len(self.runs):,} runs"
        return f"{number} on the corpus {corpus!r}, split seed {seed}, best F1 first. {_said(self.left_out)}"

    def __repr__(self) -> str:
        return f"{self}\n\n{self._shown().to_string()}"

    def _repr_html_(self) -> str:
        one_line = [{"selector": "th, td", "props": "white-space: nowrap"}]  # JupyterLab wraps cells
        table = self._shown().style.format(escape="html").set_uuid("leaderboard").set_table_styles(one_line)
        return f"<p>{html.escape(str(self))}</p>{table.to_html()}"

    def plot(self) -> Figure:
        """Draw F1 against training time, with the runs marked that no other beats in both."""
        return plots.f1_against_time(self.table)

    def plot_tags(self, top: int = 4) -> Figure:
        """Draw the F1 of each tag of the `top` best runs, from what they keep in performance.json.

        Raises NoRunError where none of them keeps it, ArtifactError where it is damaged.
        """
        by_tag = {f"{rank} {run.info.run_name}": _f1_by_tag(run) for rank, run in enumerate(self.runs[:top], 1)}
        if not any(by_tag.values()):
            raise tracking.NoRunError(f"None of the best {top} runs keeps a {PERFORMANCE}.")
        return plots.f1_by_tag_and_run(by_tag)

    def _shown(self) -> pd.DataFrame:
        """Give the first rows as text, by rank, with units in the headings."""
        table = self.table.head(SHOWN).reset_index(drop=True)
        table.index += 1
        for name, (_, write) in COLUMNS.items():
            table[name] = [write(value) if pd.notna(value) else "-" for value in table[name]]
        return table.rename(columns={name: heading for name, (heading, _) in COLUMNS.items()})


def rank(splits: Splits | None = None, experiment: str = tracking.EXPERIMENT) -> Leaderboard:
    """Rank the finished runs of an experiment that were measured on the same test split, best F1 first.

    That is the one of `splits`, or else of the best run that has its dataset recorded. Of two runs with the
    same F1 the later one comes first, as in `tracking.best_run`. Raises NoRunError where no run is left.
    """
    found = tracking.find_experiment(experiment)
    with _garbage_kept():
        # By id, since a run that starts between two pages moves the last of the first onto the second.
        every = mlflow.search_runs([found.experiment_id], output_format="list") if found else []
        runs = {run.info.run_id: run for run in every}
    searches = {_search_of(run) for run in runs.values()} - {None}
    reasons = {run_id: _unfit(run, bool(_search_of(run)) or run_id in searches) for run_id, run in runs.items()}
    # A stable sort: equal ones stay as MLflow gives them, the latest first.
    fit = sorted((run for run_id, run in runs.items() if not reasons[run_id]), key=_f1, reverse=True)
    if fit or splits:
        data = (splits.digest, splits.source_digest, str(splits.seed)) if splits else _data(fit[0])
        reasons |= {run.info.run_id: _other(_data(run), data) for run in fit}
    left_out = dict(Counter(filter(None, reasons.values())).most_common())
    ranked = [run for run in fit if not reasons[run.info.run_id]]
    if not ranked:
        where = f"the corpus {splits.corpus!r} with split seed {splits.seed}" if splits else "recorded data"
        raise tracking.NoRunError(
            f"The experiment {experiment!r} has no finished run with an F1 on {where}. {_said(left_out)} "
            f"Train one with tracking.train_and_log(Params(), splits), as notebook 01_tracked_training does."
        )
    return Leaderboard(ranked, left_out)


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Pause Python's garbage collector, which takes two thirds of the time to read 10,000 runs."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _unfit(run: Run, in_search: bool) -> str | None:
    """Say why the run is on no leaderboard, or None."""
    finished, has_f1 = run.info.status == "FINISHED", math.isfinite(_f1(run))
    if in_search and not (finished and has_f1):
        return OF_A_SEARCH
    if not finished:
        return ENDED[run.info.status]
    if not has_f1:
        return NO_F1
    return None if run.inputs.dataset_inputs else NO_DATA


def _data(run: Run) -> tuple[str, str | None, str | None]:
    """Give the digest of the run's splits, which its dataset bears, the digest of their source, the seed."""
    digest = run.inputs.dataset_inputs[0].dataset.digest
    return digest, run.data.tags.get("corpus.digest"), run.data.tags.get("split_seed")


def _other(data: tuple, wanted: tuple) -> str | None:
    """Say how these data differ from the wanted ones, or None."""
    (digest, source, seed), (wanted_digest, wanted_source, wanted_seed) = data, wanted
    if digest == wanted_digest:
        return None
    return OTHER_SEED if source == wanted_source and seed != wanted_seed else OTHER_DATA


def _search_of(run: Run) -> str | None:
    """Give the id of the search that the run is a trial of. A retrained run has a parent too, and is none."""
    return None if STARTED_FROM in run.data.tags else run.data.tags.get(MLFLOW_PARENT_RUN_ID)


def _f1(run: Run) -> float:
    return run.data.metrics.get("f1", math.nan)


def _row(run: Run) -> dict:
    metrics = run.data.metrics
    size = metrics.get("size_bytes")
    return {
        "run": run.info.run_name,
        "model": run.data.params.get("model"),
        **{name: metrics.get(name) for name in ("f1", "precision", "recall", "latency_ms")},
        "seconds": metrics.get("training_seconds"),
        "megabytes": None if size is None else size / 1e6,
        "corpus": run.data.tags.get("corpus"),
    }


def _said(left_out: dict[str, int]) -> str:
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in left_out.items())
    return f"Left out: {reasons}." if reasons else "No run is left out."


def _f1_by_tag(run: Run) -> dict[str, float]:
    """Give the F1 of each tag on the test split; nothing where the run does not keep them."""
    with TemporaryDirectory() as folder:
        try:
            artifacts.fetch(run, [PERFORMANCE], folder)
        except (MlflowException, FileNotFoundError):
            return {}
        return safe.read_json(
            Path(folder) / PERFORMANCE,
            lambda performance: {name: float(of["f1"]) for name, of in performance["class"].items()},
        )
