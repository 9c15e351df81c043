"""What came of a training, logged to the current run: metrics, artifacts, predictions, figures, a description."""

from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Run

from support import plots
from support.data.splits import Splits
from support.models.evaluation import latency_ms
from support.models.tagger import TextTagger, Trained
from support.tracking import checksums
from support.tracking.intervals import ENDS, draws, figures_of, with_interval
from support.tracking.live import NewMetrics
from support.tracking.predictions import Predictions, log_predictions, read_predictions

NOTE = "mlflow.note.content"  # MLflow's tag for a description
SLICES = "predictions/slices.csv"  # MLflow's page shows it as a table


def describe(run: Run, splits: Splits) -> None:
    """Give the run a description, where it has none: what it is, on which data, and how good."""
    run = mlflow.get_run(run.info.run_id)
    names = [name for name in run.data.metrics if f"val_{name}" in run.data.metrics]
    good = ", ".join(f"{each} {with_interval(run, each)}" for name in names for each in (name, f"val_{name}"))
    what = f"trained on {len(splits.train):,} examples of the data {splits.corpus!r}, split seed {splits.seed}"
    on = f"On {len(splits.test):,} test examples{', with 95 % intervals' * ('(' in good)}"
    if NOTE not in run.data.tags:
        mlflow.set_tag(NOTE, f"{run.info.run_name}: {what}. {on}: {good or 'see the metrics'}.")


def log_trained(trained: Trained, splits: Splits) -> None:
    """Log to the current run what a training of ours gave: metrics, artifacts, predictions, figures."""
    log = NewMetrics()
    log(trained.metrics)
    with TemporaryDirectory() as folder:
        trained.save(folder)
        log(costs(trained, folder, splits))
        checksums.log_files(folder)
    # A model that has learned from the validation split is better on it than on new texts.
    for part in ("test",) if getattr(trained.params, "use_val", False) else ("val", "test"):
        log_tags(part, getattr(splits, part), trained.tagger)
    said = read_predictions(mlflow.get_run(mlflow.active_run().info.run_id))
    mlflow.log_text(by_slice(said, splits).to_csv(index=False), SLICES)
    for name, figure in figures(trained, splits).items():
        mlflow.log_figure(figure, f"plots/{name}.png")


def log_tags(part: str, examples: pd.DataFrame, tagger: TextTagger) -> None:
    """Log to the current run what a tagger says of the examples of a part: see `log_predictions`."""
    probabilities, encoder = tagger.predict_proba(list(examples.text)), tagger.label_encoder
    said = probabilities >= tagger.threshold
    log_predictions(part, examples, probabilities, encoder.encode(examples.tags), said, encoder.classes)


def by_slice(said: Predictions, splits: Splits) -> pd.DataFrame:
    """Return the F1 on the test split with its 95 % interval: of all, by tag frequency, and by text length.

    By thirds: the lowest, the middle and the highest. `texts` are those with a tag of the slice.
    """
    counts = splits.train.tags.explode().value_counts().reindex(said.classes, fill_value=0).to_numpy()
    lengths, drawn, rows = splits.test.text.str.len().to_numpy(), draws(len(said.ids)), []

    def add(name: str, tags: np.ndarray, texts: np.ndarray) -> None:
        f1, low_high = (figures_of(said, "f1", each * texts, tags) for each in (np.ones((1, len(texts))), drawn))
        rows.append([name, said.targets[texts][:, tags].any(axis=1).sum(), f1.item(), *np.quantile(low_high, ENDS)])

    add("all", counts >= 0, lengths >= 0)
    for chosen in _thirds(counts):
        add(f"tags on {counts[chosen].min()} to {counts[chosen].max()} training texts", chosen, lengths >= 0)
    for chosen in _thirds(lengths):
        add(f"texts of {lengths[chosen].min()} to {lengths[chosen].max()} characters", counts >= 0, chosen)
    return pd.DataFrame(rows, columns=["slice", "texts", "f1", "low", "high"]).round(4)


def _thirds(values: np.ndarray) -> list[np.ndarray]:
    third = np.digitize(values, np.quantile(values, [1 / 3, 2 / 3]))
    return [third == number for number in np.unique(third)]


def costs(trained: Trained, folder: str | Path, splits: Splits) -> dict[str, float]:
    """Return what a model costs: seconds to train, bytes of its files in `folder`, milliseconds a text."""
    return {
        "training_seconds": round(trained.seconds, 3),
        "size_bytes": sum(path.stat().st_size for path in Path(folder).iterdir()),
        "latency_ms": round(latency_ms(trained.tagger, list(splits.val.text[:20])), 3),
    }


def figures(trained: Trained, splits: Splits) -> dict:
    """Return the pictures of a training: name -> matplotlib figure."""
    targets = trained.label_encoder.encode(splits.val.tags)
    probabilities = trained.tagger.predict_proba(list(splits.val.text))
    curves = {"learning_curves": plots.learning_curves(trained.history, trained.best_epoch)} if trained.history else {}
    return curves | {
        "precision_recall": plots.precision_recall(targets, probabilities, trained.threshold),
        "f1_by_tag": plots.f1_by_tag(trained.performance),
    }
