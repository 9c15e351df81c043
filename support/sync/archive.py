"""Runs as a zip: for another machine, a colleague or a shelf.

path = export_runs([run_id], "runs.zip")
run_ids = import_runs("runs.zip")           # of the copies in the current store

An export is a sync into a new SQLite store, zipped: `mlflow.db`, the runs' files under `artifacts/`, and
`manifest.json` with each file's sha256. An import checks all of that before MLflow reads it, and is a sync
from there that writes to no run but its own copies. Registered models are not exported. Nothing in the zip is
compressed: so it can be no larger than it says, and weights would hardly become smaller.
"""

import hashlib
import json
import math
import shutil
import sqlite3
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow

from support.models.files import need
from support.sync.endpoint import ERRORS, ORIGIN, Endpoint, open_store, pages, reason
from support.sync.sync import Report, copy_runs
from support.tracking import database
from support.tracking.runs import get_run

DATABASE, MANIFEST, FILES = "mlflow.db", "manifest.json", "artifacts"
LARGEST = 20_000_000  # bytes of the manifest, and of a value in the database: MLflow's own limit is 16 MB
LATEST = 9_000_000_000_000  # milliseconds since 1970: the last day that pandas can show is in 2262
LIBRARIES = (zipfile.BadZipFile, sqlite3.Error, EOFError, RuntimeError, LookupError, TypeError)

# The database of an export. Checked against mlflow 3.17: what must be as in a new store, first of all no view
# that stands for a table; the Python type of a column; what else holds for each row.
SCHEMA = (
    "SELECT name, type FROM pragma_table_list WHERE schema = 'main' ORDER BY name",
    "SELECT name, sql FROM sqlite_master WHERE type IN ('trigger', 'index') ORDER BY name",
    "SELECT t.name, c.* FROM sqlite_master t, pragma_table_xinfo(t.name) c ORDER BY t.name, c.cid",
    "SELECT version_num FROM alembic_version",
)
TYPES = {"VARCHAR": str, "TEXT": str, "BIGINT": int, "INTEGER": int, "BOOLEAN": int, "FLOAT": (int, float)}
ID = "[0-9a-f]" * 32
RULES = {
    "runs": f"""run_uuid GLOB '{ID}' AND artifact_uri = :files || run_uuid || '/artifacts'
        AND status IN ('FINISHED', 'FAILED', 'KILLED') AND lifecycle_stage = 'active'
        AND start_time BETWEEN 0 AND {LATEST} AND end_time BETWEEN 0 AND {LATEST}""",
    "logged_models": f"""model_id GLOB 'm-{ID}' AND lifecycle_stage = 'active' AND status BETWEEN 0 AND 3
        AND artifact_location = :files || 'models/' || model_id || '/artifacts'""",
    "metrics": f"is_nan IN (0, 1) AND timestamp BETWEEN 0 AND {LATEST}",
    "tags": f"key <> '{ORIGIN}' OR value GLOB '{ID}'",
    "logged_model_tags": f"tag_key <> '{ORIGIN}' OR tag_value GLOB 'm-{ID}'",
}


class ArchiveError(ValueError):
    """The runs cannot be exported or imported. Says why."""


def export_runs(run_ids: list[str], path: str | Path) -> Path:
    """Write runs of the current store to a zip and return its path. It is there whole or not at all.

    The zip is read back and checked as an import does it. Raise ArchiveError for a run that is missing,
    running or deleted.
    """
    path = Path(path)
    half = path.with_name(f"{path.name}.half")
    with _refusals(f"{path} was not written"), _folder() as folder, _folder() as again:
        need(len(run_ids) > 0 and not isinstance(run_ids, str), "name the runs in a list, such as [run_id]")
        source = Endpoint(mlflow.get_tracking_uri())
        runs = [get_run(run_id) for run_id in dict.fromkeys(run_ids)]
        for run in runs:
            need(run.info.status != "RUNNING", f"run {run.info.run_id} is running: wait for its end")
        ids = {run.info.experiment_id for run in runs}
        experiments = [source.client.get_experiment(experiment_id) for experiment_id in ids]
        target = open_store(_uri(folder))
        target.client.rename_experiment("0", uuid.uuid4().hex)  # unused: it has a folder of its own for its files
        report = Report(path.name)
        copy_runs(source, target, runs, experiments, report)
        need(not report.failed, "; ".join([*report.failed.values()][:3]))
        try:
            _zip(folder, half)
            _unpack(half, again, like=folder / DATABASE)
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
    return path


def import_runs(path: str | Path) -> list[str]:
    """Copy the runs of a zip into the current store and return the copies' ids, the oldest run first.

    A run that is in the store already, or has a complete copy there, stays as it is; from the trash it is
    restored. An import that was cut off goes on when it is called again. Raise ArchiveError where the zip is
    damaged or hostile, or was written by another version of MLflow.
    """
    with _refusals(f"{path} was not imported"), _folder() as folder, _folder() as fresh:
        database.prepare(fresh / DATABASE)
        source = _unpack(Path(path), folder, like=fresh / DATABASE)
        target = Endpoint(mlflow.get_tracking_uri())
        experiments = list(pages(source.client.search_experiments))
        runs = list(pages(source.client.search_runs, [found.experiment_id for found in experiments]))
        runs.sort(key=lambda run: (run.info.start_time, run.info.run_id))
        report = Report("this store")
        copy_runs(source, target, runs, experiments, report, update=False)
        if report.deleted:
            for run_id in report.deleted:
                target.client.restore_run(target.ids[source.origins[run_id]])
            copy_runs(source, target, runs, experiments, report, update=False)
        need(not report.failed, "; ".join([*report.failed.values()][:3]))
    return [report.ids[run.info.run_id] for run in runs]


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Raise ArchiveError, in one sentence, for all that a damaged or hostile file can bring about."""
    try:
        yield
    except (*ERRORS, *LIBRARIES) as error:
        raise ArchiveError(f"{what}: {reason(error).removesuffix('.')}.") from None


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # MLflow keeps the database open
        yield Path(folder).resolve()


def _uri(folder: Path) -> str:
    return f"{database.SQLITE}{(folder / DATABASE).as_posix()}"


def _files(folder: Path) -> dict[str, Path]:
    paths = [folder / DATABASE, *sorted((folder / FILES).rglob("*"))]
    return {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _zip(folder: Path, path: Path) -> None:
    files = _files(folder)
    manifest = {"store": folder.as_uri(), "files": {name: _sha256(file) for name, file in files.items()}}
    with zipfile.ZipFile(path, "w", strict_timestamps=False) as archive:
        for name, file in files.items():
            archive.write(file, name)
        archive.writestr(MANIFEST, json.dumps(manifest))


def _unpack(path: Path, folder: Path, like: Path) -> Endpoint:
    """Return the store in a zip, unpacked into `folder` and checked. Raise an error where it is not right.

    `like` is a database that this MLflow has made. zipfile writes nothing outside of the folder, and no links.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        need(size <= path.stat().st_size, f"it would take {size / 1e6:,.0f} MB, more than it has itself")
        need(size < shutil.disk_usage(folder).free, f"it takes {size / 1e6:,.0f} MB, more than is free")
        need(all(member.compress_type == zipfile.ZIP_STORED for member in members), "it is compressed")
        need(archive.getinfo(MANIFEST).file_size < LARGEST, f"its {MANIFEST} is too large")
        content = archive.read(MANIFEST)
        manifest = json.loads(content)
        listed = manifest.get("files") if isinstance(manifest, dict) else None
        need(isinstance(listed, dict) and isinstance(manifest.get("store"), str), f"its {MANIFEST} is not an export's")
        need(sorted(archive.namelist()) == sorted([*listed, MANIFEST]), f"its files are not those of its {MANIFEST}")
        archive.extractall(folder)
    found = {name: _sha256(file) for name, file in _files(folder).items()}
    wrong = sorted(name for name in {*found, *listed} if found.get(name) != listed.get(name))
    need(not wrong, f"it is damaged or was changed: {', '.join(wrong[:3])}")
    _check(folder / DATABASE, like, f"{manifest['store']}/{FILES}/")
    name = hashlib.sha256(content).hexdigest()[:16]
    return Endpoint(_uri(folder), name, moved=(manifest["store"], folder.as_uri()))


def _check(path: Path, like: Path, files: str) -> None:
    """Raise an error for what an export does not write into its database. MLflow has not read it before.

    `like` is a database that this MLflow has made, `files` the URI of the folder that holds the runs' folders.
    """
    with closing(_read_only(path)) as theirs, closing(_read_only(like)) as ours:
        for query in SCHEMA:
            same = theirs.execute(query).fetchall() == ours.execute(query).fetchall()
            need(same, "its database is not that of the installed version of MLflow")
        theirs.execute("PRAGMA ignore_check_constraints = ON")  # else they run, and are not compared above
        need(theirs.execute("PRAGMA integrity_check").fetchone() == ("ok",), "its database is damaged")
        for (table,) in ours.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = ours.execute(f"SELECT name, type FROM pragma_table_info('{table}')").fetchall()
            kinds = [(column, TYPES.get(kind.partition("(")[0], object)) for column, kind in columns]
            for row in theirs.execute(f"SELECT * FROM {table}"):
                for (column, kind), value in zip(kinds, row, strict=True):
                    fits = value is None or isinstance(value, kind)
                    fits = fits and not (isinstance(value, float) and not math.isfinite(value))
                    need(fits, f"{table}.{column} holds what MLflow does not write: {value!r:.40}")
        for table, rule in RULES.items():
            query = f"SELECT 1 FROM {table} WHERE ({rule}) IS NOT TRUE LIMIT 1"
            wrong = theirs.execute(query, {"files": files}).fetchone()
            need(wrong is None, f"a row of {table} is not an export's")


def _read_only(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST)
    return connection
