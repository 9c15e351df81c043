"""A reader's own model: scikit-learn on a table of numbers with one label, trained epoch by epoch."""

from dataclasses import dataclass

import mlflow
import numpy as np
import torch
from sklearn.linear_model import SGDClassifier

from support.tracking import log_predictions


@dataclass(frozen=True)
class OwnParams:
    num_epochs: int = 3
    seed: int = 0


def train(params: OwnParams, splits, on_epoch=None, checkpoint=None) -> dict[str, float]:
    x, y = splits.train.drop(columns="target").to_numpy(float), splits.train.target.to_numpy()
    model, classes = SGDClassifier(loss="log_loss", random_state=params.seed), np.unique(y)
    state = (checkpoint and checkpoint.load()) or {"epoch": 0}
    if state["epoch"]:
        model.classes_, model.t_ = classes, state["t"]
        model.coef_, model.intercept_ = state["coef"].numpy(), state["intercept"].numpy()
    for epoch in range(state["epoch"] + 1, params.num_epochs + 1):
        model.partial_fit(x, y, classes)
        if on_epoch:
            on_epoch(epoch, {"train_accuracy": model.score(x, y)})
        if checkpoint:
            weights = {"coef": torch.tensor(model.coef_), "intercept": torch.tensor(model.intercept_)}
            checkpoint.save({"epoch": epoch, "t": model.t_, **weights})
    scores = {}
    for part, name in ((splits.val, "val_accuracy"), (splits.test, "accuracy")):
        x, y = part.drop(columns="target").to_numpy(float), part.target.to_numpy()
        scores[name] = model.score(x, y)
    log_predictions("test", splits.test, model.predict_proba(x), y, model.predict(x), classes)
    mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])
    return scores
