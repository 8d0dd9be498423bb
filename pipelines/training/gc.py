"""``reel gc``: what finished runs, killed processes and abandoned parameters have left on the disk.

It says what it would free, and removes it with ``--yes``. A state with unfinished work stays as long as a
``params.yaml`` has its values: the one here, or one of a branch, a tag or an experiment of git. By rule, a stage that
starts removes what its killed runs had half written, and a run that finishes removes the states of finished runs.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from pipelines.document import ParamsError, load, read_document
from pipelines.handed_over import NOTES
from pipelines.leftovers import PARTIAL, WORK, remove, shown, size
from pipelines.ownership import owned
from pipelines.processes import is_alive
from pipelines.stage import StageError
from pipelines.training import resume, state

QUIET_SECONDS = 60.0
"""What was written to less than this ago may be written by a process of another machine."""


@dataclass(frozen=True)
class Leftover:
    """Something on the disk and why it may go, or why it stays."""

    paths: tuple[Path, ...]
    why: str
    goes: bool
    size: int

    @classmethod
    def of(cls, paths: Sequence[Path], why: str, goes: bool) -> Leftover:
        """With its size in bytes, as it is now."""
        return cls(tuple(paths), why, goes, sum(map(size, paths)))

    def remove(self) -> None:
        """If it goes."""
        for path in self.paths if self.goes else ():
            remove(path)

    def __str__(self) -> str:
        where = self.paths[0] if len(self.paths) == 1 else self.paths[0].parent
        return f"{shown(self.size):>10}  {where}: {self.why}"


def partials(outs: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str | None, Leftover]]:
    """Half-written outputs of processes that are gone, by stage; in ``.work`` and beside the outputs of stages."""
    owners = {(out.parent, out.name): stage for stage, paths in outs.items() for out in paths}
    places = [path for folder in sorted({folder for folder, _ in owners}) for path in folder.glob(".*.partial-*")]
    places += [
        path for path in WORK.rglob(".*.partial-*") if not any(PARTIAL.fullmatch(up.name) for up in path.parents)
    ]
    for path in places:
        match = PARTIAL.fullmatch(path.name)
        if match and not is_alive(int(match[2])) and time.time() - path.stat().st_mtime > QUIET_SECONDS:
            inside = path.relative_to(WORK).parts[0] if path.is_relative_to(WORK) else None
            stage = inside or owners.get((path.parent, match[1]))
            yield stage, Leftover.of((path,), "half written by a process that is gone", True)


def sections() -> list[tuple[str, dict[str, Any]]]:
    """Every ``params.yaml`` that somebody has: the one here, and those of all branches, tags and experiments of git."""
    found = [("here", read_document()[0])]
    refs = _git("for-each-ref", "--format=%(refname)").splitlines()
    seen: set[str] = set()
    for ref in refs:
        blob = _git("rev-parse", "--verify", "--quiet", f"{ref}:./params.yaml").strip()
        if blob and blob not in seen:
            seen.add(blob)
            try:
                values = load(_git("cat-file", "blob", blob))
            except (YAMLError, ValueError):
                continue
            found += [(ref, values)] if isinstance(values, dict) else []
    return found


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def same(left: Any, right: Any) -> bool:
    """Whether two values of parameters are one, however YAML wrote them: 1 and 1.0, 1e-4 and 0.0001, null or absent."""
    if isinstance(left, dict) and isinstance(right, dict):
        return all(same(left.get(key), right.get(key)) for key in left.keys() | right.keys())
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, str) != isinstance(right, str):
        with contextlib.suppress(TypeError, ValueError):
            return float(left) == float(right)  # type: ignore[arg-type]
        return False
    return left == right


def _holder(params: Any, everywhere: list[tuple[str, dict[str, Any]]]) -> str | None:
    return next((name for name, file in everywhere if any(same(params, section) for section in file.values())), None)


def _present_code(stage: str) -> str | None:
    """The stage's code as ``code.json`` has it; None where there is no such file."""
    try:
        return json.loads(Path("code.json").read_text(encoding="utf-8")).get(stage)
    except (OSError, ValueError, AttributeError):
        return None


def runs(stage: str, everywhere: list[tuple[str, dict[str, Any]]], other_code: bool) -> Iterator[Leftover]:
    """What the training runs of a stage have left."""
    for folder in sorted(path for path in (WORK / stage).iterdir() if path.is_dir()):
        for path in sorted([*folder.glob("broken-state-*"), *folder.glob(f"{resume.SET_ASIDE}state-*")]):
            yield Leftover.of((path,), "damaged" if path.name.startswith("broken") else "set aside by --force", True)
        states = tuple(state.complete(folder))
        if not states:
            continue
        one = resume.earlier(folder)
        if one is None:
            yield Leftover.of(states, "of an earlier version: nothing goes on from it", True)
        elif one.finished:
            yield Leftover.of(states, f"finished, {one.of}: more steps would then be trained from nothing", True)
        else:
            yield _unfinished(stage, folder, states, one, everywhere, other_code)


def _unfinished(
    stage: str, folder: Path, states: tuple[Path, ...], one: Any, everywhere: Any, other_code: bool
) -> Leftover:
    try:
        params = json.loads((folder / "record.json").read_text(encoding="utf-8"))["params"]
    except (OSError, ValueError, KeyError):
        params = None
    holder = _holder(params, everywhere) if params is not None else "somebody (it has no record)"
    present = _present_code(stage)
    if holder is None:
        return Leftover.of(states, f"{one.of}, and no params.yaml here or in git has its values", True)
    if present is not None and one.identity.code != present:
        how = f"{one.of} by other code; only `reel run --continue {stage}` goes on from it"
        return Leftover.of(states, how, other_code)
    return Leftover.of(states, f"{one.of} with the params of {holder}; the next run goes on from it", False)


def collect(other_code: bool, yes: bool) -> list[Leftover]:
    """All that ``reel gc`` looks at, what goes first; with ``yes`` that is gone afterwards.

    Raises:
        ParamsError: ``params.yaml`` cannot be read.
    """
    everywhere = sections()
    stages = (read_document(Path("dvc.yaml"))[0].get("stages") or {}) if Path("dvc.yaml").is_file() else {}
    halves: dict[str | None, list[Leftover]] = {}
    for stage, item in partials({name: [Path(out) for out in _outs(entry)] for name, entry in stages.items()}):
        halves.setdefault(stage, []).append(item)
    found: list[Leftover] = []
    for folder in sorted({path.parent for path in WORK.glob("*/owner.*")}):
        half = halves.pop(folder.name, [])
        try:
            with owned(folder.name, folder):  # nobody starts the stage meanwhile
                if any((folder / note).is_file() for note in NOTES.values()):
                    raise StageError("a job of a cluster, perhaps followed by no launcher, may write there")
                items = [*half, *runs(folder.name, everywhere, other_code)]
                for item in items if yes else ():
                    item.remove()
        except StageError as error:  # somebody runs it, here or elsewhere, or its folder cannot be read at the moment
            items = [Leftover.of((folder,), str(error), False)]
        found += items
    for item in itertools.chain.from_iterable(halves.values()):  # of stages that no launcher has ever owned
        found.append(item)
        if yes:
            item.remove()
    return sorted(found, key=lambda item: not item.goes)


def _outs(entry: dict[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for out in entry.get(kind) or []:
            yield from out if isinstance(out, dict) else [out]


def _told(items: Sequence[Leftover], yes: bool) -> str:
    going, staying = [item for item in items if item.goes], [item for item in items if not item.goes]
    freed = shown(sum(item.size for item in going))
    lines = ["freed" if yes else "would free", *map(str, going)] if going else []
    lines += ["kept", *map(str, staying)] if staying else []
    if not going:
        return "\n".join([*lines, "Nothing to free. Results in DVC's cache: `dvc gc -w`."])
    end = f"{freed} freed." if yes else f"{freed} in all; nothing is removed without --yes."
    return "\n".join([*lines, end])


def main(argv: Sequence[str] | None = None) -> int:
    """``reel gc``: returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="reel gc", description="What is left over on the disk, and what it would free."
    )
    parser.add_argument("--yes", action="store_true", help="remove it; without, it is only told")
    parser.add_argument("--other-code", action="store_true", help="also unfinished states that other code has trained")
    given = parser.parse_args(argv)
    try:
        print(_told(collect(given.other_code, given.yes), given.yes))
        return 0
    except (ParamsError, StageError) as error:
        print(f"reel gc: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
