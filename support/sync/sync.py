"""Runs copied from one MLflow store to another: from a laptop to the team's server, and the other way round.

sync.sync()                                   # from the store on this machine to MLFLOW_TRACKING_URI
sync.sync(to="https://team.example")
sync.sync(source="https://team.example", experiments=["baselines"])   # and here

A copy holds the params, metrics with steps and times, tags, datasets, files and logged models of its run,
its name, start, end and status; after it come the registered versions that were made of it, and aliases. Each
copy is read back and compared. Call it again whenever you like: it brings what is new or changed, completes
what was cut off, and brings nothing twice. A run that still runs is copied as far as it is. What only a copy
has, a tag that a colleague gave it, stays. Deleted runs, traces and prompts are not copied.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlflow
from tqdm import tqdm

from support.tracking import remote as offline
from support.tracking import provenance
from support.sync import model_versions as versions
from support.sync.matching import copies_of
from support.sync.copying import bring
from support.sync.endpoint import ERRORS, Side, away, each, pages
from support.tracking.store import database_of, local_uri, store_lock

ADDRESSES = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"


class SyncError(RuntimeError):
    """Nothing can be copied, or no more. Says why; what was copied stays, and the next sync goes on."""


@dataclass
class Report:
    """What a sync did. The lists hold run ids of the source, `failed` says why, `ids` has the copies' ids."""

    to: str
    copied: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = {
            "copied": self.copied,
            "brought up to date": self.changed,
            "there already": self.there,
            "still running, copied as far as they are": self.running,
            "deleted there and left so": self.deleted,
            "failed": self.failed,
        }
        runs = ", ".join(f"{len(runs)} {what}" for what, runs in counts.items() if runs) or "none"
        lines = [f"Runs to {self.to}: {runs} ({self.seconds:.1f} s)."]
        if self.versions:
            lines.append(f"Registered versions: {', '.join(self.versions)}.")
        return "\n".join(lines + [f"Failed: {what}: {why}" for what, why in self.failed.items()])

    __repr__ = __str__


def sync(to: str | None = None, source: str | None = None, experiments: list[str] | None = None) -> Report:
    """Copy all runs of `source` that are not in `to`, or changed since, and say what was done.

    `to` and `source` are tracking URIs. The one that is not named is the store on this machine; where none is
    named, it goes from here to MLFLOW_TRACKING_URI. `experiments` names those to copy, else it is all. A run
    that fails is in the report, and the others go on. Raises SyncError where a server is away or goes away,
    and ServerRefuses where it does not let this user in.
    """
    began = time.monotonic()
    if not to and not source and not (to := offline.server_of_environment()):
        raise SyncError("Say where to: sync(to=...), or set MLFLOW_TRACKING_URI to the team's server.")
    source, target = _open(source or _here(), to or _here())
    report = Report(_name(target.uri))
    try:
        with _quiet():
            _sync_all(source, target, experiments, report)
    except offline.ServerRefuses:
        raise
    except ERRORS as error:
        why = away((source, target)) or provenance.mask(f"{error}".partition("\n")[0])
        raise SyncError(
            f"{why} {len(report.copied)} runs are copied, and nothing is lost: sync again later."
        ) from error
    report.seconds = time.monotonic() - began
    return report


def _sync_all(source: Side, target: Side, experiments: list[str] | None, report: Report) -> None:
    chosen = {
        experiment.experiment_id: experiment
        for experiment in pages(source.client.search_experiments)
        if experiments is None or experiment.name in experiments
    }
    if unknown := set(experiments or []) - {experiment.name for experiment in chosen.values()}:
        raise SyncError(f"There is no experiment {', '.join(sorted(unknown))}.")
    runs = list(pages(source.client.search_runs, list(chosen))) if chosen else []
    sides = source, target
    copies = copies_of(*sides, runs, chosen, report.failed)
    pairs = {run.info.run_id: (run, copies[run.info.run_id]) for run in runs if run.info.run_id in copies}
    with tqdm(total=len(pairs), unit="run", file=sys.stdout, delay=2) as bar:
        for run_id, done in each(sides, pairs, lambda pair: bring(*sides, *pair), report.failed):
            getattr(report, done).append(run_id)
            if done != "deleted":
                report.ids[run_id] = copies[run_id].info.run_id
            bar.update()
    models = versions.of_runs(source, report.ids)
    ids = report.ids
    for _, new in each(sides, models, lambda model: versions.bring(*sides, *model, ids), report.failed):
        report.versions += new


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow from printing an address whenever a run ends."""
    before = os.environ.get(ADDRESSES)
    os.environ[ADDRESSES] = "true"
    try:
        yield
    finally:
        os.environ.pop(ADDRESSES, None)
        if before is not None:
            os.environ[ADDRESSES] = before


def _here() -> str:
    """Give the store on this machine: the current one, or, where that is a server, that of STORES_DIR."""
    uri = mlflow.get_tracking_uri()
    return uri if database_of(uri) else local_uri()


def _open(source: str, target: str) -> tuple[Side, Side]:
    if source == target:
        raise SyncError("Source and target are the same store: name another one.")
    database = database_of(source)
    if database and not database.exists():
        raise SyncError("There is no store to sync from: nothing was logged here yet.")
    for uri in filter(offline.is_server, (source, target)):
        try:
            offline.ask(uri)
        except offline.ServerAway as error:
            raise SyncError(f"{error} Nothing was copied.") from error
    with store_lock(target):
        return Side(source), Side(target)  # which makes a new local store


def _name(uri: str) -> str:
    return offline.name_of(uri) if offline.is_server(uri) else "the store on this machine"
