"""What a version needs to run, and a model card's tables."""

from pathlib import Path

from support.registry import export
from support.registry.model_card import _table


def test_what_a_module_needs_is_found_through_all_that_it_imports() -> None:
    files, packages = export.needed_by("support.registry.pyfunc_model", "support.models.rules")
    assert {"support.models.params", "support.models.tagger", "support.data.cleaning"} <= set(files)
    assert not [name for name in files if name.startswith(("support.tracking", "support.dashboard"))]
    assert "support.models" not in files  # a package's own map stays behind
    named = {each.partition("==")[0] for each in packages}
    assert {"mlflow", "numpy", "pydantic"} <= named and not any("+" in each for each in packages)


def test_a_module_of_the_readers_own_counts_as_code_and_not_as_a_package(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "model.py").write_text("import json, torch\nfrom mine import words\n")
    (tmp_path / "mine" / "words.py").write_text("from collections import Counter\n")
    monkeypatch.syspath_prepend(tmp_path)
    files, packages = export.needed_by("mine.model")
    assert files == {name: tmp_path / "mine" / f"{name[5:]}.py" for name in ("mine.model", "mine.words")}
    assert [each.partition("==")[0] for each in packages] == ["torch"]


def test_the_code_of_support_goes_along_also_where_it_is_installed_as_a_package(monkeypatch) -> None:
    installed = {**export.packages_distributions(), "support": ["experiment-tracking"]}
    monkeypatch.setattr(export, "packages_distributions", lambda: installed)
    files, packages = export.needed_by("support.models.rules")
    assert "support.models.params" in files and not any("experiment" in each for each in packages)


def test_a_cell_of_a_table_is_one_line_that_shows_as_it_stands() -> None:
    table = _table(["tag", "F1"], [["a|b\n$c$ \\", 0.12345], ["<b>x</b>", 1]])
    lines = table.splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| a\\|b \\$c\\$ \\\\") and lines[2].endswith("| 0.123 |")
    assert "&lt;b&gt;x&lt;/b&gt;" in lines[3]
