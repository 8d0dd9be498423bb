"""What `--help` of every tool says: words for each option, in sentences without the marks of a docstring."""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Iterator

import pytest

from dagster_project.tools import ON_A_GPU, TOLD, TOOLS
from pipelines.told import plain

WITH_NETWORKS = ON_A_GPU | {"export", "release", "gc"}
NAMES = [pytest.param(name, marks=[pytest.mark.costly] * (name in WITH_NETWORKS)) for name in [*TOOLS, *TOLD]]
"""Those that import networks take seconds where nothing has imported them before."""
MARKS = ("``", ":mod:", ":func:", ":class:", ":meth:", ":data:")


def parser_of(module: str, patch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser whose help the module's command prints."""
    seen: list[argparse.ArgumentParser] = []

    def noted(self: argparse.ArgumentParser, file: object = None) -> None:
        seen.append(self)

    patch.setattr(argparse.ArgumentParser, "print_help", noted)
    patch.setattr("sys.argv", ["reel", "--help"])
    main = importlib.import_module(module).main
    with pytest.raises(SystemExit):
        main(["--help"]) if inspect.signature(main).parameters else main()
    return seen[0]


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from options(below)
        else:
            yield action


@pytest.mark.parametrize("name", NAMES)
def test_help_explains_every_option_in_words_for_somebody_who_reads_no_code(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = parser_of({**TOOLS, **TOLD}[name][0], monkeypatch)
    for action in options(parser):
        assert action.help, f"reel {name}: {action.option_strings or action.dest} has no text"
    said = parser.format_help()
    assert parser.prog == f"reel {name}" and parser.description
    assert not [mark for mark in MARKS if mark in said]


def test_a_docstring_loses_its_marks_and_nothing_else() -> None:
    assert plain("``reel try PATH``: look (:mod:`pipelines.x`) at `a` and ``b``.") == "Look at a and b."
    assert plain("Roll it out: ``reel play --help``.\n\nMore.") == "Roll it out.\n\nMore."
    assert plain("A folder.\n\n``reel release --help``. What `x` is.") == "A folder.\n\nWhat x is."
    assert plain("By :class:`~pipelines.y.Z`: so.") == "By pipelines.y.Z: so."
    assert plain(None) == ""
