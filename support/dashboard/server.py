"""MLflow's own server in one process, which ends when the process that started it ends.

`support.dashboard.guard` starts it as `python -m support.dashboard.server` and talks to it over its standard input: one line
of JSON with the store and the port, one with the hosts that may reach it. The server binds its port at the
first line, so that a tunnel to it can open before it answers anything, and starts at the second. When its
input ends, because the guard said goodbye or died, it stops: however the guard goes, the server goes too.

This is what `mlflow server --workers 1` runs, less the processes around it (see `_run_server` in
mlflow/server/__init__.py): the same app under the same uvicorn, with all of MLflow's security middleware.
"""

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

from support.dashboard.tunnel import kill_agents

# What `mlflow server` sets for the process that it starts. The names are MLflow's own, from
# mlflow/server/constants.py; that module cannot be imported before they are set.
STORE, REGISTRY = "_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_SERVER_REGISTRY_STORE"
ARTIFACT_ROOT, ARTIFACT_FOLDER = "_MLFLOW_SERVER_ARTIFACT_ROOT", "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
SERVE_ARTIFACTS = "_MLFLOW_SERVER_SERVE_ARTIFACTS"

GOODBYE = b'"goodbye"\n'  # what the guard says when it ends the server on purpose
GRACE = 2.0  # seconds that requests under way get to finish


def bind(port: int, only_this: bool) -> socket.socket:
    """Listen on 127.0.0.1 at `port`; at any free one when it is taken, unless it is `only_this`."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=128)
    except OSError:
        if only_this:
            raise
        return socket.create_server(("127.0.0.1", 0), backlog=128)


def environment(store: str, artifacts: str, hosts: list[str]) -> dict[str, str]:
    """Give the environment MLflow's app reads: the store, and exactly who may reach it.

    `hosts` are what a browser writes into its address bar, scheme and all: "https://name.example:443".
    """
    return {
        STORE: store,
        REGISTRY: store,
        ARTIFACT_ROOT: "mlflow-artifacts:/",
        ARTIFACT_FOLDER: artifacts,
        SERVE_ARTIFACTS: "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(host.partition("://")[2] for host in hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(hosts),
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def end_tunnel(ngrok_config: str) -> None:
    """Kill the agent of a guard that died; more than once, since it may have died while it started one."""
    for _ in range(4):
        kill_agents(Path(ngrok_config))
        time.sleep(GRACE / 4)


def end_with_guard(server, ngrok_config: str, stopped: threading.Event) -> None:
    """Wait until the guard says goodbye or dies without; then end the server, and in time."""
    goodbye = sys.stdin.buffer.read()
    server.should_exit = True
    if not goodbye:
        end_tunnel(ngrok_config)
    stopped.wait(GRACE)
    os._exit(0)


def main() -> None:
    """Bind, wait for the hosts, serve until the input ends."""
    config = json.loads(sys.stdin.buffer.readline())
    try:
        listener = bind(config["port"], config["only_this"])
    except OSError as error:
        return print(json.dumps({"error": error.strerror}), flush=True)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # from here on everything printed is log

    # The slow imports, while the guard opens the tunnel. None of them builds the app.
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import uvicorn

    line = sys.stdin.buffer.readline()
    if not line:  # the guard is gone already
        return end_tunnel(config["ngrok_config"])
    if line == GOODBYE:
        return None
    os.environ.update(environment(config["store"], config["artifacts"], json.loads(line)["hosts"]))

    # Each search of runs imports MLflow's login module, which fails where Flask-WTF is missing: half a second
    # a search, and HTTP 500 when two do it at once. This server has no logins, so say no at once.
    sys.modules["mlflow.server.auth"] = None
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(config["store"], config["store"], os.environ[ARTIFACT_ROOT])
    # MLflow's lifespan only tidies Docker containers of its assistant, which is none of ours to touch.
    settings = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    server = uvicorn.Server(settings)
    stopped = threading.Event()
    watcher = threading.Thread(target=end_with_guard, args=(server, config["ngrok_config"], stopped), daemon=True)
    watcher.start()
    server.run(sockets=[listener])
    stopped.set()
    watcher.join(2 * GRACE)


if __name__ == "__main__":
    main()
