"""Healthy or not, by exit status: does the server reach its database?

MLflow's own /health answers without a look at the database. So a stranger knocks here with a password. To
refuse it, the server has to look into the table of users: 401 is the healthy answer, and needs no secret.
"""

import os
import sys
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

url = f"http://127.0.0.1:{os.environ['MLFLOW_PORT']}/api/2.0/mlflow/experiments/get?experiment_id=0"
request = Request(url, headers={"Authorization": "Basic c3RyYW5nZXI6c3RyYW5nZXI="})  # stranger:stranger
try:
    urlopen(request, timeout=8).close()
except HTTPError as error:
    sys.exit(error.code != 401)
except (URLError, TimeoutError) as error:
    sys.exit(f"no answer: {error}")
sys.exit("a stranger was let in")
