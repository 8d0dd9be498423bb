"""Every number that is reported has a test with a known answer: whoever adds one is told here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METRICS = (
    *("evaluation/distances.py", "evaluation/resampling.py", "evaluation/video_metrics.py"),
    *("flow/drift_statistics.py", "footage/quality.py"),
    *("generation/drifting/measuring.py", "generation/validation.py"),
    *("generation/world_model/held_out.py", "generation/world_model/reader.py", "generation/world_model/recorded.py"),
    *("generation/world_model/staying.py", "latents/losses.py", "latents/measures.py", "latents/quality.py"),
    *("representation/agreement.py", "representation/held_out.py", "representation/kernel.py"),
    *("representation/occupancy.py", "representation/retrieval.py", "representation/separation.py"),
    *("representation/spectrum.py", "representation/spreads.py", "training/meters.py"),
)
"""Modules of :mod:`pipelines` that compute what is reported."""
NUMBERS = ("float", "Tensor", "ndarray", "Found", "Estimate", "Numbers")
"""What a function that computes something returns, in its annotation."""
BY_OTHERS = {
    (
        "flow/drift_statistics.py",
        "kernel_numbers",
    ): "test_numbers.py asks representation.kernel.per_sample, which is it",
    (
        "generation/drifting/measuring.py",
        "pooled_problems",
    ): "puts features into problems; their numbers are the drift's",
    ("generation/drifting/measuring.py", "field_numbers"): "the drift's numbers by name, of test_drift.py",
}
"""Functions whose answer another test knows, under another name."""


def computing(module: str) -> Iterator[str]:
    """Public functions of a module that return numbers."""
    for node in ast.parse((ROOT / "pipelines" / module).read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            told = ast.unparse(node.returns) if node.returns is not None else ""
            if any(word in told for word in NUMBERS):
                yield node.name


def imported() -> set[tuple[str, str]]:
    """(module, name) of all that the tests take from modules of metrics: by name, or as ``module.name``."""
    found: set[tuple[str, str]] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text())
        aliases: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipelines."):
                place = str(node.module).removeprefix("pipelines.").replace(".", "/")
                for alias in node.names:
                    found.add((f"{place}.py", alias.name))
                    aliases[alias.asname or alias.name] = f"{place}/{alias.name}.py"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
                found.add((aliases[node.value.id], node.attr))
    return found


@pytest.fixture(scope="module")
def known() -> set[tuple[str, str]]:
    return imported()


@pytest.mark.parametrize("module", METRICS)
def test_every_function_that_computes_a_number_is_asked_by_a_test(module: str, known: set[tuple[str, str]]) -> None:
    names = list(computing(module))
    left = [name for name in names if (module, name) not in known and (module, name) not in BY_OTHERS]
    assert not left, f"pipelines/{module}: no test knows the answer of {', '.join(left)}"
