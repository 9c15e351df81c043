"""What a team's server bears: members that log at once, the best run of 100,000; SQLite beside PostgreSQL.

    python -m benchmarks.team_load        # five minutes; writes benchmarks/results/team.md

Both are the same server, by deploy/compose.yaml's command with one worker, users and rights in PostgreSQL;
only the runs are once in SQLite and once in PostgreSQL. The members are processes on the same machine that
speak HTTP with little effort, and log as notebook 01 does: a run, its params, ten epochs of three metrics
each, its end. All traffic stays on this machine, and ends by itself.
"""

import base64
import csv
import http.client
import io
import json
import math
import multiprocessing
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

import mlflow
import psutil
import psycopg2

from benchmarks.store import fill
from support import team, tracking
from support.config import PROJECT_DIR
from support.team import server as team_server
from support.team.processes import family
from support.tracking.store import EXPERIMENT

SIZES, CLIENTS, SECONDS, LOOKUPS = (10_000, 100_000), (1, 4, 16), 8, 20
EPOCHS, BATCH = 10, 1000
FILLED = ("runs", "latest_metrics", "metrics", "params", "tags")
BEST = "SELECT run_uuid FROM latest_metrics WHERE key = 'f1' ORDER BY value DESC LIMIT 1"
RESULTS = PROJECT_DIR / "benchmarks" / "results" / "team.md"


class Client:
    """One member's connection, which keeps the seconds that each answer took."""

    def __init__(self, environment: dict[str, str]) -> None:
        login = f"{environment['MLFLOW_TRACKING_USERNAME']}:{environment['MLFLOW_TRACKING_PASSWORD']}"
        self.headers = {
            "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
            "Content-Type": "application/json",
        }
        self.connection = http.client.HTTPConnection(urlsplit(environment["MLFLOW_TRACKING_URI"]).netloc)
        self.took: list[float] = []

    def post(self, path: str, **body) -> dict:
        start = time.perf_counter()
        self.connection.request("POST", f"/api/2.0/mlflow/{path}", json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        content = answer.read()
        self.took.append(time.perf_counter() - start)
        if answer.status != 200:
            raise RuntimeError(f"HTTP {answer.status} for {path}: {content[:200]!r}")
        return json.loads(content)


def log_until(environment: dict, experiment_id: str, start: float, end: float, batch: int, answers) -> None:
    """Log runs between two times; give runs, metrics and seconds. With `batch`, so many metrics a request."""
    client, runs, metrics = Client(environment), 0, 0
    time.sleep(max(0, start - time.time()))
    while time.time() < end:
        now = int(time.time() * 1000)
        made = client.post("runs/create", experiment_id=experiment_id, run_name="cnn", start_time=now)
        run_id = made["run"]["info"]["run_id"]
        params = [{"key": f"param {number}", "value": str(number)} for number in range(11)]
        client.post("runs/log-batch", run_id=run_id, params=params)
        for epoch in range(EPOCHS):
            steps = range(epoch * batch, (epoch + 1) * batch) if batch else [epoch]
            names = ["val_loss"] if batch else ["train_loss", "val_loss", "lr"]
            values = [
                {"key": name, "value": 1 / (step + 1), "timestamp": now + step, "step": step}
                for step in steps
                for name in names
            ]
            client.post("runs/log-batch", run_id=run_id, metrics=values)
            metrics += len(values)
            if time.time() > end:
                break
        else:
            client.post("runs/update", run_id=run_id, status="FINISHED", end_time=now)
            runs += 1
    answers.put((runs, metrics, client.took))


def load(server, member, experiment_id: str, clients: int, batch: int = 0) -> dict[str, float]:
    """Let so many members log at once, and give what came of it."""
    context, answers = multiprocessing.get_context("fork"), multiprocessing.get_context("fork").Queue()
    start = time.time() + 0.5
    end = start + SECONDS
    arguments = (member.environment, experiment_id, start, end, batch, answers)
    members = [context.Process(target=log_until, args=arguments) for _ in range(clients)]
    before = cpu_seconds(server)
    for process in members:
        process.start()
    given = [answers.get(timeout=10 * SECONDS) for _ in members]
    seconds = time.time() - start
    used = {name: after - before[name] for name, after in cpu_seconds(server).items()}
    for process in members:
        process.join()
    took = sorted(second for *_, each in given for second in each)
    return {
        "runs": sum(runs for runs, *_ in given) / seconds,
        "metrics": sum(metrics for _, metrics, _ in given) / seconds,
        "requests": len(took) / seconds,
        "median": statistics.median(took) * 1000,
        "p99": took[math.ceil(0.99 * len(took)) - 1] * 1000,
        **{f"{name} cpu": used_seconds / len(took) * 1000 for name, used_seconds in used.items()},
    }


def cpu_seconds(server) -> dict[str, float]:
    """Give the processor time used so far by MLflow and by PostgreSQL."""
    used = {"mlflow": 0.0, "postgres": 0.0}
    postmaster = int((server.folder / "postgres" / "postmaster.pid").read_text().split()[0])
    for name, processes in (
        ("mlflow", family(server.folder, "mlflow")),
        ("postgres", [psutil.Process(postmaster), *psutil.Process(postmaster).children()]),
    ):
        for process in processes:
            times = process.cpu_times()
            used[name] += times.user + times.system
            if process.pid == postmaster:  # and what its connections used that are closed by now
                used[name] += times.children_user + times.children_system
    return used


def copy(database: Path, server, experiment_id: str, known: set[str]) -> set[str]:
    """Copy the runs of a SQLite store that are not `known` into the server's PostgreSQL, and give all ids."""
    connection = psycopg2.connect(host=str(server.folder / "postgres"), user="postgres", dbname="postgres")
    with closing(sqlite3.connect(database)) as source, closing(connection), connection.cursor() as cursor:
        ids = {run_id for (run_id,) in source.execute("SELECT run_uuid FROM runs")}
        for table in FILLED:
            found = source.execute(f"SELECT * FROM {table}")
            columns = [column[0] for column in found.description]
            run, experiment = (columns.index(c) if c in columns else None for c in ("run_uuid", "experiment_id"))
            text = io.StringIO()
            writer = csv.writer(text)
            for row in found:
                if row[run] not in known:
                    row = list(row)
                    if experiment is not None:
                        row[experiment] = experiment_id
                    writer.writerow(row)
            text.seek(0)
            cursor.copy_expert(f"COPY {table} ({', '.join(columns)}) FROM STDIN WITH CSV", text)
        connection.commit()
        connection.autocommit = True
        cursor.execute("ANALYZE")  # what autovacuum does by itself within a minute
    return ids


def look_up(member, best: str) -> float:
    """Give the median of the milliseconds that it takes to find the best run."""
    took = []
    with member.logged_in():
        for _ in range(LOOKUPS):
            start = time.perf_counter()
            assert tracking.best_run().info.run_id == best
            took.append(time.perf_counter() - start)
    return statistics.median(took) * 1000


def main() -> None:
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    logged, batched, found = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STORES_DIR"] = folder
        tracking.connect()
        of_sqlite = tracking.set_experiment()
        database, served, known = Path(folder) / "mlflow.db", Path(folder) / "served.db", set()
        command, settings = team_server.service()
        sqlite = settings | {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{served}"}
        with team.open() as postgres:
            with postgres.admin.logged_in():
                of_postgres = tracking.set_experiment()
            for size in SIZES:
                print(f"{size:,} runs", flush=True)
                fill(database, of_sqlite, size - len(known), seed=size)
                known = copy(database, postgres, of_postgres, known)
                with closing(sqlite3.connect(database)) as source:
                    best = source.execute(BEST).fetchone()[0]
                shutil.copy(database, served)
                with patch.object(team_server, "service", lambda: (command, sqlite)), team.open() as server:
                    measure("SQLite", server, size, best, logged, batched, found)
                measure("PostgreSQL", postgres, size, best, logged, batched, found)
    RESULTS.write_text(report(logged, batched, found), encoding="utf-8")
    print(RESULTS.read_text())


def measure(name: str, server, size: int, best: str, logged: list, batched: list, found: dict) -> None:
    """Measure one server with so many runs in it, as a member with the right to log."""
    of_load = f"load {size}"  # an experiment of its own, so that the best run stays the same
    with server.admin.logged_in():
        member = team.add_user(f"member-{size}")
        experiment_id = tracking.set_experiment(of_load)
        for experiment in (EXPERIMENT, of_load):
            team.grant(member.name, experiment, "EDIT")
    found[name, size] = look_up(member, best)
    print(name, "best run:", found[name, size], flush=True)
    for clients in CLIENTS:
        logged.append((name, size, clients, load(server, member, experiment_id, clients)))
        print(logged[-1], flush=True)
    if size == SIZES[-1]:
        for clients in CLIENTS:
            batched.append((name, clients, load(server, member, experiment_id, clients, BATCH)))
            print(batched[-1], flush=True)


def report(logged: list, batched: list, found: dict) -> str:
    """Give the figures as Markdown."""
    largest = SIZES[-1]
    lines = [
        f"""# A team's server under load

Written by `benchmarks/team_load.py`: MLflow {mlflow.__version__} with one worker, PostgreSQL and the members'
processes, all on the same {os.cpu_count()} cores. A line is {SECONDS} seconds.

Members log runs of {EPOCHS} epochs, a request an epoch, {EPOCHS + 3} requests a run. The times are those of a
request; the last two, in brackets, are the processor time that MLflow and PostgreSQL spend on it.

| in | runs before | members | runs/s | metrics/s | requests/s | median ms | 99 % ms | (MLflow) | (Postgres) |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""
    ]
    for name, size, clients, m in logged:
        lines.append(
            f"| {name} | {size:,} | {clients} | {m['runs']:.1f} | {m['metrics']:,.0f} | {m['requests']:.0f} "
            f"| {m['median']:.0f} | {m['p99']:.0f} | {m['mlflow cpu']:.1f} | {m['postgres cpu']:.1f} |"
        )
    lines.append(f"""
Members log {BATCH:,} metrics a request, as asynchronous logging does, with {largest:,} runs before.

| in | members | metrics/s | median ms | 99 % ms | (MLflow) | (Postgres) |
| --- | --- | --- | --- | --- | --- | --- |""")
    for name, clients, m in batched:
        lines.append(
            f"| {name} | {clients} | {m['metrics']:,.0f} | {m['median']:.0f} | {m['p99']:.0f} "
            f"| {m['mlflow cpu']:.1f} | {m['postgres cpu']:.1f} |"
        )
    lines.append(f"""
`tracking.best_run()` of a member, through the server, with nobody else there: the median of {LOOKUPS}.

| runs | SQLite ms | PostgreSQL ms |
| --- | --- | --- |""")
    for size in SIZES:
        lines.append(f"| {size:,} | {found['SQLite', size]:.0f} | {found['PostgreSQL', size]:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
