"""All tests: the units, then every notebook by nbval, in order and each alone, in stores of their own.

nbval passes on cells that did nothing, so each of its runs is followed by a look into the store.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBVAL = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]


def pytest(stores: Path, *arguments: str) -> None:
    """Run pytest with `stores` as the store, and end here when it fails."""
    environment = {**os.environ, "STORES_DIR": str(stores), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see support/environment.py
    for name in ("MLFLOW_TRACKING_URI", "NGROK_AUTHTOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if result.returncode:
        sys.exit(f"\nFailed: pytest {' '.join(arguments)}")


def main() -> None:
    """Run it all."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    with tempfile.TemporaryDirectory() as folder:
        stores = Path(folder)
        print("== units", flush=True)
        pytest(stores / "units", "tests")
        print("== notebooks, in order", flush=True)
        pytest(stores / "series", *NBVAL, *map(str, notebooks))
        pytest(stores / "series", "tests/left_by_notebooks.py", "-k", "series")
        for notebook in notebooks:
            print(f"== {notebook.stem}, alone", flush=True)
            pytest(stores / notebook.stem, *NBVAL, str(notebook))
            pytest(stores / notebook.stem, "tests/left_by_notebooks.py", "-k", notebook.stem)
    print("All tests passed.")


if __name__ == "__main__":
    main()
