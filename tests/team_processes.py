"""Members as processes of their own, and a network that loses answers."""

import http.client
import os
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import mlflow
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from small import SMALL

from support import tracking
from support.data.corpus import SAMPLE_DIR, load_projects
from support.data.splits import split
from support.models.params import Params

PARAMS = Params(num_epochs=4, **SMALL)
METRICS = ("train_loss", "val_loss")


def begin(environment: dict[str, str], stores: str) -> None:
    """Become a member in this process."""
    torch.set_num_threads(1)
    os.environ.update(environment, STORES_DIR=stores)
    tracking.connect()


def log_runs(environment: dict[str, str], stores: str, experiment: str, count: int) -> None:
    """Log so many small runs, each whole: a param, metrics, an end."""
    begin(environment, stores)
    client, experiment_id = MlflowClient(), tracking.set_experiment(experiment)
    for number in range(count):
        run_id = client.create_run(experiment_id, run_name=f"{os.getpid()}-{number}").info.run_id
        metrics = [Metric(name, number / 1000, 0, step) for name in METRICS for step in range(5)]
        client.log_batch(run_id, metrics, [Param("number", str(number))])
        client.set_terminated(run_id)


def log_steps(environment: dict[str, str], stores: str, experiment: str, steps: int) -> None:
    """Log one run after the other, some steps each, as a training does."""
    begin(environment, stores)
    for number in range(steps // 10):
        with tracking.start_run(f"{os.getpid()}-{number}", experiment):
            for step in range(10):
                mlflow.log_metrics({name: step / 10 for name in METRICS}, step=step)
                time.sleep(0.05)


def train_and_die(environment: dict[str, str], stores: str) -> None:
    """Train until the third epoch, and be killed."""
    begin(environment, stores)
    log_metrics, calls = mlflow.log_metrics, []

    def dying(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return log_metrics(*args, **kwargs)

    mlflow.log_metrics = dying
    tracking.train_and_log(PARAMS, split(load_projects(SAMPLE_DIR)), "killed")


class Relay(BaseHTTPRequestHandler):
    """Passes a request on; of each kind of writing request the first answer is lost on its way back."""

    protocol_version = "HTTP/1.1"
    server_url: str
    asked: Counter

    def body(self) -> bytes:
        """Read what is sent. An empty file comes in chunks, of which there is none: a line that says 0."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def relay(self) -> None:
        body = self.body()
        there = http.client.HTTPConnection(urlsplit(self.server_url).netloc, timeout=60)
        left_out = ("host", "transfer-encoding", "content-length")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        there.request(self.command, self.path, body, headers)
        answer = there.getresponse()
        content = answer.read()
        there.close()
        kind = f"{self.command} {urlsplit(self.path).path.rpartition('/artifacts')[0] or self.path}"
        self.asked[kind] += 1
        if self.command != "GET" and self.asked[kind] == 1 and not self.path.endswith("search"):
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = relay

    def log_message(self, *_) -> None:
        pass


@contextmanager
def lossy_network(url: str):
    """Yield an address that leads to `url`, and what was asked there: kind of request -> times."""
    handler = type("Handler", (Relay,), {"server_url": url, "asked": Counter()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{relay.server_port}", handler.asked
        relay.shutdown()
