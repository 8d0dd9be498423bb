"""`python -m benchmarks.resume --markdown docs/reliability.md`: what a resumed training is worth, by trying.

A toy training that saves after every step is killed (SIGKILL) at random instants and run again; it must end with the
bits of one that nobody killed: weights, averages, optimizer state, checkpoint files, logged rows, sample keys. Then
its saved states are damaged in every file, and its disk is filled.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import stage
from pipelines.optimization import Schedule
from pipelines.training import diagrams, state
from pipelines.training.objective import Batch, LossOutput
from tests.training.toy import ADAMW, Regression, params, run, train_toy

STEPS, NEWEST = 30, "state-*"
BEGIN, END = "<!-- resume: by `python -m benchmarks.resume` -->", "<!-- /resume -->"
FILES = ("state.json", "state.safetensors")
DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "one bit flipped": lambda path, dice: _flip(path, dice),
    "cut off": lambda path, dice: os.truncate(path, dice.randrange(path.stat().st_size)),
    "emptied": lambda path, dice: os.truncate(path, 0),
    "missing": lambda path, dice: path.unlink(),
}


def _flip(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


class Noted(Regression):
    """The toy, with the keys of every step written down as they are used; a restart appends."""

    def __init__(self, noise: float, path: Path) -> None:
        super().__init__(noise)
        self.path = path

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        """As the toy's."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([step, batch["key"]]) + "\n")
        return super().losses(batch, step)


# ---- a training in a process of its own -----------------------------------------------------------------------------


def start(
    folder: Path,
    steps: int = STEPS,
    limit: int | None = None,
    log_to: Path | None = None,
    train: Callable[..., Any] = run,
    kind: type[Noted] | None = None,
    schedule: Schedule | None = None,
    **facts: Any,
) -> int:
    """Fork a process that trains the toy in ``folder``; exit code 0, or 2 with the disk's line in out.log.

    ``facts`` are the stage's context: its code, and what a person asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with (log_to or folder / "out.log").open("a") as log:
            os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        diagrams.draw = lambda *_: None  # takes longer than all else, and is no part of what is compared
        stage.enter(stage.Context(**facts))
        changes = {"schedule": schedule} if schedule is not None else {}
        section = params(steps=steps, save_every=1, log_every=1, optimizer=ADAMW, **changes)
        train(folder, section, lambda noise: (kind or Noted)(noise, folder / "seen.jsonl"))
        code = 0
    except Exception as error:
        reason = stage.refused_by_disk(error)
        with contextlib.suppress(OSError):  # the disk may be full
            os.write(2, f"{reason or repr(error)}\n".encode())
        code = 2 if reason else 1
    finally:
        os._exit(code)


def finish(pid: int) -> int:
    """Exit code of a started training; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ends(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on interruptions: checkpoint files, the last state's tensors, keys by step."""
    out = folder / "out"
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    newest = sorted((folder / ".work").rglob(NEWEST))[-1]
    seen: dict[int, set[str]] = {}
    for line in (folder / "seen.jsonl").read_text(encoding="utf-8").splitlines():
        step, keys = json.loads(line)
        seen.setdefault(step, set()).add(json.dumps(keys))
    return {"files": files, "state": (newest / FILES[1]).read_bytes(), "seen": seen}


@dataclass(frozen=True)
class Kill:
    """One killed training: when, what it was doing, and whether it ended as it should after the next run."""

    seconds: float
    step: int
    in_save: bool
    same: bool


def killed(folder: Path, seconds: float, expected: dict[str, Any]) -> Kill:
    """Train, kill after ``seconds`` of steps, look, train to the end, compare."""
    pid = start(folder)
    began = time.monotonic()
    while not (folder / "seen.jsonl").exists() and time.monotonic() - began < 60:
        time.sleep(0.002)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    was_killed = finish(pid) == -signal.SIGKILL
    step = len((folder / "seen.jsonl").read_text().splitlines()) // 2
    in_save = any((folder / ".work").rglob(".state-*.partial-*"))
    same = was_killed and finish(start(folder)) == 0 and ends(folder) == expected
    return Kill(seconds, step, in_save, same)


def kills(folder: Path, count: int, seed: int) -> list[Kill]:
    """``count`` kills at random instants of the steps of an uninterrupted run."""
    assert finish(start(folder / "whole")) == 0, (folder / "whole/out.log").read_text()
    expected, dice, found = ends(folder / "whole"), random.Random(seed), []
    stamps = [json.loads(line) for line in next((folder / "whole").rglob("rows.jsonl")).read_text().splitlines()]
    rows = [row["seconds"] for row in stamps if "loss/net" in row]
    while len(found) < count:
        place = folder / f"kill-{len(found)}"
        kill = killed(place, dice.uniform(0.0, 0.8 * (rows[-1] - rows[0])), expected)
        shutil.rmtree(place)
        if kill.step < STEPS:  # else it was faster than the whole one and had trained to its end
            found.append(kill)
    return found


# ---- damage and space ------------------------------------------------------------------------------------------------


def two_states(folder: Path) -> Path:
    """A training that is not concluded: its last two states are there."""
    assert finish(start(folder, train=train_toy)) == 0, (folder / "out.log").read_text()
    return folder


def damaged(folder: Path, kind: str, name: str, dice: random.Random) -> bool:
    """Whether a damage to one file of the newest state is noticed, the state set aside, and the one before it used."""
    work = next((folder / ".work").rglob(NEWEST)).parent
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(work, Path(place) / "work"))
        newest = sorted(copy.glob(NEWEST))[-1]
        DAMAGES[kind](newest / name, dice)
        with contextlib.redirect_stdout(io.StringIO()):
            found = state.newest(copy)
        aside = list(copy.glob(f"broken-{newest.name}-*"))
    return found is not None and found["step"] == int(newest.name[-9:]) - 1 and len(aside) == 1


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int = 4) -> Iterator[Path]:
    """A tmpfs of this size.

    Raises:
        PermissionError: this user may not mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        raise PermissionError("mount -t tmpfs needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def out_of_space(folder: Path, by_limit: bool) -> dict[str, Any]:
    """Train a while, take the space away, train on, give it back, train to the end.

    ``by_limit``: files may not grow beyond a size (RLIMIT_FSIZE), instead of a full file system.
    """
    place = folder / "run"
    assert finish(start(folder.parent / f"{folder.name}-whole")) == 0
    assert finish(start(place, steps=10)) == 0
    filler = folder / "filler"
    if not by_limit:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"\0" * 4096)
    log = folder.parent / f"{folder.name}.log"  # not on the full disk, and below the limit
    code = finish(start(place, limit=3000 if by_limit else None, log_to=log))
    work = next((place / ".work").rglob(NEWEST)).parent
    kept, partial = state.newest(work), list(work.glob(".state-*"))
    filler.unlink(missing_ok=True)
    said = [line for line in log.read_text().splitlines() if "half written" in line]
    resumed = finish(start(place)) == 0
    same = resumed and ends(place)["state"] == ends(folder.parent / f"{folder.name}-whole")["state"]
    return {"code": code, "said": said, "kept": kept["step"] if kept else None, "partial": len(partial), "same": same}


# ---- the page --------------------------------------------------------------------------------------------------------


def page(folder: Path, count: int, seed: int) -> str:
    """The measured part of docs/reliability.md."""
    found = kills(folder, count, seed)
    lines = [
        "| killed after | in step | inside a save | the next run ends with the same bits |",
        "| --- | --- | --- | --- |",
    ]
    for kill in sorted(found, key=lambda kill: kill.seconds):
        told = ("yes" if kill.in_save else "no", "yes" if kill.same else "NO")
        lines.append(f"| {kill.seconds:.3f} s | {kill.step} of {STEPS} | {told[0]} | {told[1]} |")
    equal, saving = sum(kill.same for kill in found), sum(kill.in_save for kill in found)
    lines += ["", f"{equal} of {len(found)} ended with the same bits; {saving} were killed inside a save.", ""]
    lines += ["| damage to the newest state | file | tried | noticed, set aside, the one before used |"]
    lines += ["| --- | --- | --- | --- |"]
    dice, trained = random.Random(seed), two_states(folder / "damaged")
    for kind in DAMAGES:
        for name in FILES:
            tries = 50 if kind in ("one bit flipped", "cut off") else 1
            good = sum(damaged(trained, kind, name, dice) for _ in range(tries))
            lines.append(f"| {kind} | `{name}` | {tries} | {good} |")
    lines += ["", "| space | exit code | said | last good state | left half written | after space is given back |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for by_limit in (False, True):
        kind = "files limited to 3000 bytes (RLIMIT_FSIZE)" if by_limit else "full tmpfs of 4 MiB"
        place = folder / ("limited" if by_limit else "full")
        try:
            with contextlib.nullcontext() if by_limit else small_disk(place):
                result = out_of_space(place, by_limit)
        except PermissionError as error:
            lines.append(f"| {kind} | not tried: {error} | | | | |")
            continue
        said = result["said"][0].replace(str(Path.cwd()), "…") if result["said"] else "nothing"
        same = "ends with the same bits" if result["same"] else "DIFFERS"
        lines.append(f"| {kind} | {result['code']} | {said} | step {result['kept']} | {result['partial']} | {same} |")
    return "\n".join(lines)


def main() -> int:
    """Measure and write the page's part, or print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = page(Path(folder), given.kills, given.seed)
    print(text)
    if given.markdown:
        before, rest = given.markdown.read_text(encoding="utf-8").split(BEGIN)
        whole = f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"
        given.markdown.write_text(whole, encoding="utf-8")
    return 0 if "NO |" not in text and "DIFFERS" not in text else 1


if __name__ == "__main__":
    sys.exit(main())
