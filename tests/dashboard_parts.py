"""What the dashboard's tests share: runs to look at, a fake ngrok, and the count of what is left behind."""

import datetime
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fake_ngrok
import mlflow
import pandas as pd
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from matplotlib.figure import Figure
from mlflow.entities import Metric

from support.tracking import runs, store

ROOT = Path(__file__).resolve().parents[1]
TAG = "DASHBOARD_TEST"  # an environment variable that every process of one test inherits

RESOLVER = f"""
import socket
real = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    return real("127.0.0.1" if host == {fake_ngrok.HOST!r} else host, *args, **kwargs)
socket.getaddrinfo = getaddrinfo
"""


def make_runs(stores: Path, count: int = 3, epochs: int = 5) -> list[str]:
    """Log runs as a training does, the first with the best F1; return their ids."""
    store.connect(stores)
    experiment_id = store.experiment_id_of(runs.EXPERIMENT)
    data = mlflow.data.from_pandas(pd.DataFrame({"text": ["a"]}), name="sample")
    client, ids = mlflow.MlflowClient(), []
    for number in range(count):
        with mlflow.start_run(experiment_id=experiment_id, run_name="cnn") as run:
            mlflow.log_params({"lr": 0.0001 * (number + 1), "num_filters": 64 * (number + 1), "char_level": True})
            now = int(time.time() * 1000)
            metrics = [
                Metric(name, value, now, epoch)
                for epoch in range(1, epochs + 1)
                for name, value in {
                    "train_loss": 1 / (epoch + number),
                    "val_loss": 1.2 / (epoch + number),
                    "lr": 0.0001,
                }.items()
            ]
            client.log_batch(run.info.run_id, metrics=metrics)
            mlflow.log_metrics(
                {
                    "best_val_loss": 1.2 / (epochs + number),
                    "best_epoch": epochs,
                    "precision": 0.6 + number / 100,
                    "recall": 0.5 + number / 100,
                    "f1": 0.65 - number / 100,
                }
            )
            mlflow.log_input(data, "training")
            mlflow.log_dict({"overall": {"f1": 0.65 - number / 100}}, "performance.json")
            figure = Figure(figsize=(4, 3))
            figure.subplots().plot([1, 2, 3], [3, 1, 2])
            mlflow.log_figure(figure, "plots/learning_curves.png")
            ids.append(run.info.run_id)
    return ids


def certificate(folder: Path) -> Path:
    """Write a certificate for the fake's host, signed by itself, with its key, as one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, fake_ngrok.HOST)])
    today = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(fake_ngrok.HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "edge.pem"
    pem.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Path]:
    """Return an empty stores folder; afterwards, no process that this test started may be left."""
    os.environ[TAG] = str(tmp_path)
    mlflow.set_tracking_uri(None)  # a module's fixture may be connected to its own
    yield tmp_path / "stores"
    left = wait_for_none(tmp_path)
    for process in left:
        process.kill()
    assert not left, f"left behind: {left}"


@pytest.fixture
def ngrok(tmp_path, monkeypatch) -> Path:
    """Put the fake in ngrok's place, trust its certificate and resolve its host, in children too."""
    program = tmp_path / "ngrok"
    program.write_text(f"#!{sys.executable}\n{Path(fake_ngrok.__file__).read_text()}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    pem = certificate(tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(RESOLVER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setenv("PYNGROK_NGROK_PATH", str(program))
    monkeypatch.setenv("FAKE_NGROK_CERT", str(pem))
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: real("127.0.0.1" if host == fake_ngrok.HOST else host, *a, **k),
    )
    return program


def family(tmp_path: Path) -> list[psutil.Process]:
    """Return every process, this one left out, that carries this test's tag in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(TAG) == str(tmp_path) and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if ours and process.pid != os.getpid():
            found.append(process)
    return found


def wait_for_none(tmp_path: Path, seconds: float = 5) -> list[psutil.Process]:
    """Wait at most so long for the test's processes to end; return those that did not."""
    deadline = time.monotonic() + seconds
    while (left := family(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def role(process: psutil.Process) -> str:
    """Return what a process of ours is: server, agent or kernel."""
    line = " ".join(process.cmdline())
    known = {"support.dashboard.server": "server", "--config": "agent"}
    return next((name for part, name in known.items() if part in line), "kernel")


def roles(tmp_path: Path) -> list[str]:
    """Return what the processes of a test are, sorted."""
    return sorted(role(process) for process in family(tmp_path))


def only(tmp_path: Path, name: str) -> psutil.Process:
    """Return the test's one process of a role."""
    [process] = [process for process in family(tmp_path) if role(process) == name]
    return process
