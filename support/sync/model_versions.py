"""Registered versions of runs that were copied: to the other store's registry, with tags and aliases.

A version is known again by its tag `support.sync.origin`. Its number is the other registry's next one. An
alias goes along where it is free there, or is on a version from here: a team's champion stays the champion.
"""

import os

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from support.sync.endpoint import NOT_COPIED, ORIGIN, CopyError, Endpoint, each, pages


def copy_versions(source: Endpoint, target: Endpoint, ids: dict[str, str], failed: dict[str, str]) -> list[str]:
    """Copy the registered versions of copied runs, run id -> copy's id, and return the new ones: ["tagger 3"].

    A model that fails is in `failed`, with its reason.
    """
    models: dict[str, list[ModelVersion]] = {}
    for version in pages(source.client.search_model_versions):
        if version.run_id in ids:
            models.setdefault(version.name, []).append(version)
    before, given = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    # A SQLite store looks in the current store, and not in itself, for a new version's logged model (MLflow 3.17).
    mlflow.set_tracking_uri(target.uri)
    try:
        copied = each((source, target), models, lambda versions: _copy_model(source, target, versions, ids), failed)
        return [name for _, new in copied for name in new]
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow has written it there, too
        if given is not None:
            os.environ["MLFLOW_TRACKING_URI"] = given


def _copy_model(source: Endpoint, target: Endpoint, versions: list[ModelVersion], ids: dict[str, str]) -> list[str]:
    """Copy versions of one model, the oldest first, and its aliases. Return the new ones' names."""
    client, new, copies = target.client, [], {}
    model = source.client.get_registered_model(versions[0].name)
    name = model.name
    try:
        client.create_registered_model(name, model.tags, model.description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in sorted(versions, key=_number):
        copy = _find(target, version)
        if copy is None:
            run_id = ids[version.run_id]
            uri, model_id = _files(source, target, version, run_id)
            tags = {**version.tags, ORIGIN: _origin(version)}
            client.create_model_version(name, uri, run_id, tags, None, version.description, 0, model_id)
            copy = _find(target, version)
            new.append(f"{name} {copy.version}")
        copies[str(version.version)] = str(copy.version)
        for tag, value in version.tags.items():
            if not tag.startswith(NOT_COPIED) and copy.tags.get(tag) != value:
                client.set_model_version_tag(name, copy.version, tag, value)
        if version.description and version.description != copy.description:
            client.update_model_version(name, copy.version, version.description)
    there = client.get_registered_model(name).aliases
    for alias, number in model.aliases.items():
        now, copy = there.get(alias), copies.get(str(number))
        if copy and (now is None or str(now) in copies.values()) and str(now) != copy:
            client.set_registered_model_alias(name, alias, copy)
    return new


def _number(version: ModelVersion) -> int:
    return int(version.version)


def _origin(version: ModelVersion) -> str:
    """Return where and when a version was made first; every registry counts its own numbers."""
    return version.tags.get(ORIGIN, f"{version.version} of {version.creation_timestamp}")


def _find(target: Endpoint, version: ModelVersion) -> ModelVersion | None:
    found = pages(target.client.search_model_versions, f"name = '{version.name}'")
    same = sorted((other for other in found if _origin(other) == _origin(version)), key=_number)
    for double in same[1:]:  # a request whose answer was lost was sent again
        target.client.delete_model_version(double.name, double.version)
    return same[0] if same else None


def _files(source: Endpoint, target: Endpoint, version: ModelVersion, copy_id: str) -> tuple[str, str | None]:
    """Return where the copy's files are: the URI and, of a logged model, its id."""
    old, new = source.client.get_run(version.run_id), target.client.get_run(copy_id)
    source.models(old), target.models(new)  # their ids are known then
    for model_id in (version.model_id, version.source.removeprefix("models:/")):
        if copied := target.ids.get(source.origins.get(model_id)):
            return f"models:/{copied}", copied
    before, now = (run.info.artifact_uri.removesuffix("/artifacts") for run in (old, new))
    for root, copied in ((before, now), (f"runs:/{version.run_id}", f"{now}/artifacts")):
        if f"{version.source}/".startswith(f"{root}/"):
            return copied + version.source.removeprefix(root), None
    raise CopyError(f"version {version.version} is not copied: its files are not among those of its run")
