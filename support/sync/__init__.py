"""Runs and registered models from one MLflow store to another: by a sync, or as a zip.

sync brings what is new to a team's server, or from it. export_runs writes runs to a zip, import_runs reads it.

sync             the call and its report        matching         which run is the copy of which
endpoint         one of the two stores          copying          a run's contents, copied and compared
model_versions   registered versions, aliases   archive          runs as a zip
"""

from support.sync.archive import ArchiveError, export_runs, import_runs
from support.sync.sync import Report, SyncError, sync

__all__ = ["ArchiveError", "Report", "SyncError", "export_runs", "import_runs", "sync"]
