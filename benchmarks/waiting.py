"""How long a reader waits where nothing trains: imports, the dashboard's first opening, its page of 10,000 runs.

    python -m benchmarks.waiting

Prints a table. The page is drawn by Chromium (with the system tests' packages), and left out where there is none.
Tagging a text of 400,000 characters is here too, with the memory that it takes; that is told on Linux alone.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measures import summary
from benchmarks.memory import peak_megabytes
from benchmarks.run import spread
from benchmarks.store import fill
from support import dashboard, tracking
from support.config import PROJECT_DIR
from support.data import load_projects, split
from support.models import Params, train_cnn

REPEATS, RUNS = 5, 10_000
IMPORTS = {
    "`connect`, `best_run`": "from support.tracking import connect, best_run",
    "`support.sync`": "from support.sync import sync",
    "all of `support.tracking`": "from support.tracking import train_and_log",
}


def row(what: str, times: list[float], beside: str = "") -> None:
    """Print a row: the median of the seconds, with the lowest and the highest."""
    print(f"| {what} | {spread(summary(times))} | {beside} |", flush=True)


def in_turn(programs: dict[str, str]) -> dict[str, list[float]]:
    """Run Python programs in new processes, in turns, and return the seconds of each."""
    took: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(REPEATS + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT_DIR, stdout=subprocess.DEVNULL)
            took[name] += [time.perf_counter() - start] if turn else []  # the first one reads the files from disk
    return took


def first_cells() -> str:
    """Return the first two code cells of notebook 01 as a program."""
    notebook = json.loads((PROJECT_DIR / "notebooks" / "01_tracked_training.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return "\n".join(cells[:2])


def page() -> None:
    """Print how long a fresh browser waits for the first rows of many runs."""
    try:
        sys.path.insert(0, str(PROJECT_DIR / "tests"))
        import browser
    except ImportError as error:
        print(f"The page of {RUNS:,} runs is left out: {error}.")
        return
    with TemporaryDirectory() as folder:
        tracking.connect(folder)
        fill(Path(folder) / "mlflow.db", tracking.set_experiment(), RUNS)
        with redirect_stdout(StringIO()):
            board = dashboard.open()
        with board, browser.chromium() as driver:
            for name in list(board.links)[:2]:
                took = []
                for _ in range(REPEATS):
                    driver.get("about:blank")
                    start = time.perf_counter()
                    driver.get(board.links[name])
                    browser.find(driver, "[row-index='0'] a[href*='/runs/']")
                    took.append(time.perf_counter() - start)
                row(f"{RUNS:,} runs in the dashboard, {name}: until the first row is drawn", took)


def long_text() -> None:
    """Print what a text of 400,000 characters costs among 63 of the usual length."""
    splits = split(load_projects())
    tagger = train_cnn(replace(Params(), num_epochs=1), splits).tagger
    usual, long = list(splits.test.text[:63]), ("transfer learning with transformers " * 12_000)[:400_000]

    def tag(text: str) -> tuple[float, float]:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        start = time.perf_counter()
        tagger.predict([*usual, text])
        return time.perf_counter() - start, peak_megabytes()

    tag(usual[0])
    (_, before), (seconds, peak) = tag(usual[0]), tag(long)
    row("tagging 64 texts, one of 400,000 characters", [seconds], f"{peak - before:.0f} MB more than without it")


def main() -> None:
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    print("| what | wait | beside it |\n| --- | --- | --- |")
    took = in_turn({"": "import mlflow"} | IMPORTS)
    mlflow = statistics.median(took.pop(""))
    for name, times in took.items():
        row(f"importing {name}", times, f"{statistics.median(times) / mlflow:.1f} x `import mlflow`")
    row("the first two cells of a notebook", in_turn({"": first_cells()})[""])
    opened: list[float] = []
    for _ in range(REPEATS):
        with TemporaryDirectory() as folder:
            tracking.connect(folder)
            start = time.perf_counter()
            with redirect_stdout(StringIO()), dashboard.open():
                opened.append(time.perf_counter() - start)
    row("`dashboard.open()`", opened)
    page()
    if sys.platform == "linux":
        long_text()
    print(f"\nMedian (lowest to highest). {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
