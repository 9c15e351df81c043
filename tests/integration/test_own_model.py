"""The README's section on a model of the reader's own, run as it stands."""

import re
import sys
from pathlib import Path

import mlflow
import pytest
from conftest import ROOT

from support.lineage import resume
from support.models.checkpoint import Checkpoint
from support.registry import champion
from support.tracking.runs import histories
from support.tracking.training_run import train_and_log


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch) -> list[str]:
    """Return the section's programs; its files lie in a folder that one can import from."""
    section = (
        (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Your own model\n")[2].partition("\n## ")[0]
    )
    programs = []
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        if name := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / name[1]).write_text(block, encoding="utf-8")
        else:
            programs.append(block)
    monkeypatch.syspath_prepend(tmp_path)
    yield programs
    for name in ("my_data", "my_model"):
        sys.modules.pop(name, None)


def test_both_ways_of_the_readme_work_as_they_stand(blocks, monkeypatch, capsys) -> None:
    by_the_door, by_mlflow_alone = blocks
    exec(compile(by_the_door, "README.md", "exec"), names := {})
    assert "Versions, device, code and data are as they were." in capsys.readouterr().out
    exec(compile(by_mlflow_alone, "README.md", "exec"), names)
    board = names["comparison"].rank(names["splits"], experiment="digits", metric="accuracy")
    assert sorted(board.table.run) == ["logistic regression", "sgd", "sgd again"] and board.left_out == {}
    assert champion("digits").run_id == board.table.index[0]
    said = names["champion"].predict(names["splits"].test.drop(columns="target"))
    assert (said == names["splits"].test.target).mean() == pytest.approx(board.table.accuracy.iloc[0])
    again = board.table.index[board.table.run == "sgd again"][0]
    assert histories(again) == histories(names["run_id"])

    my_model, save = names["my_model"], Checkpoint.save

    def then_fail(checkpoint: Checkpoint, state: dict) -> None:
        save(checkpoint, state)
        if state["epoch"] == 3:
            raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Checkpoint, "save", then_fail)
        train_and_log(my_model.Params(), names["splits"], "cut off", "digits", my_model.train)
    failed = mlflow.search_runs(search_all_experiments=True, filter_string="status = 'FAILED'", output_format="list")
    resume(failed[0].info.run_id)
    assert "Goes on from epoch 4." in capsys.readouterr().out
    assert histories(failed[0].info.run_id) == histories(names["run_id"])
