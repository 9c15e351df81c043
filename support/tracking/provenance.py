"""What made a run: its data, its code, its machine and its process, recorded so that others can check it.

`record` writes to the current run: tags for what one filters by, and files for what one reads: the data, the
installed packages, the uncommitted changes, and the notebook's cells. Secrets are masked in the last two.
What it does not do: keep a machine's name. A host is recorded as a digest that only it can repeat.
"""

import hashlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
import uuid
from importlib.metadata import distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import psutil
import torch
from mlflow.entities import Run

from support.tracking import checksums as artifacts
from support.data.corpus import Splits
from support.tracking.store import PROJECT_DIR
from support.models.training import best_device

DATA = "provenance/data.json"
LIBRARIES = ("mlflow", "torch", "numpy", "pandas", "scikit-learn")
LARGEST = 500_000  # bytes of a file that still counts as code
MASK = "<masked>"
# A name that speaks of a secret and the text it is set to; the well-known shapes of keys; user:password@host.
SECRETS = [
    re.compile(
        r"""((?:token|secret|passw(?:or)?d|api_?key|auth)\w*["']?\]?\s*[=:,]\s*[rbf]?["'])([^"'\n]+)""", re.I
    ),
    re.compile(r"()\b((?:gh[pousr]_|hf_|sk-|xox[abp]-|AKIA|AIza|github_pat_)[\w-]{10,})"),
    re.compile(r"(://[^\s/:@]*:)([^\s/@]+)(?=@)"),
]


def record(splits: Splits) -> None:
    """Log to the current run what makes it, before it trains."""
    mlflow.set_tags(
        {
            "corpus.source": splits.source,
            "corpus.digest": splits.source_digest,
            "split_digest": splits.digest,
            **environment(),
        }
    )
    commit, changes = code_state()
    if commit:
        mlflow.set_tag("mlflow.source.git.commit", commit)
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        splits.save(folder / Path(DATA).name)
        (folder / "pip-freeze.txt").write_text("\n".join(installed()) + "\n", encoding="utf-8")
        (folder / "uncommitted.diff").write_text(changes, encoding="utf-8")
        if cells := executed_cells():
            mlflow.set_tag("notebook", notebook_name() or "unnamed")
            (folder / "notebook.ipynb").write_text(cells, encoding="utf-8")
        mlflow.log_artifacts(str(folder), "provenance")
        artifacts.sign(folder, "provenance")


def environment() -> dict[str, str]:
    """Give what decides about the last digit of a result: versions, platform, device, threads, code."""
    device = best_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
        "platform": platform.platform(),
        "device": f"{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "code": code_digest(),
    }


def differences(run: Run) -> dict[str, tuple[str, str]]:
    """Compare this environment with the run's: name -> (the run's, this one's), only what differs."""
    tags = run.data.tags
    return {
        name: (tags.get(name, "not recorded"), now)
        for name, now in environment().items()
        if tags.get(name) != now
    }


def code_digest(folder: Path = Path(__file__).parent) -> str:
    """Give 16 hex digits that change with the code of this package, committed or not."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def code_state() -> tuple[str | None, str]:
    """Give the project's git commit and the diff to it, new files included; (None, "") outside a checkout.

    Notebooks are left out, since they hold outputs, and so are large files.
    """
    commit = _git("rev-parse", "HEAD").strip()
    if not commit:
        return None, ""
    names = _git("diff", "--name-only", "-z", "HEAD") + _git("ls-files", "-zo", "--exclude-standard")
    changed = [PROJECT_DIR / name for name in filter(None, names.split("\0")) if not name.endswith(".ipynb")]
    code = [str(path) for path in changed if not path.exists() or path.stat().st_size <= LARGEST]
    if not code:
        return commit, ""
    with TemporaryDirectory() as folder:
        # An index and an object store of our own: git's own state stays as it is.
        objects = _git("rev-parse", "--path-format=absolute", "--git-path", "objects").strip()
        aside = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        _git("read-tree", "HEAD", **aside)
        _git("add", "-A", "--", *code, **aside)
        lines = _git("diff", "--cached", "HEAD", **aside).splitlines(keepends=True)
    # Lines that come from the commit must stay as they are, or the diff no longer applies.
    return commit, "".join(mask(line) if line.startswith("+") else line for line in lines)


def installed() -> list[str]:
    """Give each installed package as `name==version`, sorted: what `pip freeze` prints."""
    return sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)


def executed_cells() -> str:
    """Give the cells that this notebook has run so far, as a notebook without outputs; "" outside one."""
    shell = _shell()
    if shell is None:
        return ""
    sources = shell.history_manager.input_hist_raw
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "execution_count": number,
            "source": mask(source),
            "metadata": {},
            "outputs": [],
        }
        for number, source in enumerate(sources)
        if number and source.strip()
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}, indent=1)


def notebook_name() -> str | None:
    """Give the notebook's file name where the front end tells it: JupyterLab and VS Code do."""
    variables = _shell().user_ns
    path = variables.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME")
    return Path(path).name if path else None


def mask(text: str) -> str:
    """Put a mask over passwords, tokens and keys, and over the values of environment variables so named."""
    named = re.compile("token|secret|password|passwd|key|auth", re.I)
    for name, value in os.environ.items():
        if named.search(name) and len(value) >= 8:
            text = text.replace(value, MASK)
    for pattern in SECRETS:
        text = pattern.sub(lambda found: found[1] + MASK, text)
    return text


def process_tags() -> dict[str, str]:
    """Give the tags by which `support.tracking.orphans` finds out later whether this process still lives."""
    return {
        "process.host": host(),
        "process.pid": str(os.getpid()),
        "process.started": str(psutil.Process().create_time()),
    }


def host() -> str:
    """Give 16 hex digits for this machine; containers that share one but not its process ids differ."""
    processes = Path("/proc/self/ns/pid")
    namespace = os.readlink(processes) if processes.exists() else ""
    identity = f"{socket.gethostname()} {uuid.getnode()} {namespace}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _shell():
    """Give the running IPython shell, or None. A program that never imported IPython is in none."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module else None


def _git(*arguments: str, **variables: str) -> str:
    """Give what git prints for the project, or "" where there is no git or no checkout."""
    command = ["git", "-C", str(PROJECT_DIR), *arguments]
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            env=os.environ | variables,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return answer.stdout
