"""Alerts: a run that ends, a loss that is no number, a metric that crosses a value.

tracking.alerts(above={"f1": 0.6})     # for all runs that this process starts from here on

An alert is printed, kept in the run's tag `support.alert`, and sent to the webhook whose address is in the
environment's ALERT_WEBHOOK: Slack's, or any that takes JSON. The address is a secret and is shown nowhere.
A process that is killed cannot say so; a dashboard that is open on the store does it in its place.
"""

import math
import os
from urllib.parse import urlsplit

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Run

from support.tracking.orphans import end_orphans

WEBHOOK, TAG, ENDS = "ALERT_WEBHOOK", "support.alert", "support.alerts"
TIMEOUT = 5  # seconds for the webhook to answer
WORDS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "was killed"}
_rules: dict[str, dict[str, float]] = {}


def alerts(above: dict[str, float] | None = None, below: dict[str, float] | None = None, on: bool = True) -> None:
    """Alert at the end of each run that this process starts, at a loss that is no number, and at a metric's
    first value `above` or `below` the one named for it. `on=False` ends this."""
    _rules.clear()
    if on:
        _rules.update(above=above or {}, below=below or {})


def tags() -> dict[str, str]:
    """Return the tag by which others know that a run's end is to be reported."""
    return {ENDS: "yes"} if _rules else {}


def at_metrics(run: Run, metrics: dict[str, float], step: int) -> None:
    """Alert at what was just logged, if it is one of the cases."""
    for name, value in metrics.items() if _rules else ():
        if not math.isfinite(value):
            send(run, f"{name} is {value} at step {step}")
        for word, limits, sign in (("above", _rules["above"], 1), ("below", _rules["below"], -1)):
            if name in limits and sign * (value - limits[name]) > 0:
                send(run, f"{name} is {value:.4g} at step {step}, {word} {limits[name]:g}")
                del limits[name]  # once


def at_end(run: Run, status: str) -> None:
    """Alert at the end of a run that was started with alerts on."""
    if ENDS in run.data.tags:
        send(run, WORDS[status])


def at_killed_runs() -> None:
    """Set the runs of dead processes to KILLED, and alert at those that were started with alerts on."""
    for run_id in end_orphans():
        at_end(mlflow.get_run(run_id), "KILLED")


def send(run: Run, what: str) -> None:
    """Print what happened to the run, keep it in its tag, and send it to the webhook, if there is one."""
    text = f"Run {run.info.run_name!r} ({run.info.run_id}): {what}."
    print(f"Alert: {text}")
    MlflowClient().set_tag(run.info.run_id, TAG, what)
    address = os.environ.get(WEBHOOK)
    if not address:
        return
    facts = {} if urlsplit(address).hostname == "hooks.slack.com" else {"run_id": run.info.run_id, "what": what}
    try:
        requests.post(address, json={"text": text, **facts}, timeout=TIMEOUT).raise_for_status()
    except requests.RequestException as error:  # its text holds the address
        print(f"The alert could not be sent to {WEBHOOK}: {type(error).__name__}.")
