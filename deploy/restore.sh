#!/usr/bin/env bash
# Bring back what backup.sh wrote: restore.sh FOLDER
#
# Every file is checked first. The tables become those of the backup, all of them or none; what was logged since is gone.
# Artifacts are brought back, and none is removed. Stop the server before, and start it after.
set -euo pipefail
cd "${1:?the folder that backup.sh wrote}"
sha256sum --check --quiet SHA256SUMS
pg_restore --clean --if-exists --no-owner --single-transaction --exit-on-error --dbname="$PGDATABASE" database.dump
python - <<'PYTHON'
import os
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

get_artifact_repository(os.environ["MLFLOW_ARTIFACTS_DESTINATION"]).log_artifacts("artifacts")
PYTHON
