"""Runs as a zip: out of one store and into another, and what a damaged or hostile zip can do: nothing."""

import hashlib
import json
import shutil
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from sync_parts import NAMES, dump, everything, files_of, log_model, new_run, running_server

from support.sync import archive
from support.sync.archive import ArchiveError, export_runs, import_runs
from support.sync.sync import sync
from support.tracking import training_run as tracking
from support.tracking.database import prepare
from support.tracking.orphans import PROCESS
from support.tracking.store import connect, set_experiment


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, str]:
    """Return a zip of one run with a model and odd names, and the run's id. Tests work on copies."""
    folder = tmp_path_factory.mktemp("exported")
    connect(folder / "stores")
    run_id = new_run(f1=0.5, files=NAMES)
    log_model(run_id, "one", folder / "model")
    return export_runs([run_id], folder / "runs.zip"), run_id


@pytest.fixture
def here(tmp_path) -> str:
    """Return the URI of a fresh, connected store, with a run of its own."""
    uri = connect(tmp_path / "here")
    new_run("own", f1=0.1)
    return uri


def state(folder: Path) -> tuple[list[str], set[Path]]:
    return dump(folder / "here" / "mlflow.db"), {path for path in (folder / "here").rglob("*") if path.is_file()}


def test_runs_go_out_and_come_in_whole_and_once(tmp_path):
    first = connect(tmp_path / "first")
    runs = [new_run("one", f1=0.5, files=NAMES), new_run("two", "another experiment")]
    model_id = log_model(runs[0], "one", tmp_path / "model")
    path = export_runs(runs, tmp_path / "runs.zip")
    assert path == tmp_path / "runs.zip"
    assert [found.name for found in tmp_path.glob("runs.zip*")] == ["runs.zip"]
    second = connect(tmp_path / "second")
    new_run("own")  # so that ids of experiments and datasets differ
    copies = import_runs(path)
    assert len(copies) == 2
    for run_id, copy in zip(runs, copies, strict=True):
        assert everything(second, copy) == everything(first, run_id, dict(zip(runs, copies, strict=True)))
        assert MlflowClient().get_run(copy).info.artifact_uri.startswith((tmp_path / "second").as_uri())
    [model] = mlflow.search_logged_models([MlflowClient().get_run(copies[0]).info.experiment_id], output_format="list")
    assert model.model_id != model_id
    assert files_of(second, model.artifact_location)["inner/text.txt"] == b"one"
    before = dump(tmp_path / "second" / "mlflow.db")
    assert import_runs(path) == copies
    assert dump(tmp_path / "second" / "mlflow.db") == before
    connect(tmp_path / "first")
    assert import_runs(path) == runs  # the runs themselves are here


def test_a_servers_run_can_be_exported(tmp_path, here):
    url = running_server().url
    own = new_run("served", "to be exported", ["note.txt", "why?.txt"])
    report = sync(to=url, experiments=["to be exported"])
    mlflow.set_tracking_uri(url)
    path = export_runs([report.ids[own]], tmp_path / "runs.zip")
    before = everything(url, report.ids[own])
    other = connect(tmp_path / "other")
    assert everything(other, import_runs(path)[0]) == before


def test_an_import_leaves_a_run_that_is_there_as_it_is(exported, tmp_path, here):
    """A zip may name any run as the one that its own is a copy of."""
    path, _ = exported
    copy = import_runs(path)[0]
    MlflowClient().set_tag(copy, "note", "mine")
    before = everything(here, copy)
    hostile = rewritten(exported, tmp_path, sql("UPDATE params SET value = 'theirs' WHERE key = 'lr'"))
    assert import_runs(hostile) == [copy]
    assert everything(here, copy) == before
    [own] = MlflowClient().search_runs([set_experiment("small runs")], "attributes.run_name = 'own'")
    before = everything(here, own.info.run_id)
    hostile = rewritten(
        exported,
        tmp_path,
        sql(f"UPDATE tags SET value = '{own.info.run_id}' WHERE key = 'support.sync.origin'"),
        sql("UPDATE metrics SET value = 99"),
    )
    assert import_runs(hostile) == [own.info.run_id]
    assert everything(here, own.info.run_id) == before


def test_a_run_of_mlflows_first_experiment(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    connect(tmp_path / "here")  # again: the store's own first experiment has its place then
    run_id = MlflowClient().create_run("0").info.run_id
    mlflow.log_text("text", "note.txt", run_id=run_id)
    MlflowClient().set_terminated(run_id)
    path = export_runs([run_id], tmp_path / "runs.zip")
    other = connect(tmp_path / "other")
    assert everything(other, import_runs(path)[0]) == everything(here, run_id)
    assert not (tmp_path / "mlruns").exists()


def test_a_run_in_the_trash_comes_back(exported, here):
    path, _ = exported
    [copy] = import_runs(path)
    MlflowClient().delete_run(copy)
    assert import_runs(path) == [copy]
    assert MlflowClient().get_run(copy).info.lifecycle_stage == "active"


def test_an_import_that_was_cut_off_goes_on(exported, here, tmp_path, monkeypatch):
    path, _ = exported
    for write in ("log_batch", "log_inputs", "finalize_logged_model", "set_terminated", "set_tag"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, write, cut_off)
            with pytest.raises(KeyboardInterrupt):
                import_runs(path)
    [copy] = import_runs(path)
    assert set(everything(here, copy)["files"]) == set(NAMES)
    assert len(MlflowClient().search_runs([set_experiment("small runs")])) == 2


def cut_off(*args, **kwargs):
    raise KeyboardInterrupt


def test_runs_that_cannot_be_exported(here, tmp_path):
    run_id = new_run()
    for wrong, words in (("", "in a list"), ([], "in a list"), (run_id, "in a list"), (["0" * 32], "not in this")):
        with pytest.raises(ArchiveError, match=words):
            export_runs(wrong, tmp_path / "runs.zip")
    with tracking.start_run("open") as run, pytest.raises(ArchiveError, match="is running"):
        export_runs([run_id, run.info.run_id], tmp_path / "runs.zip")
    MlflowClient().delete_run(run_id)
    with pytest.raises(ArchiveError, match="was deleted"):
        export_runs([run_id], tmp_path / "runs.zip")
    assert not list(tmp_path.glob("runs.zip*"))


# Zips that export_runs did not write.


def rewritten(exported: tuple[Path, str], tmp_path: Path, *changes) -> Path:
    """Return a copy of the zip after each `change(folder)` of what is in it, with the right checksums again."""
    folder = tmp_path / "rewritten"
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(exported[0]) as packed:
        packed.extractall(folder)
    store = json.loads((folder / archive.MANIFEST).read_text())["store"]
    (folder / archive.MANIFEST).unlink()
    for change in changes:
        change(folder)
    bad = tmp_path / "bad.zip"
    archive._zip(folder, bad)
    members = members_of(bad)
    manifest = json.loads(members[archive.MANIFEST])
    write(bad, {**members, archive.MANIFEST: json.dumps({**manifest, "store": store})})
    return bad


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def write(path: Path, members: dict, *more: tuple) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in (*members.items(), *more):
            packed.writestr(name, content)


def sql(*statements: str):
    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / archive.DATABASE)) as connection, connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for statement in statements:
                connection.execute(statement)

    return change


def refused(path: Path, folder: Path, words: str = "") -> None:
    """Assert that the zip is refused in one sentence, and that the store is as it was."""
    before = state(folder)
    with pytest.raises(ArchiveError, match=f"was not imported: .*{words}") as error:
        import_runs(path)
    assert len(str(error.value)) < 600
    assert state(folder) == before


OUTSIDE = ["../outside.txt", "/outside.txt", "artifacts/../../outside.txt", "artifacts//x", "artifacts/./x", ".."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out(exported, here, tmp_path, name):
    write(tmp_path / "bad.zip", members_of(exported[0]), (name, b"hostile"))
    refused(tmp_path / "bad.zip", tmp_path, "are not those of its manifest")
    manifest = json.loads(members_of(exported[0])[archive.MANIFEST])
    manifest["files"][name] = hashlib.sha256(b"hostile").hexdigest()
    members = {**members_of(exported[0]), archive.MANIFEST: json.dumps(manifest)}
    write(tmp_path / "bad.zip", members, (name, b"hostile"))
    refused(tmp_path / "bad.zip", tmp_path)
    assert not list(tmp_path.rglob("outside.txt"))


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o120777 << 16
    return entry


def encrypted(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = 0
        while (start := content.find(magic, start)) >= 0:
            content[start + offset] |= 1
            start += 4
    path.write_bytes(content)


def test_zips_that_are_not_an_export(exported, here, tmp_path):
    bad, members = tmp_path / "bad.zip", members_of(exported[0])
    manifest = json.loads(members[archive.MANIFEST])
    file = next(name for name in members if name.endswith("why?.txt"))
    for more, words in (
        ([("unlisted.txt", b"x")], "are not those of its manifest"),
        ([("artifacts/unlisted.txt", b"x")], "are not those of its manifest"),
        ([(link("artifacts/link"), b"/etc/passwd")], "are not those of its manifest"),
        ([(file, b"again")], ""),
        ([("artifacts", b"a file")], ""),
    ):
        write(bad, members, *more)
        refused(bad, tmp_path, words)
    for change, words in (
        ({file: members[file][:-1] + b"?"}, "was changed: .*why"),
        ({archive.MANIFEST: b"[" * 100_000}, ""),
        ({archive.MANIFEST: b"[]"}, ""),
        ({archive.MANIFEST: b"{}"}, ""),
        ({archive.MANIFEST: json.dumps({**manifest, "files": []})}, ""),
        ({archive.MANIFEST: json.dumps({**manifest, "store": "file:///etc"})}, "is not an export's"),
        ({archive.MANIFEST: json.dumps({**manifest, "store": 1})}, ""),
        ({archive.MANIFEST: b"{" + b" " * 30_000_000 + b"}"}, "too large"),
        ({archive.DATABASE: b"no database"}, "was changed"),
    ):
        write(bad, {**members, **change})
        refused(bad, tmp_path, words)
    for missing in (archive.DATABASE, archive.MANIFEST, file):
        write(bad, {name: content for name, content in members.items() if name != missing})
        refused(bad, tmp_path)
    shutil.copy(exported[0], bad)
    encrypted(bad)
    refused(bad, tmp_path)
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(bad, "w", compression) as packed:
            packed.writestr(archive.MANIFEST, b"{}")
        refused(bad, tmp_path, "is compressed")
    for content in (b"", b"no zip", b"PK\x03\x04", exported[0].read_bytes()[:-200]):
        bad.write_bytes(content)
        refused(bad, tmp_path)
    with pytest.raises(ArchiveError, match="not imported"):
        import_runs(tmp_path / "none.zip")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(exported, here, tmp_path, monkeypatch):
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("artifacts/zeros", "w") as file:
        for _ in range(100):
            file.write(bytes(1_000_000))
    assert bad.stat().st_size < 200_000
    monkeypatch.setattr(zipfile.ZipFile, "extractall", lambda *args: pytest.fail("it unpacks"))
    refused(bad, tmp_path, "100 MB, more than it has")


def test_a_size_that_is_a_lie(exported, here, tmp_path):
    """A member that says that it is small stops where it said."""
    bad = tmp_path / "bad.zip"
    write(bad, {"artifacts/zeros": bytes(5_000_000)})
    content = bytearray(bad.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.find(magic) + offset
        content[at : at + 4] = (10).to_bytes(4, "little")
    bad.write_bytes(content)
    refused(bad, tmp_path)


HOSTILE_ROWS = [
    "UPDATE metrics SET value = 'text'",
    "UPDATE metrics SET value = 9e999",
    "UPDATE latest_metrics SET value = x'00'",
    "UPDATE metrics SET step = 'three'",
    "UPDATE metrics SET timestamp = -1",
    "UPDATE params SET value = x'07'",
    "UPDATE params SET value = CAST(x'ff' AS TEXT)",
    "UPDATE tags SET value = x'07'",
    "UPDATE tags SET value = '''; DROP TABLE runs' WHERE key = 'support.sync.origin'",
    "UPDATE runs SET status = 'RUNNING'",
    "UPDATE runs SET status = 'ODD'",
    "UPDATE runs SET status = NULL",
    "UPDATE runs SET lifecycle_stage = 'deleted'",
    "UPDATE runs SET start_time = 9e18",
    "UPDATE runs SET end_time = NULL",
    "UPDATE runs SET end_time = 'now'",
    "UPDATE runs SET run_uuid = '../outside'",
    "UPDATE runs SET artifact_uri = 'file:///etc'",
    "UPDATE runs SET artifact_uri = artifact_uri || '/../..'",
    "UPDATE logged_models SET artifact_location = 'file:///etc'",
    "UPDATE logged_models SET model_id = 'm-1'",
    "UPDATE logged_models SET status = 'READY'",
    "UPDATE datasets SET name = x'07'",
    "UPDATE experiments SET name = x'41' WHERE experiment_id = 1",
    "UPDATE alembic_version SET version_num = 'older'",
    "CREATE TRIGGER t AFTER INSERT ON tags BEGIN DELETE FROM runs; END",
    "CREATE VIEW more AS SELECT * FROM runs",
    "CREATE TABLE more (a)",
    "CREATE INDEX more ON runs (name)",
    "DROP TABLE webhooks",
    "ALTER TABLE runs ADD COLUMN more TEXT",
    "CREATE VIRTUAL TABLE more USING fts5(a)",
    "UPDATE sqlite_master SET rootpage = 3 WHERE name = 'runs'",
]
STATUS = "status VARCHAR(9)"
ENDLESS = f"UPDATE sqlite_master SET sql = replace(sql, '{STATUS}', '{STATUS} CHECK (randomblob(1e8) IS NULL)')"


def test_databases_that_mlflow_does_not_write(exported, here, tmp_path):
    for statement in HOSTILE_ROWS:
        print(statement)
        refused(rewritten(exported, tmp_path, sql(statement)), tmp_path)
    # A constraint is never run: the run comes in.
    assert import_runs(rewritten(exported, tmp_path, sql(ENDLESS)))


def test_a_value_without_end_is_not_read(exported, here, tmp_path):
    refused(rewritten(exported, tmp_path, sql("UPDATE params SET value = hex(zeroblob(15000000))")), tmp_path)


def test_no_database(exported, here, tmp_path):
    def cut(folder: Path) -> None:
        content = (folder / archive.DATABASE).read_bytes()
        (folder / archive.DATABASE).write_bytes(content[: len(content) // 2])

    def text(folder: Path) -> None:
        (folder / archive.DATABASE).write_text("no database")

    def foreign(folder: Path) -> None:
        (folder / archive.DATABASE).unlink()
        sql("CREATE TABLE alembic_version (version_num)")(folder)

    for change in (cut, text, foreign):
        refused(rewritten(exported, tmp_path, change), tmp_path)


def test_a_tag_of_a_process_is_not_brought(exported, here, tmp_path):
    tag = f"INSERT INTO tags SELECT '{PROCESS}', 'abc', run_uuid FROM runs"
    [copy] = import_runs(rewritten(exported, tmp_path, sql(tag)))
    assert PROCESS not in MlflowClient().get_run(copy).data.tags
    connect(tmp_path / "here")


def test_the_schema_that_is_checked_is_mlflows(tmp_path):
    """A column of a type that is new would be let in unchecked."""
    prepare(tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        kinds = {
            row[0].partition("(")[0]
            for table in (*archive.RULES, "params", "latest_metrics", "datasets", "inputs", "input_tags", "experiments")
            for row in connection.execute(f"SELECT type FROM pragma_table_info('{table}')")
        }
    assert kinds <= set(archive.TYPES)
