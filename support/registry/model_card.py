"""A model card: what a model is, what it learned from, how good it is, and where it fails, in Markdown.

card = model_card(run, tagger, performance)

Source: Mitchell et al. (2019), "Model Cards for Model Reporting".
"""

from collections.abc import Iterable

from mlflow.entities import Run

from support.lineage import lineage
from support.data.corpus import LESSON_URL
from support.registry.pyfunc_model import LONGEST_REQUEST, LONGEST_TEXT, MOST_TEXTS
from support.models.tagger import Tagger

LICENCES = {
    "lesson": f"MIT, Goku Mohandas, Made With ML: {LESSON_URL}",
    "sample": "MIT; written for this project, `support/sample`",
}
FIGURES = ("precision", "recall", "f1", "num_samples")
HEAD = ("precision", "recall", "F1", "test texts")
GAP = "\N{NO-BREAK SPACE}" * 3
FEW = 10  # test texts below which a tag's figures say little

TEMPLATE = """\
# Tagger of machine-learning projects

Run {name}: takes texts, titles with descriptions, and gives each its tags out of {num_tags}.

```python
mlflow.pyfunc.load_model("models:/tagger@champion").predict(["Transfer learning with BERT"])
```

## Quality

On the test split, weighted by a tag's frequency. A tag counts from a probability of {threshold:.3f} on.

{quality}

## Data

{data}

## Limits

- It knows English words in the letters a to z and digits; all other characters are dropped.
- It gives no tag but the {num_tags} below, and was taught on titles with descriptions of a few sentences.
- Never tagged rightly on the test split: {never}.
- {few} of the tags have fewer than {few_texts} test texts: their figures say little.
- The champions are compared on this test split, so its figures flatter the later ones a little.
- A text may have {text:,} characters; a request {request:,}, in {texts:,} texts.

## Params

{params}

## Quality by tag

{tags}
"""


def model_card(run: Run, tagger: Tagger, performance: dict) -> str:
    """Describe the model of a run; `performance` is what its performance.json holds.

    Raises LineageError for a run without a copy of its data.
    """
    splits, by_tag = lineage.splits_of(run), performance["class"]
    parts = ", ".join(f"{len(getattr(splits, part)):,} {part}" for part in ("train", "val", "test"))
    data = {
        "corpus": splits.corpus,
        "licence and source": LICENCES.get(splits.corpus, "not recorded: ask who gave you the data"),
        "texts": parts,
        "split seed": splits.seed,
        "digest of the splits": splits.digest,
        "digest of the corpus": splits.source_digest,
    }
    figures = {name: [of[key] for key in FIGURES] for name, of in by_tag.items()}
    return TEMPLATE.format(
        name=run.info.run_name,
        num_tags=len(by_tag),
        threshold=tagger.threshold,
        quality=_table(HEAD, [[performance["overall"][key] for key in FIGURES]]),
        data=_table(["what", "which"], data.items()),
        never=", ".join(name for name, of in by_tag.items() if not of["f1"]) or "none of the tags",
        few=sum(of["num_samples"] < FEW for of in by_tag.values()),
        few_texts=FEW,
        text=LONGEST_TEXT,
        request=LONGEST_REQUEST,
        texts=MOST_TEXTS,
        params=_table(["param", "value"], sorted(run.data.params.items())),
        tags=_table(["tag", *HEAD], [[name, *row] for name, row in figures.items()]),
    )


def _table(head: Iterable[str], rows: Iterable) -> str:
    """Lay out a Markdown table; a float gets three digits."""
    shown = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in (head, *rows)]
    # MLflow's page puts no space between columns, so each cell but the last brings its own.
    lines = [f"| {f'{GAP} | '.join(row)} |" for row in shown]
    return "\n".join([lines[0], "|" + " --- |" * len(shown[0]), *lines[1:]])
