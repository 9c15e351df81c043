"""Which run of one store is the copy of which run of the other. What has no copy yet gets an empty one.

copies = find_or_make_copies(source, target, runs, experiments, failed)   # run id -> its copy, a Run there

A copy is known by its tag `support.sync.origin`, whoever made it and from however many stores it came.
"""

from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException

from support.sync.endpoint import DIGEST, FROM, ORIGIN, CopyError, Endpoint, each, origin_of, pages
from support.tracking.store import artifact_location, store_lock


def find_or_make_copies(
    source: Endpoint, target: Endpoint, runs: list[Run], experiments: list[Experiment], failed: dict[str, str]
) -> dict[str, Run]:
    """Return run id -> copy, for runs of these experiments. Both endpoints know all ids then.

    What fails goes into `failed`, and its runs have no copy.
    """
    endpoints = source, target
    used = {run.info.experiment_id for run in runs}
    names = {f"experiment {found.name}": found for found in experiments if found.experiment_id in used}
    made = dict(each(endpoints, names, lambda experiment: _find_or_make_experiment(target, experiment), failed))
    places = {names[name].experiment_id: there for name, there in made.items()}
    runs = [run for run in runs if run.info.experiment_id in places]
    known: dict[str, list[Run]] = {}
    if places:  # one search finds most of the copies that earlier calls made
        where = f"tags.`{FROM}` = '{source.name}'"
        for copy in pages(target.client.search_runs, list(places.values()), where, ViewType.ALL):
            known.setdefault(origin_of(copy), []).append(copy)

    def find_or_make(run: Run) -> Run:
        origin, place = origin_of(run), places[run.info.experiment_id]
        found = _choose(target, known.get(origin) or _search(target, origin, place))
        if found is None:
            user = {name: value for name, value in run.data.tags.items() if name == "mlflow.user"}
            tags = {**user, ORIGIN: origin, FROM: source.name}
            target.client.create_run(place, run.info.start_time, tags, run.info.run_name)
            # Searched for again: a request whose answer was lost was sent twice, or another sync made it too.
            found = _choose(target, _tagged(target, origin, place))
        return found

    for run in runs:
        source.learn(origin_of(run), run.info.run_id)
    copies = dict(each(endpoints, {run.info.run_id: run for run in runs}, find_or_make, failed))
    for run_id, copy in copies.items():
        target.learn(source.origins[run_id], copy.info.run_id)
    return copies


def _search(target: Endpoint, origin: str, place: str) -> list[Run]:
    """Return the run itself, if it is the target's own, or copies of it."""
    try:
        return [target.client.get_run(origin)]
    except MlflowException as error:  # a server with users refuses what is not there, too
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
            raise
    return _tagged(target, origin, place)


def _tagged(target: Endpoint, origin: str, place: str) -> list[Run]:
    return list(pages(target.client.search_runs, [place], f"tags.`{ORIGIN}` = '{origin}'", ViewType.ALL))


def _choose(target: Endpoint, same: list[Run]) -> Run | None:
    """Return the one copy that counts, and delete the others, none of which can be complete."""
    active = [copy for copy in same if copy.info.lifecycle_stage == "active"]
    active.sort(key=lambda copy: (DIGEST not in copy.data.tags, copy.info.run_id))
    for double in active[1:]:
        target.client.delete_run(double.info.run_id)
    return (active or same or [None])[0]


def _find_or_make_experiment(target: Endpoint, like: Experiment) -> str:
    """Return the id of the target's experiment of the same name."""
    with store_lock(target.uri):
        try:
            if (there := target.client.get_experiment_by_name(like.name)) is None:
                return target.client.create_experiment(like.name, artifact_location(target.uri), like.tags)
        except MlflowException as error:  # another member of the team was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            there = target.client.get_experiment_by_name(like.name)
    if there.lifecycle_stage == "deleted":
        raise CopyError("it is deleted there: restore it first, or rename it here")
    return there.experiment_id
