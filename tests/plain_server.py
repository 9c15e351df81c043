"""MLflow's own server in one process, on a store of its own: `python tests/plain_server.py FOLDER PORT`.

It prints its port (0: any free one), and ends when its standard input ends. No jobs, no workers.
"""

import os
import socket
import sys
import threading
from pathlib import Path


def main(folder: Path, port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    print(listener.getsockname()[1], flush=True)
    store = f"sqlite:///{folder}/mlflow.db"
    os.environ.update(  # names of mlflow/server/constants.py
        _MLFLOW_SERVER_FILE_STORE=store,
        _MLFLOW_SERVER_REGISTRY_STORE=store,
        _MLFLOW_SERVER_ARTIFACT_ROOT="mlflow-artifacts:/",
        _MLFLOW_SERVER_ARTIFACT_DESTINATION=str(folder / "files"),
        _MLFLOW_SERVER_SERVE_ARTIFACTS="true",
        MLFLOW_SERVER_ALLOWED_HOSTS="127.0.0.1:*",
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        MLFLOW_TRACKING_URI=store,
        MLFLOW_DISABLE_TELEMETRY="true",
    )
    sys.modules["mlflow.server.auth"] = None  # it has no logins, and needs a package of its own
    import uvicorn
    from mlflow.server.fastapi_app import app

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
