"""The registered model `tagger`: the best run becomes its next version, and the champion, if it is better.

registry.promote()           # the best run; or promote(run_id)
mlflow.pyfunc.load_model("models:/tagger@champion").predict(["Transfer learning with BERT"])

A champion loads and serves wherever the store and the requirements are: a version holds the run's artifacts
and the code that reads them (support/served.py), and nothing pickled.
"""

import json
import logging
from importlib.metadata import packages_distributions, version
from modulefinder import ModuleFinder
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from support.tracking import checksums as artifacts
from support.registry import pyfunc_model as served
from support.tracking import training_run as tracking
from support.registry.model_card import model_card
from support.tracking.store import PROJECT_DIR, store_lock

NAME, ALIAS = "tagger", "champion"
ABOUT = (
    "Gives texts about machine-learning projects their tags. The alias `champion` is on the version with the "
    f'best F1 on the test split: `mlflow.pyfunc.load_model("models:/{NAME}@{ALIAS}")`.'
)
EXAMPLE = ["Transfer learning with BERT for self-supervised learning"]
SAME_DATA = ("corpus", "split_seed", "split_digest")  # tags of a run: what its test split is
NOTE = "mlflow.note.content"  # MLflow's tag for a description
LONGEST_DESCRIPTION = 5000  # characters, of MLflow's table


class PromotionError(ValueError):
    """The run does not become the champion. Says why; the registered model is as it was."""


def champion() -> ModelVersion | None:
    """Give the version that is the champion, with its `version` and `run_id`, or None.

    A server says of a model that is not there, and of one that this user may not see, the same: None.
    """
    try:
        return MlflowClient().get_model_version_by_alias(NAME, ALIAS)
    except MlflowException as error:
        unknown = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED")
        if error.error_code not in unknown:
            raise
        return None


def promote(run_id: str | None = None) -> ModelVersion:
    """Make a run, the best one unless named, the champion and give its version.

    Raises PromotionError where it does not beat the present champion on the same test split, and NoRunError
    where the run or its artifacts are missing. One process at a time promotes in a store of one's own; a
    server has no lock, so promote from one place there.
    """
    with store_lock(mlflow.get_tracking_uri()):
        run = _run(run_id) if run_id else tracking.best_run()
        run_id, present = run.info.run_id, champion()
        if present and present.run_id == run_id:
            print(f"Run {run_id} is the champion already: version {present.version} of {NAME}.")
            return present
        _refuse_unless_better(run, present)
        # A promotion that was cut off may have left the version without the alias.
        earlier = MlflowClient().search_model_versions(f"name = '{NAME}' and run_id = '{run_id}'")
        new = earlier[0] if earlier else _register(run)
        MlflowClient().set_registered_model_alias(NAME, ALIAS, new.version)
        print(f"Version {new.version} of {NAME} is the champion: F1 {run.data.metrics['f1']:.3f}.")
    return champion()


def _run(run_id: str) -> Run:
    try:
        return mlflow.get_run(run_id)
    except MlflowException as error:
        raise tracking.NoRunError(f"Run {run_id} is not in this store: {error}") from error


def _refuse_unless_better(run: Run, present: ModelVersion | None) -> None:
    who, tags, metrics = f"Run {run.info.run_id}", run.data.tags, run.data.metrics
    if run.info.status != "FINISHED" or not metrics.get("f1", -1) >= 0:  # nothing ever beats a NaN
        raise PromotionError(f"{who} is not finished or has no metric f1. Finish it, or name another run.")
    if not all(tags.get(name) for name in SAME_DATA):
        raise PromotionError(f"{who} has no record of its data. Train with tracking.train_and_log, which keeps one.")
    if present is None:
        return
    best = mlflow.get_run(present.run_id)
    theirs = f"the champion, version {present.version} of {NAME}"
    for name in SAME_DATA:
        if tags[name] != best.data.tags[name]:
            raise PromotionError(
                f"{who} cannot be compared with {theirs}: its {name} is {tags[name]}, the champion's "
                f"{best.data.tags[name]}, and F1 on another test split is another measure. Train it on the "
                f"champion's data, lineage.splits_of(mlflow.get_run({present.run_id!r})). Or start anew: "
                f"mlflow.MlflowClient().delete_registered_model_alias({NAME!r}, {ALIAS!r})"
            )
    f1, to_beat = metrics["f1"], best.data.metrics["f1"]
    if not f1 > to_beat:
        raise PromotionError(
            f"{who} (F1 {f1:.4f}) does not beat {theirs} (F1 {to_beat:.4f}) on the same test split. The champion stays."
        )


def _register(run: Run) -> ModelVersion:
    """Log the run's model and register it as a version, without the alias yet."""
    client, run_id = MlflowClient(), run.info.run_id
    tagger = tracking.load_tagger(run_id)
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        names = [file.path for file in client.list_artifacts(run_id) if not file.is_dir]
        artifacts.fetch(run, names, _made(folder / "run"))
        card = model_card(run, tagger, json.loads((folder / "run" / "performance.json").read_text("utf-8")))
        # Without the heading, which the page has. A long list of tags is cut, at a line's end.
        about = card.partition("\n\n")[2]
        if len(about) > LONGEST_DESCRIPTION:
            about = about[:LONGEST_DESCRIPTION].rpartition("\n")[0]
        _save(folder, run_id)
        (folder / "model" / "model_card.md").write_text(card, encoding="utf-8")
        model_id = _log(run, folder / "model", about)
    try:
        client.create_registered_model(NAME, {"task": "multi-label text classification"}, ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    facts = {name: run.data.tags[name] for name in SAME_DATA} | {"f1": f"{run.data.metrics['f1']:.4f}"}
    source = f"models:/{model_id}"
    new = client.create_model_version(NAME, source, run_id, facts, None, about, model_id=model_id)
    # So the model's page links to the version, as after mlflow.register_model, which takes no description.
    links = json.dumps([{"name": NAME, "version": new.version}])
    client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: links})
    return new


def _save(folder: Path, run_id: str) -> None:
    """Write the model of `folder`/run as MLflow's files to `folder`/model."""
    rooms, requirements = needed_by(Path(served.__file__))
    for room in rooms:
        copy(room, _made(folder / "support"))
    logging.getLogger("mlflow.models.signature").setLevel(logging.WARNING)  # it tells each step
    mlflow.pyfunc.save_model(
        path=folder / "model",
        python_model=served.__file__,
        artifacts={"run": str(folder / "run")},
        code_paths=[str(folder / "support")],
        pip_requirements=requirements,
        input_example=EXAMPLE,
        mlflow_model=Model(run_id=run_id),
    )


def _log(run: Run, folder: Path, about: str) -> str:
    """Log MLflow's files as a model of the run, with description, params and metrics; give the model's id."""
    client, run_id = MlflowClient(), run.info.run_id
    # mlflow.pyfunc.log_model would open the run again, and change when it ended.
    model_id = client.create_logged_model(run.info.experiment_id, NAME, run_id, {NOTE: about}, run.data.params).model_id
    # MLflow writes where things were on this machine, and reads their names alone.
    saved = Model.load(folder)
    saved.model_id = model_id
    saved.flavors["python_function"]["model_code_path"] = Path(served.__file__).name
    saved.flavors["python_function"]["artifacts"]["run"]["uri"] = f"runs:/{run_id}"
    saved.save(folder / "MLmodel")
    client.log_model_artifacts(model_id, str(folder))
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    facts = {"dataset_name": run.data.tags["corpus"], "dataset_digest": run.data.tags["split_digest"]}
    for name in run.data.metrics.keys() & {"precision", "recall", "f1"}:
        logged = client.get_metric_history(run_id, name)[-1]  # the same again, so that the run gets no second
        same = Metric(name, logged.value, logged.timestamp, logged.step, model_id, run_id=run_id, **facts)
        client.log_batch(run_id, [same])
    return model_id


def needed_by(script: Path) -> tuple[list[Path], list[str]]:
    """Give what a script needs to run: the files of `support`, and the packages as `name==version`."""
    finder = ModuleFinder([str(PROJECT_DIR)])  # all that is not of this project it reports as missing
    finder.run_script(str(script))
    rooms = [Path(m.__file__) for name, m in finder.modules.items() if name.startswith("support")]
    imported, owners = {name.partition(".")[0] for name in finder.badmodules}, packages_distributions()
    packages = {owner for name in imported for owner in owners.get(name, [])}
    # Without a local label such as +cpu, which no index has.
    return rooms, sorted(f"{package}=={version(package).partition('+')[0]}" for package in packages)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
