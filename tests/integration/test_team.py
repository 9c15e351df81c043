"""Users, rights and secrets on one real team server: MLflow's authentication app on PostgreSQL."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier
from urllib.error import HTTPError
from urllib.request import urlopen

import mlflow
import pandas as pd
import psutil
import pytest
import yaml
from lossy_network import lossy_network
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from team_processes import PARAMS

from support import dashboard, team, tracking
from support.dashboard import report
from support.dashboard.checks import Secret
from support.data.splits import Splits
from support.team import processes, users
from support.team import server as team_server
from support.tracking import orphans, runs, store, training_run
from support.tracking.provenance import log_context

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="PostgreSQL's socket is not on Windows.")
TEXTS = ["transfer learning with bert"]
EXPERIMENT = store.EXPERIMENT


@pytest.fixture(scope="module")
def server():
    """Yield a running server, opened where a proxy is set, as in a company's network."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "http_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with team.open() as running:
            yield running
    assert not running.folder.exists() and not processes.family(running.folder)


@pytest.fixture(scope="module")
def members(server) -> dict[str, team.Member]:
    """Return two members: ada may manage the team's experiment, bob may log to it."""
    with server.admin.logged_in():
        made = {name: team.add_user(name) for name in ("ada", "bob")}
        tracking.set_experiment()
        team.grant("ada", EXPERIMENT, "MANAGE")
        team.grant("bob", EXPERIMENT, "EDIT")
    return made


@pytest.fixture(scope="module")
def trained_run(members, sample_splits, tmp_path_factory) -> str:
    """Return the id of a run that ada has trained and logged."""
    with pytest.MonkeyPatch.context() as patch, members["ada"].logged_in():
        patch.setenv("STORES_DIR", str(tmp_path_factory.mktemp("ada")))
        return tracking.train_and_log(PARAMS, sample_splits)


def status_of(call) -> str:
    """Return the error code that MLflow's client makes of the server's answer; "" where it does not refuse."""
    try:
        call()
    except MlflowException as error:
        return error.error_code
    return ""


def test_a_run_is_logged_whole_and_another_member_gets_the_same_model(members, trained_run):
    answers = []
    for member in members.values():
        with member.logged_in():
            run = tracking.best_run()
            assert run.info.run_id == trained_run and run.info.status == "FINISHED"
            assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
            assert list(tracking.histories(trained_run)["val_loss"]) == list(range(1, PARAMS.num_epochs + 1))
            answers.append(tracking.load_tagger(trained_run).predict_proba(TEXTS))
    assert (answers[0] == answers[1]).all()


def test_dashboard_and_report_lead_to_the_teams_runs(members, trained_run, server):
    with members["bob"].logged_in():
        board = dashboard.open()
        assert "team" in board.view and trained_run in str(board.links)
        assert all(link.startswith(server.url) for link in board.links.values())
        board.check()
        board.close()
        assert "cnn" in report.write().read_text()


@pytest.mark.parametrize("password", [None, "not the password"])
def test_without_the_password_nothing_is_answered_and_connect_says_so(server, password, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(tracking.ServerRefuses, match="MLFLOW_TRACKING_USERNAME"):
        tracking.connect()
    for path in ("/", "/api/2.0/mlflow/experiments/get?experiment_id=0", "/signup"):
        with pytest.raises(HTTPError) as refused:
            urlopen(server.url + path, timeout=10)
        assert refused.value.code == 401


def test_what_is_not_theirs_is_refused_and_not_listed(members, trained_run):
    with members["ada"].logged_in():
        tracking.set_experiment("ada's own")
        with tracking.start_run("drafts") as run:
            mlflow.log_metric("f1", 0.99)
            mlflow.log_text("a secret plan", "plan.txt")
        own = run.info.experiment_id
        MlflowClient().create_registered_model("ada's model")
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
        with pytest.raises(Exception, match="403"):
            mlflow.artifacts.download_artifacts(f"mlflow-artifacts:/{own}/{run_id}/artifacts/plan.txt")
        assert [found.name for found in client.search_experiments()] == [EXPERIMENT]
        assert not client.search_runs([own]) and not client.search_registered_models()
        with pytest.raises(tracking.ServerRefuses, match="ada's own"):
            tracking.best_run("ada's own")


def test_rights_differ_and_nobody_gives_themselves_more(members, trained_run):
    with members["bob"].logged_in():
        client = MlflowClient()
        client.set_tag(trained_run, "seen by", "bob")
        assert status_of(lambda: client.delete_run(trained_run)) == "PERMISSION_DENIED"
        with pytest.raises(team.TeamError, match="is you"):
            team.grant("bob", EXPERIMENT, "MANAGE")
        own = lambda: users.client().grant_user_permission("bob", "experiment", "1", "MANAGE")  # noqa: E731
        assert status_of(own) == "PERMISSION_DENIED"
        for call in (
            lambda: team.grant("ada", EXPERIMENT, "READ"),
            lambda: team.revoke("ada", EXPERIMENT),
            lambda: team.add_user("carol"),
        ):
            with pytest.raises(team.TeamError, match="Permission denied"):
                call()
    for change, may_see in (
        (lambda: team.grant("bob", EXPERIMENT, "READ"), True),
        (lambda: team.revoke("bob", EXPERIMENT), False),
        (lambda: team.grant("bob", EXPERIMENT, "EDIT"), True),
    ):
        with members["ada"].logged_in():
            change()
        with members["bob"].logged_in():
            assert status_of(lambda: client.get_run(trained_run)) == ("" if may_see else "PERMISSION_DENIED")


@pytest.mark.parametrize(
    "location", ["file:///tmp/elsewhere", "/tmp/elsewhere", "s3://bucket", "mlflow-artifacts:/../x"]
)
def test_artifacts_go_into_the_servers_storage_and_nowhere_else(members, location):
    with members["ada"].logged_in():
        call = lambda: mlflow.create_experiment("elsewhere", artifact_location=location)  # noqa: E731
        assert status_of(call) == "INVALID_PARAMETER_VALUE"
        assert mlflow.get_experiment_by_name("elsewhere") is None


def test_a_bad_user_or_right_says_what_is_wrong(server, members):
    with server.admin.logged_in():
        for call, message in (
            (lambda: team.add_user("ada"), "already exists"),
            (lambda: team.add_user("carol", "short"), "12 characters"),
            (lambda: team.grant("ada", "nothing", "READ"), "no experiment 'nothing'"),
            (lambda: team.grant("ada", EXPERIMENT, "ALL"), "READ"),
            (lambda: team.grant("nobody", EXPERIMENT, "READ"), "nobody"),
        ):
            with pytest.raises(team.TeamError, match=message):
                call()


def test_orphans_of_others_are_left_to_who_may_end_them(members):
    with members["ada"].logged_in():
        experiment_id = tracking.set_experiment("read only")
        team.grant("bob", "read only", "READ")
        gone = {orphans.PROCESS: f"{orphans.host()} another-boot 1 1"}
        run = MlflowClient().create_run(experiment_id, tags=gone)
    with members["bob"].logged_in():
        assert mlflow.get_run(run.info.run_id).info.status == "RUNNING"
    with members["ada"].logged_in():
        assert mlflow.get_run(run.info.run_id).info.status == "KILLED"


def test_secrets_are_in_no_file_no_command_and_no_output(server, members, trained_run):
    passwords = [m.environment["MLFLOW_TRACKING_PASSWORD"] for m in (server.admin, *members.values())]
    assert not any(password in repr([server, server.admin, members]) for password in passwords)
    assert repr(passwords[0]) == repr(Secret("x")) and len(set(passwords)) == 3
    family = processes.family(server.folder)
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


def test_it_listens_to_this_machine_only_and_runs_by_the_compose_file(server):
    family = processes.family(server.folder)
    connections = [
        each for process in family for each in getattr(process, "net_connections", process.connections)("inet")
    ]
    assert {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    service = yaml.safe_load(team_server.COMPOSE.read_text())["services"]["mlflow"]
    command = [sys.executable, "-m", *service["command"]]
    [process] = [process for process in family if process.cmdline() == command]
    theirs, ours = service["environment"], process.environ()
    same = ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION")
    assert all(ours[name] == theirs[name] for name in same)
    of_s3 = {"MLFLOW_S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"}
    assert set(theirs) - of_s3 - set(ours) == {"PGPASSWORD"}  # the socket of one's own PostgreSQL needs none
    assert Path(ours["MLFLOW_AUTH_CONFIG_PATH"]).name == Path(theirs["MLFLOW_AUTH_CONFIG_PATH"]).name


def test_an_answer_that_is_lost_leaves_nothing_twice(server, members, sample_splits):
    with lossy_network(server.url) as (url, asked):
        lossy = team.member(url, "ada", members["ada"].environment["MLFLOW_TRACKING_PASSWORD"])
        with lossy.logged_in():
            with tracking.start_run("unlucky", "lossy") as run:
                training_run.train_in(run, PARAMS, sample_splits)
            found = runs.find_experiment("lossy")
            made = MlflowClient().search_runs([found.experiment_id])
            assert [each.info.run_id for each in made] == [run.info.run_id]
            assert tracking.load_tagger(run.info.run_id).predict(TEXTS)
            for name in ("train_loss", "val_loss", "f1"):
                steps = [m.step for m in MlflowClient().get_metric_history(run.info.run_id, name)]
                assert len(steps) == len(set(steps))
            assert len(made[0].inputs.dataset_inputs) == 1
    lost = {kind for kind, times in asked.items() if times > 1 and not kind.startswith("GET")}
    for path in ("experiments/create", "runs/log-batch", "runs/log-inputs", "runs/update"):
        assert f"POST /api/2.0/mlflow/{path}" in lost
    assert asked["POST /api/2.0/mlflow/runs/create"] == 1  # its answer was lost too, and it was not repeated
    assert any(kind.startswith("PUT") for kind in lost)


def test_two_members_who_make_the_same_experiment_at_once_get_one(members, monkeypatch):
    with members["ada"].logged_in():
        experiment_id = tracking.set_experiment("at once")
        real = mlflow.get_experiment_by_name
        answers = [None]  # the other member was faster by this much

        def slow(name):
            return answers.pop() if answers else real(name)

        monkeypatch.setattr(mlflow, "get_experiment_by_name", slow)
        assert tracking.set_experiment("at once") == experiment_id and not answers


def test_many_who_train_on_the_same_new_data_at_once_all_record_them(members):
    ready, table = Barrier(6), pd.DataFrame({"x": [1.5, 2.5]})

    def log(name: str) -> set[str]:
        with mlflow.start_run(run_name=name, log_system_metrics=False) as run:
            for part in range(3):
                ready.wait(60)
                log_context(Splits(table, table, table, corpus="shared", seed=part, source=f"{part}"))
        return {each.dataset.digest for each in mlflow.get_run(run.info.run_id).inputs.dataset_inputs}

    with members["ada"].logged_in(), ThreadPoolExecutor(6) as pool:
        mlflow.set_experiment(EXPERIMENT)
        [digests] = {frozenset(found) for found in pool.map(log, [f"at once {n}" for n in range(6)])}
        assert digests


def test_a_server_that_cannot_start_says_why_and_leaves_nothing():
    before = set(Path(team_server.tempfile.gettempdir()).glob("team-*"))
    for uri, why in (
        ("postgresql://postgres:hidden@/nothing?host=/nowhere", "does not answer"),
        ("not an address", "no address"),
    ):
        with pytest.raises(team.TeamError, match=why) as refused:
            team.open(uri)
        assert "hidden" not in str(refused.value)
    assert set(Path(team_server.tempfile.gettempdir()).glob("team-*")) == before
