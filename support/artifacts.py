"""A run's files, checked: each has its sha256 in the run's tags, and what does not match is not read.

artifacts.log_signed(folder)                     # while the run is logged
artifacts.fetch(run, ["model.pt"], folder)       # later: the same bytes, or an ArtifactError
"""

import hashlib
import json
from pathlib import Path

import mlflow
from mlflow.entities import Run

from support.safe import ArtifactError

DIGESTS = "artifact_digests"


def log_signed(folder: str | Path, where: str = "") -> None:
    """Log a folder's files to the current run, under the path `where`, and keep their digests with it."""
    run_id = mlflow.active_run().info.run_id
    mlflow.log_artifacts(str(folder), where or None)
    digests = digests_of(mlflow.get_run(run_id))
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

    A run that was logged without digests is taken as it is. A missing file raises what MLflow raises.
    """
    digests, folder = digests_of(run), Path(folder)
    for name in names:
        # By its full address: MLflow remembers where a run's files were, and a store may have moved.
        mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/{name}", dst_path=str(folder))
        path = folder / Path(name).name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "of no file"
        if digests and digests.get(name) != found:
            raise ArtifactError(
                f"Run {run.info.run_id}: {name} is not the file that was logged (sha256 {found}, logged "
                f"{digests.get(name)}). It was damaged or exchanged: bring the right one back or train again."
            )
    return folder
