"""An experiment as one HTML file: for mailing, or for where no server may run.

    report.write()      # the path of the file, in the stores folder

The file holds its pictures and its style and no script, so that it opens everywhere, offline too. It says
what MLflow's pages say first: the runs, their learning curves, what params have to do with F1, and the
figures of the best run.
"""

import base64
import html
import io
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import Run

from support.tracking import training_run as tracking
from support.tracking.store import stores_dir as resolve_stores_dir

MAX_RUNS = 100  # in the table and the scatter plots; the best ones
MAX_CURVES = 10  # more lines in one picture cannot be told apart
METRICS = ("f1", "precision", "recall", "best_val_loss", "best_epoch")

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: .875rem; display: block; overflow-x: auto }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
tbody tr:first-child { font-weight: 600 }
figure { margin: 1rem 0 } img { max-width: 100%; background: white; border-radius: 4px }
figcaption, footer { color: #777; font-size: .875rem }
"""


def write(experiment: str = tracking.EXPERIMENT, stores_dir=None) -> Path:
    """Write the report of an experiment and give the file's path: report-<experiment>.html in the stores.

    Raises tracking.NoRunError where no run has an F1 yet.
    """
    tracking.connect(stores_dir)
    runs = tracking.best_runs(experiment, max_results=MAX_RUNS)
    best, params = runs[0], differing(runs)
    curves = [run for run in runs if "val_loss" in run.data.metrics][:MAX_CURVES]
    parts = [
        f"<h1>{html.escape(experiment)}</h1>",
        f"<p>{len(runs)} finished run(s), best F1 first. The best reaches {best.data.metrics['f1']:.3f}.</p>",
        table_of(runs, params).to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format),
    ]
    if curves:
        parts += [
            "<h2>Learning curves</h2>",
            picture(learning_curves(curves), "Validation loss by epoch; the best is the thick line."),
        ]
    if params:
        parts += [
            "<h2>Params against F1</h2>",
            picture(params_against_f1(runs, params), "Each dot is a run; only params that differ are shown."),
        ]
    parts += [f"<h2>The best run: {html.escape(best.info.run_name)}</h2>", *figures(best)]
    folder = resolve_stores_dir(stores_dir)
    folder.mkdir(parents=True, exist_ok=True)  # with a team's server there may be none
    path = folder / f"report-{re.sub(r'[^A-Za-z0-9_-]+', '-', experiment)}.html"
    path.write_text(page(experiment, parts), encoding="utf-8")
    return path


def page(title: str, parts: list[str]) -> str:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + f"<footer>Written {made} from MLflow {mlflow.__version__}.</footer></body></html>"
    )


def differing(runs: list[Run]) -> list[str]:
    """Give the names of the params that are not the same in all runs that have them."""
    names = sorted({name for run in runs for name in run.data.params})
    return [name for name in names if len({run.data.params.get(name) for run in runs} - {None}) > 1]


def table_of(runs: list[Run], params: list[str]) -> pd.DataFrame:
    """Give a row a run: name, start, metrics, and the params that differ."""
    return pd.DataFrame(
        {
            "run": run.info.run_name,
            "started": datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            **{name: run.data.metrics.get(name) for name in METRICS},
            **{name: run.data.params.get(name) for name in params},
        }
        for run in runs
    )


def learning_curves(runs: list[Run]) -> Figure:
    """Draw the validation loss of each run by epoch, the first run's on top."""
    client, figure = mlflow.MlflowClient(), Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for rank, run in reversed(list(enumerate(runs))):
        history = client.get_metric_history(run.info.run_id, "val_loss")
        label = f"{run.info.run_name} (F1 {run.data.metrics['f1']:.3f})"
        steps, values = [m.step for m in history], [m.value for m in history]
        axes.plot(steps, values, label=label, color=f"C{rank}", linewidth=1 if rank else 2.5)
    axes.set(xlabel="epoch", ylabel="validation loss")
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize="small")
    return figure


def params_against_f1(runs: list[Run], params: list[str]) -> Figure:
    """Draw F1 against each of the params, for the runs that have it: numbers on a scale, else categories."""
    columns = min(3, len(params))
    rows = -(-len(params) // columns)
    figure = Figure(figsize=(3 * columns, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, name in zip(grid, params, strict=False):
        having = [run for run in runs if name in run.data.params]
        values = pd.Series([run.data.params[name] for run in having])
        numbers = pd.to_numeric(values, errors="coerce")
        scores = [run.data.metrics["f1"] for run in having]
        axes.scatter(values if numbers.isna().any() else numbers, scores, s=18)
        axes.set_xlabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(params) :]:
        axes.remove()
    for axes in grid[::columns]:
        axes.set_ylabel("F1")
    return figure


def figures(run: Run) -> list[str]:
    """Give the figures that a run keeps under plots/, as HTML."""
    kept = [
        file.path
        for file in mlflow.artifacts.list_artifacts(run_id=run.info.run_id, artifact_path="plots")
        if file.path.endswith(".png")
    ]
    if not kept:
        return ["<p>It keeps no figures.</p>"]
    with tempfile.TemporaryDirectory() as folder:
        return [
            embed(
                Path(
                    mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path, dst_path=folder)
                ).read_bytes(),
                Path(path).stem.replace("_", " "),
            )
            for path in kept
        ]


def picture(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return embed(buffer.getvalue(), caption)


def embed(png: bytes, caption: str) -> str:
    source, caption = base64.b64encode(png).decode(), html.escape(caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{source}"><figcaption>{caption}</figcaption></figure>'
    )
