"""Variants of params.yaml: ``SECTION.KEY=a,b`` and training seeds as a list of edits, one for every run.

A run is a variant with a seed. The first value of every assignment is the baseline. Seeds are moved in the named stages
and in what is trained after them on the way to the stage whose numbers are compared; everything before them keeps its
seed, so that DVC's run cache has it.
"""

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from dagster_dvc import graph
from dagster_dvc.project import DvcProject, ProjectError

PARAMS = "params.yaml"
SEEDS = ("training.seed", "seed")
"""Where a section keeps the seed of its training: the first of these that it has."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One variant with one seed: `edits` are the values of params.yaml that differ from the project's."""

    variant: str
    seed: int
    edits: tuple[tuple[Key, Any], ...]

    @property
    def name(self) -> str:
        """``rectified_flow.draw.shift=3 seed+1``: the seed as its distance from the project's own."""
        return f"{self.variant} seed+{self.seed}"

    @property
    def folder(self) -> str:
        """A folder name that stands for exactly these edits."""
        told = json.dumps([[".".join(key), value] for key, value in self.edits], sort_keys=True, default=str)
        readable = re.sub(r"[^\w.=-]+", "_", self.name)[:60]
        return f"{readable}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Ablation:
    """Every run, the variants in order (the baseline first), and the stages whose numbers are compared."""

    runs: tuple[Run, ...]
    variants: tuple[str, ...]
    seeded: tuple[str, ...]
    goals: tuple[str, ...]


def planned(project: DvcProject, words: Sequence[str], seeds: int, until: Sequence[str]) -> Ablation:
    """The runs that some words ask for: stages, and ``SECTION.KEY=a,b`` (several: every combination).

    Raises:
        ProjectError: a word that is neither, a key that params.yaml lacks, or seeds where nothing has a seed.
    """
    if seeds < 1:
        raise ProjectError(f"reel ablate: --seeds {seeds}: at least one")
    document = read_params(project.root)
    axes = [_axis(document, word) for word in words if "=" in word]
    named = set(project.select(word for word in words if "=" not in word))
    readers = {stage for key, _ in axes for stage in _readers(project, key)}
    touched = named | readers
    goals = project.select(until) if until else [name for name in project.stages if name in touched]
    moved = _seeded(project, document, touched, goals)
    if seeds > 1 and not moved:
        raise ProjectError(
            f"reel ablate: --seeds {seeds}: none of {', '.join(sorted(touched))} has a seed "
            f"({' or '.join(SEEDS)} in its section of {PARAMS})"
        )
    combinations = list(itertools.product(*[[(key, text, value) for text, value in values] for key, values in axes]))
    runs, variants = [], []
    for chosen in combinations:
        variant = ", ".join(f"{'.'.join(key)}={text}" for key, text, _ in chosen) or "as params.yaml"
        variants.append(variant)
        for seed in range(seeds):
            own = {key: _at(document, key) + seed for key in moved.values()}
            own |= {key: value for key, _, value in chosen}
            runs.append(Run(variant, seed, tuple(sorted(own.items()))))
    return Ablation(tuple(runs), tuple(variants), tuple(moved), tuple(goals))


def read_params(root: Path) -> Any:
    """params.yaml as DVC reads it (YAML 1.2), with its comments."""
    try:
        return YAML().load((root / PARAMS).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ProjectError(f"{PARAMS}: cannot be read: {error.strerror}") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ProjectError(f"{PARAMS}{line}: not readable as YAML: {getattr(error, 'problem', error)}") from None


def write_params(root: Path, target: Path, edits: Iterable[tuple[Key, Any]]) -> None:
    """The project's params.yaml with these edits, comments kept."""
    document = read_params(root)
    for key, value in edits:
        _at(document, key[:-1])[key[-1]] = value
    with target.open("w", encoding="utf-8") as stream:
        writer = YAML()
        writer.Representer = _Representer
        writer.width = 4096
        writer.dump(document, stream)


class _Representer(RoundTripRepresenter):
    """Floats that YAML 1.1 and 1.2 both read as numbers: 1.0e-09, for 1e-09 is a word in 1.1."""


def _float(representer: RoundTripRepresenter, value: float) -> Any:
    digits, exponent, power = repr(value).partition("e")
    special = {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(digits)
    text = special or (digits if "." in digits else f"{digits}.0") + exponent + power
    return representer.represent_scalar("tag:yaml.org,2002:float", text)


_Representer.add_representer(float, _float)


def _axis(document: Any, word: str) -> tuple[Key, list[tuple[str, Any]]]:
    """``a.b=1,2`` as the key and its values, each with the text that named it."""
    name, _, text = word.partition("=")
    key = tuple(name.strip().split("."))
    _at(document, key)
    texts = _split(text)
    if not all(texts):
        raise ProjectError(f"reel ablate: {word}: an empty value; write {name}=A,B")
    if len(set(texts)) < len(texts):
        raise ProjectError(f"reel ablate: {word}: the same value twice")
    try:
        return key, [(value, YAML(typ="safe").load(value)) for value in texts]
    except YAMLError as error:
        raise ProjectError(f"reel ablate: {word}: not readable as YAML: {getattr(error, 'problem', error)}") from None


def _split(text: str) -> list[str]:
    """At the commas that stand in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += (letter in "[{") - (letter in "]}") if not quote else 0
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _at(document: Any, key: Key) -> Any:
    """The value at a key.

    Raises:
        ProjectError: params.yaml has no such key; the names that are near.
    """
    here = document
    for depth, name in enumerate(key):
        if not isinstance(here, Mapping) or name not in here:
            known = [str(other) for other in here] if isinstance(here, Mapping) else []
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = (
                f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}" if known else "it has no keys"
            )
            where = ".".join(key[:depth]) or PARAMS
            raise ProjectError(f"{PARAMS}: no key {'.'.join(key)}: {where} has no '{name}'; {hint}")
        here = here[name]
    return here


def _readers(project: DvcProject, key: Key) -> list[str]:
    """The stages that track a key, whole or in part."""
    found = [
        name
        for name, stage in project.stages.items()
        if any(_overlap(key, tuple(kept.split("."))) for kept in stage.param_keys.get(PARAMS, []))
    ]
    if not found:
        raise ProjectError(f"reel ablate: {'.'.join(key)}: no stage in dvc.yaml reads it, so nothing would change")
    return found


def _overlap(one: Key, other: Key) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _seeded(project: DvcProject, document: Any, touched: set[str], goals: Sequence[str]) -> dict[str, Key]:
    """Stage -> key of its seed: the touched stages, and those between them and the goals."""
    after = touched | graph.closure(touched, project.downstream)
    before = set(goals) | graph.closure(set(goals), project.upstream)
    found: dict[str, Key] = {}
    for name in project.stages:
        if name in touched or name in after & before:
            sections = [tuple(kept.split(".")) for kept in project.stages[name].param_keys.get(PARAMS, [])]
            keys = [(*section, *seed.split(".")) for section in sections for seed in SEEDS]
            seeds = [key for key in keys if _is_seed(document, key)]
            found |= {name: seeds[0]} if seeds else {}
    return found


def _is_seed(document: Any, key: Key) -> bool:
    try:
        value = _at(document, key)
    except ProjectError:
        return False
    return isinstance(value, int) and not isinstance(value, bool)
