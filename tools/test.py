"""The tests, in two parts; each shows what it ran, how long it took and what failed.

python tools/test.py fast   unit and integration tests, beside the series of notebooks: twice, in one store
python tools/test.py rest   the system tests, beside what `make run` does, each notebook alone, and the series
                            backwards in a store that holds runs of a reader's own: on the sample corpus

nbval passes on cells that did nothing, so each of its stores is looked into afterwards.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SAMPLE = ROOT / "support" / "data" / "sample"
AT_ONCE = 2  # jobs: one for each core of a small machine
PYTEST = [sys.executable, "-m", "pytest", "-q"]
# Never with -n: the cells of a notebook run in order, in one kernel.
NBVAL = [*PYTEST, "-n", "0", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
NBVAL += ["--nbval-cell-timeout=600"]
LOOK = "tests/notebooks/left_by_notebooks.py::test_left[{}]"
# A file stays in one process, since its tests share stores and trainings.
UNITS = ["-n", "2", "--dist", "loadfile", "tests/unit", "tests/integration", "tests/notebooks"]
SLOWEST = ["--durations=20", "--durations-min=1"]


@dataclass
class Job:
    """One process, which starts when the jobs `after` have ended, whatever became of them."""

    name: str
    command: list[str]
    stores: Path
    after: set[str] = field(default_factory=set)
    sample: bool = False  # on the sample corpus, whatever the environment says

    def start(self, log: Path) -> subprocess.Popen:
        """Start the process with a store of its own and nothing of the user's; it writes to `log`."""
        environment = {**os.environ, "STORES_DIR": str(self.stores)}
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see support/environment.py
        for name in ("MLFLOW_TRACKING_URI", "NGROK_AUTHTOKEN"):
            environment.pop(name, None)
        if self.sample:
            environment["LESSON_DATA_DIR"] = str(SAMPLE)
        with log.open("w") as output:
            return subprocess.Popen(self.command, cwd=ROOT, env=environment, stdout=output, stderr=output)


def fast(folder: Path) -> list[Job]:
    """Return the jobs of `make test`: a notebook's second run follows its first, beside later first ones."""
    tests, stores = "unit and integration tests", folder / "series"
    jobs = [Job(tests, [*PYTEST, *SLOWEST, *UNITS], folder / "tests")]
    before: set[str] = set()
    for path in NOTEBOOKS:
        jobs.append(Job(path.stem, [*NBVAL, str(path)], stores, before))
        before = {path.stem}
    before = {tests}
    for path, following in zip(NOTEBOOKS, [*NOTEBOOKS[1:], NOTEBOOKS[-1]], strict=True):
        name = f"{path.stem}, again"
        jobs.append(Job(name, [*NBVAL, str(path)], stores, {path.stem, following.stem, *before}))
        before = {name}
    everything = {job.name for job in jobs}
    return [*jobs, Job("what the series left", [*PYTEST, LOOK.format("series")], stores, everything)]


def rest(folder: Path) -> list[Job]:
    """Return the jobs that `make test-all` adds."""
    jobs = [Job("system tests", [*PYTEST, *SLOWEST, "tests/system"], folder / "tests")]
    jobs.append(Job("make run", [sys.executable, "tools/notebooks.py", "run"], folder / "make run", sample=True))
    stores, before = folder / "readers", "a reader's own runs"
    own_runs = "import sys; sys.path.append('tests'); import readers_own; readers_own.main()"
    jobs.append(Job(before, [sys.executable, "-c", own_runs], stores))
    passes = [(path, "backwards") for path in reversed(NOTEBOOKS)]
    promoting = [path for path in NOTEBOOKS if path.stem[:2] in ("05", "07")]  # a champion may stand in their way
    passes += product(promoting, ("a second time", "a third time"))
    for path, which in passes:
        name = f"{path.stem}, {which}"
        jobs.append(Job(name, [*NBVAL, str(path)], stores, {before}, sample=True))
        before = name
    jobs.append(Job("what was left beside them", [*PYTEST, LOOK.format("readers")], stores, {before}, sample=True))
    for path in NOTEBOOKS:
        command = [*NBVAL, str(path), LOOK.format(path.stem)]
        jobs.append(Job(f"{path.stem}, alone", command, folder / path.stem, sample=True))
    return jobs


def run(jobs: list[Job], folder: Path) -> list[str]:
    """Run the jobs, AT_ONCE at a time, and return the names of those that failed.

    What a job prints is shown when it has ended, so that no two are mixed.
    """
    waiting, running, ended, failed = list(jobs), {}, set(), []
    try:
        while waiting or running:
            ready = [job for job in waiting if job.after <= ended]
            for job in ready[: AT_ONCE - len(running)]:
                waiting.remove(job)
                running[job.name] = (job.start(folder / f"{job.name}.log"), time.monotonic())
            for name, (process, start) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    ended.add(name)
                    failed += [name] if process.returncode else []
                    print(f"== {name}: {time.monotonic() - start:.0f} s")
                    print((folder / f"{name}.log").read_text(errors="replace"), flush=True)
            time.sleep(0.1)
    finally:  # an interrupt: the kernels end when their pytest is gone
        for process, _ in running.values():
            process.terminate()
            process.wait()
    return failed


def main(part: str) -> None:
    """Run one part; end with status 1 if anything failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        failed = run({"fast": fast, "rest": rest}[part](Path(folder)), Path(folder))
    print(f"{(time.monotonic() - start) / 60:.1f} minutes.")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")
    print("All tests passed.")
    if part == "fast":
        print("`make test-all` adds the system tests (kills, restarts, PostgreSQL, S3, Chromium, Ray, HTTP),")
        print("each notebook alone, and the series backwards in a store with runs of a reader's own.")


if __name__ == "__main__":
    main(sys.argv[1])
