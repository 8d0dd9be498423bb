"""A DVC project as plain data: its stages, the edges between them, and which stages a few words select.

The graph comes from `dagster_dvc.resolved`. Nothing here imports dvc or dagster.
"""

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from dagster_dvc import graph
from dagster_dvc.hashing import Hashes, holds_code, sha256_of
from dagster_dvc.problem import Problem, ProjectError
from dagster_dvc.resolved import resolved

CODE_SUFFIXES = {f".{end}" for end in ("py", "pyx", "sh", "c", "cc", "cpp", "cu", "h", "yaml", "yml", "toml", "cfg")}
CODE_SUFFIXES |= {".ini", ".ipynb"}


@dataclass(frozen=True)
class Out:
    """One output of a stage; `path` is relative to the project."""

    path: str
    kind: Literal["data", "metrics", "plots"]
    cache: bool
    persist: bool


@dataclass(frozen=True)
class Stage:
    """One resolved stage. `params` maps a file to the values of the keys that the stage tracks.

    Of a file that another stage makes they are in `dagster_dvc.generated` and not here.
    """

    name: str
    file: str
    line: int
    group: str | None
    cmd: str | list[str]
    desc: str | None
    wdir: str
    deps: tuple[str, ...]
    outs: tuple[Out, ...]
    frozen: bool
    always_changed: bool
    meta: dict[str, Any] = field(hash=False)
    written: dict[str, str] = field(hash=False)
    """Every path that it reads or makes -> the same as DVC keeps it in dvc.lock, such as ``./a`` for ``a``."""
    params: dict[str, dict[str, Any]] = field(hash=False)
    param_keys: dict[str, list[str]] = field(hash=False)

    @property
    def data_outs(self) -> list[Out]:
        """Outputs that are neither metrics nor plots."""
        return [out for out in self.outs if out.kind == "data"]

    @property
    def dagster(self) -> dict[str, Any]:
        """The stage's ``meta.dagster`` block of dvc.yaml, empty when there is none."""
        block = self.meta.get("dagster") or {}
        return block if isinstance(block, dict) else {}

    @property
    def command(self) -> str:
        """The command as one text."""
        return self.cmd if isinstance(self.cmd, str) else " && ".join(self.cmd)

    def outs_of(self, kind: str) -> list[Out]:
        """The outputs of one kind: data, metrics or plots."""
        return [out for out in self.outs if out.kind == kind]


class DvcProject:
    """The project at `root` as it is now. Reads files on first use and keeps them: make a new one after an edit."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).resolve()

    @property
    def scratch(self) -> Path:
        """A folder for things that may be deleted at any time."""
        return self.root / ".dvc" / "tmp" / "dagster_dvc"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What DVC sees of the project; see `dagster_dvc.resolved`."""
        return resolved(self.root, self.scratch)

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """Every resolved stage by name, in an order in which producers come first."""
        found = {stage.name: stage for stage in map(_stage, self.manifest["stages"])}
        return {name: found[name] for name in graph.ordered(graph.producers(self.manifest["stages"]))}

    @cached_property
    def problems(self) -> list[Problem]:
        """What could not be resolved; empty in a healthy project."""
        return [Problem(**problem) for problem in self.manifest["problems"]]

    @cached_property
    def upstream(self) -> dict[str, set[str]]:
        """Stage -> the stages whose outputs it reads, as data or as a params file."""
        return graph.producers(self.manifest["stages"])

    @cached_property
    def data_upstream(self) -> dict[str, set[str]]:
        """The same by data alone: without stages that only make a params file of it."""
        return graph.producers(self.manifest["stages"], with_params=False)

    @cached_property
    def downstream(self) -> dict[str, set[str]]:
        """Stage -> the stages that read its outputs."""
        return graph.reverse(self.upstream)

    @cached_property
    def set_aside(self) -> set[str]:
        """Optional stages that never ran (:mod:`dagster_dvc.aside`): left out until they are named."""
        return self.set_aside_but(())

    def set_aside_but(self, named: Iterable[str]) -> set[str]:
        """The same where some are named, which then run with what they need."""
        from dagster_dvc.aside import set_aside

        return set_aside(self, named)

    @cached_property
    def hashes(self) -> Hashes:
        """Content hashes of files and folders, computed as DVC does."""
        return Hashes(self.root, self.scratch / "hashes.json")

    @cached_property
    def tracked_sources(self) -> dict[str, str | None]:
        """Path -> hash of what ``dvc add`` put under DVC (``.dvc`` files)."""
        return {source["path"]: source["md5"] for source in self.manifest["sources"]}

    def stage(self, name: str) -> Stage:
        """The stage called `name`, or a ProjectError that lists the near misses."""
        if name not in self.stages:
            raise ProjectError(f"dvc.yaml: no stage '{name}'{_did_you_mean(name, self.stages)}")
        return self.stages[name]

    def producer(self, path: str) -> tuple[Stage, Out] | None:
        """The stage and the output that a dependency path overlaps with, if any."""
        return next(iter(self.producers(path)), None)

    def producers(self, path: str) -> list[tuple[Stage, Out]]:
        """All stages and outputs that a dependency path overlaps with."""
        return [(stage, out) for stage in self.stages.values() for out in stage.outs if graph.overlap(path, out.path)]

    def is_code(self, path: str) -> bool:
        """Whether a dependency is code or configuration (part of the stage itself) and not data."""
        if self.producer(path) or path in self.tracked_sources:
            return False
        return Path(path).suffix in CODE_SUFFIXES or holds_code(self.root / path)

    def code_deps(self, stage: Stage) -> list[str]:
        """The stage's dependencies that are code."""
        return [dep for dep in stage.deps if self.is_code(dep)]

    def data_deps(self, stage: Stage) -> list[str]:
        """The stage's dependencies that are data: outputs of other stages, or sources."""
        return [dep for dep in stage.deps if not self.is_code(dep)]

    def identity_deps(self, stage: Stage) -> list[str]:
        """Dependencies that count as part of the stage: code, and metrics or plots of others, which are no assets."""
        return [dep for dep in stage.deps if self.is_identity(dep)]

    def is_identity(self, path: str) -> bool:
        """Whether a dependency is code, or only metrics and plots of other stages."""
        makers = self.producers(path)
        return all(out.kind != "data" for _, out in makers) if makers else self.is_code(path)

    @cached_property
    def sources(self) -> list[str]:
        """Data that some stage reads and no stage makes."""
        deps = {dep for stage in self.stages.values() for dep in self.data_deps(stage)}
        return sorted(dep for dep in deps if not self.producer(dep))

    def select(self, words: Iterable[str], exclude: Iterable[str] = (), aside: bool = False) -> list[str]:
        """Stage names for words like ``train``, ``encode@*``, ``group:generation``, ``+train``, ``train+``, ``*``.

        A plus in front adds everything upstream, a plus behind everything downstream. In graph order. What is set aside
        is chosen by its own name only, unless ``aside``.
        """
        chosen = set().union(*(self._select(word, aside) for word in words))
        dropped = set().union(*(self._select(word, True) for word in exclude))
        return [name for name in self.stages if name in chosen - dropped]

    def needed(self, words: Iterable[str]) -> list[str]:
        """The stages that some words select, with everything upstream of them."""
        return self.select(word if word.startswith("+") else f"+{word}" for word in words)

    def _select(self, word: str, with_aside: bool) -> set[str]:
        core = word.strip("+")
        if core.startswith("group:"):
            chosen = {name for name, stage in self.stages.items() if stage.dagster.get("group") == core[6:]}
        else:
            chosen = set(fnmatch.filter(self.stages, core))
        aside = set() if with_aside else self.set_aside
        aside = self.set_aside_but({core}) if core in aside else aside
        if not chosen and core != "*":
            groups = sorted(
                {f"group:{stage.dagster['group']}" for stage in self.stages.values() if "group" in stage.dagster}
            )
            raise ProjectError(
                f"nothing in dvc.yaml is selected by '{core}'{_did_you_mean(core, [*self.stages, *groups])}"
            )
        more = graph.closure(chosen, self.upstream) if word.startswith("+") else set()
        return (chosen | more | (graph.closure(chosen, self.downstream) if word.endswith("+") else set())) - aside

    def fingerprint(self) -> str:
        """Hash of everything that defines the graph and the code versions, as it is on disk now."""
        files = {file: sha256_of(self.root / file) for file in self.manifest["files"]}
        code = {dep: self.hashes.of(dep) for stage in self.stages.values() for dep in self.code_deps(stage)}
        return hashlib.sha256(json.dumps([files, code], sort_keys=True).encode()).hexdigest()


def _stage(entry: Mapping[str, Any]) -> Stage:
    values = {file: params["values"] for file, params in entry["params"].items()}
    keys = {file: params["keys"] for file, params in entry["params"].items()}
    outs = tuple(Out(**out) for out in entry["outs"])
    return Stage(**{**entry, "params": values, "param_keys": keys, "outs": outs, "deps": tuple(entry["deps"])})


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(known)}"
