"""Tracking: the store, runs, and what a run records of itself.

tracking.connect()
run_id = tracking.train_and_log(Params(), splits)
run = tracking.best_run()
tagger = tracking.load_tagger(run.info.run_id)

What MLflow does, its own calls do: `mlflow.log_metrics`, `mlflow.search_runs`. Here is what it lacks.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "alerting": ["alerts"],
        "checksums": ["checksums_of", "fetch", "log_files"],
        "cleanup": ["CleanupError", "delete_runs", "empty_trash", "restore_runs"],
        "live": ["log_epochs"],
        "orphans": ["end_orphans", "is_orphan"],
        "predictions": ["log_predictions", "read_predictions"],
        "provenance": ["log_context", "splits_of"],
        "remote": ["ServerAway", "ServerRefuses"],
        "results": ["costs", "figures", "log_trained"],
        "runs": [
            "NoRunError",
            "RecordError",
            "best_run",
            "best_runs",
            "find_experiment",
            "find_run",
            "histories",
            "params_of",
            "score",
            "why_left_out",
        ],
        "seeds": ["train_with_seeds"],
        "store": ["StoreError", "connect", "set_experiment"],
        "training_run": ["checkpoint_of", "ensure_run", "load_tagger", "start_run", "train_and_log", "train_in"],
    },
)
