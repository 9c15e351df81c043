"""A run's files, checked: each has its sha256 in the run's tags, and what does not match is not read.

mlflow.log_artifacts(folder)                 # while the run is logged
artifacts.sign(folder)
artifacts.fetch(run, ["model.pt"], folder)   # later: the same bytes, or an ArtifactError
"""

import hashlib
import json
from pathlib import Path

import mlflow
from mlflow.entities import Run

from support.models.files import ArtifactError

DIGESTS = "artifact_digests"


def sign(folder: str | Path, where: str = "") -> None:
    """Keep with the current run the digests of a folder's files, which it has logged under `where`."""
    digests = digests_of(mlflow.get_run(mlflow.active_run().info.run_id))
    for path in sorted(Path(folder).iterdir()):
        name = f"{where}/{path.name}" if where else path.name
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    mlflow.set_tag(DIGESTS, json.dumps(digests))


def digests_of(run: Run) -> dict[str, str]:
    """Give path -> sha256 for each signed file of the run; empty where the run has none."""
    try:
        digests = json.loads(run.data.tags.get(DIGESTS, "{}"))
    except ValueError:
        digests = None
    if not isinstance(digests, dict):
        raise ArtifactError(f"Run {run.info.run_id}: its tag {DIGESTS} is damaged.")
    return digests


def fetch(run: Run, names: list[str], folder: str | Path) -> Path:
    """Copy files of the run into `folder` and give it. Raises ArtifactError where one was changed since.

    A file that was logged and not signed is taken as it is. A missing file raises what MLflow raises.
    """
    digests, folder = digests_of(run), Path(folder)
    for name in names:
        # By its full address: MLflow remembers where a run's files were, and a store may have moved.
        mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/{name}", dst_path=str(folder))
        path = folder / Path(name).name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "of no file"
        if digests.get(name, found) != found:
            raise ArtifactError(
                f"Run {run.info.run_id}: {name} is not the file that was logged (sha256 {found}, logged "
                f"{digests[name]}). It was damaged or exchanged: bring the right one back or train again."
            )
    return folder
