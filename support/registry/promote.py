"""Registered models: a run becomes the next version, and the champion, if it is better by more than chance.

promote()                       # the best run; or promote(run_id)
promote(accept_tie=True)        # one that is as good, as far as one can tell, and cheaper
mlflow.pyfunc.load_model("models:/tagger@champion").predict(["Transfer learning with BERT"])
"""

from contextlib import redirect_stderr
from io import StringIO

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from support.comparison.paired import Paired, comparable, paired
from support.registry.export import log_tagger
from support.registry.model_card import description, model_card
from support.tracking.intervals import predictions_of, with_interval
from support.tracking.runs import (
    MEASURED,
    NoRunError,
    RecordError,
    best_run,
    data_digest,
    get_run,
    params_of,
    score,
    why_left_out,
)
from support.tracking.store import EXPERIMENT, store_lock

ALIAS = "champion"
LOOKS = "support.test_looks"  # and the data's digest: a tag of the model, how often the gate looked at a test split


class PromotionError(ValueError):
    """The run does not become the champion. The message says why; the registered model stays as it was."""


def champion(name: str = "tagger") -> ModelVersion | None:
    """Return the version of a model that is the champion, with its `version` and `run_id`, or None.

    A server says of a model that is not there, and of one that this user may not see, the same: None.
    """
    model = _model(name)
    number = model and model.aliases.get(ALIAS)
    return MlflowClient().get_model_version(name, number) if number else None


def _model(name: str) -> RegisteredModel | None:
    if set(name) & set("?\n\r\t"):  # what a model's address, models:/name, would lose
        raise PromotionError(f"A model cannot be loaded as {name!r}. Choose a name without ? and in one line.")
    try:
        return MlflowClient().get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise PromotionError(f"A model cannot be registered as {name!r}: {error.message}") from error
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
            raise
        return None


def promote(
    run_id: str | None = None,
    name: str = "tagger",
    experiment: str = EXPERIMENT,
    metric: str = "f1",
    accept_tie: bool = False,
) -> ModelVersion:
    """Make a run, the best one of `experiment` unless named, the champion of the model `name`.

    Return the version: the model that the run has logged with MLflow's call, or, of a tagger's run, its artifacts
    and the code that reads them. Raise PromotionError where the run does not beat the present champion on the
    same data, and NoRunError where there is no such run.

    The gate looks at the test split for the model card, and where a run has no validation figure to choose by.
    The card says how often.

    Both are compared on the same validation examples: the run must be better by more than chance. With
    `accept_tie` a difference that may be chance is enough where the run is cheaper: less training time, a smaller
    model or a lower latency, and none of them higher. Where one of the two keeps no predictions of its
    validation split, the higher validation figure decides.

    In a store of one's own, one process at a time promotes. A server has no lock: promote from one place.
    """
    with store_lock(mlflow.get_tracking_uri()):
        present = champion(name)
        run = get_run(run_id) if run_id else best_run(experiment, metric)
        if present and present.run_id == run.info.run_id:
            print(f"Run {present.run_id} is the champion already: version {present.version} of {name}.")
            return present
        if reason := why_left_out(run, metric):
            raise PromotionError(f"Run {run.info.run_id} cannot be compared with others: it is {reason}.")
        if present:
            _refuse_unless_better(run, present, metric, accept_tie)
        tag, looks = _looks(run, name)
        version = _registered(run, name, metric, looks + 1)
        MlflowClient().set_registered_model_tag(name, tag, str(looks + 1))
        MlflowClient().set_registered_model_alias(name, ALIAS, version)
        known = [f"{each} {with_interval(run, each)}" for each in (f"val_{metric}", metric) if each in run.data.metrics]
        print(f"Version {version} of {name} is the champion:\n{', '.join(known)}.")
    return champion(name)


def _refuse_unless_better(run: Run, present: ModelVersion, metric: str, accept_tie: bool) -> None:
    who, theirs = f"Run {run.info.run_id}", f"the champion, version {present.version} of {present.name}"
    if why := _why_not_comparable(run, present, metric):
        anew = f"mlflow.MlflowClient().delete_registered_model_alias({present.name!r}, {ALIAS!r})"
        raise PromotionError(f"{who} cannot be compared with {theirs}: {why} To begin without a champion: {anew}")
    best = get_run(present.run_id)
    compared, why = _on_validation(best, run, metric), ""
    if compared is None:
        print("The higher figure decides: one of the two keeps no predictions of its validation split.")
        better = score(run, metric) > score(best, metric)
    elif compared.tie:
        better = accept_tie and _is_cheaper(run, best)
        way_out = "but it is not cheaper" if accept_tie else "accept_tie=True takes it where it is cheaper"
        why = f" The difference in val_{metric} is {compared}; {way_out}."
    else:
        better = compared.difference > 0
        why = f" The difference in val_{metric} is {compared}."
    if not better:
        chosen_by = [name if (name := f"val_{metric}") in each.data.metrics else metric for each in (run, best)]
        if metric in chosen_by:
            tag, looks = _looks(run, present.name)
            MlflowClient().set_registered_model_tag(present.name, tag, str(looks + 1))
        mine, its = (f"{name} {each.data.metrics[name]:.4f}" for name, each in zip(chosen_by, (run, best), strict=True))
        raise PromotionError(
            f"{who} ({mine}) does not beat {theirs} ({its}), on the same data.{why} The champion stays."
        )


def _on_validation(best: Run, run: Run, metric: str) -> Paired | None:
    """Compare a run with the champion's on the same validation examples; None where they do not keep them."""
    kept = [predictions_of(each, f"val_{metric}") for each in (best, run)]
    return paired(*kept, metric) if all(kept) and comparable(*kept) else None


def _is_cheaper(run: Run, best: Run) -> bool:
    """Return whether no cost that both have logged is higher, and one is lower."""
    mine, theirs = run.data.metrics, best.data.metrics
    changes = [mine[cost] - theirs[cost] for cost in MEASURED if cost in mine and cost in theirs]
    return any(change < 0 for change in changes) and all(change <= 0 for change in changes)


def _why_not_comparable(run: Run, present: ModelVersion, metric: str) -> str | None:
    """Return why a run cannot be compared with the champion, in a sentence; None where it can."""
    if not present.run_id:
        return "that comes from no run."
    try:
        best = get_run(present.run_id)
    except NoRunError as error:
        return str(error)
    if reason := why_left_out(best, metric):
        return f"the champion's run is {reason}."
    if reason := why_left_out(run, metric, data_digest(best)):
        its_data = f"tracking.splits_of(mlflow.get_run({present.run_id!r}))"
        return f"it is {reason}. Train it on the champion's, {its_data}."
    return None


def _looks(run: Run, name: str) -> tuple[str, int]:
    """Return the model's tag for the test split of a run's data, and how often the gate has looked at that."""
    model, tag = _model(name), f"{LOOKS}.{data_digest(run)}"
    return tag, int(model.tags.get(tag, 0)) if model else 0


def _registered(run: Run, name: str, metric: str, looks: int) -> str:
    """Return the number of the run's version, which is registered now unless it is already.

    What a promotion that was cut off has left is completed: a version without the alias, a model without a
    version, a model without its files.
    """
    client, run_id = MlflowClient(), run.info.run_id
    by_run = f"source_run_id = '{run_id}'"
    models = mlflow.search_logged_models([run.info.experiment_id], by_run, output_format="list")
    whole = [model for model in models if model.status == LoggedModelStatus.READY]
    try:
        tagger = getattr(params_of(run), "loaded_by", None)
    except RecordError:
        tagger = None  # logged by MLflow's calls alone
    if not whole and tagger is None:
        raise PromotionError(f"Run {run_id} keeps no model. Log it within the run, as mlflow.sklearn.log_model does.")
    card = model_card(run, name, metric, looks, is_tagger=tagger is not None)
    model = whole[0] if whole else log_tagger(run, tagger, metric, card, models)
    earlier = [each for each in client.search_model_versions(f"run_id = '{run_id}'") if each.name == name]
    with redirect_stderr(StringIO()):  # where MLflow tells each step
        version = earlier[0] if earlier else mlflow.register_model(f"models:/{model.model_id}", name)
    client.update_model_version(name, version.version, description(card))
    return version.version
