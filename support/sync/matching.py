"""Which run of one store is the copy of which run of the other; what has none yet gets an empty one.

pairs.copies_of(source, target, runs, experiments, failed)   # run id -> its copy, a Run of the target

A copy is known by its tag `sync.origin`, whoever made it and however often it went on from store to store.
"""

import hashlib

from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException

from support.tracking import provenance
from support.sync.endpoint import MARK, ORIGIN, CopyError, Side, each, origin_of, pages
from support.tracking.store import database_of, store_lock

FROM = "sync.from"  # the store that a copy came from: finds all copies from here in one search
USER = "mlflow.user"


def copies_of(
    source: Side, target: Side, runs: list[Run], experiments: dict[str, Experiment], failed: dict[str, str]
) -> dict[str, Run]:
    """Find or make the copy of each run: run id -> copy. Both sides know all ids then.

    `experiments` are the source's, by id. What fails goes into `failed`, and its runs have no copy.
    """
    used = {f"experiment {experiments[run.info.experiment_id].name}": run.info.experiment_id for run in runs}
    found = each((source, target), used, lambda experiment_id: _experiment(target, experiments[experiment_id]), failed)
    places = {used[name]: place for name, place in found}
    runs = [run for run in runs if run.info.experiment_id in places]
    store = hashlib.sha256(f"{provenance.host()} {source.uri}".encode()).hexdigest()[:16]
    where = f"tags.`{FROM}` = '{store}'"
    known: dict[str, list[Run]] = {}
    if places:
        for copy in pages(target.client.search_runs, list(places.values()), where, ViewType.ALL):
            known.setdefault(origin_of(copy), []).append(copy)

    def copy_of(run: Run) -> Run:
        origin = origin_of(run)
        place = places[run.info.experiment_id]
        found = _single(target, known.get(origin) or _search(target, origin, place))
        if found is None:
            tags = {ORIGIN: origin, FROM: store, USER: run.data.tags.get(USER, "")}
            name, start = run.info.run_name, run.info.start_time
            target.client.create_run(place, start, {k: v for k, v in tags.items() if v}, name)
            # Searched for again: a request whose answer was lost was sent twice, or another sync made it too.
            found = _single(target, _tagged(target, origin, place))
        return found

    for run in runs:
        source.know(origin_of(run), run.info.run_id)
    copies = dict(each((source, target), {run.info.run_id: run for run in runs}, copy_of, failed))
    for run_id, copy in copies.items():
        target.know(source.origins[run_id], copy.info.run_id)
    return copies


def _search(target: Side, origin: str, place: str) -> list[Run]:
    """Find the run itself in the target, or copies of it."""
    try:
        return [target.client.get_run(origin)]
    except MlflowException as error:  # a server with users refuses what is not there, too
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
            raise
    return _tagged(target, origin, place)


def _tagged(target: Side, origin: str, place: str) -> list[Run]:
    return list(target.client.search_runs([place], f"tags.`{ORIGIN}` = '{origin}'", ViewType.ALL))


def _single(target: Side, same: list[Run]) -> Run | None:
    """Give the one copy that counts and delete the others, none of which can be complete."""
    active = [copy for copy in same if copy.info.lifecycle_stage == "active"]
    active.sort(key=lambda copy: (MARK not in copy.data.tags, copy.info.run_id))
    for double in active[1:]:
        target.client.delete_run(double.info.run_id)
    return (active or same or [None])[0]


def _experiment(target: Side, like: Experiment) -> str:
    """Give the id of the target's experiment of the same name, made if need be."""
    with store_lock(target.uri):
        there = target.client.get_experiment_by_name(like.name)
        if there is None:
            database = database_of(target.uri)
            location = (database.parent / "artifacts").as_uri() if database else None
            return target.client.create_experiment(like.name, location, like.tags)
    if there.lifecycle_stage == "deleted":
        raise CopyError("it is deleted there: restore it first, or rename it here")
    return there.experiment_id
