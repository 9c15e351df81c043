#!/usr/bin/env bash
# Back up the database and the artifacts into a new folder: backup.sh FOLDER
#
# The database comes first: artifacts are written once and never changed, so whatever the database names is there
# when the artifacts are copied. Members may go on working. PG* and MLFLOW_* say where, as for the server.
set -euo pipefail
folder=${1:?the new folder to write to}
mkdir "$folder" "$folder/artifacts"
pg_dump --format=custom --no-owner --file="$folder/database.dump"
cd "$folder"
python - <<'PYTHON'
import os
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

get_artifact_repository(os.environ["MLFLOW_ARTIFACTS_DESTINATION"]).download_artifacts("", "artifacts")
PYTHON
find . -type f ! -name 'SHA256SUMS*' -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS.half
mv SHA256SUMS.half SHA256SUMS # written last: a folder without it is no backup
