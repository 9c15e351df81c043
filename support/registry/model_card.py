"""A model card: what a model is, what it learned from, how good it is, and where it fails, in Markdown.

card = model_card(run, "tagger", "f1")

Source: Mitchell et al. (2019), "Model Cards for Model Reporting".
"""

import html
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import Run

from support.data.corpus import LESSON_URL
from support.data.splits import PARTS
from support.models.files import read_json
from support.registry.pyfunc_model import LONGEST_REQUEST, LONGEST_TEXT, MOST_TEXTS
from support.tracking import checksums
from support.tracking.runs import RecordError, splits_of

LICENCES = {
    "lesson": f"MIT, Goku Mohandas, Made With ML: {LESSON_URL}",
    "sample": "MIT; written for this project, `support/data/sample`",
}
FIGURES = ("precision", "recall", "f1", "num_samples")
HEAD = ("precision", "recall", "F1", "test texts")
GAP = "\N{NO-BREAK SPACE}" * 3
FEW = 10  # test texts below which a tag's figures say little
PERFORMANCE = "performance.json"

CARD = """\
# {name}

The model of run {run} ({run_id}).

```python
model = mlflow.pyfunc.load_model("models:/{name}@champion")
```

## Quality

It was chosen by {chosen_by}. These are its figures on the test split{size}:

{quality}

## Data

{data}
{tagger}
## Params

{params}
"""
TAGGER = """
## Limits

- It takes titles with descriptions of a few sentences, and gives each its tags, out of {tags} that it knows.
- A tag counts from a probability of {threshold:.3f} on. The validation split chose that.
- It sees texts as the cleaning {cleaning!r} leaves them.
- Never tagged rightly on the test split: {never}.
- {few} of the tags have fewer than {few_texts} test texts: their figures say little.
- A text may have {text:,} characters; a request {request:,}, in {texts:,} texts.

## Quality by tag

{by_tag}
"""


def model_card(run: Run, name: str, metric: str) -> str:
    """Return the card of a run's model that is registered as `name` and was chosen by `metric`.

    What the run does not record, it leaves out. Raise ArtifactError where a record is damaged.
    """
    metrics, chosen = run.data.metrics, f"val_{metric}"
    shown = [each for each in dict.fromkeys([metric, "precision", "recall", "f1"]) if each in metrics]
    size, data = (
        "",
        {f"digest of {each.dataset.name}": each.dataset.digest for each in run.inputs.dataset_inputs},
    )
    try:
        splits = splits_of(run)
    except RecordError:
        splits = None
    if splits:
        size = f", {len(splits.test):,} examples"
        data |= {
            "licence and source": LICENCES.get(splits.corpus, splits.source or "not recorded"),
            "examples": ", ".join(f"{len(getattr(splits, part)):,} {part}" for part in PARTS),
            "split seed": splits.seed,
        }
    return CARD.format(
        name=_cell(name),
        run=_cell(run.info.run_name),
        run_id=run.info.run_id,
        chosen_by=f"its {chosen}, {metrics[chosen]:.3f}, of the validation split" if chosen in metrics else metric,
        size=size,
        quality=_table(shown, [[metrics[each] for each in shown]]),
        data=_table(["what", "which"], data.items()),
        tagger=_tagger(run),
        params=_table(["param", "value"], sorted(run.data.params.items())),
    )


def _tagger(run: Run) -> str:
    """Return what a tagger's card says besides; "" for another model."""
    if PERFORMANCE not in checksums.checksums_of(run):
        return ""
    with TemporaryDirectory() as folder:
        checksums.fetch(run, [PERFORMANCE], folder)
        return read_json(Path(folder) / PERFORMANCE, _limits)


def _limits(performance: dict) -> str:
    by_tag = performance["class"]
    return TAGGER.format(
        tags=len(by_tag),
        threshold=performance["threshold"],
        cleaning=performance["cleaning"],
        never=", ".join(_cell(tag) for tag, of in by_tag.items() if not of["f1"]) or "none of the tags",
        few=sum(of["num_samples"] < FEW for of in by_tag.values()),
        few_texts=FEW,
        text=LONGEST_TEXT,
        request=LONGEST_REQUEST,
        texts=MOST_TEXTS,
        by_tag=_table(["tag", *HEAD], [[tag, *(of[key] for key in FIGURES)] for tag, of in by_tag.items()]),
    )


def _table(head: Iterable[str], rows: Iterable) -> str:
    """Return a Markdown table. A float gets three digits."""
    shown = [list(map(_cell, row)) for row in (head, *rows)]
    # MLflow's page puts no space between columns, so each cell but the last brings its own.
    lines = [f"| {f'{GAP} | '.join(row)} |" for row in shown]
    return "\n".join([lines[0], "|" + " --- |" * len(shown[0]), *lines[1:]])


def _cell(value: object) -> str:
    """Return a value as one line that Markdown, HTML and formulas leave as it is."""
    line = f"{value:.3f}" if isinstance(value, float) else " ".join(str(value).split())
    for sign in "\\|$":
        line = line.replace(sign, f"\\{sign}")
    return html.escape(line, quote=False)
