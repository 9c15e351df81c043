"""Bringing what is missing: the list that Colab installs, and the error elsewhere."""

import importlib.metadata
import sys
from types import ModuleType

import pytest

from support import environment


def test_nothing_is_missing_here_and_prepare_is_silent(capsys: pytest.CaptureFixture) -> None:
    environment.prepare()
    assert capsys.readouterr().out == ""


def test_local_lines_are_left_out_and_names_are_compared_as_pip_does() -> None:
    everything = environment.missing_requirements(set())
    names = {line.split(">")[0] for line in everything}
    assert {"mlflow", "torch", "pyngrok", "iterative-stratification"} <= names
    assert not names & {"jupyterlab", "nbval", "nbconvert", "ipywidgets"}
    left = environment.missing_requirements({"Iterative_Stratification", "MLflow"})
    assert len(left) == len(everything) - 2


def test_elsewhere_a_missing_package_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [])
    with pytest.raises(environment.EnvironmentIncompleteError, match=r"mlflow.*make run"):
        environment.prepare()


def test_on_colab_only_what_is_missing_is_installed_and_then_looked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    here = list(importlib.metadata.distributions())
    without = [dist for dist in here if dist.name.lower() != "pyngrok"]
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: without)
    commands, pins = [], []

    def pip(command: list[str], check: bool) -> None:
        commands.append(command)
        with open(command[command.index("-c") + 1], encoding="utf-8") as file:
            pins.extend(file.read().splitlines())
        monkeypatch.setattr(importlib.metadata, "distributions", lambda: here)

    monkeypatch.setattr(environment.subprocess, "run", pip)
    environment.prepare()
    assert [argument for argument in commands[0][5:] if "pyngrok" in argument] == [commands[0][-1]]
    assert any(pin.startswith("torch==") for pin in pins)  # pip may change nothing that is there
    assert not any(pin.startswith("pyngrok==") for pin in pins)
    assert "Installing pyngrok" in capsys.readouterr().out


def test_on_colab_an_installation_that_brings_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [])
    monkeypatch.setattr(environment.subprocess, "run", lambda command, check: None)
    with pytest.raises(environment.EnvironmentIncompleteError, match="did not bring"):
        environment.prepare()


def test_the_report_names_versions_and_device(capsys: pytest.CaptureFixture) -> None:
    environment.report()
    shown = capsys.readouterr().out
    assert f"mlflow {importlib.metadata.version('mlflow')}" in shown
    assert "Training uses: " in shown
