"""What the notebooks run on: bring the packages that are missing, and report versions and device.

Only the standard library is imported here, since this runs before anything is installed.
"""

import gc
import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
REPORTED = ("mlflow", "torch", "numpy", "pandas", "scikit-learn")


class EnvironmentIncompleteError(ImportError):
    """A package that the notebooks need is not there."""


def on_colab() -> bool:
    """Return whether this is a Google Colab notebook."""
    return "google.colab" in sys.modules


def prepare() -> None:
    """Make sure that every package is there: on Colab install what is missing, elsewhere say what to do."""
    # PyTorch's threads wait for each other by spinning. When something else wants the cores too, that takes
    # an epoch from half a second to ten. Read once, when PyTorch is imported: so it is set here, before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    missing = missing_requirements({dist.name for dist in importlib.metadata.distributions()})
    if not missing:
        return
    if not on_colab():
        raise EnvironmentIncompleteError(
            f"Missing: {', '.join(missing)}. Run `make run` in the project's folder once, or: "
            f"pip install -r requirements.txt -c constraints.txt"
        )
    print(f"Installing {', '.join(missing)} ...")
    _install(missing)
    still_missing = missing_requirements({dist.name for dist in importlib.metadata.distributions()})
    if still_missing:
        raise EnvironmentIncompleteError(f"pip did not bring: {', '.join(still_missing)}. See its output above.")


def missing_requirements(installed: set[str]) -> list[str]:
    """Return the lines of requirements.txt, but for the local ones, whose package is not in `installed`."""
    lines = [line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if line]
    wanted = [line.split("#")[0].strip() for line in lines if "# local:" not in line]
    names = {_normal(name) for name in installed}
    return [line for line in wanted if line and _normal(re.split(r"[<>=~!]", line)[0]) not in names]


def best_device():
    """Return the torch.device of the GPU where there is one (CUDA, then Apple's MPS), else of the CPU."""
    import torch  # not before `prepare` has brought it

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def report() -> None:
    """Print the versions that matter and the device that a training uses."""
    place = "Colab" if on_colab() else platform.system()
    print(f"Python {platform.python_version()} on {place}. Training uses: {best_device()}.")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in REPORTED))


def let_go(interrupt: BaseException) -> None:
    """Let go of the database that an interrupt keeps locked, for all of this process and all others.

    SQLite's lock lasts as long as a cursor that has not ended, and one that was interrupted stays in the
    frames of the traceback, and in what refers to itself there.
    """
    traceback.clear_frames(interrupt.__traceback__)
    gc.collect()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _install(requirements: list[str]) -> None:
    """Run pip so that it changes nothing that is installed already."""
    pins = [f"{dist.name}=={dist.version}" for dist in importlib.metadata.distributions()]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(pins), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(constraints), *requirements]
        subprocess.run(command, check=True)
    importlib.invalidate_caches()
