"""An experiment as one HTML file: for mailing, or for where no server may run.

    report.write()      # the path of the file, in the stores folder

The file holds its pictures and its style and no script, so that it opens everywhere, offline too. It says
what MLflow's pages say first: the runs with the params that differ, their learning curves, and the figures of
the best run.
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
from support.tracking import checksums, runs, store
from support.tracking.intervals import with_interval

# More cannot be read: runs in the table, params in it, curves in one picture, figures.
MAX_RUNS, MAX_PARAMS, MAX_CURVES, MAX_FIGURES = 100, 12, 10, 20
METRICS = ("precision", "recall", "best_val_loss", "best_epoch")

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; font-size: .875rem; display: block; overflow-x: auto }}
th, td {{ padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
tbody tr:first-child {{ font-weight: 600 }}
img {{ max-width: 100%; background: white; border-radius: 4px }}
figcaption, footer {{ color: #777; font-size: .875rem }}
</style></head><body>
<h1>{title}</h1>
{body}
<footer>Written {made:%Y-%m-%d %H:%M} UTC from MLflow {version}.</footer>
</body></html>"""


@mpl.rc_context({"text.parse_math": False})  # a $ in the name of a run is no formula
def write(experiment: str = runs.EXPERIMENT, stores_dir: str | os.PathLike | None = None, metric: str = "f1") -> Path:
    """Write the report of an experiment into its stores folder, `stores_dir` as in `dashboard.open`; return the path.

    The runs are ranked by `metric`, or by `val_<metric>` where they have it. Raise NoRunError where the experiment
    has no comparable run.
    """
    store.connect(stores_dir or store.connected_folder())
    ranked = runs.best_runs(experiment, metric, max_results=MAX_RUNS)
    best, params = ranked[0], runs.differing_params(ranked)
    table = table_of(ranked, params[:MAX_PARAMS], metric)
    left_out = f" {len(params) - MAX_PARAMS} more params differ, and are left out." if len(params) > MAX_PARAMS else ""
    chosen_by = f"val_{metric}" if f"val_{metric}" in best.data.metrics else metric
    parts = [
        f"<p>Finished runs, best {chosen_by} first: {len(ranked)}. The best has {with_interval(best, chosen_by)}. "
        f"In brackets: 95 % intervals, of runs that keep their predictions.{left_out}</p>",
        table.to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format),
    ]
    if curves := [run for run in ranked if "val_loss" in run.data.metrics][:MAX_CURVES]:
        buffer = io.BytesIO()
        learning_curves(curves, metric).savefig(buffer, dpi=110)
        caption = f"Validation loss by epoch, with {chosen_by} before the name; the thick line's is the highest here."
        parts += ["<h2>Learning curves</h2>", embed(buffer.getvalue(), caption)]
    parts += [f"<h2>The best run: {html.escape(best.info.run_name)}</h2>", *figures(best)]
    made, title = datetime.now(UTC), html.escape(experiment)
    page = PAGE.format(title=title, body="\n".join(parts), made=made, version=mlflow.__version__)
    path = config.stores_dir(stores_dir or store.connected_folder()) / file_name(experiment)
    path.parent.mkdir(parents=True, exist_ok=True)  # with a team's server there may be none
    path.write_text(page, encoding="utf-8")
    return path


def file_name(experiment: str) -> str:
    """Return a file name for an experiment's report, which no other experiment's has on any system."""
    plain = re.sub(r"[^a-z0-9_-]+", "-", experiment.lower())[:60]
    digest = "" if plain == experiment else f"-{hashlib.sha256(experiment.encode()).hexdigest()[:8]}"
    return f"report-{plain}{digest}.html"


def table_of(ranked: list[Run], params: list[str], metric: str) -> pd.DataFrame:
    """Return a row a run: name, start, metrics, and these params. What no run has is left out."""
    table = pd.DataFrame(
        {
            "run": run.info.run_name,
            "started": datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            f"val_{metric}": run.data.metrics.get(f"val_{metric}"),
            metric: with_interval(run, metric),
            **{name: run.data.metrics.get(name) for name in METRICS},
            **{name: run.data.params.get(name) for name in params},
        }
        for run in ranked
    )
    return table.dropna(axis=1, how="all")


def learning_curves(ranked: list[Run], metric: str) -> Figure:
    """Return a figure of the validation loss by epoch, the first run's on top."""
    figure, axes = plots.new_figure(9, 4)
    for rank, run in reversed(list(enumerate(ranked))):
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val_loss")
        steps, values = [m.step for m in history], [m.value for m in history]
        label = f"{runs.score(run, metric):.3f}  {run.info.run_name}"
        axes.plot(steps, values, label=label, color=f"C{rank}", linewidth=1 if rank else 2.5)
    axes.set(xlabel="epoch", ylabel="validation loss")
    axes.legend(reverse=True, frameon=False, fontsize="small")
    return figure


def figures(run: Run) -> list[str]:
    """Return the pictures that a run keeps under plots/, as HTML."""
    files = mlflow.MlflowClient().list_artifacts(run.info.run_id, "plots")
    kept = [file.path for file in files if file.path.endswith(".png") and not file.is_dir][:MAX_FIGURES]
    with tempfile.TemporaryDirectory() as folder:
        paths = [checksums.fetch(run, [name], folder) / Path(name).name for name in kept]
        shown = [embed(path.read_bytes(), path.stem.replace("_", " ")) for path in paths]
    return shown or ["<p>It keeps no figures.</p>"]


def embed(png: bytes, caption: str) -> str:
    """Return a PNG file as HTML that holds it."""
    source, caption = base64.b64encode(png).decode(), html.escape(caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{source}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
