"""Registered versions of runs that were copied: to the other store's registry, with tags and aliases.

found = versions.of_runs(source, ids)                       # name -> (model, versions), those of copied runs
versions.bring(source, target, *found["tagger"], ids)       # the new ones' names, ["tagger 3"]

A version is known again by its tag `sync.origin`. Its number is the other registry's next one. An alias goes
along where it is free there, or is on a version that came from here: a team's champion stays the champion.
"""

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from support.sync.endpoint import ORIGIN, OURS, CopyError, Side, pages


def of_runs(source: Side, ids: dict[str, str]) -> dict[str, tuple[RegisteredModel, list[ModelVersion]]]:
    """Give the registered models with versions of these runs, the oldest version first."""
    found: dict[str, list[ModelVersion]] = {}
    for version in pages(source.client.search_model_versions):
        if version.run_id in ids:
            found.setdefault(version.name, []).append(version)
    return {
        name: (source.client.get_registered_model(name), sorted(versions, key=lambda v: int(v.version)))
        for name, versions in found.items()
    }


def bring(
    source: Side, target: Side, model: RegisteredModel, mine: list[ModelVersion], ids: dict[str, str]
) -> list[str]:
    """Bring a registered model's versions, and give the new ones. Raises CopyError."""
    client, new, copies = target.client, [], {}
    _make(target, model)
    for version in mine:
        copies[str(version.version)], is_new = _bring_version(source, target, version, ids)
        if is_new:
            new.append(f"{model.name} {copies[str(version.version)]}")
    there = client.get_registered_model(model.name)
    for alias, number in model.aliases.items():
        now, copy = there.aliases.get(alias), copies.get(str(number))
        free = now is None or str(now) in copies.values()
        if copy and free and str(now) != copy:
            client.set_registered_model_alias(model.name, alias, copy)
    return new


def _make(target: Side, model: RegisteredModel) -> None:
    client = target.client
    try:
        client.create_registered_model(model.name, model.tags, model.description)
        return
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    there = client.get_registered_model(model.name)
    if model.description and model.description != there.description:
        client.update_registered_model(model.name, model.description)
    for name, value in model.tags.items():
        if there.tags.get(name) != value:
            client.set_registered_model_tag(model.name, name, value)


def _bring_version(source: Side, target: Side, version: ModelVersion, ids: dict[str, str]) -> tuple[str, bool]:
    """Give the number of the version's copy, and whether it is new."""
    client, name = target.client, version.name
    there = _find(target, version)
    if is_new := there is None:
        uri, model_id = _source(source, target, version, ids)
        tags, about = {**version.tags, ORIGIN: _origin(version)}, version.description
        client.create_model_version(name, uri, ids[version.run_id], tags, None, about, 0, model_id)
        there = _find(target, version)
    for name, value in version.tags.items():
        if not name.startswith(OURS) and there.tags.get(name) != value:
            client.set_model_version_tag(version.name, there.version, name, value)
    if version.description and version.description != there.description:
        client.update_model_version(version.name, there.version, version.description)
    return str(there.version), is_new


def _origin(version: ModelVersion) -> str:
    """Name a version by where and when it was made first; numbers are used again by every registry."""
    return version.tags.get(ORIGIN, f"{version.version} of {version.creation_timestamp}")


def _find(target: Side, version: ModelVersion) -> ModelVersion | None:
    origin = _origin(version)
    found = pages(target.client.search_model_versions, f"name = '{version.name}'")
    same = sorted((v for v in found if _origin(v) == origin), key=lambda v: int(v.version))
    for double in same[1:]:  # a request whose answer was lost was sent again
        target.client.delete_model_version(double.name, double.version)
    return same[0] if same else None


def _source(source: Side, target: Side, version: ModelVersion, ids: dict[str, str]) -> tuple[str, str | None]:
    """Give where the copy's files are: its source and, of a logged model, the id."""
    old, new = (
        side.client.get_run(run_id) for side, run_id in ((source, version.run_id), (target, ids[version.run_id]))
    )
    source.models(old)
    target.models(new)
    for model_id in filter(None, (version.model_id, version.source.removeprefix("models:/"))):
        if model_id in source.origins:
            copy_id = target.ids[source.origins[model_id]]
            return f"models:/{copy_id}", copy_id
    for root, other in (
        (old.info.artifact_uri, new.info.artifact_uri),
        (old.info.artifact_uri.removesuffix("/artifacts"), new.info.artifact_uri.removesuffix("/artifacts")),
        (f"runs:/{version.run_id}", new.info.artifact_uri),
    ):
        if version.source == root or version.source.startswith(f"{root}/"):
            return other + version.source.removeprefix(root), None
    raise CopyError(f"version {version.version} is not copied: its files are not among those of its run")
