"""Runs as a zip: take them out of one store and into another, with their ids, steps, times and artifacts.

export_experiment("baselines", "baselines.zip")
tracking.connect("elsewhere"); import_runs("baselines.zip")

The zip holds `runs.json`, the rows, and the files by run or model id. What comes in is checked: every name,
every column, every file's sha256. Nothing is written outside the store, and all of it comes in or nothing.
"""

import hashlib
import json
import re
import shutil
import sqlite3
import stat
import zipfile
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import mlflow

from support.tracking import rows
from support.tracking import training_run as tracking
from support.models.files import need

MANIFEST = "runs.json"
ID = re.compile("(m-)?[0-9a-f]{32}")
LARGEST_MANIFEST = 500_000_000  # bytes


class TransferError(ValueError):
    """The runs cannot be taken out or in. Says why; the store is as it was."""


def export_run(run_id: str, path: str | Path) -> Path:
    """Write one run to a zip and give its path."""
    return export_runs([run_id], path)


def export_experiment(experiment: str, path: str | Path) -> Path:
    """Write all runs of an experiment to a zip and give its path."""
    found = mlflow.get_experiment_by_name(experiment)
    if found is None:
        raise TransferError(f"There is no experiment {experiment!r}.")
    runs = mlflow.search_runs([found.experiment_id], output_format="list")
    return export_runs([run.info.run_id for run in runs], path)


def export_runs(run_ids: list[str], path: str | Path) -> Path:
    """Write runs to a zip and give its path. The zip is there whole or not at all."""
    path, runs, files = Path(path), [], {}
    half = path.with_name(f"{path.name}.half")
    try:
        with rows.database() as database, zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED) as archive:
            for run_id in run_ids:
                run = mlflow.get_run(run_id)
                if run.info.status == "RUNNING":
                    raise TransferError(f"Run {run_id} is running: wait for its end.")
                experiment = mlflow.get_experiment(run.info.experiment_id)
                runs.append({"run_id": run_id, "experiment": experiment.name, **_tables(database, run_id)})
                for owner, folder in rows.folders(database, run_id).items():
                    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                        name = f"{owner}/{file.relative_to(folder).as_posix()}"
                        files[name] = hashlib.sha256(file.read_bytes()).hexdigest()
                        archive.write(file, name)
            manifest = {"schema": _schema(database), "runs": runs, "files": files}
            archive.writestr(MANIFEST, json.dumps(manifest))
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    return path


def import_runs(path: str | Path) -> list[str]:
    """Take the runs of a zip into the current store and give their ids.

    Experiments are matched by name, and made where they are missing. Raises TransferError where the zip is
    damaged or hostile, where it was written by another version of MLflow's database, or where a run is there.
    """
    placed: list[Path] = []
    with TemporaryDirectory(dir=rows.path().parent) as aside:
        try:
            with zipfile.ZipFile(path) as archive:
                manifest = _read_manifest(archive)
                _unpack(archive, manifest["files"], Path(aside))
            for name in sorted({run["experiment"] for run in manifest["runs"]}):
                tracking.set_experiment(name)
            with rows.database() as database:
                need(manifest["schema"] == _schema(database), "another version of MLflow wrote it")
                for run in manifest["runs"]:
                    _insert(database, run)
                    for owner, target in rows.folders(database, run["run_id"]).items():
                        need(not target.exists(), f"{target} is there already")
                        placed.append(target)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        source = Path(aside) / owner
                        shutil.move(source, target) if source.exists() else target.mkdir()
        except (
            ValueError,
            TypeError,
            KeyError,
            OSError,
            sqlite3.Error,
            zipfile.BadZipFile,
            RecursionError,
        ) as error:
            for target in placed:
                rows.remove_folder(target)
            raise TransferError(f"{path} was not imported: {error}.") from error
    return [run["run_id"] for run in manifest["runs"]]


def _tables(database: sqlite3.Connection, run_id: str) -> dict:
    tables = rows.of_run(database, run_id)
    read = [row["source_id"] for row in tables["inputs"]]
    marks = ", ".join("?" * len(read))
    datasets = database.execute(f"SELECT * FROM datasets WHERE dataset_uuid IN ({marks})", read)
    return {"tables": tables, "datasets": [dict(row) for row in datasets]}


def _schema(database: sqlite3.Connection) -> str:
    return database.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def _read_manifest(archive: zipfile.ZipFile) -> dict:
    """Give the manifest, its ids and the names of its files checked. Raises ValueError or KeyError."""
    need(archive.getinfo(MANIFEST).file_size < LARGEST_MANIFEST, f"its {MANIFEST} is too large")
    manifest = json.loads(archive.read(MANIFEST))
    owners = set()
    for run in manifest["runs"]:
        need(set(run["tables"]) == set(rows.ROWS), "its tables are not those of a run")
        ids = [run["run_id"], *(row["model_id"] for row in run["tables"]["logged_models"])]
        need([row["run_uuid"] for row in run["tables"]["runs"]] == ids[:1], "a run has not one row")
        need(all(isinstance(i, str) and ID.fullmatch(i) for i in ids), "an id is no id of MLflow's")
        owners |= set(ids)
    for name in manifest["files"]:
        parts = PurePosixPath(name).parts
        plain = len(parts) > 1 and parts[0] in owners and ".." not in parts and "/".join(parts) == name
        need(plain and not set(name) & set("\\:\0"), f"the name {name!r} leads out of a run's folder")
    return manifest


def _unpack(archive: zipfile.ZipFile, files: dict[str, str], folder: Path) -> None:
    """Write the files, each as its digest says. Raises ValueError for anything beside them."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    need(
        set(entries) == {*files, MANIFEST} and len(archive.infolist()) == len(entries),
        "its files are not as listed",
    )
    size = sum(entry.file_size for entry in entries.values())
    need(size < shutil.disk_usage(folder).free, f"it takes {size / 1e6:,.0f} MB, more than is free")
    for name, digest in files.items():
        need(not stat.S_ISLNK(entries[name].external_attr >> 16), f"{name} is a link")
        content = archive.read(name)
        need(hashlib.sha256(content).hexdigest() == digest, f"{name} is damaged")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _insert(database: sqlite3.Connection, run: dict) -> None:
    """Insert a run's rows, at the places that this store gives to its experiment's runs and models."""
    run_id = run["run_id"]
    query = "SELECT experiment_id, artifact_location FROM experiments WHERE name = ?"
    experiment_id, location = database.execute(query, (run["experiment"],)).fetchone()
    there = database.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    need(there is None, f"run {run_id} is there already")
    known = {}
    for dataset in run["datasets"]:
        dataset["experiment_id"] = experiment_id
        query = "SELECT dataset_uuid FROM datasets WHERE (experiment_id, name, digest) = (?, ?, ?)"
        same = database.execute(query, (experiment_id, dataset["name"], dataset["digest"])).fetchone()
        known[dataset["dataset_uuid"]] = same[0] if same else dataset["dataset_uuid"]
        if same is None:
            _insert_row(database, "datasets", dataset)
    for table, entries in run["tables"].items():
        for row in entries:
            if "experiment_id" in row:
                row["experiment_id"] = experiment_id
            if table == "runs":
                row["artifact_uri"] = f"{location}/{run_id}/artifacts"
            elif table == "logged_models":
                row["artifact_location"] = f"{location}/models/{row['model_id']}/artifacts"
            elif table == "inputs":
                row["source_id"] = known.get(row["source_id"], row["source_id"])
            _insert_row(database, table, row)


def _insert_row(database: sqlite3.Connection, table: str, row: dict) -> None:
    columns = {column["name"] for column in database.execute(f"PRAGMA table_info({table})")}
    need(set(row) == columns, f"a row of {table} has other columns")  # so that no name is taken as SQL
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    database.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))
