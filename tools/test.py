"""All tests: the units, then every notebook by nbval, in stores of their own.

The notebooks run in order on the reader's corpus, and each alone on the sample corpus. nbval passes on cells
that did nothing, so each of its runs ends with a look into the store.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "support" / "sample"
AT_ONCE = 2  # processes; a training takes one thread (see support/lookup.py)
# A file stays in one process, since its tests share stores and trainings.
UNITS = ["-n", str(AT_ONCE), "--dist", "loadfile", "tests"]
# Never with -n: the cells of a notebook run in order, in one kernel.
NBVAL = ["-n", "0", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]


def pytest(stores: Path, *arguments: str) -> dict:
    """Give what subprocess needs to run pytest with `stores` as the store."""
    environment = {**os.environ, "STORES_DIR": str(stores)}
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see support/environment.py
    for name in ("MLFLOW_TRACKING_URI", "NGROK_AUTHTOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return {"args": command, "cwd": ROOT, "env": environment}


def run_notebooks(rounds: dict[str, list[Path]], folder: Path) -> list[str]:
    """Run each round of notebooks in a store of its own, AT_ONCE at a time; give the names of what failed.

    A round of one notebook takes the sample corpus. What a round prints is shown when it is done, so that no
    two are mixed.
    """
    waiting, running, failed = list(rounds), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                name = waiting.pop(0)
                left = f"tests/left_by_notebooks.py::test_left[{name}]"
                command = pytest(folder / name, *NBVAL, *map(str, rounds[name]), left)
                if len(rounds[name]) == 1:
                    command["env"]["LESSON_DATA_DIR"] = str(SAMPLE)
                with (folder / f"{name}.log").open("w") as log:
                    running[name] = subprocess.Popen(**command, stdout=log, stderr=log)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                print(f"== {name}\n{(folder / f'{name}.log').read_text(errors='replace')}", flush=True)
                if running.pop(name).returncode:
                    failed.append(name)
            time.sleep(0.1)
    finally:  # an interrupt: the kernels end when their pytest is gone
        for process in running.values():
            process.terminate()
            process.wait()
    return failed


def main() -> None:
    """Run it all."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    rounds = {"series": notebooks}  # the longest first
    rounds |= {notebook.stem: [notebook] for notebook in notebooks}
    with tempfile.TemporaryDirectory() as folder:
        print("== units", flush=True)
        if subprocess.run(**pytest(Path(folder) / "units", *UNITS), check=False).returncode:
            sys.exit("\nFailed: units")
        print("== notebooks, in order and each alone", flush=True)
        if failed := run_notebooks(rounds, Path(folder)):
            sys.exit(f"\nFailed: {', '.join(failed)}")
    print("All tests passed.")


if __name__ == "__main__":
    main()
