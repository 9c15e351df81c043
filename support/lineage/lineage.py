"""Go on from a run: finish one that was cut off, repeat one, or train further from one.

resume(run_id)                    # the same run, to the same end as if nothing had happened
reproduce(run_id)                 # a new run from the record of the first, and a table that compares them
retrain(run_id, params, splits)   # a new run that starts from the weights of the first
"""

import ast
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from support.tracking import checksums as artifacts
from support.lineage import old_code as codestate
from support.tracking import orphans as ghosts
from support.models import kinds as models
from support.tracking import provenance
from support.tracking import training_run as tracking
from support.data.corpus import Splits
from support.models.encoding import Tokenizer
from support.models.params import Checked
from support.tracking.store import store_lock
from support.models.tagger import Tagger

STARTED_FROM, REPRODUCES = "started_from", "reproduces"
SIZES = ("char_level", "embedding_dim", "num_filters", "filter_sizes", "hidden_dim")


class LineageError(ValueError):
    """The run cannot be gone on from in this way. Says why and what to do."""


def params_of(run: Run) -> Checked:
    """Give the params that the run has logged. Raises LineageError where it has not all of them."""
    try:
        kind = models.TAGGERS[run.data.params.get("model", "cnn")].PARAMS
        names = [f.name for f in fields(kind) if f.name != "model"]
        return kind(**{name: ast.literal_eval(run.data.params[name]) for name in names})
    except (KeyError, ValueError, SyntaxError) as error:
        raise LineageError(f"Run {run.info.run_id} has no usable params: {error!r}. Name them.") from error


def splits_of(run: Run) -> Splits:
    """Give the data that the run trained on, from its own copy. Raises LineageError where it has none."""
    if provenance.DATA not in artifacts.digests_of(run):
        raise LineageError(f"Run {run.info.run_id} has no copy of its data. Name the splits.")
    with TemporaryDirectory() as folder:
        artifacts.fetch(run, [provenance.DATA], folder)
        return Splits.load(Path(folder) / Path(provenance.DATA).name)


def resume(run_id: str, params: Checked | None = None, splits: Splits | None = None) -> str:
    """Finish a run that was cut off, from its last whole epoch, and give its id.

    Its params and data come from the run itself; those that are named must be the same. A run that was cut
    off before it had logged them needs them named. Raises LineageError where this is refused.
    """
    with store_lock(mlflow.get_tracking_uri()):
        run = mlflow.get_run(run_id)
        params, splits = _agreed(run, params, splits)
        _refuse_unless_cut_off(run)
        # From here on it is this process's run, for everyone who opens the store.
        for name, value in provenance.process_tags().items():
            MlflowClient().set_tag(run_id, name, value)
        MlflowClient().update_run(run_id, "RUNNING")
    if "code" in run.data.tags and (changes := provenance.differences(run)):
        print(f"Not as when the run began, so the last digits may differ:\n{_listed(changes)}")
    with tracking.start_run(run_id=run_id):
        tracking.train_in(run, params, splits, _start_of(run))
    tracking.checkpoint_of(run_id).remove()
    return run_id


def reproduce(run_id: str, splits: Splits | None = None) -> pd.DataFrame:
    """Train a run again from its record alone, as a new run; give logged, reproduced, difference, verdict.

    What is not as it was is said before it starts. With `splits` the data is that instead of the run's copy.
    The id of the new run is in the table's `.attrs["run_id"]`.
    """
    run = mlflow.get_run(run_id)
    params, recorded, start_from = params_of(run), splits_of(run), _start_of(run)
    changes = provenance.differences(run) | _data(recorded, splits or recorded)
    name, links = f"{run.info.run_name} again", {REPRODUCES: run_id}
    with TemporaryDirectory() as folder:
        # With other code, that of then is rebuilt, and trains in a process of its own.
        rebuilt = "code" in changes and start_from is None and codestate.rebuild(run, Path(folder))
        if rebuilt:
            print("The code has changed since: that of then is rebuilt from git.")
            del changes["code"]
        same = "Versions, device, code and data are as they were."
        print(f"Not as it was:\n{_listed(changes)}" if changes else same, flush=True)
        if rebuilt:
            again = codestate.train(Path(folder), params, splits or recorded, name)
            MlflowClient().set_tag(again, REPRODUCES, run_id)
        else:
            links |= {key: value for key, value in run.data.tags.items() if key == STARTED_FROM}
            again = _train_anew(name, run, params, splits or recorded, start_from, links)
    table = _metrics_side_by_side(run_id, again)
    table.attrs["run_id"] = again
    return table


def retrain(run_id: str, params: Checked | None = None, splits: Splits | None = None) -> str:
    """Train from the weights of a run, with other params or more data, as its child; give the new run's id.

    Tags and tokens that the run does not know get fresh weights, and are named. Raises LineageError where the
    layers would have other sizes.
    """
    run = mlflow.get_run(run_id)
    before = params_of(run)
    if before.model != "cnn":
        raise LineageError(
            f"Run {run_id} is a {before.model} model, which starts from no weights. Train a new one: "
            "tracking.train_and_log(params, splits)."
        )
    tagger = tracking.load_tagger(run_id)
    params, splits = params or before, splits or splits_of(run)
    other = {name: change for name, change in _changes(before, params).items() if name in SIZES}
    if other:
        raise LineageError(f"The weights do not fit other sizes:\n{_listed(other)}\nKeep these params.")
    tokens = Tokenizer.fit(splits.train.text, params.char_level).token_to_index
    tags = {tag for part in (splits.train, splits.val, splits.test) for row in part.tags for tag in row}
    known = set(tagger.label_encoder.classes)
    for what, names in (
        ("New tags", tags - known),
        ("Tags that are no longer there", known - tags),
        ("New tokens", set(tokens) - set(tagger.tokenizer.token_to_index)),
    ):
        if names:
            print(f"{what}: {', '.join(sorted(names))}")
    links = {MLFLOW_PARENT_RUN_ID: run_id, STARTED_FROM: run_id}
    return _train_anew(f"{run.info.run_name} retrained", run, params, splits, tagger, links)


def _train_anew(
    name: str, like: Run, params: Checked, splits: Splits, start_from: Tagger | None, links: dict[str, str]
) -> str:
    experiment = mlflow.get_experiment(like.info.experiment_id).name
    with tracking.start_run(name, experiment, **links) as run:
        tracking.train_in(run, params, splits, start_from)
    tracking.checkpoint_of(run.info.run_id).remove()
    return run.info.run_id


def _start_of(run: Run) -> Tagger | None:
    """Give the tagger whose weights the run started from, if it did."""
    parent = run.data.tags.get(STARTED_FROM)
    return tracking.load_tagger(parent) if parent else None


def _refuse_unless_cut_off(run: Run) -> None:
    status, run_id = run.info.status, run.info.run_id
    if status == "FINISHED":
        raise LineageError(f"Run {run_id} is finished: there is nothing to resume.")
    # A run that this process could not end, for want of space say, says RUNNING and is nobody's.
    dropped = provenance.process_tags().items() <= run.data.tags.items() and not mlflow.active_run()
    if status == "RUNNING" and not dropped and not ghosts.is_ghost(run):
        raise LineageError(
            f"Run {run_id} is running, here or on another machine. If you know that it is not, end it first: "
            f"mlflow.MlflowClient().set_terminated({run_id!r}, 'KILLED')"
        )


def _agreed(run: Run, params: Checked | None, splits: Splits | None) -> tuple[Checked, Splits]:
    """Give the params and the data that run and caller agree on. Raises LineageError if they do not."""
    logged = params_of(run) if run.data.params or params is None else params
    if params and (changes := _changes(logged, params)):
        raise LineageError(f"Run {run.info.run_id} began with other params:\n{_listed(changes)}")
    recorded = splits_of(run) if provenance.DATA in artifacts.digests_of(run) or splits is None else splits
    if splits and splits.digest != recorded.digest:
        raise LineageError(f"Run {run.info.run_id} began with other data:\n{_listed(_data(recorded, splits))}")
    return logged, recorded


def _data(before: Splits, now: Splits) -> dict[str, tuple]:
    """Say how two splits differ: name -> (before, now)."""
    facts = [
        {"corpus": s.corpus, "split seed": s.seed, "digest": s.digest}
        | {name: f"{len(getattr(s, name))} texts" for name in ("train", "val", "test")}
        for s in (before, now)
    ]
    changes = {name: (facts[0][name], facts[1][name]) for name in facts[0] if facts[0][name] != facts[1][name]}
    texts = [set(pd.concat([s.train, s.val, s.test]).text) for s in (before, now)]
    if texts[0] != texts[1]:
        changes["texts of its own"] = (len(texts[0] - texts[1]), len(texts[1] - texts[0]))
    return changes


def _changes(before: Checked, now: Checked) -> dict[str, tuple]:
    old, new = asdict(before), asdict(now)
    names = dict.fromkeys([*old, *new])
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _listed(changes: dict[str, tuple]) -> str:
    return "\n".join(f"  {name}: {before} there, {now} here" for name, (before, now) in changes.items())


def _metrics_side_by_side(first: str, second: str) -> pd.DataFrame:
    """Compare all steps of all metrics of two runs: a row a metric, its largest difference, and a verdict."""
    rows = {}
    logged, again = histories(first), histories(second)
    for name in {**logged, **again}:
        one, two = logged.get(name, {}), again.get(name, {})
        worst = max((abs(one[step] - two[step]) for step in one.keys() & two.keys()), default=0.0)
        equal = one == two
        rows[name] = {
            "logged": list(one.values())[-1] if one else None,
            "reproduced": list(two.values())[-1] if two else None,
            "steps": len(two),
            "difference": worst,
            "verdict": "equal" if equal else "differs" if one.keys() == two.keys() else "other steps",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def histories(run_id: str) -> dict[str, dict[int, float]]:
    """Give metric -> step -> value of a run, without those that the machine decides about."""
    client = MlflowClient()
    names = [
        name
        for name in client.get_run(run_id).data.metrics
        if not name.startswith("system/") and name not in tracking.MEASURED
    ]
    return {name: {m.step: m.value for m in client.get_metric_history(run_id, name)} for name in sorted(names)}
