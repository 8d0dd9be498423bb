"""`reel compare A B …`: experiments, revisions, folders or checkpoints in one table, with a verdict per number."""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_dvc.problem import ProjectError

if TYPE_CHECKING:
    from dagster_dvc.project import DvcProject

FOLDER = Path(".work") / "compare"
REPRESENTATION = "representation"
TEXT = "Experiments, revisions, folders or checkpoints in one table, with a verdict per number."


def add_words(sub: argparse.ArgumentParser) -> None:
    """The words of the command."""
    sub.add_argument(
        "sides",
        nargs="*",
        metavar="SIDE",
        help="a checkpoint, a project's folder (. is this one), a revision, a DVC experiment; A1,A2,A3: one side that "
        "was trained with several seeds; the word representation first: classes and encoders",
    )
    sub.add_argument("--until", nargs="+", default=[], metavar="STAGE", help="compare the numbers of these stages")
    sub.add_argument("--metric", nargs="+", default=[], metavar="PATTERN", help="numbers to compare (the headline)")
    sub.add_argument("--higher", nargs="+", default=[], metavar="PATTERN", help="numbers of which more is better")
    sub.add_argument("--lower", nargs="+", default=[], metavar="PATTERN", help="numbers of which less is better")
    sub.add_argument("--out", type=Path, help=f"folder for the page and the table ({FOLDER}/…)")
    only = sub.add_argument_group("of a representation")
    only.add_argument("--encoders", action="store_true", help="compare encoder choices on the current latents")
    only.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FOLDER", help="one more encoder")
    only.add_argument("--sigmas", type=float, default=2.0, help="noise that a difference must exceed (2)")


def compare(project: DvcProject, arguments: argparse.Namespace) -> int:
    """The table and the page; the first side is the baseline."""
    if arguments.sides[:1] == [REPRESENTATION]:
        return _representation(project, arguments)
    if len(arguments.sides) < 2 or len(set(arguments.sides)) < len(arguments.sides):
        raise ProjectError("reel compare: name two or more different sides, the baseline first")
    import tempfile  # here: no other command waits for it

    from dagster_project import ablation, compare_page, sides  # here: no other command waits for them

    with tempfile.TemporaryDirectory(prefix="reel-compare-") as place:
        given = {
            label: [sides.read_member(name, project, Path(place), arguments.until) for name in word.split(",")]
            for label, word in zip(_labels(arguments.sides), arguments.sides, strict=True)
        }
        values: ablation.Values = {}
        for side, name, seed, value in sides.by_seed(given):
            values.setdefault(side, {}).setdefault(name, {})[seed] = value
        names = _chosen(given, values, arguments.metric)
        better = ablation.directions(project, names, arguments.higher, arguments.lower)
        judged = ablation.verdicts(values, names, better)
        _by_prompts(given, judged, better)
        text = ablation.table(values, names, judged)
        out = arguments.out or FOLDER / "_".join(re.sub(r"\W+", "-", word)[:60] for word in arguments.sides)
        page = compare_page.write(project.root / out, given, values, names, judged)
    print(f"{text}\n\n{page}")
    return 0


def _labels(words: Sequence[str]) -> list[str]:
    """What sides are called: one of several members by how their names begin, where that tells sides apart."""
    shared = [_beginning(word.split(",")).rstrip("_-/.=") for word in words]
    told = [f"{one} ({word.count(',') + 1})" if "," in word else word for one, word in zip(shared, words, strict=True)]
    return told if all(shared) and len(set(told)) == len(words) else list(words)


def _beginning(names: Sequence[str]) -> str:
    """The letters with which all names begin."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same)


def _chosen(given: Mapping[str, Sequence], values: Mapping[str, Mapping], patterns: Sequence[str]) -> list[str]:
    """Numbers to compare that two sides have: those of the patterns, else what either side calls its headline."""
    counts = [name for told in values.values() for name in told]
    shared = [name for name in dict.fromkeys(counts) if counts.count(name) > 1]
    if not shared:
        raise ProjectError("reel compare: the sides have no number in common")
    if patterns:
        chosen = [name for name in shared if any(_matches(name, pattern) for pattern in patterns)]
        if not chosen:
            there = ", ".join(shared)
            raise ProjectError(f"reel compare: no number is called {' or '.join(patterns)}; there are {there}")
        return chosen
    heads = dict.fromkeys(name for members in given.values() for member in members for name in member.headline)
    return [name for name in heads if name in shared] or shared


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.partition(":")[2], pattern)


def _by_prompts(given: Mapping[str, Sequence], judged: dict, better: Mapping[str, str]) -> None:
    """Where two checkpoints were evaluated together, once each, its verdict on equal prompts is what there is."""
    from dagster_project import sides
    from dagster_project.comparison import Difference

    first, *others = given.items()
    for side, members in others:
        if len(members) == len(first[1]) == 1:
            for name, one in sides.pairs_of(first[1][0], members[0]).items():
                key = f"{sides.EVALUATION}:{name}"
                if judged[side].get(key) is not None:
                    near = "distance to 1, " if better.get(key, "").startswith("near") else ""
                    verdict = f"{one['verdict']} ({near}over prompts; one training each)"
                    judged[side][key] = Difference(one["difference"], one["low"], one["high"], verdict)


# ---- representations ----------------------------------------------------------------------------------------------


def _representation(project: DvcProject, arguments: argparse.Namespace) -> int:
    """The room's own tool; revisions are checked out for it."""
    from dagster_project import revision

    root, words = project.root, [word for one in arguments.checkpoint for word in ("--checkpoint", one)]
    words += ["--sigmas", str(arguments.sigmas), *(["--out", str(arguments.out)] if arguments.out else [])]
    words += ["--encoders"] if arguments.encoders else []
    wanted = (*(f"{kind}/{stage}" for kind in ("metrics", "plots", "data") for stage in STAGES),)
    import tempfile  # here: no other command waits for it

    with tempfile.TemporaryDirectory(prefix="reel-compare-") as place:
        for number, name in enumerate(arguments.sides[1:]):
            folder = root / name
            if not (folder / "metrics").is_dir():
                folder = Path(place) / str(number)
                folder.mkdir()
                revision.check_out(name, root, folder, lambda out: out.startswith(wanted))
            words.append(f"{name}={folder}")
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "pipelines.representation.compare", *words]
        import subprocess  # here: no other command waits for it

        return subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


STAGES = ("latent_mae", "pseudo_classes", "diagnostics")
