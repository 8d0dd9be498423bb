"""The rules of the house, held over the source: the graph, the layout, who may import whom."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipelines import entries
from pipelines.code.stages import identities

ROOT = Path(__file__).parents[1]
ROOMS = ("footage", "latents", "representation", "generation", "evaluation")
SNAPSHOT = Path(__file__).with_name("lineage.txt").read_text()
"""The graph that was agreed: a change of lineage shows in review as a change of this file."""


@cache
def stages() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def launched() -> list[str]:
    """The stages that run a function of ours: all but `code`, which says of each what it is made of."""
    return [name for name in stages() if name != "code"]


def names(entries: list) -> list[str]:
    """Paths of outs, metrics or plots, with or without options."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def made(stage: dict) -> list[str]:
    return [path for kind in ("outs", "metrics", "plots") for path in names(stage.get(kind, []))]


def sources(package: str) -> list[Path]:
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "__pycache__" not in path.parts]


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere, functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[Path]:
    """Files of pipelines/ that a file imports."""
    found = set()
    for module in imported(path):
        if module.split(".")[0] == "pipelines":
            base = ROOT / Path(*module.split("."))
            found |= {candidate for candidate in (base.with_suffix(".py"), base / "__init__.py") if candidate.is_file()}
    return found


def rank(path: Path) -> str:
    """The room or row of a file of pipelines/; what reads the code, what starts stages, and what tells
    facts in the words of standards, belong to the root.
    """
    inside = path.relative_to(ROOT / "pipelines").parts
    return inside[0] if len(inside) > 1 and inside[0] not in ("code", "kubernetes", "slurm", "standards") else "row0"


# ---- the graph ----------------------------------------------------------------------------------------------------


def test_the_graph_is_the_one_that_was_agreed() -> None:
    maker = {path: name for name, stage in stages().items() for path in made(stage)}
    lines = []
    for name, stage in stages().items():
        inside = {dep: f"{dep}/" for dep in stage.get("deps", [])}
        read = {path for path in maker for dep in inside if path == dep or path.startswith(inside[dep])}
        upstream = sorted({maker[path] for path in read})
        lines.append(f"{name} <- {', '.join(upstream)}" if upstream else name)
    assert "\n".join(lines) + "\n" == SNAPSHOT


def test_what_reel_check_says_of_entries_sections_and_their_classes_is_nothing() -> None:
    """The rules themselves, and what each says when it is broken: tests/test_entries.py."""
    assert entries.everything(ROOT) == []


@pytest.mark.costly
def test_the_stage_that_hashes_the_code_depends_on_all_of_it_and_on_the_graph() -> None:
    code = stages()["code"]
    assert code["deps"] == ["pipelines", "graph.yaml"] and code["outs"] == ["code.json"]
    assert (ROOT / "graph.yaml").readlink() == Path("dvc.yaml")
    assert set(identities(ROOT)) == set(launched())


def test_params_and_graph_name_the_same_sections() -> None:
    sections = set(yaml.safe_load((ROOT / "params.yaml").read_text()))
    assert sections == set(launched()) | {"tracking"}


# ---- who may import whom ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sources("pipelines"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    here = rank(path)
    others = {rank(found) for found in ours(path)} - {here, "row0"}
    allowed = {
        "row0": set(),
        "flow": set(),
        "models": {"flow"},
        "data": {"flow", "models"},
        "training": {"flow", "models"},
    }
    for room in ROOMS:
        allowed[room] = {"flow", "models", "data", "training"}
    assert others <= allowed[here], f"{path.relative_to(ROOT)} may not import from {sorted(others - allowed[here])}"


@pytest.mark.costly
def test_science_knows_no_platform_and_the_platform_no_science() -> None:
    banned = {
        "pipelines": {"dagster", "dvc", "assets", "dagster_dvc", "dagster_project"},
        "dagster_dvc": {"pipelines", "assets", "dagster_project", "torch"},
        "assets": {"pipelines", "dagster_project", "torch"},
        "dagster_project": {"pipelines", "torch"},
    }
    for package, names_banned in banned.items():
        for path in sources(package):
            used = {module.split(".")[0] for module in imported(path)} & names_banned
            assert not used, f"{path.relative_to(ROOT)} imports {sorted(used)}"


def test_only_one_module_imports_dvc() -> None:
    users = [path for path in sources("dagster_dvc") if any(m.split(".")[0] == "dvc" for m in imported(path))]
    assert [path.name for path in users] == ["manifest.py"]


@pytest.mark.costly
def test_the_code_location_loads_without_torch() -> None:
    heavy = "{'torch', 'dvc', 'diffusers', 'wandb'}"
    code = f"import sys, dagster_project.definitions; print(sorted({heavy} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.costly
def test_the_convention_for_time_is_written_once() -> None:
    pattern = re.compile(r"\bnoise\s*-\s*latents\b")
    users = [path for path in sources("pipelines") if pattern.search(strip_docs(path))]
    assert [path.relative_to(ROOT).as_posix() for path in users] == ["pipelines/flow/path.py"]


def strip_docs(path: Path) -> str:
    """A file's code without docstrings and comments."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = ""
    return ast.unparse(tree)


# ---- sizes, words, safety -----------------------------------------------------------------------------------------

PACKAGES = ("pipelines", "dagster_dvc", "assets", "dagster_project")


@pytest.mark.parametrize(
    "path", [p for package in PACKAGES for p in sources(package)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300, "make it a package"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


def test_no_file_is_named_for_nothing() -> None:
    banned = {"utils.py", "helpers.py", "common.py", "base.py", "core.py", "misc.py"}
    found = [path for package in PACKAGES for path in sources(package) if path.name in banned]
    assert not found


@pytest.mark.costly
def test_nothing_is_pickled_and_no_shell_is_built() -> None:
    pattern = re.compile(r"\bpickle\b|torch\.load\(|allow_pickle=True|shell=True|os\.system\(|\beval\(|\bexec\(")
    for package in PACKAGES:
        for path in sources(package):
            assert not pattern.search(re.sub(r"\.eval\(\)", "", strip_docs(path))), path.relative_to(ROOT)


@pytest.mark.costly
def test_every_public_function_says_what_it_does() -> None:
    missing = []
    for package in PACKAGES:
        for path in sources(package):
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} has no docstring"
            for node in tree.body:
                public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
                if public and not ast.get_docstring(node):
                    missing.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not missing, "\n".join(missing)


@pytest.mark.costly
def test_every_figure_is_made_where_text_is_drawn_as_it_is_written() -> None:
    """Elsewhere a caption with two ``$`` in it would end a stage after all its work, and a logarithmic axis of
    matplotlib's own has formulas for numbers, which are drawn as they are written.
    """
    for path in sources("pipelines"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        made = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Figure"]
        assert path.name == "drawing.py" or not made, f"{path}: use pipelines.drawing.new_figure"
        assert "matplotlib.pyplot" not in imported(path), f"{path}: use pipelines.drawing.new_figure"
        words = {word.arg for call in calls for word in call.keywords}
        asked = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)} | words
        scales = {"xscale", "yscale", "set_xscale", "set_yscale", "loglog", "semilogx", "semilogy"}
        assert path.name == "drawing.py" or not asked & scales, f"{path}: use pipelines.drawing.logarithmic"


def test_a_name_is_given_to_few_classes() -> None:
    """A reader of one must not think of another: at most two of a name, but for the engines that do the same thing."""
    places: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sources(package):
            named = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
            for name in named if path.parent.name not in ("slurm", "kubernetes") else ():
                places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 2} == {}
    assert [name for name in ("Stage", "Reader", "Source", "Target") if len(places[name]) > 1] == []
