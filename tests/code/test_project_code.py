"""The identity of this project's own stages: no edit that changes nothing trains anything again."""

from __future__ import annotations

import ast
import io
import shutil
import tokenize
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.code.stages import content, identities, parts_of

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "pipelines").rglob("*.py"))


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return {name: one.value for name, one in identities(ROOT).items()}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    return tmp_path


def values(root: Path) -> dict[str, str]:
    return {name: one.value for name, one in identities(root).items()}


def commented(text: str) -> str:
    """A comment behind every line that can take one."""
    ends = {t.start[0] for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.NEWLINE}
    lines = text.splitlines()
    return "\n".join(f"{line}  # edited" if n in ends else line for n, line in enumerate(lines, 1)) + "\n# end\n"


def documented(text: str) -> str:
    """Another docstring everywhere: module, classes, functions."""
    tree = ast.parse(text)
    reads_it = any(isinstance(node, ast.Name) and node.id == "__doc__" for node in ast.walk(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) or (isinstance(node, ast.Module) and not reads_it):
            said = ast.get_docstring(node) is not None
            node.body = [ast.Expr(ast.Constant("Edited.")), *node.body[int(said) :]]
    return ast.unparse(ast.fix_missing_locations(tree))


@pytest.mark.costly
@pytest.mark.parametrize("edit", [commented, documented, lambda text: ast.unparse(ast.parse(text))])
def test_comments_docstrings_and_formatting_of_all_files_change_no_stage(
    before: dict[str, str], copy: Path, edit: Callable[[str], str]
) -> None:
    for name in FILES:
        text = (copy / name).read_text()
        (copy / name).write_text(edit(text))
        assert (copy / name).read_text() != text or not text.strip() or edit.__name__ == "<lambda>"
    assert values(copy) == before


@pytest.mark.costly
def test_a_style_sheet_makes_only_the_page_anew(before: dict[str, str], copy: Path) -> None:
    for path in [*(copy / "pipelines").rglob("*.css"), *(copy / "pipelines").rglob("*.js")]:
        path.write_text(path.read_text() + "/* edited */\n")
    after = values(copy)
    assert {name for name in before if before[name] != after[name]} == {"report"}


@pytest.mark.costly
def test_an_edit_touches_the_stages_that_reach_it(before: dict[str, str], copy: Path) -> None:
    path = copy / "pipelines/flow/path.py"
    assert "noise - latents" in path.read_text()
    path.write_text(path.read_text().replace("noise - latents", "latents - noise"))
    after = values(copy)
    changed = {name for name in before if before[name] != after[name]}
    assert "rectified_flow" in changed and not changed & {"raw_video", "autoencoder", "latent_shards", "report"}


@pytest.mark.costly
def test_a_stage_of_ones_own_changes_no_other(before: dict[str, str], copy: Path) -> None:
    (copy / "pipelines/generation/own.py").write_text(
        '"""Own."""\nfrom pathlib import Path\n\nfrom pipelines.generation.own_params import OwnParams\n\n\n'
        'def train(params: OwnParams, out: Path) -> None:\n    """Train."""\n    out.mkdir()\n'
    )
    (copy / "pipelines/generation/own_params.py").write_text(
        '"""Own."""\nfrom pipelines.params import Params\n\n\nclass OwnParams(Params):\n    """Own."""\n\n    x: int\n'
    )
    entry = (
        "\n  own:\n"
        "    cmd: python -m pipelines.launch pipelines.generation.own train --params own --out checkpoints/own\n"
        "    params: [own, {code.json: [own]}]\n    outs: [checkpoints/own]\n"
    )
    (copy / "dvc.yaml").write_text((copy / "dvc.yaml").read_text() + entry)
    after = values(copy)
    assert after.pop("own") and after == before


def test_code_json_says_of_every_stage_what_it_reaches() -> None:
    found = identities(ROOT)
    held = content(found)
    for name, one in found.items():
        assert held[name] == one.value and parts_of(held, name) == one.parts
    assert "flow/path.py velocity" in found["rectified_flow"].parts
    assert "training/loop.py Trainer" in found["latent_mae"].parts
