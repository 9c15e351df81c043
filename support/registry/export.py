"""A tagger's run as a model of MLflow: its artifacts, and the code that reads them. Nothing is pickled."""

import ast
import logging
import sys
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Run
from mlflow.models import Model

from support.models.params import resolve
from support.models.tagger import tagger_files
from support.registry import pyfunc_model
from support.registry.model_card import description
from support.tracking import checksums

NAME = "tagger"  # of the model among the run's; the registered one may have another
EXAMPLE = ["Transfer learning with BERT for self-supervised learning"]
NOTE = "mlflow.note.content"  # MLflow's tag for a description


def log_tagger(run: Run, tagger: str, metric: str, card: str, cut_off: list[LoggedModel]) -> LoggedModel:
    """Log a run's tagger, whose class `tagger` names, as a model of the run, and return that.

    A model of the run in `cut_off`, which has not all its files, is completed instead of a new one.
    Raise ArtifactError where an artifact is damaged.
    """
    client, run_id = MlflowClient(), run.info.run_id
    with TemporaryDirectory() as folder:
        saved = _save(run, tagger, Path(folder))
        (saved / "model_card.md").write_text(card, encoding="utf-8")
        # mlflow.pyfunc.log_model would open the run again, and change when it ended.
        begun = [model for model in cut_off if model.name == NAME]
        model = begun[0] if begun else client.create_logged_model(run.info.experiment_id, NAME, run_id)
        client.set_logged_model_tags(model.model_id, {NOTE: description(card)})
        _complete(saved / "MLmodel", run_id, model.model_id)
        client.log_model_artifacts(model.model_id, str(saved))
    if model.model_id not in [output.model_id for output in run.outputs.model_outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    for name in run.data.metrics.keys() & {metric, f"val_{metric}", "precision", "recall"}:
        last = client.get_metric_history(run_id, name)[-1]  # the same again, so that the run gets no second
        same = Metric(name, last.value, last.timestamp, last.step, model.model_id, run_id=run_id)
        client.log_batch(run_id, [same])
    return client.finalize_logged_model(model.model_id, "READY")


def _save(run: Run, tagger: str, folder: Path) -> Path:
    """Write MLflow's files of a run's tagger into a folder in `folder`, and return it."""
    tagger_type, artifacts, code = resolve(tagger), folder / "run", folder / "code"
    checksums.fetch(run, tagger_files(tagger_type), artifacts)
    tagger_type.load(artifacts)  # what is damaged shall not be registered
    files, requirements = needed_by(pyfunc_model.__name__, tagger_type.__module__)
    # Without any __init__.py, packages are what Python calls namespaces: a process that loads several models
    # finds the modules of each.
    for name, path in files.items():
        target = code.joinpath(*name.split(".")[:-1])
        target.mkdir(parents=True, exist_ok=True)
        copy(path, target)
    logging.getLogger("mlflow.models.signature").setLevel(logging.WARNING)  # it tells each step
    mlflow.pyfunc.save_model(
        path=folder / "model",
        python_model=pyfunc_model.__file__,
        artifacts={"run": str(artifacts)},
        code_paths=[str(path) for path in sorted(code.iterdir())],
        model_config={"tagger": tagger},
        pip_requirements=requirements,
        input_example=EXAMPLE,
    )
    return folder / "model"


def _complete(mlmodel: Path, run_id: str, model_id: str) -> None:
    """Say in MLflow's file which model of which run it is, and not where things were on this machine: of
    these MLflow reads the names alone."""
    saved = Model.load(mlmodel)
    saved.run_id, saved.model_id = run_id, model_id
    pyfunc = saved.flavors["python_function"]
    pyfunc["model_code_path"] = Path(pyfunc["model_code_path"]).name
    pyfunc["artifacts"]["run"]["uri"] = f"runs:/{run_id}"
    saved.save(mlmodel)


def needed_by(*modules: str) -> tuple[dict[str, Path], list[str]]:
    """Return what modules need to run: one's own modules with their files, themselves included, and the
    installed packages as `name==version`."""
    installed, files, packages = packages_distributions(), {}, set()
    installed.pop("support", None)  # its code goes along, also where it is installed as a package: no index has it
    todo, seen = set(modules), set()
    while todo:
        seen.add(name := todo.pop())
        first = name.partition(".")[0]
        if first in installed:
            packages.update(installed[first])
        elif first not in sys.stdlib_module_names and (path := _file_of(name)):
            files[name] = path
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    todo |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    todo |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        todo -= seen
    # Without a local label such as +cpu, which no index has.
    return files, sorted(f"{package}=={version(package).partition('+')[0]}" for package in packages)


def _file_of(module: str) -> Path | None:
    """Return the file of a module; None of a package, and of a name that stands for something in a module."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin and not spec.submodule_search_locations else None
