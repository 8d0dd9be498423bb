"""What README and docs name is there: paths, links and their places, commands of `reel` with their options, targets."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dagster_project import cli, tools
from pipelines.commands import stage_entries

REPO = Path(__file__).parents[1]
PAGES = [REPO / "README.md", REPO / "dagster_dvc/README.md", *sorted((REPO / "docs").glob("*.md"))]
TOLD_AS_IT_WAS = {"history.md"}
"""Pages about earlier versions: what they name may be gone."""
ROOMS = ("pipelines", "dagster_dvc", "dagster_project", "assets", "tests", "benchmarks", "docs", "profiles", "findings")
MADE = ("data", "checkpoints", "metrics", "plots", "report")
"""Folders that stages fill: what stands there is an output of ``dvc.yaml``, or lies inside one."""
LINK = re.compile(r"\]\(([^)\s]+)\)")
"""A link of Markdown, or of a picture."""


def pages() -> list[Path]:
    return [page for page in PAGES if page.name not in TOLD_AS_IT_WAS]


def pieces(page: Path) -> Iterator[tuple[int, str]]:
    """(line, text) for every line of a block of code and everything between backticks."""
    fenced, held, after_blank = False, "", True
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or (after_blank and line.startswith("    ")):
            held += line.strip().removesuffix("\\")
            if not line.endswith("\\"):
                yield number, held
                held = ""
            continue  # what is indented goes on
        else:
            yield from ((number, found.strip()) for found in re.findall("`([^`]+)`", line))
        after_blank = not line.strip()


def commands(page: Path, program: str) -> Iterator[tuple[int, list[str]]]:
    """(line, words after the program) for every command of it on a page, up to ``#``, ``|``, ``>`` or ``&``."""
    for line, piece in pieces(page):
        for part in re.split(r"\s(?:#|\||>|&&?)(?:\s|$)", piece.removeprefix("$ ")):
            if part == program or part.startswith(f"{program} "):
                try:
                    words = shlex.split(part)
                except ValueError:  # cut off in the middle of quotes
                    words = part.split()
                yield line, words[len(program.split()) :]


def options(words: list[str]) -> list[str]:
    """The long options of a command, without what is handed to another program."""
    own = words[: words.index("--")] if "--" in words else words
    return [re.match(r"--[\w-]+", word).group() for word in own if re.match(r"--\w", word)]  # type: ignore[union-attr]


@cache
def texts(file: Path, deep: bool = True) -> frozenset[str]:
    """The texts in a module, and in those of this repository that it imports: among them are its options."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for node in ast.walk(tree) if deep else ():
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOMS:
            below = [module_file(f"{node.module}.{alias.name}") or module_file(node.module) for alias in node.names]
            found = found.union(*(texts(path, False) for path in below if path))
    return frozenset(found)


def module_file(name: str) -> Path | None:
    path = REPO.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__main__.py") if file.is_file()), None)


@cache
def reel() -> dict[str, frozenset[str]]:
    """Every command of `reel`, with its options or the texts of its module."""
    parser = cli._parser("")
    [choices] = [action.choices for action in parser._actions if action.choices]
    found = {name: frozenset(sub._option_string_actions) for name, sub in dict(choices).items()}
    for name, (module, _) in (tools.TOOLS | tools.TOLD).items():
        file = module_file(module)
        assert file is not None
        found[name] = found.get(name, frozenset()) | texts(file)
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_commands_of_reel_and_their_options_are_there(page: Path) -> None:
    wrong = []
    for line, words in commands(page, "reel"):
        name = words[0] if words else ""
        if not re.fullmatch(r"[a-z][a-z-]*", name):
            continue  # `reel …`, or a flag of its own
        if name not in reel():
            wrong.append(f"{page.name}:{line}: reel {name}")
            continue
        wrong += [f"{page.name}:{line}: reel {name} {one}" for one in options(words) if one not in reel()[name]]
    assert wrong == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_modules_that_are_run_and_targets_of_make_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    wrong = [
        f"{page.name}:{line}: make {words[0]}" for line, words in commands(page, "make") if words[0] not in targets
    ]
    for line, words in commands(page, "python -m"):
        module, rest = words[0], words[1:]
        if module.split(".")[0] not in ROOMS or "…" in module:
            continue
        if module == "benchmarks" and rest and rest[0].isidentifier():
            module, rest = f"benchmarks.{rest[0]}", rest[1:]
        file = module_file(module)
        if file is None:
            wrong.append(f"{page.name}:{line}: python -m {module}")
        elif module != "pipelines.launch":  # the rest of its words are the stage's
            wrong += [f"{page.name}:{line}: {module} {one}" for one in options(rest) if one not in texts(file)]
    assert wrong == []


def outputs() -> list[str]:
    """Where the stages of ``dvc.yaml`` write, and what they read of what nothing makes."""
    entries = stage_entries(REPO / "dvc.yaml")
    named = [
        path
        for entry in entries.values()
        for key in ("outs", "metrics", "plots", "deps")
        for path in entry.get(key, [])
    ]
    return [path if isinstance(path, str) else next(iter(path)) for path in named]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_paths_between_backticks_are_there(page: Path) -> None:
    wrong = []
    for line, piece in pieces(page):
        if not re.fullmatch(r"[\w.*/-]+", piece) or "/" not in piece:
            continue
        room = piece.split("/")[0]
        if room in (*ROOMS, ".ci") and not list(REPO.glob(piece.rstrip("/"))):
            wrong.append(f"{page.name}:{line}: {piece}")
        elif room in MADE and not any(piece.startswith(out) or out.startswith(piece.rstrip("/*")) for out in outputs()):
            wrong.append(f"{page.name}:{line}: {piece} (no stage makes it)")
    assert wrong == []


def places(page: Path) -> set[str]:
    """The anchors that a page's headings have."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    wrong = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, place = target.partition("#")
        path = (page.parent / file) if file else page
        if not path.exists() or (place and place not in places(path)):
            wrong.append(f"{page.name}: {target}")
    assert wrong == []
