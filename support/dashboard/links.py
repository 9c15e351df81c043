"""Links into MLflow's pages that show at first sight what they promise.

A fresh browser shows neither metrics nor params in the table of runs. What it shows then is kept in a tag of the
experiment, a "shared view" of MLflow's, which the link names. Tried with MLflow 3.17; without its tag a link still
leads to the runs.
"""

import json
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from support.tracking import runs

TRAINING = "workflowType=machine_learning"  # else the page shows what is for language model apps
VIEW = "mlflow.sharedViewState."
TABLE, NEWEST, COMPARED = "support-table", "support-newest", "support-compared"
MOST_PARAMS = 5  # in the table and the comparison
BEST = 10  # runs that are looked at for what differs


def save_views(experiment: str, metric: str = "f1") -> None:
    """Keep with the experiment what its links show: the metric, precision, recall and the params that differ.

    Who may only read the experiment on a team's server keeps nothing.
    """
    if not (top := _best(experiment, metric)):
        return
    params = runs.differing_params(top)[:MOST_PARAMS]
    names = [f"val_{metric}", metric, "precision", "recall"]
    metrics = [name for name in names if any(name in run.data.metrics for run in top)]
    common = next((name for name in metrics if all(name in run.data.metrics for run in top)), metric)
    order = {"orderByKey": f"metrics.`{metrics[0]}`", "orderByAsc": False}
    section = {"uuid": "compared", "name": f"Compared by {metric}", "display": True, "isReordered": False}
    chart = {"runsCountToCompare": BEST, "metricSectionId": "compared", "deleted": False, "isGenerated": False}
    charts = [{**chart, "uuid": "bars", "type": "BAR", "metricKey": common}]
    if params:
        axes = {"selectedParams": params, "selectedMetrics": [common], "showAllRuns": False}
        charts.insert(0, {**chart, "uuid": "lines", "type": "PARALLEL", **axes})
    columns = [*(f"metrics.`{name}`" for name in metrics), *(f"params.`{name}`" for name in params)]
    if all(run.data.metrics[metric] > 0 for run in top):  # without the trials of a search, which lack it
        order["searchFilter"] = f"metrics.`{metric}` > 0"
    newest = {"orderByKey": "attributes.start_time", "orderByAsc": False}  # the one order in which MLflow folds runs
    views = {
        TABLE: {**order, "selectedColumns": columns},
        NEWEST: {**newest, "selectedColumns": columns},
        COMPARED: {**order, "viewMaximized": True, "compareRunCharts": charts, "compareRunSections": [section]},
    }
    for key, view in views.items():
        try:
            MlflowClient().set_experiment_tag(top[0].info.experiment_id, VIEW + key, json.dumps(view))
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise


def links_to(url: str, experiment: str, metric: str = "f1") -> dict[str, str]:
    """Return name -> URL: straight to what one wants to see, as far as there are comparable runs."""
    found = runs.find_experiment(experiment)
    if found is None:
        return {"all experiments": f"{url}/#/experiments"}
    page = f"{url}/#/experiments/{found.experiment_id}/runs"
    label = metric.upper() if len(metric) < 3 else metric
    top = _best(experiment, metric)
    if not top:
        return {"all runs": f"{page}?{TRAINING}"}
    links = {f"runs, best {label} first": f"{page}?{TRAINING}&viewStateShareKey={TABLE}"}
    links["all runs, newest first"] = f"{page}?{TRAINING}&viewStateShareKey={NEWEST}"
    with_curve = [run for run in top if "val_loss" in run.data.metrics]
    if with_curve:
        chosen = {"runs": [with_curve[0].info.run_id], "experiments": [found.experiment_id], "metric": "val_loss"}
        chosen |= {"plot_metric_keys": ["val_loss", "train_loss"], "plot_layout": {}, "deselected_curves": []}
        query = "&".join(f"{name}={quote(json.dumps(value))}" for name, value in chosen.items())
        links["the best run's curves"] = f"{url}/#/metric?{query}&x_axis=step&line_smoothness=1&{TRAINING}"
    plots = [file.path for file in MlflowClient().list_artifacts(top[0].info.run_id, "plots")]
    if pictures := sorted(path for path in plots if path.endswith(".png")):
        picture = next((path for path in pictures if "f1_by_tag" in path), pictures[0])
        links["a picture of the best run"] = f"{page}/{top[0].info.run_id}/artifacts/{quote(picture)}?{TRAINING}"
    if len(top) > 1:
        links["the runs compared"] = f"{page}?{TRAINING}&compareRunsMode=CHART&viewStateShareKey={COMPARED}"
    return links


def _best(experiment: str, metric: str) -> list[Run]:
    try:
        return runs.best_runs(experiment, metric, max_results=BEST)
    except runs.NoRunError:
        return []
