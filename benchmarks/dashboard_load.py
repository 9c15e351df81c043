"""How the dashboard opens, and how it bears 50 clients for a minute on a store of 2,000 runs.

    python -m benchmarks.dashboard_load

Prints a table. All traffic stays on this machine, and ends by itself.
"""

import http.client
import json
import os
import random
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import mlflow
import psutil
from mlflow.entities import Metric, Param

from support import dashboard, tracking

RUNS, CLIENTS, SECONDS, OPENS = 2_000, 50, 60, 5
API = "/api/2.0/mlflow"


def fill(experiment_id: str) -> list[str]:
    """Log runs as notebook 01 leaves them, with ten epochs each; give their ids."""
    client, dice, ids = mlflow.MlflowClient(), random.Random(0), []
    for _ in range(RUNS):
        run = client.create_run(experiment_id, run_name="cnn")
        now = int(time.time() * 1000)
        losses = [Metric("val_loss", 1 / epoch, now, epoch) for epoch in range(1, 11)]
        client.log_batch(
            run.info.run_id,
            [*losses, Metric("f1", dice.random(), now, 0)],
            [Param("lr", str(dice.random())), Param("num_filters", str(dice.choice([64, 128, 256])))],
        )
        client.set_terminated(run.info.run_id)
        ids.append(run.info.run_id)
    return ids


def ask(
    connection: http.client.HTTPConnection, secret: str, experiment_id: str, run_id: str, dice: random.Random
) -> None:
    """Ask what MLflow's page asks: now the table, now a run, now a curve. Raises where no answer comes."""
    search = {"experiment_ids": [experiment_id], "order_by": ["metrics.f1 DESC"], "max_results": 100}
    method, path, body = dice.choice(
        [
            ("POST", f"{API}/runs/search", json.dumps(search)),
            ("GET", f"{API}/runs/get?run_id={run_id}", None),
            ("GET", f"{API}/metrics/get-history?run_id={run_id}&metric_key=val_loss", None),
        ]
    )
    connection.request(method, secret + path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"HTTP {answer.status} for {path}: {content[:200]!r}")


def client(url: str, experiment_id: str, ids: list[str], seed: int, until: float) -> list[float]:
    """Ask until the time is up; give the seconds that each answer took."""
    dice, took = random.Random(seed), []
    connection, secret = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60), urlsplit(url).path
    while time.monotonic() < until:
        start = time.monotonic()
        ask(connection, secret, experiment_id, dice.choice(ids), dice)
        took.append(time.monotonic() - start)
    connection.close()
    return took


def server_of_dashboard() -> psutil.Process:
    return next(p for p in psutil.Process().children(recursive=True) if "support.dashboard.server" in p.cmdline())


def watch_memory(server: psutil.Process, sizes: list[float], stop: threading.Event) -> None:
    while not stop.wait(1):
        sizes.append(server.memory_info().rss / 2**20)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STORES_DIR"] = folder
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        tracking.connect()
        experiment_id = tracking.set_experiment()
        ids = fill(experiment_id)
        opened, closed = [], []
        for _ in range(OPENS):
            start = time.monotonic()
            board = dashboard.open(share=False)
            opened.append(time.monotonic() - start)
            processes = len(psutil.Process().children(recursive=True))
            start = time.monotonic()
            board.close()
            closed.append(time.monotonic() - start)
        with dashboard.open(share=False) as board, ThreadPoolExecutor(CLIENTS) as pool:
            sizes, stop = [], threading.Event()
            watcher = threading.Thread(target=watch_memory, args=(server_of_dashboard(), sizes, stop))
            watcher.start()
            until = time.monotonic() + SECONDS
            jobs = [pool.submit(client, board.url, experiment_id, ids, seed, until) for seed in range(CLIENTS)]
            errors = [job.exception() for job in jobs if job.exception()]
            took = sorted(second for job in jobs if not job.exception() for second in job.result())
            stop.set()
            watcher.join()
    third = len(sizes) // 3
    median, slow = (took[len(took) * share // 100] * 1000 for share in (50, 95))
    rows = {
        "opening, median and slowest of 5 (s)": f"{statistics.median(opened):.1f}, {max(opened):.1f}",
        "closing, median and slowest of 5 (s)": f"{statistics.median(closed):.1f}, {max(closed):.1f}",
        "processes": f"{processes}",
        "runs in the store, clients, seconds": f"{RUNS:,}, {CLIENTS}, {SECONDS}",
        "answers, errors": f"{len(took):,}, {len(errors)}",
        "answers a second": f"{len(took) / SECONDS:.0f}",
        "an answer, median, 95 % (ms)": f"{median:.0f}, {slow:.0f}",
        "server's memory: first, middle, last third, most (MiB)": ", ".join(
            f"{max(part):.0f}" for part in (sizes[:third], sizes[third : 2 * third], sizes[2 * third :], sizes)
        ),
    }
    print("| what | measured |\n| --- | --- |")
    for what, value in rows.items():
        print(f"| {what} | {value} |")
    for error in errors[:3]:
        print(f"error: {error}")


if __name__ == "__main__":
    main()
