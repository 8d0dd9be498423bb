"""What is kept of source files says what parsing them says, and nothing once they are others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.code import source
from pipelines.code.definitions import Module, read_module
from pipelines.code.source import Source
from pipelines.code.stages import Identity, identity

ROOT = Path(__file__).parents[2]
MAKE = """
    'Doc.'
    def make(out: int) -> str:
        'Says.'
        return LIMIT + len(make.__doc__)
    LIMIT = 3
"""


def project(root: Path, text: str = MAKE) -> Path:
    (root / "pipelines").mkdir(exist_ok=True)
    (root / "dvc.yaml").touch()
    lines = [line[4:] for line in text.splitlines()]
    (root / "pipelines/main.py").write_text("\n".join(lines))
    (root / "pipelines/__init__.py").touch()
    return root


def made(root: Path) -> Identity:
    files = Source(root)
    found = identity(["pipelines.main:make"], files)
    files.keep()
    return found


def never(*_: object) -> Module:
    raise AssertionError("parsed again")


def without_trees(module: Module) -> Module:
    definitions = {name: replace(one, nodes=[], texts=[]) for name, one in module.definitions.items()}
    return replace(module, definitions=definitions)


@pytest.mark.costly
def test_every_module_of_this_project_comes_back_as_it_was_parsed(tmp_path: Path) -> None:
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    (tmp_path / "dvc.yaml").touch()
    files = Source(tmp_path)
    names = files.submodules("pipelines")
    parsed = {name: files.find(name) for name in names}
    files.keep()
    again = Source(tmp_path)
    for name in names:
        whole, kept = parsed[name], again.find(name)
        assert whole is not None and kept is not None and kept == without_trees(whole)
        assert list(kept.definitions) == list(whole.definitions)


def test_an_unchanged_file_is_not_parsed_and_a_changed_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(project(tmp_path))
    changed = made(project(tmp_path, MAKE.replace("LIMIT = 3", "LIMIT = 4")))
    assert changed.value != first.value
    assert made(project(tmp_path)) == first
    monkeypatch.setattr(source, "read_module", never)
    # what reads docstrings needs the tree, all others do not
    assert Source(tmp_path).find("pipelines.main") is not None
    with pytest.raises(AssertionError):
        made(project(tmp_path))


def test_a_file_edited_between_the_look_and_the_parsing_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(project(tmp_path))
    (tmp_path / ".work/definitions.json").unlink()

    def edited_meanwhile(name: str, path: Path, shown: str) -> Module:
        if name == "pipelines.main":
            project(tmp_path, MAKE.replace("LIMIT = 3", "LIMIT = 4"))
        return read_module(name, path, shown)

    monkeypatch.setattr(source, "read_module", edited_meanwhile)
    assert made(tmp_path).value != first.value
    monkeypatch.undo()
    assert made(project(tmp_path)) == first


def test_docstrings_count_where_they_are_read_whether_kept_or_parsed(tmp_path: Path) -> None:
    first = made(project(tmp_path))
    assert made(tmp_path) == first
    assert made(project(tmp_path, MAKE.replace("Says.", "Says more."))).value != first.value
    assert made(project(tmp_path)) == first


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"x": {"pipelines.main": 1}}'])
def test_a_damaged_file_counts_as_none(text: str, tmp_path: Path) -> None:
    first = made(project(tmp_path))
    (tmp_path / ".work/definitions.json").write_text(text)
    assert made(tmp_path) == first


@pytest.mark.parametrize("damage", [None, 3, {}, {"source": "x"}, "same source"])
def test_a_damaged_entry_counts_as_none(damage: object, tmp_path: Path) -> None:
    first = made(project(tmp_path))
    path = tmp_path / ".work/definitions.json"
    content = json.loads(path.read_text())
    [modules] = content.values()
    entry = {"source": modules["pipelines.main"]["source"], "definitions": 7}
    modules["pipelines.main"] = entry if damage == "same source" else damage
    path.write_text(json.dumps(content))
    assert made(tmp_path) == first


def test_where_nothing_can_be_kept_everything_is_parsed(tmp_path: Path) -> None:
    first = made(project(tmp_path))
    (tmp_path / ".work/definitions.json").unlink()
    (tmp_path / ".work").rmdir()
    (tmp_path / ".work").touch()
    assert made(tmp_path) == first
    assert read_module("pipelines.main", tmp_path / "pipelines/main.py", "main.py").definitions
