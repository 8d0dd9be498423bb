"""The static analysis, proved by running: every function of ours that a stage's toy executes is among those hashed."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import pipelines
from pipelines.code.reach import Source
from pipelines.code.stages import identity, stage_functions
from pipelines.commands import stage_entries
from pipelines.evaluation.report import write
from pipelines.evaluation.score import score
from pipelines.footage.raw_video import make
from pipelines.generation import rectified_flow
from pipelines.latents.autoencoder import train as train_autoencoder
from pipelines.latents.encode import encode
from pipelines.representation.latent_mae import train as train_mae
from tests.evaluation import test_report
from tests.evaluation import toy as evaluation
from tests.footage.test_raw_video import rendered
from tests.generation.test_stages import World
from tests.generation.toy import UNIFIED, anchored, rectified
from tests.latents import toy as latents
from tests.representation import toy as representation
from tests.representation.test_stages import Chain

HERE = Path(pipelines.__file__).parent


@contextlib.contextmanager
def executed() -> Iterator[set[CodeType]]:
    """Code of ours that runs inside the block, in all threads of this process."""
    found: set[CodeType] = set()

    def see(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(HERE)):
            found.add(frame.f_code)

    threading.setprofile(see)
    sys.setprofile(see)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@cache
def places(file: str) -> list[tuple[int, int, list[str]]]:
    """First and last line, and names, of the statements of a module."""
    found = []
    for node in ast.parse(Path(file).read_text()).body:
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
        names = names or [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        found.append((first, node.end_lineno or node.lineno, names))
    return found


def labels(code: CodeType) -> set[str]:
    """What a piece of code may be called in an identity: the definitions at its line."""
    place = Path(code.co_filename).relative_to(HERE).as_posix()
    lines = places(code.co_filename)
    return {f"{place} {name}" for first, last, names in lines if first <= code.co_firstlineno <= last for name in names}


def is_function(code: CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_OPTIMIZED)


def encoded(root: Path) -> Callable[[], Any]:
    clips = latents.write_clips(root / "clips")
    train_autoencoder(latents.autoencoder_params(), clips, root / "ae", root / "a.json", root / "plots")
    return lambda: encode(latents.shards_params(), clips, root / "ae", root / "latents", root / "m.json", root / "p")


def chain(root: Path, name: str) -> Callable[[], Any]:
    made = Chain(root)
    decoder = representation.autoencoder(made.autoencoder)
    representation.latents(made.latents, decoder)

    def mae() -> Any:
        train_mae(representation.mae_params(), made.latents, made.mae, *made.files("mae"))

    if name == "latent_mae":
        return mae
    mae()
    if name == "pseudo_classes":
        return made.cluster
    made.cluster()
    return made.diagnose


def flow(root: Path, name: str) -> Callable[[], Any]:
    world = World(root)
    if name == "rectified_flow":
        return lambda: rectified_flow.train(rectified(), world.latents, **world.places("flow"))
    if name == "anchored_flow_identity":
        return lambda: world.anchored(anchored(), "identity")
    if name == "anchored_flow_motion":
        init = world.anchored(anchored(), "identity")
        return lambda: world.anchored(anchored("motion"), "motion", init)
    return lambda: world.anchored(anchored(**UNIFIED), "unified")


def page(root: Path) -> Callable[[], Any]:
    folder = test_report.project(root)
    places = [folder / name for name in ("dvc.yaml", "metrics", "plots", "data/evaluation", "report")]
    return lambda: write(test_report.PARAMS, *places)


def scored(root: Path) -> Callable[[], Any]:
    paths = evaluation.world(root)
    return lambda: score(evaluation.params(), **paths)


def autoencoder(root: Path) -> Callable[[], Any]:
    clips = latents.write_clips(root / "clips")
    return lambda: train_autoencoder(latents.autoencoder_params(), clips, root / "ae", root / "a.json", root / "plots")


TOYS: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "raw_video": lambda root: lambda: make(rendered(8), root / "clips", root / "m.json", root / "plots"),
    "autoencoder": autoencoder,
    "latent_shards": encoded,
    **{name: (lambda root, name=name: chain(root, name)) for name in ("latent_mae", "pseudo_classes", "diagnostics")},
    "rectified_flow": lambda root: flow(root, "rectified_flow"),
    **{f"anchored_flow_{part}": (lambda root, part=part: flow(root, f"anchored_flow_{part}"))
       for part in ("identity", "motion", "unified")},
    "evaluation": scored,
    "report": page,
}  # fmt: skip


@pytest.mark.parametrize("stage", [name for name in stage_entries(HERE.parent / "dvc.yaml") if name != "code"])
def test_every_function_that_a_stage_executes_is_part_of_its_identity(stage: str, tmp_path: Path) -> None:
    entry, source = stage_entries(HERE.parent / "dvc.yaml")[stage], Source(HERE.parent)
    toy = TOYS[stage](tmp_path)
    with executed() as found:
        toy()
    functions = [code for code in found if is_function(code)]
    parts = set(identity(stage_functions(stage, entry), source, with_arguments=True).parts)
    missing = {min(labels(code)) for code in functions if not labels(code) & parts}
    assert len(functions) > 10 and not missing


IMPORTED = """
import importlib, json, sys
from tests.code.test_traced import executed, is_function, labels
for name in [name for name in sys.modules if name.split(".")[0] == "pipelines" and ".code" not in name]:
    del sys.modules[name]
with executed() as found:
    importlib.import_module(sys.argv[1])
ran = [(sorted(labels(code)), code.co_name[0] == "<") for code in found if is_function(code)]
print(json.dumps(ran))
"""


@pytest.mark.parametrize("stage", ["report", "raw_video", "anchored_flow_identity"])
def test_what_runs_while_a_stage_is_imported_is_part_of_its_identity_too(stage: str) -> None:
    entry, source = stage_entries(HERE.parent / "dvc.yaml")[stage], Source(HERE.parent)
    functions = stage_functions(stage, entry)
    command = [sys.executable, "-W", "ignore", "-c", IMPORTED, functions[0].split(":")[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr
    parts = set(identity(functions, source, with_arguments=True).parts)
    ran = json.loads(done.stdout.splitlines()[-1])
    counted = [bool(set(names) & parts) for names, _ in ran]
    functions_left_out = [
        names for (names, in_assignment), known in zip(ran, counted, strict=True) if not known and not in_assignment
    ]
    assert functions_left_out == [], "a comprehension belongs to its name, and counts where that is read; others run"
    assert any(counted) or stage == "report", "its modules run nothing of their own while they are imported"
