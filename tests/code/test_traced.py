"""The static analysis, proved by running: every function of ours that a stage's toy executes is among those hashed."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, ClassVar

import pytest

import pipelines
from pipelines.code.definitions import Module, read_module
from pipelines.code.source import Source
from pipelines.code.stages import identity, stage_functions
from pipelines.commands import stage_entries
from pipelines.evaluation.report import write
from pipelines.evaluation.score import score
from pipelines.footage.raw_video import make
from pipelines.generation import rectified_flow
from pipelines.latents import adversarial, decoder
from pipelines.latents.autoencoder import train as train_autoencoder
from pipelines.latents.encode import encode
from pipelines.representation.latent_mae import train as train_mae
from tests.evaluation import test_report
from tests.evaluation import toy as evaluation
from tests.footage.test_raw_video import rendered
from tests.generation.drifting import test_keypatch, test_refine
from tests.generation.test_stages import World
from tests.generation.toy import UNIFIED, anchored, keypatching, rectified, refining
from tests.generation.world_model import toy as worlds
from tests.latents import test_adversarial, test_decoder
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


SAMPLED = int(os.environ.get("MUTATIONS", "12"))
"""Functions of each stage that are changed, one at a time; MUTATIONS=100000 changes all of them."""


def mutated(code: CodeType) -> str:
    """The file of a piece of code with one change in that piece: a statement, or a condition around its result."""
    tree = ast.parse(Path(code.co_filename).read_text())
    for node in ast.walk(tree):
        first = min([getattr(node, "lineno", 0), *(d.lineno for d in getattr(node, "decorator_list", []))])
        if first != code.co_firstlineno:
            continue
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            node.body.append(ast.parse("changed = 1").body[0])
        elif isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
            node.body = changed(node.body)
        elif isinstance(node, ast.DictComp) and code.co_name == "<dictcomp>":
            node.value = changed(node.value)
        elif type(node).__name__.lower() == KINDS.get(code.co_name):
            node.elt = changed(node.elt)  # type: ignore[attr-defined]
        else:
            continue
        return ast.unparse(ast.fix_missing_locations(tree))
    raise AssertionError(f"{code}: not found in its file")


KINDS = {"<listcomp>": "listcomp", "<setcomp>": "setcomp", "<genexpr>": "generatorexp"}


def changed(value: ast.expr) -> ast.expr:
    return ast.IfExp(ast.Constant(True), value, ast.Constant("changed"))


class Mutated(Source):
    """This package with one file in another form; every other file is read once for all of them."""

    known: ClassVar[dict[str, Module | None]] = {}

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(HERE.parent)
        self.name, self.path = name, path

    def _read(self, name: str) -> Module | None:
        if name == self.name:
            return dataclasses.replace(
                read_module(name, self.path, name), path=HERE.parent / (name.replace(".", "/") + ".py")
            )
        if name not in self.known:
            self.known[name] = super()._read(name)
        return self.known[name]


def unnoticed_mutations(codes: Iterable[CodeType], functions: list[str], folder: Path) -> list[str]:
    """Pieces of code whose change leaves the identity of what some functions reach as it is."""
    folder.mkdir()
    before = identity(functions, Mutated("", folder), with_arguments=True).value
    found = []
    for code in codes:
        path = Path(code.co_filename)
        parts = path.relative_to(HERE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        (folder / path.name).write_text(mutated(code))
        if identity(functions, Mutated(name, folder / path.name), with_arguments=True).value == before:
            found.append(f"{name}:{code.co_firstlineno} {code.co_qualname}")
    return found


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


def game(root: Path) -> Callable[[], Any]:
    clips = latents.write_clips(root / "clips")
    train_autoencoder(latents.autoencoder_params(), clips, root / "ae", root / "a.json", root / "plots")
    places = root / "out", root / "m.json", root / "game"
    return lambda: adversarial.train(test_adversarial.params(), clips, root / "ae", *places)


def larger(root: Path) -> Callable[[], Any]:
    clips = latents.write_clips(root / "clips")
    large = latents.write_clips(root / "large", side=2 * latents.SIDE)
    train_autoencoder(latents.autoencoder_params(), clips, root / "ae", root / "a.json", root / "plots")
    places = root / "out", root / "m.json", root / "shown"
    return lambda: decoder.train(test_decoder.params(), clips, large, root / "ae", *places)


def refiner(root: Path) -> Callable[[], Any]:
    world = test_refine.World(root)
    return lambda: world.train(refining())


def pivot(root: Path) -> Callable[[], Any]:
    world = test_keypatch.World(root)
    return lambda: world.train(keypatching())


def played(root: Path, name: str) -> Callable[[], Any]:
    toy = worlds.Toy(root)
    if name == "world_model":
        return lambda: toy.train(worlds.params(), name)
    base, own = toy.train(worlds.params(), "world_model"), {"share": 0.5, "every": 1, "after": 0, "capacity": 16}
    return lambda: toy.train(worlds.params(name, own_errors=own), name, init=base)


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
    **{name: (lambda root: lambda: make(rendered(8), root / "clips", root / "m.json", root / "plots"))
       for name in ("raw_video", "raw_video_large")},
    "autoencoder": autoencoder,
    "latent_shards": encoded,
    **{name: (lambda root, name=name: chain(root, name)) for name in ("latent_mae", "pseudo_classes", "diagnostics")},
    "rectified_flow": lambda root: flow(root, "rectified_flow"),
    **{f"anchored_flow_{part}": (lambda root, part=part: flow(root, f"anchored_flow_{part}"))
       for part in ("identity", "motion", "unified")},
    "autoencoder_adversarial": game,
    "autoencoder_decoder": larger,
    "drifting_refiner": refiner,
    "keypatch_refiner": pivot,
    **{name: (lambda root, name=name: played(root, name)) for name in ("world_model", "world_model_autoregressive")},
    "evaluation": scored,
    "report": page,
}  # fmt: skip


@pytest.mark.costly
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
    sample = random.Random(stage).sample(sorted(functions, key=str), min(SAMPLED, len(functions)))
    unnoticed = unnoticed_mutations(sample, stage_functions(stage, entry), tmp_path / "mutated")
    assert unnoticed == []


IMPORTED = """
import importlib, json, sys
from tests.code.test_traced import executed, is_function, labels
for name in [name for name in sys.modules if name.split(".")[0] == "pipelines" and ".code" not in name]:
    del sys.modules[name]
with executed() as found:
    importlib.import_module(sys.argv[1])
print(json.dumps([sorted(labels(code)) for code in found if is_function(code)]))
"""


@pytest.mark.costly
@pytest.mark.parametrize(
    "stage",
    [
        "report",
        "raw_video",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("anchored_flow_identity", "diagnostics", "evaluation")
        ),
    ],
)
def test_what_runs_while_a_stage_is_imported_is_part_of_its_identity_too(stage: str) -> None:
    """Comprehensions in assignments that nobody reads, too: they run."""
    entry, source = stage_entries(HERE.parent / "dvc.yaml")[stage], Source(HERE.parent)
    functions = stage_functions(stage, entry)
    command = [sys.executable, "-W", "ignore", "-c", IMPORTED, functions[0].split(":")[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr
    parts = set(identity(functions, source, with_arguments=True).parts)
    ran = json.loads(done.stdout.splitlines()[-1])
    assert [names for names in ran if not set(names) & parts] == []
    assert ran or stage == "report", "its modules run nothing of their own while they are imported"
