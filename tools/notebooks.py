"""Run the notebooks, refresh what is committed of them, or give the project another address.

python tools/notebooks.py run           execute all in order into stores/executed, as notebook and HTML
python tools/notebooks.py refresh       stamp the project's address, execute in a store of their own, tidy
python tools/notebooks.py address URL   write the project's address on GitHub wherever it stands
"""

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({})"
ADDRESS = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")
COLAB = "https://colab.research.google.com/github/{}/blob/main/notebooks/{}"
CELL_TIMEOUT = 600  # seconds
SECRET_PATH = re.compile(r"(127\.0\.0\.1:\d+)/[\w-]{16,}")  # under which a dashboard answers, while it runs
NOTEBOOKS_DIR = {"metadata": {"path": str(ROOT / "notebooks")}}  # for the kernel, and for pictures


def notebook_paths() -> list[Path]:
    """Return the notebooks in their order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def project_url() -> str:
    """Return the project's public address from pyproject.toml, the one place that holds it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["project"]["urls"]["Repository"]


def set_address(url: str) -> int:
    """Write the project's address into pyproject.toml, the other files that name it, and the notebooks."""
    match = ADDRESS.fullmatch(url)
    if not match:
        print("Name the project's page on GitHub: make address URL=https://github.com/ACCOUNT/NAME", file=sys.stderr)
        return 1
    before, repository = project_url().removeprefix("https://github.com/"), match[1]
    for path in [ROOT / "pyproject.toml", ROOT / "CITATION.cff", *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        path.write_text(moved(path.read_text(encoding="utf-8"), before, repository), encoding="utf-8")
    for path in notebook_paths():
        notebook = nbformat.read(path, as_version=4)
        stamp(notebook, path.name, f"https://github.com/{repository}")
        path.write_text(f"{nbformat.writes(notebook)}\n", encoding="utf-8")
    print(f"The project's address is https://github.com/{repository}")
    return 0


def moved(text: str, before: str, repository: str) -> str:
    """Return a text with one repository (account/name) in place of another."""
    return re.sub(rf"(?<![\w.-]){re.escape(before)}(?![\w-])", repository, text)


def stamp(notebook: NotebookNode, file_name: str, url: str) -> None:
    """Put the Colab badge on top, the cell that finds the project first, and the address into all links."""
    repository = url.removeprefix("https://github.com/")
    lines = notebook.cells[0].source.splitlines()
    if before := re.match(r"\[!\[Open in Colab\].*/github/([^/]+/[^/]+)/blob/", lines[0]):
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = moved(cell.source, before[1], repository)
    body = notebook.cells[0].source.splitlines()[1:] if before else ["", *lines]
    notebook.cells[0].source = "\n".join([BADGE.format(COLAB.format(repository, file_name)), *body])
    first_code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    template = (ROOT / "tools" / "first_cell.py").read_text(encoding="utf-8").rstrip()
    name = repository.split("/")[-1]
    first_code.source = template.replace("PROJECT_URL", url).replace("PROJECT_NAME", name)


async def execute(notebook: NotebookNode) -> None:
    """Run all cells in a fresh kernel, in the notebooks' folder. Raise CellExecutionError."""
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        shutdown_kernel="immediate",  # a graceful end takes two seconds
        coalesce_streams=True,  # one output a stream, and of a progress bar its last state
        resources=NOTEBOOKS_DIR,
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),
    )
    await client.async_execute()


def tidy(notebook: NotebookNode) -> None:
    """Keep what a reader wants and what stays the same: no times, no widgets' state, plain cell ids."""
    notebook.metadata.pop("widgets", None)
    version = notebook.metadata.language_info.get("version")
    notebook.metadata.language_info = {"name": "python", **({"version": version} if version else {})}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata.pop("execution", None)


def run() -> int:
    """Execute all notebooks into stores/executed, and show the table of runs; stop at the first that fails."""
    from support import comparison, tracking
    from support.config import stores_dir

    target, failed = stores_dir() / "executed", False
    target.mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(run_all(target))
    except* (CellExecutionError, CellTimeoutError, DeadKernelError):
        failed = True  # run_each has said why
    if failed:
        return 1

    tracking.connect()
    print(f"\n{comparison.rank()!r}")
    print(f"\nNotebooks with outputs, and HTML: {target}\nRuns and artifacts: {stores_dir()}")
    print("Open the notebooks yourself: make lab")
    return 0


async def run_all(target: Path) -> None:
    """Execute the first two notebooks, which make the store and its first run, and then two at a time.

    The others find both there, and none needs another of them.
    """
    paths = notebook_paths()
    await run_each(paths[:2], target)
    others = iter(paths[2:])
    async with asyncio.TaskGroup() as both:
        for _ in range(2):
            both.create_task(run_each(others, target))


async def run_each(paths: Iterable[Path], target: Path) -> None:
    """Execute notebooks one after the other, into `target`. Name the cell that fails, and raise CellExecutionError."""
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        start, failure = time.monotonic(), None
        try:
            await execute(notebook)
        except CellExecutionError as error:
            failure = error
        except CellTimeoutError as error:
            print(f"{path.stem} FAILED: {error}")
            raise
        except DeadKernelError:
            stopped = asyncio.current_task().cancelling()
            print(f"{path.stem} {'stopped, as the other one failed' if stopped else 'FAILED: its kernel died'}")
            raise
        seconds = time.monotonic() - start
        tidy(notebook)
        nbformat.write(notebook, target / path.name)
        html, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook, NOTEBOOKS_DIR)
        (target / f"{path.stem}.html").write_text(html, encoding="utf-8")
        if failure:
            number, cell = failed_cell(notebook)
            print(f"{path.stem} FAILED in cell {number}: {failure.ename}: {failure.evalue}\n\n{cell.source}\n")
            print(f"The notebook with its outputs is {target / path.name}")
            raise failure
        print(f"{path.stem:<26}ok {seconds:6.1f} s", flush=True)


def failed_cell(notebook: NotebookNode) -> tuple[int, NotebookNode]:
    """Return the first cell that ended in an error, and its number from 1 on among all cells."""
    for number, cell in enumerate(notebook.cells, 1):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            return number, cell
    raise LookupError("No cell ended in an error.")


async def refresh() -> int:
    """Write the notebooks again: stamped, executed in order on the lesson's corpus, tidied."""
    from support import data

    with tempfile.TemporaryDirectory() as stores:
        os.environ["STORES_DIR"] = stores
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ.pop("NGROK_AUTHTOKEN", None)
        if data.load_projects().attrs["corpus"] != "lesson":
            print("The outputs are those of the lesson's corpus: set LESSON_DATA_DIR to its folder.", file=sys.stderr)
            return 1
        for path in notebook_paths():
            print(path.stem, flush=True)
            notebook = nbformat.read(path, as_version=4)
            stamp(notebook, path.name, project_url())
            await execute(notebook)
            tidy(notebook)
            refuse_private(path.name, notebook, [stores, str(ROOT), str(Path.home())])
            content = SECRET_PATH.sub(r"\1/...", nbformat.writes(notebook))
            path.write_text(f"{content}\n", encoding="utf-8")
    return 0


def refuse_private(name: str, notebook: NotebookNode, paths: list[str]) -> None:
    """Raise ValueError if an output shows a path of this machine."""
    for number, cell in enumerate(notebook.cells, 1):
        shown = str(cell.get("outputs", ""))
        for path in paths:
            if path in shown:
                raise ValueError(f"{name}, cell {number}: the output shows {path}. Print less.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("run").set_defaults(call=lambda _: run())
    commands.add_parser("refresh").set_defaults(call=lambda _: asyncio.run(refresh()))
    address = commands.add_parser("address")
    address.add_argument("url")
    address.set_defaults(call=lambda arguments: set_address(arguments.url))
    arguments = parser.parse_args()
    sys.exit(arguments.call(arguments))
