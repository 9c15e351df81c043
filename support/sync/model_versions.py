"""Registered versions of runs that were copied: to the other store's registry, with tags and aliases.

models = versions_of(source, ids)                          # name -> (model, versions), those of copied runs
copy_versions(source, target, *models["tagger"], ids)      # the new ones' names, ["tagger 3"]

A version is known again by its tag `support.sync.origin`. Its number is the other registry's next one. An
alias goes along where it is free there, or is on a version from here: a team's champion stays the champion.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from support.sync.endpoint import NOT_COPIED, ORIGIN, CopyError, Endpoint, pages


def versions_of(source: Endpoint, ids: dict[str, str]) -> dict[str, tuple[RegisteredModel, list[ModelVersion]]]:
    """Return the registered models with versions of these runs, the oldest version first."""
    found: dict[str, list[ModelVersion]] = {}
    for version in pages(source.client.search_model_versions):
        if version.run_id in ids:
            found.setdefault(version.name, []).append(version)
    for versions in found.values():
        versions.sort(key=lambda version: int(version.version))
    return {name: (source.client.get_registered_model(name), versions) for name, versions in found.items()}


@contextmanager
def current_store(uri: str) -> Iterator[None]:
    """Make a store MLflow's current one for a while.

    A SQLite store looks there, and not in itself, for the logged model of a new version (MLflow 3.17).
    """
    before, given = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow has written it there, too
        if given is not None:
            os.environ["MLFLOW_TRACKING_URI"] = given


def copy_versions(
    source: Endpoint,
    target: Endpoint,
    model: RegisteredModel,
    versions: list[ModelVersion],
    ids: dict[str, str],
) -> list[str]:
    """Copy a registered model's versions, and return the new ones. The target has to be the current store.

    Raise CopyError for a version whose files are not among those of its run.
    """
    client, name, new, copies = target.client, model.name, [], {}
    try:
        client.create_registered_model(name, model.tags, model.description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in versions:
        copy = _find(target, version)
        if copy is None:
            uri, model_id = _files(source, target, version, ids[version.run_id])
            tags, run_id = {**version.tags, ORIGIN: _origin(version)}, ids[version.run_id]
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


def _origin(version: ModelVersion) -> str:
    """Return where and when a version was made first; every registry counts its own numbers."""
    return version.tags.get(ORIGIN, f"{version.version} of {version.creation_timestamp}")


def _find(target: Endpoint, version: ModelVersion) -> ModelVersion | None:
    found = pages(target.client.search_model_versions, f"name = '{version.name}'")
    same = sorted((v for v in found if _origin(v) == _origin(version)), key=lambda v: int(v.version))
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
