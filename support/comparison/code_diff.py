"""How the code of two runs differs, by what each of them records: commit, uncommitted changes, notebook cells.

code = diff_code(first, second)    # comparison.diff(a, b).code
print(code)                        # a unified diff; in a notebook it is coloured
"""

import html
import json
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import Run

from support.tracking import checksums
from support.tracking.provenance import DIFF, GAPS

NOTEBOOK = "provenance/notebook.ipynb"
COLOURS = {"+": "rgba(46, 160, 67, 0.25)", "-": "rgba(248, 81, 73, 0.25)", "@": "rgba(128, 128, 128, 0.25)"}


@dataclass(frozen=True)
class Code:
    """A unified diff as `text`, empty where nothing differs, and a `note` on what could not be compared."""

    text: str
    note: str

    def __repr__(self) -> str:
        return "\n".join(filter(None, [self.text or "The recorded code is the same.", self.note]))

    def _repr_html_(self) -> str:
        lines = (
            f'<span style="background: {COLOURS.get(line[:1], "none")}">{html.escape(line)}</span>'
            for line in repr(self).splitlines()
        )
        return f"<pre>{'<br>'.join(lines)}</pre>"


def diff_code(first: Run, second: Run) -> Code:
    """Compare the code of two runs. Raise ArtifactError where a record is damaged."""
    runs, records, lines, notes = (first, second), [_recorded(run) for run in (first, second)], [], []
    for name in records[0]:
        found = [record[name] for record in records]
        if missing := [run.info.run_id for run, one in zip(runs, found, strict=True) if one is None]:
            notes.append(f"No {name} compared: none recorded by {' and '.join(missing)}.")
        else:
            lines += unified_diff(*found, f"first: {name}", f"second: {name}", lineterm="")
    gaps = [f"Run {run.info.run_id} does not record {run.data.tags[GAPS]}." for run in runs if GAPS in run.data.tags]
    return Code("\n".join(lines), "\n".join(notes + gaps))


def _recorded(run: Run) -> dict[str, list[str] | None]:
    """Return the lines of each record by its name; None where the run has none."""
    known, commit = checksums.checksums_of(run), run.data.tags.get("mlflow.source.git.commit")
    with TemporaryDirectory() as folder:
        names = [name for name in (DIFF, NOTEBOOK) if name in known]
        checksums.fetch(run, names, folder)
        texts = {name: (Path(folder) / Path(name).name).read_text("utf-8", "replace") for name in names}
    cells = json.loads(texts[NOTEBOOK])["cells"] if NOTEBOOK in texts else None
    return {
        "commit": commit and [commit],
        "uncommitted changes": texts[DIFF].splitlines() if DIFF in texts else None,
        "notebook cells": cells and [line for cell in cells for line in ["# %%", *cell["source"].splitlines()]],
    }
