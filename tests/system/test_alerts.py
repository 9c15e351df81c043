"""A kernel that is killed cannot report its run: the dashboard does it in its place."""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import psutil

from support import tracking
from support.config import PROJECT_DIR

KERNEL = """
import time
from support import dashboard, tracking

tracking.connect()
board = dashboard.open(share=False)
tracking.alerts()
with tracking.start_run("to be killed", "alerts"):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_the_dashboard_reports_a_run_whose_kernel_was_killed(tmp_path) -> None:
    received = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {**os.environ, "ALERT_WEBHOOK": f"http://127.0.0.1:{server.server_port}/x"}
    kernel = subprocess.Popen(
        [sys.executable, "-c", KERNEL], cwd=PROJECT_DIR, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        while "ready" not in kernel.stdout.readline():
            assert kernel.poll() is None
    finally:
        psutil.Process(kernel.pid).kill()
        kernel.wait()
    deadline = time.monotonic() + 20
    while not received and time.monotonic() < deadline:
        time.sleep(0.1)
    server.shutdown()
    server.server_close()
    assert [alert["what"] for alert in received] == ["was killed"]
    tracking.connect()
    assert mlflow.get_run(received[0]["run_id"]).info.status == "KILLED"
