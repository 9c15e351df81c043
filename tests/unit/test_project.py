"""The project's own files: dependencies said twice, and what other places read."""

import tomllib
from pathlib import Path

import pytest

from support import config

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lines(name: str) -> list[str]:
    """Return the requirements in a file, each with the comment that says who needs it."""
    return [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]


def test_the_extras_are_the_lines_of_the_requirements_files() -> None:
    extras: dict[str, list[str]] = {"lesson": [], "search": [], "team": [], "dev": []}
    for line in lines("requirements.txt"):
        spec, why = line.split("#")
        who = {"local": "dev", "notebook 05": "search", "notebook 06": "team"}
        extras[who.get(why.split(":")[0].strip(), "lesson")].append(spec.strip())
    extras["dev"] += [line.split("#")[0].strip() for line in lines("tests/requirements.txt")]
    assert PROJECT["optional-dependencies"] == extras


def test_as_a_package_it_keeps_its_stores_where_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORES_DIR")
    assert config.stores_dir() == ROOT / "stores"
    monkeypatch.setattr(config, "PROJECT_DIR", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert config.stores_dir() == tmp_path / "stores"


def test_the_package_has_each_file_that_is_no_code() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = [(name, each) for name, globs in settings["package-data"].items() for each in globs]
    taken = {path for name, each in patterns for path in (ROOT / name.replace(".", "/")).glob(each)}
    others = {path for path in (ROOT / "support").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert taken == others
