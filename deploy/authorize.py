"""Who may come in: MLflow's users, but nobody with an experiment whose artifacts lie outside of the server's storage.

Else any member could have the server read and write files of its own machine. basic_auth.ini names it.
"""

import json

from flask import jsonify, make_response, request
from mlflow.server.auth import authenticate_request_basic_auth


def authenticate():
    """Return who asks, or the answer that refuses the request."""
    if "/experiments/create" in request.path:
        body = request.get_json(force=True, silent=True)
        body = json.loads(body) if isinstance(body, str) else body  # as MLflow does for old clients
        names = ("artifact_location", "artifactLocation") if isinstance(body, dict) else ()  # protobuf knows both
        locations = [str(body[name]) for name in names if body.get(name)]
        if any(not each.startswith("mlflow-artifacts:/") or "//" in each or ".." in each for each in locations):
            message = "Artifacts go into the server's storage: leave the artifact location out."
            return make_response(jsonify(error_code="INVALID_PARAMETER_VALUE", message=message), 400)
    return authenticate_request_basic_auth()
