"""Runs copied from one MLflow store to another: from a laptop to the team's server, and the other way round.

sync()                                   # from the store on this machine to MLFLOW_TRACKING_URI
sync(to="https://team.example")
sync(source="https://team.example", experiments=["baselines"])   # and here

A copy holds the params, metrics with steps and times, tags, datasets, files and logged models of its run, its
name, start, end and status; after the runs come the registered versions that were made of them, and aliases.
Each copy is read back and compared. Call it again whenever you like: it brings what is new or changed,
completes what was cut off, and brings nothing twice. A run that still runs is copied as far as it is. What only
a copy has, a tag that a colleague gave it, stays. Deleted runs, traces and prompts are not copied.
"""

import io
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field

import mlflow
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from support.sync.copying import copy_run
from support.sync.endpoint import ERRORS, Endpoint, each, open_store, pages, reason, server_away
from support.sync.matching import find_or_make_copies
from support.sync.model_versions import copy_versions
from support.tracking import remote
from support.tracking.database import SQLITE
from support.tracking.store import database_of, local_uri

WORDS = {
    "copied": "copied",
    "updated": "brought up to date",
    "there": "there already",
    "running": "still running, copied as far as they are",
    "deleted": "deleted there and left so",
    "failed": "failed",
}


class SyncError(RuntimeError):
    """Nothing can be copied, or no more. Says why; what was copied stays, and the next sync goes on."""


@dataclass
class Report:
    """What a sync did. The lists hold run ids of the source, `failed` says why, `ids` has the copies' ids."""

    to: str
    copied: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        counts = [f"{len(getattr(self, name))} {what}" for name, what in WORDS.items() if getattr(self, name)]
        lines = [f"Runs to {self.to}: {', '.join(counts) or 'none'}."]
        if self.versions:
            lines.append(f"Registered versions: {', '.join(self.versions)}.")
        return "\n".join(lines + [f"Failed: {what}: {why}" for what, why in self.failed.items()])


def sync(to: str | None = None, source: str | None = None, experiments: list[str] | None = None) -> Report:
    """Copy all runs of `source` that are not in `to`, or changed since, and return what was done.

    `to` and `source` are tracking URIs. The one that is not named is the store on this machine; where none is
    named, it goes from here to MLFLOW_TRACKING_URI. `experiments` names those to copy, else it is all. A run
    that fails is in the report, and the others go on. Raise SyncError where a server is away or goes away,
    and ServerRefuses where it does not let this user in.
    """
    if not to and not source and not (to := remote.server_of_environment()):
        raise SyncError("Say where to: sync(to=...), or set MLFLOW_TRACKING_URI to the team's server.")
    source, target = _open(source or _here(), to or _here())
    report = Report(remote.without_login(target.uri) if remote.is_server(target.uri) else "the store on this machine")
    try:
        found = {experiment.name: experiment for experiment in pages(source.client.search_experiments)}
        if unknown := set(experiments or []) - set(found):
            raise SyncError(f"There is no experiment {', '.join(sorted(unknown))}.")
        chosen = [found[name] for name in (found if experiments is None else experiments)]
        ids = [experiment.experiment_id for experiment in chosen]
        runs = list(pages(source.client.search_runs, ids)) if ids else []
        copy_runs(source, target, runs, chosen, report)
        report.versions = copy_versions(source, target, report.ids, report.failed)
    except remote.ServerRefuses:
        raise
    except ERRORS as error:
        why = server_away((source, target)) or reason(error)
        done = f"{len(report.copied)} runs are copied, and nothing is lost: sync again later."
        raise SyncError(f"{why} {done}") from None  # MLflow's own message may hold a password
    return report


def copy_runs(
    source: Endpoint, target: Endpoint, runs: list[Run], experiments: list[Experiment], report: Report, update=True
) -> None:
    """Copy these runs of these experiments, and write into the report what was done."""
    copies = find_or_make_copies(source, target, runs, experiments, report.failed)
    work = {run.info.run_id: (run, copies[run.info.run_id]) for run in runs if run.info.run_id in copies}
    done = each((source, target), work, lambda entry: copy_run(source, target, *entry, update), report.failed)
    bar = tqdm(done, total=len(work), unit="run", file=sys.stdout, delay=2)
    with redirect_stdout(io.StringIO()):  # MLflow prints an address whenever a run ends
        for run_id, what in bar:
            getattr(report, what).append(run_id)
            if what != "deleted":
                report.ids[run_id] = copies[run_id].info.run_id


def _here() -> str:
    """Return the store on this machine: the current one, or, where that is a server, that of STORES_DIR."""
    uri = mlflow.get_tracking_uri()
    return uri if database_of(uri) else local_uri()


def _open(*uris: str) -> list[Endpoint]:
    paths = [path and path.resolve() for path in map(database_of, uris)]
    source, target = [f"{SQLITE}{path.as_posix()}" if path else uri for path, uri in zip(paths, uris, strict=True)]
    if source == target:
        raise SyncError("Source and target are the same store: name another one.")
    if paths[0] and not paths[0].exists():
        raise SyncError("There is no store to sync from: nothing was logged here yet.")
    try:
        for uri in filter(remote.is_server, (source, target)):
            remote.ask(uri)
        return [Endpoint(source), open_store(target)]
    except (remote.ServerAway, MlflowException) as error:
        raise SyncError(f"{reason(error)} Nothing was copied.") from None
