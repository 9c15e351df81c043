"""How long notebook 05's search takes in one process and in two, each in a fresh store.

python -m benchmarks.search_processes        # two minutes
"""

import os
import time
from tempfile import TemporaryDirectory

from support import data, search, tracking


def main() -> None:
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    projects = data.load_projects()
    print(data.about(projects))
    splits, trials = data.split(projects), sum(space.trials for space in search.SPACES.values())
    for workers in (1, 2):
        with TemporaryDirectory() as folder:
            tracking.connect(folder)
            start = time.perf_counter()
            search.search(splits, workers=workers)
            print(f"{trials} trials, workers={workers}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
