"""What came of a training, logged to the current run: metrics, artifacts, predictions, figures, a description."""

from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from mlflow.entities import Run

from support import plots
from support.data.splits import Splits
from support.models.evaluation import latency_ms
from support.models.tagger import TextTagger, Trained
from support.tracking import checksums
from support.tracking.live import NewMetrics
from support.tracking.predictions import log_predictions

NOTE = "mlflow.note.content"  # MLflow's tag for a description


def describe(run: Run, splits: Splits) -> None:
    """Give the run a description, where it has none: what it is, on which data, and how good."""
    metrics = mlflow.get_run(run.info.run_id).data.metrics
    measured = [name for name in metrics if f"val_{name}" in metrics]
    good = ", ".join(f"{name} {metrics[name]:.3f} (validation {metrics[f'val_{name}']:.3f})" for name in measured)
    if NOTE not in run.data.tags:
        mlflow.set_tag(
            NOTE,
            f"{run.info.run_name}: trained on {len(splits.train):,} examples of the data {splits.corpus!r}, split seed "
            f"{splits.seed}. On {len(splits.test):,} test examples: {good or 'see the metrics'}.",
        )


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
    for name, figure in figures(trained, splits).items():
        mlflow.log_figure(figure, f"plots/{name}.png")


def log_tags(part: str, examples: pd.DataFrame, tagger: TextTagger) -> None:
    """Log to the current run what a tagger says of the examples of a part: see `log_predictions`."""
    probabilities, encoder = tagger.predict_proba(list(examples.text)), tagger.label_encoder
    said = probabilities >= tagger.threshold
    log_predictions(part, examples, probabilities, encoder.encode(examples.tags), said, encoder.classes)


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
    drawn = {}
    if trained.history:
        drawn["learning_curves"] = plots.learning_curves(trained.history, trained.best_epoch)
    return drawn | {
        "precision_recall": plots.precision_recall(targets, probabilities, trained.threshold),
        "f1_by_tag": plots.f1_by_tag(trained.performance),
    }
