"""Every public function and class of `pipelines/` serves something: a stage, a command or a documented page."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
ROOMS = ("pipelines", "assets", "dagster_project", "dagster_dvc")


def used(tree: ast.AST) -> Iterator[str]:
    """Names that a module reads: plain, of an attribute, and in words that name a place in code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"[A-Za-z_]\w*", node.value) if " " not in node.value else []


def idle(sources: dict[str, str], told: str) -> list[str]:
    """Public functions and classes of the modules that nothing else in them names, nor the words told beside."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    counts = Counter(name for tree in trees.values() for name in used(tree))
    words = set(re.findall(r"\w+", told))
    found = []
    for place, tree in trees.items():
        for node in tree.body if place.startswith("pipelines") else []:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if node.name.startswith("_") or node.name in words:
                continue
            if counts[node.name] <= sum(name == node.name for name in used(node)):
                found.append(f"{place}: {node.name}")
    return found


@pytest.mark.costly
def test_no_function_serves_tests_only() -> None:
    files = [file for room in ROOMS for file in sorted((REPO / room).rglob("*.py"))]
    pages = [REPO / "dvc.yaml", REPO / "pyproject.toml", REPO / "README.md", *(REPO / "docs").glob("*.md")]
    told = "\n".join(page.read_text() for page in pages)
    found = idle({str(file.relative_to(REPO)): file.read_text() for file in files}, told)
    assert not found, "what only tests call is taken away, with its tests, or a page says what it is for"


def test_a_function_that_is_called_by_itself_alone_is_idle() -> None:
    code = "def kept(): return 1\n\ndef lost(n): return lost(n - 1)\n\nclass Told: ...\n\nvalue = kept()\n"
    assert idle({"pipelines/a.py": code}, "the class `Told`") == ["pipelines/a.py: lost"]
