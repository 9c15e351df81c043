"""A run's files, checked: each has its sha256 with the run, and what does not match is not read.

checksums.log_files(folder)                  # mlflow.log_artifacts, and a checksum each
checksums.fetch(run, ["model.pt"], folder)   # later: the same bytes, or an ArtifactError

They lie in an artifact checksums/SHA256.json, whose name is a tag of the run. Each call writes a new one before
the tag names it: whoever is killed between the two leaves the old tag, with the old file.
"""

import hashlib
import json
import shutil
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from urllib.parse import quote

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from support.models.files import ArtifactError, need, read_json
from support.tracking import remote

FOLDER, TAG = "checksums", "support.checksums"


def log_files(folder: str | Path, where: str = "") -> None:
    """Log all files of a folder, as deep as it is, to the current run under `where`, with their checksums."""
    folder = Path(folder)
    known = checksums_of(mlflow.get_run(mlflow.active_run().info.run_id))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        known[str(PurePosixPath(where) / path.relative_to(folder).as_posix())] = _sha256(path)
    mlflow.log_artifacts(str(folder), where or None)
    text = json.dumps(known, sort_keys=True)  # one line: its bytes are the same on Windows
    digest = hashlib.sha256(text.encode()).hexdigest()
    mlflow.log_text(text, f"{FOLDER}/{digest}.json")
    mlflow.set_tag(TAG, digest)


def checksums_of(run: Run) -> dict[str, str]:
    """Return path -> sha256 for each file that was logged with one; empty where the run has none.

    Raise ArtifactError where they are not those that were logged, or gone.
    """
    logged = run.data.tags.get(TAG)
    if logged is None:
        return {}
    with TemporaryDirectory() as folder:
        path = _download(run, name := f"{FOLDER}/{logged}.json", folder, logged=True)
        if _sha256(path) != logged:
            raise ArtifactError(f"Run {run.info.run_id}: its {name} was damaged or exchanged. Bring it back.")
        return read_json(path, _texts)


def fetch(run: Run, names: list[str], folder: str | Path) -> Path:
    """Copy files of the run into `folder` and return it. Raise ArtifactError where one was changed since, or is
    gone. A file that was logged without a checksum is taken as it is; a missing one raises what MLflow raises.
    """
    known, folder = checksums_of(run), Path(folder)
    for name in names:
        found = _sha256(_download(run, name, folder, name in known))
        if known.get(name, found) != found:
            raise ArtifactError(
                f"Run {run.info.run_id}: {name} is not the file that was logged (sha256 {found}, logged "
                f"{known[name]}). It was damaged or exchanged: bring the right one back or train again."
            )
    return folder


def _download(run: Run, name: str, folder: str | Path, logged: bool) -> Path:
    """Copy one file, by its name as it stands: as part of an address, #, ? and % would mean something else."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    repository, target = get_artifact_repository(run.info.artifact_uri), Path(folder) / PurePosixPath(name).name
    try:
        if isinstance(repository, LocalArtifactRepository):  # MLflow 3.17 downloads no name with a #
            return Path(shutil.copyfile(Path(repository.artifact_dir, name), target))
        served = quote(name) if isinstance(repository, HttpArtifactRepository) else name
        return Path(repository.download_artifacts(served, str(folder))).replace(target)
    except (MlflowException, OSError) as error:
        if not logged or remote.is_away(mlflow.get_tracking_uri()):
            raise
        raise ArtifactError(f"Run {run.info.run_id}: {name} was logged, and cannot be read. Bring it back.") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _texts(values: dict) -> dict[str, str]:
    need(all(isinstance(value, str) for value in values.values()), "a checksum must be a text")
    return values
