"""The dashboard's one process: MLflow's app under uvicorn, for as long as a notebook keeps a lease.

`support.dashboard.launch` starts it, `python -m support.dashboard.server`, with a line of JSON on its standard
input. It binds its port; opens the tunnel, if there is a token, and proves that it is closed; only then loads
MLflow and tells it which hosts may come in; and prints a line of JSON when it is ready.

It answers under a secret path alone, so that no other user of this machine and no page of another port gets
in. The rest is what `mlflow server` runs. The names below are private to it: checked with mlflow 3.17, and by
a test that compares them.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from hmac import compare_digest
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout
from flask import jsonify, request
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse

from support.dashboard import checks, lease, tunnel
from support.tracking import alerting, orphans

STORE, ARTIFACT_ROOT = "_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_SERVER_ARTIFACT_ROOT"
GRACE = 2  # seconds that requests under way get to finish
LOOK = 5  # seconds between two looks for runs whose process was killed
# MLflow's assistant runs commands on this machine, so nobody reaches it from here; nor does it open by itself,
# over what a link shows, in a browser that has not seen it before.
ASSISTANT = "/ajax-api/3.0/mlflow/assistant"
SEEN = b"<script>try{localStorage['mlflow.assistant.fab.autoOpenedOnFirstLoad_v1']='true'}catch{}</script></head>"
LOCAL_FRAMES = "'self' http://127.0.0.1:* http://localhost:*"
COLAB_FRAMES = "'self' https://colab.research.google.com https://*.googleusercontent.com"


def environment(uri: str, artifacts: str, hosts: list[str]) -> dict[str, str]:
    """Return the environment that MLflow's app reads: the store, and exactly who may reach it.

    `artifacts` is the URI of the folder for new experiments. `hosts` are what a browser has in its address
    bar, scheme and all: "https://name.example:443".
    """
    return {
        STORE: uri,
        ARTIFACT_ROOT: artifacts,
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(host.partition("://")[2] for host in hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(hosts),
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
        "MLFLOW_SERVER_X_FRAME_OPTIONS": "NONE",  # `behind_secret` says who may show the pages in a frame
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def behind_secret(app, secret: str, hosts: list[str], public: str | None):
    """Return an ASGI app that answers as `app` under /<secret>/, to its own pages, and 404 elsewhere.

    MLflow itself lets the pages of any port of this machine write. Its pages may stand in a frame of a
    notebook on this machine, on Colab or at the same origin; those that come through the tunnel, in none.
    """
    prefix, frames = f"/{secret}", {}
    for host in hosts:
        allowed = COLAB_FRAMES if "colab" in host else LOCAL_FRAMES if host.startswith("http:") else "'self'"
        allowed = "'none'" if host == public else allowed
        frames[host.partition("://")[2]] = f"frame-ancestors {allowed}".encode()

    async def answer(scope, receive, send) -> None:
        if scope["type"] != "http":  # MLflow has no WebSocket
            return await send({"type": "websocket.close"})
        headers, path = Headers(scope=scope), scope["path"]
        first, rest = path[: len(prefix)], path[len(prefix) :]

        async def send_with_policy(message) -> None:
            if message["type"] == "http.response.start":
                policy = frames.get(headers.get("host"), b"frame-ancestors 'none'")
                message["headers"] = [*message["headers"], (b"content-security-policy", policy)]
            await send(message)

        known = compare_digest(first.encode(errors="replace"), prefix.encode()) and rest[:1] in ("", "/")
        if not known or rest.startswith(ASSISTANT):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
        elif headers.get("origin", hosts[0]) not in hosts:
            await PlainTextResponse("Cross-origin request blocked", 403)(scope, receive, send)
        elif not rest:
            await RedirectResponse(f"{prefix}/")(scope, receive, send)
        else:
            await app({**scope, "path": rest}, receive, send_with_policy)

    return answer


def refuse_foreign_locations(artifacts: str):
    """Return a hook for Flask that refuses an experiment whose artifacts would lie outside of `artifacts`.

    Else whoever reaches the dashboard could write files wherever its owner can.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path

    def resolved(location: str) -> Path:
        return Path(local_file_uri_to_path(location)).resolve()

    def check():
        body = request.get_json(force=True, silent=True)
        body = json.loads(body) if isinstance(body, str) else body  # as MLflow does for old clients
        names = ("artifact_location", "artifactLocation") if isinstance(body, dict) else ()
        locations = [str(body[name]) for name in names if body.get(name)]
        if all(resolved(location).is_relative_to(resolved(artifacts)) for location in locations):
            return None
        message = "Artifacts stay in the folder of the store: leave the artifact location empty."
        return jsonify(error_code="INVALID_PARAMETER_VALUE", message=message), 400

    return check


def without_assistant(response):
    """Return Flask's response as it is; MLflow's one page with the note that the assistant was seen."""
    if request.path == "/" and response.status_code == 200:
        response.direct_passthrough = False  # it is a file's, else
        response.set_data(response.get_data().replace(b"</head>", SEEN, 1))
    return response


def is_needed(folder: Path, key: str) -> bool:
    """Return whether the state file names the server with this key, and a notebook uses it.

    If none does, the state file is removed, under the lock, so that no notebook adopts a server that ends.
    """
    state = folder / "state.json"
    try:
        if lease.read(state).get("key") != key:
            return False
        if lease.living(folder / "leases"):
            return True
        with FileLock(folder / "lock", 0):
            if not lease.living(folder / "leases"):
                state.unlink(missing_ok=True)
        return state.exists()
    except (Timeout, OSError):  # a notebook opens a dashboard, or the folder cannot be read: look again
        return True


def end_in_time(folder: Path, key: str, running: list, stopped: threading.Event) -> None:
    """Wait until the server is not needed; then end it, its tunnel and this process, whatever they do."""
    try:
        while is_needed(folder, key):
            time.sleep(lease.TICK)
    finally:
        for server in running:
            server.should_exit = True
            stopped.wait(GRACE)
        tunnel.stop(folder / "ngrok.yml")
        os._exit(0)


def open_tunnel(config: dict) -> tuple[str | None, str]:
    """Return the public URL of a tunnel that is proven closed, or None; and what went wrong, if anything."""
    agent = Path(config["folder"]) / "ngrok.yml"
    try:
        public = tunnel.start(config["port"], config["token"], config["user"], config["password"], agent)
        checks.prove_closed(public)
        return public, ""
    except tunnel.TunnelError as error:
        tunnel.stop(agent)
        return None, str(error)


def report_killed_runs(uri: str, stopped: threading.Event) -> None:
    """Look every few seconds for runs whose process was killed, and send their alerts: it cannot do so itself."""
    mlflow.set_tracking_uri(uri)
    while not stopped.wait(LOOK):
        alerting.at_killed_runs()


def serve(config: dict, running: list) -> None:
    """Do what stands at the top, and answer requests; put uvicorn's server into `running`."""
    listener = socket.create_server(("127.0.0.1", config["port"]), backlog=128)
    public, problem = open_tunnel(config) if config["token"] else (None, "")
    hosts = config["hosts"] + [public] * bool(public)
    os.environ.update(environment(config["store"], config["artifacts"], hosts))

    # Each search of runs imports MLflow's login module, which fails where Flask-WTF is missing: half a second
    # a search, and HTTP 500 when two do it at once. This server has no logins, so say no at once.
    sys.modules["mlflow.server.auth"] = None
    import uvicorn
    from mlflow.server import app as flask_app
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(config["store"], default_artifact_root=config["artifacts"])
    flask_app.before_request(refuse_foreign_locations(config["artifacts"]))
    flask_app.after_request(without_assistant)
    app = behind_secret(app, config["secret"], hosts, public)
    # MLflow's lifespan only tidies Docker containers of its assistant, which is none of ours to touch.
    quiet = {"log_level": "warning", "access_log": False, "lifespan": "off"}
    running.append(uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=GRACE, **quiet)))
    report = {"server": orphans.this_process(), "public": public, "problem": problem, "hosts": hosts}
    print(json.dumps(report), flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # from here on everything printed is log
    stopped = threading.Event()
    threading.Thread(target=report_killed_runs, args=(config["store"], stopped), daemon=True).start()
    running[0].run(sockets=[listener])
    stopped.set()
    alerting.at_killed_runs()  # of the notebook with whose end this server ends


def main() -> None:
    """Serve as the standard input says, until no notebook needs it or SIGTERM comes."""
    config = json.loads(sys.stdin.buffer.readline())
    folder, running, stopped = Path(config["folder"]), [], threading.Event()
    watch = folder, config["key"], running, stopped
    threading.Thread(target=end_in_time, args=watch, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        serve(config, running)
    finally:
        stopped.set()
        tunnel.stop(folder / "ngrok.yml")


if __name__ == "__main__":
    main()
