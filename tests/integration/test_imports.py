"""A process imports what it uses: servers, a sync, and what finds runs need no model."""

import json
import subprocess
import sys

HEAVY = {"torch", "sklearn", "matplotlib", "optuna", "IPython"}
# In this order, in one process: a module's imports stay for those after it.
LIGHT = [
    "import support.tracking, support.dashboard, support.team, support.models",
    "import support.dashboard.server, support.team.processes",
    "from support.tracking import connect, best_run, find_run, delete_runs, end_orphans, histories",
    "from support import dashboard, team; dashboard.open, team.open, team.add_user",
    "from support.sync import sync, export_runs, import_runs",
]


def test_what_trains_nothing_imports_no_model() -> None:
    program = "import json, sys\nfound = []\n" + "".join(
        f"{line}\nfound.append([name for name in {sorted(HEAVY)} if name in sys.modules])\n" for line in LIGHT
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{program}print(json.dumps(found))"], capture_output=True, text=True, check=True
    )
    assert dict(zip(LIGHT, json.loads(done.stdout), strict=True)) == {line: [] for line in LIGHT}
