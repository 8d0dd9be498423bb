"""`reel promote`: which checkpoint of a generator is the one in use, moved only where a comparison allows it.

The pointer is `released.json`: per stage the checkpoints that were promoted, the newest last, by DVC's hash of the
output. Git keeps it, DVC's cache and remote keep what it points at. Nothing in the graph reads it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_dvc.problem import ProjectError

if TYPE_CHECKING:
    from dagster_dvc.project import DvcProject, Stage

POINTER = "released.json"
JUDGE = "evaluation"
"""The stage that samples generators and compares them by pairs, on the test split."""
NEW, OLD = "candidate", "released"
COMPARED = "comparisons.json"


class Refused(RuntimeError):
    """It is not promoted, and why."""


def add_words(sub: argparse.ArgumentParser) -> None:
    """The words of the command."""
    sub.add_argument("stage", nargs="*", help="a generator's stage; none: say what is released")
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--undo", action="store_true", help="the one before it is released again")
    how.add_argument("--because", metavar="TEXT", help="promote without, or against, the comparison")
    how.add_argument("--copy-to", metavar="DIR", help="the released checkpoint, out of DVC's cache")


def promote(project: DvcProject, arguments: argparse.Namespace) -> int:
    """`reel promote`: one stage after the other; 1 where one is refused."""
    if not arguments.stage:
        print(shown(project))
        return 0
    code = 0
    for name in arguments.stage:
        try:
            if arguments.undo:
                line = undo(project, name)
            elif arguments.copy_to:
                line = copy(project, name, Path(arguments.copy_to))
            else:
                line = move(project, name, arguments.because)
            print(f"{name}: {line}", flush=True)
        except Refused as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            code = 1
    return code


# ---- the pointer ----------------------------------------------------------------------------------------------------


def released(project: DvcProject) -> dict[str, list[dict[str, Any]]]:
    """Per stage what was promoted, the newest last.

    Raises:
        ProjectError: the file cannot be read.
    """
    file = project.root / POINTER
    try:
        return _read(file) if file.is_file() else {}
    except ValueError as error:
        raise ProjectError(f"{file}: {error}; `git diff {POINTER}` shows what changed") from None


def _read(file: Path) -> dict[str, Any]:
    import json  # here, as below: `reel --help` does not wait for it

    return json.loads(file.read_text(encoding="utf-8"))


def _write(project: DvcProject, known: dict[str, list[dict[str, Any]]]) -> None:
    import json

    partial = project.root / f".{POINTER}.partial"
    text = json.dumps({name: entries for name, entries in known.items() if entries}, indent=2, sort_keys=True)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(project.root / POINTER)


def shown(project: DvcProject) -> str:
    """What is released, a line a stage."""
    lines = [
        f"{name}: {entries[-1]['hash'][:12]} since {entries[-1]['at']}: {entries[-1]['why']}"
        for name, entries in released(project).items()
        if entries
    ]
    return "\n".join(lines) or "Nothing is released yet: reel promote STAGE"


def undo(project: DvcProject, name: str) -> str:
    """The checkpoint that was released before is it again.

    Raises:
        Refused: there was none.
    """
    known = released(project)
    entries = known.get(name, [])
    if not entries:
        raise Refused("nothing of it is released.")
    gone = entries.pop()
    _write(project, known)
    now = f"{entries[-1]['hash'][:12]} of {entries[-1]['at']} is released again" if entries else "none is released now"
    return f"{gone['hash'][:12]} is taken back; {now}"


def copy(project: DvcProject, name: str, place: Path) -> str:
    """The released checkpoint's files, put into a new folder.

    Raises:
        Refused: none is released, the folder exists, or DVC's cache does not have it.
    """
    entries = released(project).get(name, [])
    if not entries:
        raise Refused("nothing of it is released.")
    if place.exists():
        raise Refused(f"{place} exists; name a new folder.")
    _copied(project, entries[-1]["hash"], place)
    return f"{entries[-1]['hash'][:12]} is in {place}"


def _copied(project: DvcProject, hash_: str, place: Path) -> None:
    import shutil

    from dagster_dvc.missing import cached_files

    files = cached_files(project, hash_)
    if not files:
        raise Refused(f"DVC's cache does not hold {hash_}: `dvc fetch --all-commits` takes it from the remote.")
    for inside, file in files.items():
        (place / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place / inside)


# ---- moving it ------------------------------------------------------------------------------------------------------


def move(project: DvcProject, name: str, because: str | None = None) -> str:
    """Release the stage's recorded checkpoint where it is not worse than the released one; returns why.

    Raises:
        Refused: it is, or cannot be compared; the line says how to promote all the same.
    """
    stage, hash_ = _candidate(project, name)
    known = released(project)
    entries = known.setdefault(name, [])
    if entries and entries[-1]["hash"] == hash_:
        return f"{hash_[:12]} is released already, since {entries[-1]['at']}"
    why, numbers = because or "the first one: there was nothing to compare it with", {}
    if entries and not because:
        numbers = _measured(project, stage, hash_, entries[-1]["hash"])
        why = judged(numbers)
    from datetime import datetime

    at = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    entries.append({"hash": hash_, "at": at, "why": why, "comparison": numbers})
    _write(project, known)
    return f"{hash_[:12]} is released: {why}"


def _candidate(project: DvcProject, name: str) -> tuple[Stage, str]:
    """The stage and DVC's hash of its checkpoint, which is what dvc.lock records."""
    from dagster_dvc import status
    from dagster_dvc.lock import read_lock

    try:
        stage = project.stage(name)
    except ProjectError as error:
        raise Refused(str(error)) from None
    why = status.stale(project).get(name, [])
    if why:
        raise Refused(f"not promoted: it is stale ({why[0]}); `reel run {name}` first.")
    for out in stage.data_outs:
        recorded = read_lock(project)[name].outs.get(out.path)
        if recorded is not None and recorded.hash and (project.root / out.path / "generator.json").is_file():
            return stage, recorded.hash
    raise Refused("not promoted: it makes no generator (a checkpoint with generator.json).")


def judged(numbers: dict[str, dict[str, Any]]) -> str:
    """Why a comparison lets the new checkpoint be released.

    Args:
        numbers: by metric the difference new minus old, its interval, and the verdict on the new one.

    Raises:
        Refused: in some metric it is worse beyond the interval, or a verdict says that it cannot count.
    """
    if not numbers:
        raise Refused("not promoted: the evaluation compared no metric of the two.")
    told = {
        name: f"{name} {one['difference']:+.4g} [{one['low']:.4g}, {one['high']:.4g}]" for name, one in numbers.items()
    }
    bad = [name for name, one in numbers.items() if one["verdict"] not in ("better", "within noise")]
    if bad:
        shown_ = ", ".join(f"{told[name]}: {numbers[name]['verdict']}" for name in bad)
        raise Refused(
            f"not promoted: against the released one, {shown_}. The released one stays; `--because '…'` overrules."
        )
    better = [name for name, one in numbers.items() if one["verdict"] == "better"]
    rest = f"; better in {', '.join(better)}" if better else ""
    return f"not worse in any of {len(numbers)} metrics beyond the interval{rest}: {', '.join(told.values())}"


def _measured(project: DvcProject, stage: Stage, new: str, old: str) -> dict[str, dict[str, Any]]:
    """Both, sampled and judged beside one another by the evaluation's own function, outside the graph."""
    import shutil
    import subprocess

    folder = project.root / ".work" / "promotion" / stage.name
    shutil.rmtree(folder, ignore_errors=True)
    for name, hash_ in ((NEW, new), (OLD, old)):
        _copied(project, hash_, folder / "checkpoints" / name)
    _same_latents(folder)
    _bring_the_rest(project, folder / "checkpoints")
    done = subprocess.run(
        _judging(project, folder),
        cwd=project.root,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason"]
        raise Refused(f"not promoted: the two could not be measured: {said[-1]}")
    found = _read(folder / "out" / COMPARED)
    shutil.rmtree(folder, ignore_errors=True)
    return found.get(f"{NEW} against {OLD}", {})


def _bring_the_rest(project: DvcProject, place: Path) -> None:
    """The networks that decode and judge lie beside the generators; those two are the only generators in ``place``."""
    words = str(project.stage(JUDGE).cmd).split()
    for one in sorted((project.root / words[words.index("--checkpoints") + 1]).iterdir()):
        if one.is_dir() and not (one / "generator.json").is_file() and not (place / one.name).exists():
            (place / one.name).symlink_to(one.resolve(), target_is_directory=True)


def _same_latents(folder: Path) -> None:
    """A generator makes latents of one autoencoder; those of another are decoded, and judged, by other networks."""
    made_for = {
        name: (_read(folder / "checkpoints" / name / "generator.json").get("latents") or {})
        .get("autoencoder", {})
        .get("digest")
        for name in (NEW, OLD)
    }
    if made_for[NEW] != made_for[OLD]:
        raise Refused(
            "not promoted: the released one is of another autoencoder's latents, so the two cannot be measured "
            "together. Compare them yourself and say `--because '…'`."
        )


def _judging(project: DvcProject, folder: Path) -> list[str]:
    """The evaluation's command of dvc.yaml with the two checkpoints in, and everything out to a folder of its own."""
    words = str(project.stage(JUDGE).cmd).split()
    words = words[words.index("pipelines.launch") + 1 :]
    words = [word for word in words if word != "--alone"]
    places = {"--checkpoints": "checkpoints", "--out": "out", "--metrics": "metrics.json", "--plots": "plots"}
    for flag, place in places.items():
        words[words.index(flag) + 1] = str(folder / place)
    return [sys.executable, "-m", "pipelines", *words]
