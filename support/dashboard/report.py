"""An experiment as one HTML file: for mailing, or for where no server may run.

    report.write()      # the path of the file, in the stores folder

The file holds its pictures and its style and no script, so that it opens everywhere, offline too. It says
what MLflow's pages say first: the runs, their learning curves, what params have to do with F1, and the
figures of the best run.
"""

import base64
import hashlib
import html
import io
import os
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import Run

from support import config, plots
from support.tracking import runs, store

# More cannot be read: runs in the table and the scatter plots, curves in one picture, params, figures.
MAX_RUNS, MAX_CURVES, MAX_PARAMS, MAX_FIGURES = 100, 10, 12, 20
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


@mpl.rc_context({"text.parse_math": False})  # a $ in the name of a run or a param is no formula
def write(experiment: str = runs.EXPERIMENT, stores_dir: str | os.PathLike | None = None) -> Path:
    """Write the report of an experiment into the stores folder and return the file's path.

    Raise NoRunError where the experiment has no comparable run.
    """
    store.connect(stores_dir)
    ranked = runs.best_runs(experiment, "f1", max_results=MAX_RUNS)
    best, params = ranked[0], runs.differing_params(ranked)
    shown, curves = (
        params[:MAX_PARAMS],
        [run for run in ranked if "val_loss" in run.data.metrics][:MAX_CURVES],
    )
    parts = [
        f"<h1>{html.escape(experiment)}</h1>",
        f"<p>{len(ranked)} finished run(s), best first. The best reaches F1 {runs.score(best):.3f}.</p>",
        table_of(ranked, shown).to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format),
    ]
    if curves:
        parts.append("<h2>Learning curves</h2>")
        parts.append(picture(learning_curves(curves), "Validation loss by epoch; the best is the thick line."))
    if params:
        left = f" {len(params) - len(shown)} more are left out." if params != shown else ""
        caption = f"Each dot is a run; only params that differ are shown.{left}"
        parts += ["<h2>Params against F1</h2>", picture(params_against_f1(ranked, shown), caption)]
    parts += [f"<h2>The best run: {html.escape(best.info.run_name)}</h2>", *figures(best)]
    path = config.stores_dir(stores_dir) / file_name(experiment)
    path.parent.mkdir(parents=True, exist_ok=True)  # with a team's server there may be none
    path.write_text(page(experiment, parts), encoding="utf-8")
    return path


def file_name(experiment: str) -> str:
    """Return a file name for an experiment's report, which no other experiment's has on any system."""
    plain = re.sub(r"[^a-z0-9_-]+", "-", experiment.lower())[:60]
    digest = "" if plain == experiment else f"-{hashlib.sha256(experiment.encode()).hexdigest()[:8]}"
    return f"report-{plain}{digest}.html"


def page(title: str, parts: list[str]) -> str:
    """Return the whole HTML document."""
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + f"<footer>Written {made} from MLflow {mlflow.__version__}.</footer></body></html>"
    )


def table_of(ranked: list[Run], params: list[str]) -> pd.DataFrame:
    """Return a row a run: name, start, metrics, and these params."""
    return pd.DataFrame(
        {
            "run": run.info.run_name,
            "started": datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            **{name: run.data.metrics.get(name) for name in METRICS},
            **{name: run.data.params.get(name) for name in params},
        }
        for run in ranked
    )


def learning_curves(ranked: list[Run]) -> Figure:
    """Return a figure of the validation loss by epoch, the first run's on top."""
    figure, axes = plots.new_figure(9, 4)
    for rank, run in reversed(list(enumerate(ranked))):
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val_loss")
        steps, values = [m.step for m in history], [m.value for m in history]
        label = f"F1 {runs.score(run):.3f}  {run.info.run_name}"
        axes.plot(steps, values, label=label, color=f"C{rank}", linewidth=1 if rank else 2.5)
    axes.set(xlabel="epoch", ylabel="validation loss")
    axes.legend(reverse=True, frameon=False, fontsize="small")
    return figure


def params_against_f1(ranked: list[Run], params: list[str]) -> Figure:
    """Return a figure of F1 against each param, for the runs that have it: numbers on a scale, else categories."""
    columns = min(3, len(params))
    rows = -(-len(params) // columns)
    figure = Figure(figsize=(3 * columns, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, name in zip(grid, params, strict=False):
        having = [run for run in ranked if name in run.data.params]
        values = pd.Series([run.data.params[name] for run in having])
        numbers = pd.to_numeric(values, errors="coerce")
        axes.scatter(values if numbers.isna().any() else numbers, [runs.score(run) for run in having], s=18)
        axes.set_xlabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(params) :]:
        axes.remove()
    for axes in grid[::columns]:
        axes.set_ylabel("F1")
    return figure


def figures(run: Run) -> list[str]:
    """Return the pictures that a run keeps under plots/, as HTML."""
    client = mlflow.MlflowClient()
    kept = [file.path for file in client.list_artifacts(run.info.run_id, "plots") if file.path.endswith(".png")]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(client.download_artifacts(run.info.run_id, path, folder)) for path in kept[:MAX_FIGURES]]
        shown = [embed(path.read_bytes(), path.stem.replace("_", " ")) for path in paths]
    return shown or ["<p>It keeps no figures.</p>"]


def picture(figure: Figure, caption: str) -> str:
    """Return a figure as HTML that holds its pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return embed(buffer.getvalue(), caption)


def embed(png: bytes, caption: str) -> str:
    """Return a PNG file as HTML that holds it."""
    source, caption = base64.b64encode(png).decode(), html.escape(caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{source}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
