"""Search for good params with Optuna: a parent run, a child run a trial, as many processes as one likes.

    run_id = search.search(splits, search.SPACES, workers=2)
    search.trials(run_id)                                        # a table, best first
    tracking.train_and_log(search.best_params(run_id), splits)   # the best one as a run of its own

What is sought is the F1 on the validation split; no trial sees the test split. The same call goes on where it
was killed, interrupted or out of time; when all is tried it gives the same run at once. On another machine,
with the same MLFLOW_TRACKING_URI and `storage`, the same call takes part.

The studies are in Optuna's RDB storage, a SQLite file beside the store unless `storage` names a database. Of
the three storages that several processes can share, it is the one that a killed process does not harm:
- JournalStorage's file stays locked for 30 s when its owner is killed, and is not readable after half a line.
- mlflow.optuna's MlflowStorage asks the store for all trials, one by one, whenever one is suggested or may be
  pruned, and takes a run that was KILLED for a pruned one. A trial of 15 epochs costs 2.7 s of CPU time for
  that, among 30 of them; here 0.1 s.
Optuna warns of SQLite with many processes. For those there is PostgreSQL, in another database than MLflow's,
since both keep their version in a table of the same name.
"""

import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState
from tqdm import tqdm

from support.data.corpus import Splits
from support.lineage import lineage
from support.models.linear import LinearParams
from support.models.params import Checked, Params
from support.search import plots as search_plots
from support.search.space import Space
from support.search.worker import Party, helpers, search_folder, search_lock
from support.tracking import checksums as artifacts
from support.tracking import provenance
from support.tracking import training_run as tracking

KEY = "search.key"  # the tag by which the same call finds its parent run again
MEASURED = ["val_f1", "val_precision", "val_recall"]
COLUMNS = ["trial", "outcome", *MEASURED, "seconds"]  # and the params
TICK = 0.5  # seconds between two looks at what the helpers do
# On one core a linear trial takes about 3 s, a CNN's about 7: less than a minute in all for two workers.
SPACES = {
    "linear": Space(
        LinearParams(),
        {
            "C": FloatDistribution(0.3, 100, log=True),
            "word_ngrams": IntDistribution(1, 3),
            "char_ngrams": IntDistribution(3, 6),
        },
        trials=12,
    ),
    "cnn": Space(
        Params(lr=1e-3, num_epochs=20, patience=5),
        {
            "lr": FloatDistribution(3e-4, 5e-3, log=True),
            "dropout_p": FloatDistribution(0.2, 0.7),
            "num_filters": IntDistribution(64, 256, step=64),
        },
        trials=4,
    ),
}


class SearchError(RuntimeError):
    """The search brought nothing. Says why."""


def search(
    splits: Splits,
    spaces: dict[str, Space] = SPACES,
    workers: int = 1,
    seconds: float = 300,
    patience: int = 20,
    seed: int = 1234,
    name: str = "search",
    storage: str | None = None,
) -> str:
    """Try what `spaces` hold, one space after the other, and give the parent run's id.

    A space is left early when `patience` trials brought nothing better, and all of it after so many seconds.
    This process is the first worker; the others are processes of their own. One worker finds the same every
    time, as far as the seconds suffice. Raises SearchError when no trial was measured.
    """
    if workers < 1 or seconds <= 0 or patience < 1 or not spaces:
        raise ValueError("A search needs a worker or more, some seconds, some patience and a space.")
    storage = storage or f"sqlite:///{(search_folder() / 'searches.db').as_posix()}"
    if not storage.startswith(("sqlite:", "postgresql")):
        raise ValueError("The storage is the URL of a SQLite or PostgreSQL database.")
    # Without a driver's name SQLAlchemy would look for another than the one that is installed.
    storage = re.sub("^postgresql:", "postgresql+psycopg2:", storage)
    config = {
        "parent_id": _parent_of(splits, spaces, seed, name, storage),
        "spaces": {space_name: space.to_dict() for space_name, space in spaces.items()},
        "seed": seed,
        "patience": patience,
        "storage": storage,
        "until": time.time() + seconds,
    }
    party = Party(splits, config)
    run = mlflow.get_run(config["parent_id"])
    if run.info.status == "FINISHED" and party.ended() and party.is_over():
        print("This search is over already.")
        return run.info.run_id
    with tracking.start_run(run_id=run.info.run_id):
        if provenance.DATA not in artifacts.digests_of(run):
            tracking.describe_run(splits)
            mlflow.log_params({"seed": seed, "patience": patience})
            mlflow.log_dict(config["spaces"], "spaces.json")
        with _progress(party, run.info.run_id) as tell, helpers(workers - 1, config) as started:
            party.work(tell)
            while any(helper.poll() is None for helper in started):
                time.sleep(TICK)
                tell()
            party.work(tell)  # what a helper may have left by dying
        _summarise(party, run.info.run_id)
    return run.info.run_id


def trials(run_id: str) -> pd.DataFrame:
    """Give the trials of a search, best first: a row each, indexed by the child's run id.

    `outcome` is measured, pruned, failed, cut off, or running. Params that a trial has not are missing.
    """
    rows = {
        run.info.run_id: {
            "trial": run.info.run_name,
            "outcome": _outcome(run),
            **{name: run.data.metrics.get(name) for name in MEASURED},
            "seconds": (run.info.end_time - run.info.start_time) / 1000 if run.info.end_time else None,
            **run.data.params,
        }
        for run in _children(run_id)
    }
    table = pd.DataFrame(list(rows.values()), pd.Index(list(rows), name="run_id"), None if rows else COLUMNS)
    return table.sort_values("val_f1", ascending=False, kind="stable")


def best_params(run_id: str, space: str | None = None) -> Checked:
    """Give the params with the highest validation F1, of one space or of all. Raises SearchError for none."""
    measured = [run for run in _children(run_id) if _outcome(run) == "measured"]
    measured = [run for run in measured if space in (None, run.data.tags["space"])]
    if not measured:
        where = f" in the space {space!r}" if space else ""
        raise SearchError(f"The search {run_id} has measured no trial{where}.")
    return lineage.params_of(max(measured, key=lambda run: run.data.metrics["val_f1"]))


def _parent_of(splits: Splits, spaces: dict[str, Space], seed: int, name: str, storage: str) -> str:
    """Give the id of the parent run: that of the same call before, or a new one."""
    sought = {space_name: {**space.to_dict(), "trials": None} for space_name, space in spaces.items()}
    said = json.dumps([name, splits.digest, seed, sought], sort_keys=True)
    key = hashlib.sha256(said.encode()).hexdigest()[:16]
    experiment_id = tracking.set_experiment()
    with search_lock(storage):
        found = MlflowClient().search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
        if found:
            return found[0].info.run_id
        with mlflow.start_run(run_name=name, tags={KEY: key, **provenance.process_tags()}) as run:
            return run.info.run_id


@contextmanager
def _progress(party: Party, run_id: str) -> Iterator[Callable[[], None]]:
    """Give a function that brings a progress bar, and the parent's curve of the best F1, up to date."""
    total = sum(worker.space.trials for worker in party.workers)
    with tqdm(total=total, initial=len(party.ended()), unit="trial", file=sys.stdout) as bar:

        def tell() -> None:
            ended = party.ended()
            if len(ended) == bar.n:
                return
            bar.update(len(ended) - bar.n)
            values = [trial.value for trial in ended if trial.state == TrialState.COMPLETE]
            if values:
                bar.set_postfix(best_val_f1=f"{max(values):.3f}")
                MlflowClient().log_metric(run_id, "best_val_f1", max(values), step=len(ended))

        yield tell
        tell()


def _summarise(party: Party, run_id: str) -> None:
    """Log to the parent run how many trials ended how, and the plots. Raises SearchError for no figure."""
    states = Counter(trial.state for trial in party.ended())
    mlflow.log_metrics({f"trials_{state.name.lower()}": count for state, count in states.items()})
    if not states[TrialState.COMPLETE]:
        raise SearchError(
            f"No trial was measured, and {states[TrialState.FAIL]} failed: the children of run {run_id} say "
            "why. Where there are none, give the search more seconds."
        )
    studies = {worker.name: worker.study for worker in party.workers}
    for name, figure in search_plots.draw(studies).items():
        mlflow.log_figure(figure, f"plots/{name}.png")


def _outcome(run: Run) -> str:
    if run.info.status == "KILLED":
        return "pruned" if run.data.tags.get("pruned") else "cut off"
    return {"FINISHED": "measured", "FAILED": "failed"}.get(run.info.status, "running")


def _children(run_id: str) -> list[Run]:
    """Give the runs of a search's trials, oldest first."""
    return mlflow.search_runs(
        [mlflow.get_run(run_id).info.experiment_id],
        f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
