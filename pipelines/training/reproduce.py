"""``reel reproduce PATH``: make an artifact again from its code, parameters and inputs, and compare it bit by bit.

PATH is the output of a stage (a checkpoint, latents, classes, an evaluation), wherever it was copied to; what it
carries says how it was made. The code of that identity is put into a folder of its own, with the inputs of those
content hashes by link, and the stage runs there with the recorded parameters, seeds, threads and processes. Neither the
project nor PATH is written to. Where the code was never committed, or an input is nowhere, it says which and refuses.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import origin
from pipelines.chain import NoChain, artifact_folder, content_hash
from pipelines.code.definitions import CodeError
from pipelines.code.stages import stage_identity
from pipelines.commands import GRAPH, stage_entries
from pipelines.document import PARAMS_FILE, read_document, written
from pipelines.leftovers import WORK
from pipelines.provenance import SHORT, Lineage, answered, differing, lineage, text_of
from pipelines.recording import earlier_versions, link
from pipelines.stage import CODE, StageError, digest, path_flags
from pipelines.starting import WRITTEN, command_line
from pipelines.told import plain
from pipelines.training.accept import environment_of, put_code, put_code_of_today
from pipelines.training.reproduced import compared, forget

FOLDER = WORK / "reproduce"
MOST_VERSIONS = 50
"""Earlier contents of an input in DVC's cache that are looked through."""


@dataclass(frozen=True)
class Remade:
    """What is to be made again: the artifact's folder, its node, and the run that made it, as far as it is known."""

    folder: Path
    lineage: Lineage
    node: Mapping[str, Any]
    run: Mapping[str, Any]

    @property
    def stage(self) -> str:
        """The stage that made it."""
        return str(self.node["stage"])

    @property
    def hardware(self) -> Mapping[str, Any]:
        """What it was made on; empty where unknown."""
        return self.run.get("hardware") or {}


def asked(path: Path) -> Remade:
    """What a path says of how it was made.

    Raises:
        StageError: nothing, or too little to make it again.
    """
    try:
        found = lineage(path)
    except NoChain as error:
        raise StageError(str(error)) from None
    folder = artifact_folder(path.absolute())
    node = found.nodes[found.artifact]
    if path.is_file() or folder is None:
        raise StageError(f"{path}: one file; name the folder of the whole artifact.")
    if found.now not in (None, found.artifact):
        raise StageError(f"{path}: {found.state}; what it was would have to be restored first.")
    command, code = node.get("command"), node.get("code")
    if not isinstance(command, list) or len(command) < 2 or not isinstance(node.get("params"), dict):
        raise StageError(f"{path}: made by {text_of(str(node.get('stage')))}, not by a stage that could run again.")
    if not code:
        raise StageError(f"{path}: its chain does not name the code that made it.")
    return Remade(folder, found, node, found.runs.get(found.artifact) or {})


# ---- code and inputs ----------------------------------------------------------------------------------------------


def put_its_code(made: Remade, place: Path) -> str:
    """The code that made it, as the project has it today or in a commit; says which.

    Raises:
        StageError: neither has it.
    """
    shutil.rmtree(place / "pipelines", ignore_errors=True)
    entry, wanted = stage_entries().get(made.stage), str(made.node["code"])
    try:
        today = stage_identity(made.stage, entry) if entry is not None else None
    except CodeError:
        today = None
    if today is not None and today.value == wanted:
        put_code_of_today(place)
        for name in (GRAPH.name, "graph.yaml"):
            if Path(name).is_file():
                shutil.copyfile(name, place / name)
        return "the code that is here today"
    commit = made.run.get("commit")
    found = put_code(made.stage, wanted, commit, place)
    if found is not None:
        return f"the code of commit {found[:SHORT]}"
    where = "which commit, nobody recorded"
    if commit:
        dirty = made.run.get("dirty")
        where = f"commit {commit[:SHORT]}" + (", with local changes that were never committed" if dirty else "")
    raise StageError(
        f"{made.stage}: made by code {wanted[:SHORT]} ({where}). Neither the code here nor any commit that git has is "
        "that. Fetch the commit, or commit those changes where they still are."
    )


def put_inputs(made: Remade, place: Path) -> None:
    """Everything that was read, by content hash, linked to where it stood.

    Raises:
        StageError: some of it is nowhere; which, and by what it was made.
    """
    missing = []
    for name, one in made.node["inputs"].items():
        wanted = {f"{one['path']}/{key}": own for key, own in (one.get("holds") or {}).items()}
        for where, own in (wanted or {one["path"]: one["digest"]}).items():
            if not _put(where, own, made, place):
                maker = (made.lineage.nodes.get(own) or {}).get("stage")
                by = f", made by {maker}" if maker else ""
                now = f"; what is there now is {_hash(Path(where))[:SHORT]}" if Path(where).exists() else ""
                missing.append(f"{name}: {where} {own[:SHORT]}{by}{now}")
    if missing:
        raise StageError(
            f"{made.stage}: inputs are missing: {'; '.join(missing)}. Not in the project, beside the artifact, or in "
            "DVC's cache; `dvc pull`, or `reel reproduce` of that input where it was kept."
        )


def _put(where: str, own: str, made: Remade, place: Path) -> bool:
    target = place / where
    if target.exists() and _hash(target) == own:
        return True
    for candidate in _candidates(where, made):
        if candidate.exists() and _hash(candidate) == own:
            _linked(candidate, target)
            return True
    for files in earlier_versions(Path(where), MOST_VERSIONS):
        _clear(target)
        for name, file in files.items():
            link(file, target / name if name else target)
        if target.exists() and _hash(target) == own:
            return True
    _clear(target)
    return False


def _candidates(where: str, made: Remade) -> Iterator[Path]:
    """In the project; and in the folder around the artifact, where it still stands at its place in a copy."""
    if not Path(where).is_absolute() and ".." not in Path(where).parts:
        yield Path(where)
        own = Path(str(made.node.get("path", "")))
        if made.folder.parts[-len(own.parts) :] == own.parts:
            yield Path(*made.folder.parts[: -len(own.parts)]) / where


def _hash(path: Path) -> str:
    try:
        return content_hash(path) if path.is_dir() else digest(path)
    except (NoChain, OSError):
        return ""


def _clear(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _linked(source: Path, target: Path) -> None:
    _clear(target)
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    for file in files:
        link(file.resolve(), target / file.relative_to(source) if source.is_dir() else target)


# ---- the run ------------------------------------------------------------------------------------------------------


def unlike(made: Remade) -> list[str]:
    """In what this machine differs from the one that made it, so that bits may differ."""
    then = made.node.get("environment") or {}
    said = [
        f"{name} {text_of(was)} then, {text_of(now)} now" for name, was, now in differing(then, origin.environment())
    ]
    machine = made.hardware
    if not machine:
        return [*said, "the machine that made it is not known"]
    here = origin.hardware("cuda" if machine.get("device") == "cuda" else "cpu")
    names = [name for name in ("kind", "cores", "driver", "cuda") if name in machine]
    return [*said, *(f"{n} {machine[n]} then, {here.get(n)} now" for n in names if machine[n] != here.get(n))]


def run(made: Remade, place: Path) -> None:
    """Run the stage in the folder: anew, but an earlier try that was stopped goes on.

    Raises:
        StageError: it does not run, with what it said last.
    """
    module, function, *rest = map(str, made.node["command"])
    flags = path_flags(rest)
    section = flags.get("params", function)
    tracking = read_document(PARAMS_FILE)[0].get("tracking") if PARAMS_FILE.is_file() else None
    values = {section: made.node["params"], **({"tracking": {**tracking, "wandb": None}} if tracking else {})}
    (place / PARAMS_FILE.name).write_text(written(values), encoding="utf-8")
    outside = [value for flag, value in flags.items() if flag != "params" and _is_outside(value)]
    if outside:
        raise StageError(f"{made.stage}: its command names {outside[0]}, which is no place in a project.")
    forget(place)
    for flag in WRITTEN & flags.keys():
        _clear(place / flags[flag])
    command, variables = command_line([module, function], alone=made.hardware.get("processes", 1) == 1)
    known = environment_of(place, variables) | {"REEL_STAGE": made.stage, CODE: str(made.node["code"])}
    if "threads" in made.hardware:
        known["OMP_NUM_THREADS"] = str(made.hardware["threads"])
    done = subprocess.run([*command, *rest], cwd=place, env=known, check=False)
    if done.returncode:
        raise StageError(f"{made.stage}: ended with {done.returncode} in {place}; what it said stands above.")


def _is_outside(value: str) -> bool:
    return Path(value).is_absolute() or ".." in Path(value).parts


# ---- the command --------------------------------------------------------------------------------------------------


def _root() -> Path:
    """The project that has the code: around the current folder, else the one that the command is of.

    Raises:
        StageError: there is none.
    """
    named = os.environ.get("REEL_PROJECT")
    for place in [Path.cwd(), *Path.cwd().parents, *([Path(named)] if named else [])]:
        if (place / GRAPH.name).is_file() and (place / "pipelines").is_dir():
            return place
    raise StageError("no project around this folder: the code comes from a clone of the project; start it there.")


def reproduce(path: Path, out: Path | None, within: float) -> int:
    """Make it again and compare; 0: the same or within the noise, 1: not.

    Raises:
        StageError: it cannot be made again here.
    """
    path, out = path.absolute(), out.absolute() if out is not None else None
    made = asked(path)
    os.chdir(_root())
    place = out or (FOLDER / f"{made.stage}-{made.lineage.artifact[:SHORT]}").absolute()
    place.mkdir(parents=True, exist_ok=True)
    code = put_its_code(made, place)
    put_inputs(made, place)
    print(f"{made.stage}: {code}, {len(made.node['inputs'])} inputs of the recorded content, in {place}", flush=True)
    for line in unlike(made):
        print(f"{made.stage}: bits may differ: {line}", flush=True)
    run(made, place)
    flags = path_flags(list(map(str, made.node["command"][2:])))
    same, lines = compared(made.folder, place / flags["out"], within)
    print("\n".join(f"{made.stage}: {line}" for line in lines), flush=True)
    return 0 if same else 1


def _share(word: str) -> float:
    value = float(word)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is no share of at least 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 reproduced, 1 it came out otherwise, 3 it cannot be made again here."""
    parser = argparse.ArgumentParser(prog="reel reproduce", description=plain(__doc__))
    parser.add_argument("path", type=Path, help="the output folder of a stage, or a copy of it")
    parser.add_argument("--within", type=_share, default=0.0, metavar="SHARE",
                        help="noise that counts as the same: how far any result may lie from the recorded one, as a "
                        "share of it (0: bit by bit)")  # fmt: skip
    parser.add_argument("--out", type=Path, help=f"the folder to run in ({FOLDER}/…)")
    given = parser.parse_args(argv)
    try:
        return reproduce(given.path, given.out, given.within)
    except (StageError, CodeError, OSError, json.JSONDecodeError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(answered(main))
