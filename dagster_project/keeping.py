"""`reel keep`: from which autoencoder latents are made. One command, because every stage that decodes names it too.

Places are literal in dvc.yaml, so the one that is kept is a path in the commands and dependencies of several stages.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dagster_dvc.problem import ProjectError

if TYPE_CHECKING:
    from dagster_dvc.project import DvcProject, Stage

ENCODES = "latent_shards"
"""The stage whose ``--autoencoder`` is the one that is kept."""
TAKES, GOES_ON_FROM, MAKES, NUMBERS = "--autoencoder", "--init", "--out", "--metrics"


def add_words(sub: argparse.ArgumentParser) -> None:
    """The words of the command."""
    sub.add_argument("stage", nargs="?", help="that makes the autoencoder; without, the ones there are")


def flag(stage: Stage, name: str) -> str | None:
    """The path behind a flag of a stage's command."""
    words = stage.cmd.split() if isinstance(stage.cmd, str) else []
    return words[words.index(name) + 1] if name in words[:-1] else None


class Chain(NamedTuple):
    """The stages that make autoencoders, each going on from another's, in the order of dvc.yaml; one is kept."""

    stages: dict[str, str]
    kept: str

    @classmethod
    def of(cls, project: DvcProject) -> Chain:
        """The chain of a project.

        Raises:
            ProjectError: no stage encodes, or what it encodes with is made by no stage.
        """
        path = flag(project.stage(ENCODES), TAKES)
        makers = {out: name for name, stage in project.stages.items() if (out := flag(stage, MAKES)) is not None}
        if path is None or path not in makers:
            raise ProjectError(
                f"dvc.yaml: {ENCODES}: {TAKES} {path} is the output of no stage; nothing to choose from."
            )
        root = makers[path]
        while (parent := makers.get(flag(project.stages[root], GOES_ON_FROM) or "")) is not None:
            root = parent
        found = {root: flag(project.stages[root], MAKES) or ""}
        for name, stage in project.stages.items():  # producers come first
            if makers.get(flag(stage, GOES_ON_FROM) or "") in found:
                found[name] = flag(stage, MAKES) or ""
        lines = {name: project.stages[name].line for name in found}
        return cls(dict(sorted(found.items(), key=lambda one: lines[one[0]])), makers[path])

    def switched(self, project: DvcProject, stage: str) -> list[str]:
        """Stages that are to read the autoencoder of ``stage`` in place of the kept one.

        That is whoever encodes, decodes or looks at it, and of the chain what stands after ``stage``: a decoder's
        training goes on from what is kept.
        """
        from dagster_dvc import graph

        order, path = list(self.stages), self.stages[self.kept]
        before = {*graph.closure([stage], project.upstream), *order[: order.index(stage)]}
        return [name for name, one in project.stages.items() if name not in before and path in one.deps]


def exchanged(text: str, stages: list[str], old: str, new: str) -> str:
    """The text of dvc.yaml in which these stages name another path; nothing else changes.

    Raises:
        ProjectError: it is written in a way that cannot be changed here.
    """
    from dagster_dvc.yaml12 import load

    lines, inside, path = text.split("\n"), False, re.compile(rf"(?<![\w./-]){re.escape(old)}(?![\w-])")
    for number, line in enumerate(lines):
        name = re.match(r"  ([\w-]+):", line)
        inside = name[1] in stages if name else inside and not re.match(r"\S", line)
        if inside:
            lines[number] = path.sub(new, line)
    made = "\n".join(lines)
    before, after = load(text), load(made)
    if _but_places(before, stages) != _but_places(after, stages) or before == after:
        raise ProjectError(f"dvc.yaml: cannot be changed here; write {new} for {old} in {', '.join(stages)} by hand.")
    return made


def _but_places(content: Mapping[str, Any], stages: list[str]) -> dict[str, Any]:
    """What an exchange of paths must leave as it is."""
    found = content["stages"]
    kept = {name: {k: v for k, v in found[name].items() if k not in ("cmd", "deps")} for name in stages}
    return {**content, "stages": {**found, **kept}}


def keep(project: DvcProject, arguments: argparse.Namespace) -> int:
    """Make the autoencoder of a stage the one that latents are made from, or say which there are."""
    from dagster_dvc.project import DvcProject

    chain, stage = Chain.of(project), arguments.stage
    if stage is None:
        print("\n".join(_told(project, name, name == chain.kept) for name in chain.stages))
        return 0
    if stage not in chain.stages:
        there = ", ".join(chain.stages)
        print(f"reel keep: {stage} makes no autoencoder of this chain; there are {there}.", file=sys.stderr)
        return 1
    if stage == chain.kept:
        print(f"{stage} is kept already.")
        return 0
    old, new = chain.stages[chain.kept], chain.stages[stage]
    readers = chain.switched(project, stage)
    file = project.root / "dvc.yaml"
    made = exchanged(file.read_text(encoding="utf-8"), readers, old, new)
    part = file.with_name(".dvc.yaml.part")
    part.write_text(made, encoding="utf-8")
    part.replace(file)
    print(_told(DvcProject(project.root), stage, True))
    print(f"dvc.yaml: {', '.join(readers)} read {new}.\nNext: reel plan")
    return 0


def _told(project: DvcProject, name: str, kept: bool) -> str:
    """One line of an autoencoder: whether it is kept, its PSNR, and its gates."""
    import json  # here: no other command waits for it

    start = f"{'kept' if kept else '':4}  {name}"
    try:
        numbers = json.loads((project.root / Path(flag(project.stages[name], NUMBERS) or "")).read_text("utf-8"))
    except (OSError, ValueError):
        return f"{start}  never run"
    psnr = f"  psnr {numbers['psnr']:.2f}" if "psnr" in numbers else ""
    gates = [f"[{gate['name']} {gate['verdict']}]" for gate in numbers.get("gates", ())]
    failed = any("fail" in gate for gate in gates)
    return start + psnr + "".join(f"  {gate}" for gate in gates) + ("  a gate failed: keep another" if failed else "")
