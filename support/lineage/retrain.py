"""Train further: a new run that starts from the weights of another.

child_id = retrain(run_id, replace(params, lr=2e-5))
"""

import inspect
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from support.data.splits import Splits
from support.lineage.shared import LineageError, changes, listed, start_of, train_anew
from support.models.tagger import Tagger
from support.tracking.provenance import splits_of
from support.tracking.runs import TRAIN, get_run, params_of, train_function_of

SIZES = ("char_level", "embedding_dim", "num_filters", "filter_sizes", "hidden_dim")  # of the CNN


def retrain(run_id: str, params: Any = None, splits: Splits | None = None) -> str:
    """Train from the weights of a run, with other params or more data, as its child; return the new run's id.

    The run's function must take `start_from`. Of a CNN, tags and tokens that the run does not know get fresh
    weights. Raise LineageError where the function does not, or the layers would have other sizes.
    """
    run = get_run(run_id)
    train, before = train_function_of(run), params_of(run)
    if "start_from" not in inspect.signature(train).parameters:
        raise LineageError(
            f"Run {run_id} was trained by {run.data.tags[TRAIN]}, which starts from no weights: it takes no "
            "start_from. Train a new run: tracking.train_and_log(params, splits)."
        )
    params, splits, start = params or before, splits or splits_of(run), start_of(run_id)
    other = {name: change for name, change in changes(before, params).items() if name in SIZES}
    if isinstance(start, Tagger) and other:
        raise LineageError(f"The weights do not fit other sizes:\n{listed(other)}\nKeep these params.")
    return train_anew(f"{run.info.run_name} retrained", run, params, splits, run_id, {MLFLOW_PARENT_RUN_ID: run_id})
