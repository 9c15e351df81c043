"""The project's own files: dependencies said twice, and what other places read."""

import json
import re
import sys
import tomllib
from pathlib import Path

import jsonschema
import nbformat
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from ruamel.yaml import YAML

from support import config

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


sys.path.insert(0, str(ROOT / "tools"))
import notebooks  # noqa: E402


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


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("deploy/compose.yaml", "compose-spec"),
        (".github/workflows/tests.yml", "github-workflows"),
        ("CITATION.cff", "citation-file-format"),
    ],
)
def test_it_keeps_to_its_schema(name: str, schema: str) -> None:
    read = YAML(typ="safe").load(ROOT / name)  # YAML 1.2, in which `on` is a word
    jsonschema.validate(read, get_builtin_schema(f"vendor.{schema}"))


def test_the_workflow_runs_what_make_has_and_may_change_nothing() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    runs = [step["run"] for step in workflow["jobs"]["tests"]["steps"] if "run" in step]
    assert {"lint", "test", "test-all"} <= targets
    assert runs[0] == "make lint" and "'test-all' || 'test'" in runs[1]
    assert workflow["permissions"] == {"contents": "read"}


def test_the_dev_container_has_known_keys_and_installs_with_make() -> None:
    """Its schema is not among those that a library brings, so this knows what is used of it."""
    said = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    known = {"name", "image", "hostRequirements", "containerEnv", "postCreateCommand", "otherPortsAttributes"}
    assert set(said) == known | {"customizations"}
    assert said["image"].startswith("mcr.microsoft.com/devcontainers/python:3.11-")
    target = said["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert said["otherPortsAttributes"] == {"onAutoForward": "silent"}  # and never made public


def test_binder_installs_the_series_and_the_way_to_its_dashboard() -> None:
    wanted = lines("binder/requirements.txt")
    files = [ROOT / "binder" / line.split()[1] for line in wanted if line.startswith(("-r ", "-c "))]
    assert {file.resolve() for file in files} == {ROOT / "requirements.txt", ROOT / "constraints.txt"}
    assert any(line.startswith("jupyter-server-proxy") for line in wanted)
    assert (ROOT / "binder/runtime.txt").read_text().strip() == "python-3.11"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the files that hold the address, which `make address` then writes to."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *notebooks.notebook_paths()]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    for name in ("pyproject.toml", "CITATION.cff", "tools/first_cell.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    return tmp_path


def test_one_command_sets_the_address_everywhere_and_again(copy: Path) -> None:
    for url in ("https://github.com/ada/my.notes.git", "https://github.com/ada/notes2/"):
        assert notebooks.set_address(url) == 0
        repository = notebooks.ADDRESS.fullmatch(url)[1]
        assert notebooks.project_url() == f"https://github.com/{repository}"
        for path in filter(Path.is_file, copy.rglob("*")):
            text = path.read_text(encoding="utf-8")
            assert "your-account/experiment-tracking" not in text, path
            if path.suffix == ".ipynb" or path.name in {"pyproject.toml", "CITATION.cff", "places.md"}:
                assert repository in text, path
    assert "my.notes" not in "".join(path.read_text() for path in copy.rglob("*") if path.is_file())
    first = nbformat.read(copy / "notebooks" / "00_setup.ipynb", as_version=4).cells[1].source
    assert 'Path("/content/notes2")' in first


def test_another_place_than_github_is_refused(copy: Path, capsys: pytest.CaptureFixture) -> None:
    before = (copy / "pyproject.toml").read_bytes()
    for url in ("", "github.com/ada/notes", "https://gitlab.com/ada/notes", "https://github.com/ada"):
        assert notebooks.set_address(url) == 1
        assert "make address URL=" in capsys.readouterr().err
    assert (copy / "pyproject.toml").read_bytes() == before
