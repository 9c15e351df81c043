"""Print the peak memory, in MB, of a process that trains for an epoch: python -m benchmarks.memory lesson."""

import sys
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.lesson import Lesson
from support.data import load_projects, split
from support.environment import best_device
from support.models import Params, train_cnn


def peak_megabytes() -> float:
    """Give this process's highest resident memory so far."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage counts the parent's memory too
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3
    import resource  # not there on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on a Mac


def main() -> None:
    splits, params = split(load_projects()), replace(Params(), num_epochs=1)
    if sys.argv[1] == "lesson":
        lesson = Lesson(params, splits, best_device())
        train = lesson.loader(splits.train.text, splits.train.tags, shuffle=True)
        list(lesson.train(train, lesson.loader(splits.val.text, splits.val.tags)))
        lesson.eval_step(lesson.loader(splits.test.text, splits.test.tags))
    else:
        train_cnn(params, splits)
    print(peak_megabytes())


if __name__ == "__main__":
    main()
