"""A reader's own model: PyTorch on a table of numbers with one label, which can start from earlier weights."""

from dataclasses import dataclass

import mlflow
import torch
from torch import nn

from support.tracking import log_predictions


@dataclass(frozen=True)
class NetworkParams:
    hidden_dim: int = 16
    num_epochs: int = 4
    seed: int = 0


def train(params: NetworkParams, splits, on_epoch=None, checkpoint=None, start_from=None) -> dict[str, float]:
    torch.manual_seed(params.seed)
    (x, y), val, test = (
        (
            torch.tensor(part.drop(columns="target").to_numpy("float32")) / 16,
            torch.tensor(part.target.to_numpy()),
        )
        for part in (splits.train, splits.val, splits.test)
    )
    model = nn.Sequential(nn.Linear(64, params.hidden_dim), nn.ReLU(), nn.Linear(params.hidden_dim, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    if start_from is not None:
        model.load_state_dict(start_from.state_dict())
    state = (checkpoint and checkpoint.load()) or {"epoch": 0}
    if state["epoch"]:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(state["epoch"] + 1, params.num_epochs + 1):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        if on_epoch:
            on_epoch(epoch, {"train_loss": loss.item()})
        if checkpoint:
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save({"epoch": epoch, **states})
    with torch.inference_mode():
        said = {name: model(part[0]).softmax(dim=1) for name, part in (("val", val), ("test", test))}
    log_predictions("test", splits.test, said["test"], test[1], said["test"].argmax(dim=1), range(10))
    example = x[:2].numpy()
    mlflow.pytorch.log_model(model, name="model", input_example=example, pip_requirements=["torch"])
    accuracy = {
        name: (said[name].argmax(dim=1) == part[1]).float().mean().item()
        for name, part in (("val", val), ("test", test))
    }
    return {"val_accuracy": accuracy["val"], "accuracy": accuracy["test"]}
