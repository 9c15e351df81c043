"""Alerts, against a real HTTP server on this machine."""

import json
import math
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import pytest

from support import tracking
from support.tracking.alerting import WEBHOOK


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict]]:
    """Yield what the webhook gets."""
    got: list[dict] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if "refuse" in self.path else 200)
            self.end_headers()

        def log_message(self, *_) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(WEBHOOK, f"http://127.0.0.1:{server.server_port}/a-secret-path")
    tracking.connect()
    yield got
    tracking.alerts(on=False)
    server.shutdown()
    server.server_close()


def log(**metrics: float) -> str:
    with tracking.start_run("alerted", "alerts") as run, tracking.log_epochs() as on_epoch:
        on_epoch(1, metrics)
    return run.info.run_id


def test_a_run_that_ends_and_a_metric_that_crosses_its_value_are_reported(received, capsys) -> None:
    tracking.alerts(above={"f1": 0.6}, below={"val_loss": 0.1})
    run_id = log(f1=0.5, val_loss=0.2)
    assert [alert["what"] for alert in received] == ["finished"]
    received.clear()
    run_id = log(f1=0.7, val_loss=0.05)
    assert [alert["what"] for alert in received] == [
        "f1 is 0.7 at step 1, above 0.6",
        "val_loss is 0.05 at step 1, below 0.1",
        "finished",
    ]
    assert all(alert["run_id"] == run_id and run_id in alert["text"] for alert in received)
    assert mlflow.get_run(run_id).data.tags["support.alert"] == "finished"
    assert "f1 is 0.7 at step 1" in capsys.readouterr().out


@pytest.mark.parametrize(("error", "word"), [(ValueError, "failed"), (KeyboardInterrupt, "was killed")])
def test_what_went_wrong_is_reported(received, error, word) -> None:
    tracking.alerts()
    with pytest.raises(error), tracking.start_run("alerted", "alerts"):
        raise error
    assert [alert["what"] for alert in received] == [word]


def test_a_loss_that_is_no_number_is_reported(received) -> None:
    tracking.alerts()
    log(train_loss=math.nan)
    assert received[0]["what"] == "train_loss is nan at step 1"


def test_without_alerts_nothing_is_said_and_a_webhook_that_refuses_stays_secret(received, monkeypatch, capsys) -> None:
    log(f1=0.9)
    assert not received
    tracking.alerts()
    monkeypatch.setenv(WEBHOOK, f"{os.environ[WEBHOOK]}/refuse")
    log(f1=0.9)
    said = capsys.readouterr().out
    assert "The alert could not be sent to ALERT_WEBHOOK: HTTPError." in said
    assert "a-secret-path" not in said
