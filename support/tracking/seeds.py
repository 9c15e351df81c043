"""The same training with several seeds: how far a figure moves by chance alone.

parent_id = train_with_seeds(Params(), splits, seeds=[1, 2, 3])
mlflow.get_run(parent_id).data.metrics["mean_val_f1"]    # and std_val_f1
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass, replace
from statistics import mean, stdev
from typing import Any

import mlflow

from support.data.splits import Splits
from support.tracking.provenance import log_context
from support.tracking.store import EXPERIMENT
from support.tracking.training_run import start_run, train_in


def train_with_seeds(
    params: Any,
    splits: Splits,
    seeds: Sequence[int],
    run_name: str = "seeds",
    experiment: str = EXPERIMENT,
    train: Callable | None = None,
) -> str:
    """Train with each seed in a child run, and return the id of the parent run.

    The parent has `mean_<metric>` and `std_<metric>` of each metric that all children have. It keeps no model, so
    it is never ranked. Raise ValueError for fewer than two different seeds, and for params without a `seed`.
    """
    values = asdict(params) if is_dataclass(params) else dict(params)
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds) or "seed" not in values:
        raise ValueError("Give two different seeds or more, none twice, and params that have a `seed`.")
    with start_run(run_name, experiment) as parent:
        mlflow.log_params({**values, "seed": list(seeds)})
        log_context(splits)
        found = []
        for seed in seeds:
            seeded = replace(params, seed=seed) if is_dataclass(params) else {**values, "seed": seed}
            how = {"nested": True, "experiment_id": parent.info.experiment_id}
            with start_run(f"{run_name}-{seed}", **how) as run:
                train_in(run, seeded, splits, train)
            found.append(mlflow.get_run(run.info.run_id).data.metrics)
        for name in set.intersection(*map(set, found)):
            if not name.startswith("system/"):
                of_all = [metrics[name] for metrics in found]
                mlflow.log_metrics({f"mean_{name}": mean(of_all), f"std_{name}": stdev(of_all)})
    return parent.info.run_id
