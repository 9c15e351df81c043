"""A model card: what a model is, what it learned from, how good it is, and where it fails, in Markdown.

card = model_card(run, "tagger", "f1")

Source: Mitchell et al. (2019), "Model Cards for Model Reporting".
"""

import html
from collections.abc import Iterable

import numpy as np
from mlflow.entities import Run
from sklearn.metrics import precision_recall_fscore_support

from support.data.corpus import LESSON_URL
from support.data.splits import PARTS
from support.registry.pyfunc_model import LONGEST_REQUEST, LONGEST_TEXT, MOST_TEXTS
from support.tracking.intervals import ENDS, draws, figures_of, with_interval
from support.tracking.predictions import read_predictions
from support.tracking.provenance import splits_of
from support.tracking.runs import RecordError

LICENCES = {
    "lesson": f"MIT, Goku Mohandas, Made With ML: {LESSON_URL}",
    "sample": "MIT; written for this project, `support/data/sample`",
}
GAP = "\N{NO-BREAK SPACE}" * 3
LONGEST_DESCRIPTION = 5000  # characters, of MLflow's table
FEW = 10  # test examples below which a class's figures say little

CARD = """\
# {name}

The model of run {run} ({run_id}).

```python
model = mlflow.pyfunc.load_model("models:/{name}@champion")
```

## Quality

It was chosen by {chosen_by}. These are its figures on the test split{size}, with their 95 % intervals:

{quality}

To promote versions of this model, this test split was looked at {looks}. Each look that leads to a choice makes
the figures a little too good.

## Data

{data}

## Limits

{limits}

## Params

{params}
{by_class}"""
TEXTS = f"""\
- It was taught on titles with descriptions of a few sentences, and gives no other tags than theirs.
- A text may have {LONGEST_TEXT:,} characters; a request {LONGEST_REQUEST:,}, in {MOST_TEXTS:,} texts.
"""
CLASSES = """\
- Classes that are never right on the test split: {never}.
- {few} of the {classes} classes have fewer than {few_examples} test examples: their figures say little.
"""


def model_card(run: Run, name: str, metric: str, looks: int, is_tagger: bool) -> str:
    """Return the card of a run's model that is registered as `name` and was chosen by `metric`.

    `looks` is how often its promotions have looked at the test split, this one included. What the run does
    not record, the card leaves out. Raise ArtifactError where a record is damaged.
    """
    metrics, chosen = run.data.metrics, f"val_{metric}"
    shown = [each for each in dict.fromkeys([metric, "precision", "recall", "f1"]) if each in metrics]
    size, data = "", {f"digest of {each.dataset.name}": each.dataset.digest for each in run.inputs.dataset_inputs}
    try:
        splits = splits_of(run)
    except RecordError:
        pass  # logged by MLflow's calls alone
    else:
        size = f", {len(splits.test):,} examples"
        data["licence and source"] = LICENCES.get(splits.corpus, splits.source or "not recorded")
        data["examples"] = ", ".join(f"{len(getattr(splits, part)):,} {part}" for part in PARTS)
        data["split seed"] = splits.seed
    limits, by_class = _by_class(run)
    return CARD.format(
        name=_cell(name),
        run=_cell(run.info.run_name),
        run_id=run.info.run_id,
        chosen_by=f"its {chosen}, {with_interval(run, chosen)}, of the validation split"
        if chosen in metrics
        else metric,
        size=size,
        quality=_table(shown, [[with_interval(run, each) for each in shown]]),
        looks="once" if looks == 1 else f"{looks} times",
        data=_table(["what", "which"], data.items()),
        limits=(limits + TEXTS * is_tagger).rstrip() or "Not recorded.",
        params=_table(["param", "value"], sorted(run.data.params.items())),
        by_class=by_class,
    )


def description(card: str) -> str:
    """Return what a page that has the heading already, and takes LONGEST_DESCRIPTION characters, shows of a card."""
    about = card.partition("\n\n")[2]
    return about if len(about) <= LONGEST_DESCRIPTION else about[:LONGEST_DESCRIPTION].rpartition("\n")[0]


def _by_class(run: Run) -> tuple[str, str]:
    """Return which classes fail, and a section with the figures of each; nothing without predictions."""
    kept = read_predictions(run, "test")
    if kept is None:
        return "", ""
    precision, recall, f1, size = precision_recall_fscore_support(kept.targets, kept.predicted, zero_division=0)
    drawn, names = draws(len(kept.ids)), list(map(str, kept.classes))
    pairs = [np.quantile(figures_of(kept, "f1", drawn, [column]), ENDS) for column in range(len(names))]
    with_ends = [f"{value:.3f} ({low:.2f} to {high:.2f})" for value, (low, high) in zip(f1, pairs, strict=True)]
    rows = zip(names, precision, recall, with_ends, map(int, size), strict=True)
    never = ", ".join(_cell(name) for name, value in zip(names, f1, strict=True) if not value) or "none"
    limits = CLASSES.format(never=never, few=sum(size < FEW), classes=len(names), few_examples=FEW)
    table = _table(["class", "precision", "recall", "F1", "test examples"], rows)
    return limits, f"\n## Quality by class\n\n{table}\n"


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
