"""`python -m benchmarks.changes --markdown docs/reliability.md`: what changes between a kill and the next run.

A toy training is killed (SIGKILL) after a random step; then its code, its number of steps or what the person asks for
is another, and it runs again. What it leaves is compared, file by file, with a run from nothing. Then files are moved
into the footage folder of the real stage ``raw_video`` at random instants of a `dvc repro`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.resume import Noted, ends, finish, start
from pipelines.data.catalog import read_catalog
from pipelines.params import Constant, Falling
from pipelines.training.objective import LossOutput
from tests.dagster_dvc import toy
from tests.footage.footage import folder as footage_folder
from tests.footage.footage import video

REPO = Path(__file__).parents[1]
BEGIN, END = "<!-- changes: by `python -m benchmarks.changes` -->", "<!-- /changes -->"
COSINE = Falling(shape="cosine", warmup_steps=2, floor=0.1)
CONSTANT = Constant(shape="constant", warmup_steps=2)


class Halved(Noted):
    """The toy after an edit of its objective."""

    def losses(self, batch: Any, step: int) -> dict[str, LossOutput]:
        """Half of the toy's."""
        outputs = super().losses(batch, step)
        return {name: LossOutput(one.loss * 0.5, one.sigma, one.metrics) for name, one in outputs.items()}


OLD, NEW = {"code": "old", "kind": Noted}, {"code": "new", "kind": Halved}


@dataclass(frozen=True)
class Case:
    """One row: how the training was begun, how it is run again, and what must come of it."""

    name: str
    first: dict[str, Any]
    second: dict[str, Any]
    continues: bool
    whole: dict[str, Any] | None = field(default_factory=dict)
    """The run from nothing with whose files it is compared; None: it has none, its segments are compared."""
    between: dict[str, Any] | None = None
    """A run that is killed as well, in between."""
    to_its_end: bool = False


def _cases() -> list[Case]:
    def of(steps: int, schedule: Any = CONSTANT, **facts: Any) -> dict[str, Any]:
        return {"steps": steps, "schedule": schedule, **facts}

    asked, old, new = {"carry_on": True}, of(30, COSINE, **OLD), of(30, COSINE, **NEW)
    return [
        Case("nothing", old, old, True, old),
        Case("code edited", old, new, False, new),
        Case("code edited, and taken back after another killed run", old, old, True, old, between=new),
        Case("code edited, `--continue`", old, {**new, **asked}, True, None),
        Case("code edited after its end, more steps, `--continue`", of(20, **OLD), of(30, **NEW, **asked), False,
             of(30, **NEW), to_its_end=True),
        Case("steps 30 to 5, fewer than trained", of(30), of(5), False, of(5)),
        Case("steps 30 to 40, constant rate", of(30), of(40), True, of(40)),
        Case("steps 30 to 40 after its end, constant rate", of(30), of(40), True, of(40), to_its_end=True),
        Case("steps 30 to 40, cosine", old, of(40, COSINE, **OLD), False, of(40, COSINE, **OLD)),
        Case("steps 30 to 40, cosine, `--continue`", old, of(40, COSINE, **OLD, **asked), True, None),
        Case("`--force`", old, {**old, "anew": True}, False, old),
        Case("`--force` after its end", old, {**old, "anew": True}, False, old, to_its_end=True),
    ]  # fmt: skip


def saved(folder: Path) -> int:
    """The step of the newest state on the disk, which a busy machine writes some steps later."""
    # looked at from above: the training removes older states while they would be searched
    names = [path.name for path in (folder / ".work").glob("out/*/state-*")]
    return max((int(name.removeprefix("state-")) for name in names if name[6:].isdigit()), default=0)


def kill(folder: Path, how: dict[str, Any], step: int, beyond: int) -> None:
    """Train, and SIGKILL within the step, or as soon as a state ``beyond`` a step is on the disk."""
    seen, pid = folder / "seen.jsonl", start(folder, **how)
    until = time.monotonic() + 600  # a guard: a machine may be busy
    while time.monotonic() < until and not (
        seen.exists() and seen.read_text().count("\n") > 2 * step and saved(folder) > beyond
    ):
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    if finish(pid) != -signal.SIGKILL:
        raise SystemExit(f"{folder}: ended before it could be killed:\n{(folder / 'out.log').read_text()}")
    seen.unlink()


def tried(folder: Path, case: Case, step: int, expected: dict[str, bytes] | None) -> bool:
    """Whether a run killed in ``step`` ends as the case says."""
    if case.to_its_end:
        assert finish(start(folder, **case.first)) == 0
    else:
        fewer = case.second["steps"] < case.first["steps"]
        kill(folder, case.first, step, case.second["steps"] if fewer else 0)
    if case.between is not None:
        kill(folder, case.between, 3, 0)
    (folder / "out.log").unlink()
    if finish(start(folder, **case.second)) != 0:
        return False
    is_continued = "continues at step" in (folder / "out.log").read_text()
    files = ends(folder)["files"]
    if expected is not None:
        return is_continued == case.continues and files == expected
    before, after = json.loads(files["checkpoint.json"])["segments"]
    lists = before["from"] == 0 and 0 < after["from"] <= case.first["steps"]
    return is_continued and lists and after["steps"] == case.second["steps"] and after["code"] == case.second["code"]


def training(folder: Path, tries: int, dice: random.Random) -> list[str]:
    """A row of the table per case."""
    lines = ["| between the kill and the next run | tried | the next run | as it must |", "| --- | --- | --- | --- |"]
    for number, case in enumerate(_cases()):
        place, expected = folder / str(number), None
        if case.whole is not None:
            assert finish(start(place / "whole", **case.whole)) == 0
            expected = ends(place / "whole")["files"]
        steps = [dice.randrange(6, 20) for _ in range(tries)]
        good = sum(tried(place / f"try-{at}", case, step, expected) for at, step in enumerate(steps))
        went = "goes on" if case.continues else "begins anew"
        left = "the checkpoint lists both segments" if expected is None else "the files of one run from nothing"
        lines.append(f"| {case.name} | {tries} | {went}, {left} | {good} |")
        print(lines[-1], flush=True)
    return lines


# ---- data that arrives ----------------------------------------------------------------------------------------------


def footage_project(root: Path) -> Path:
    """A DVC project of the real stage ``raw_video`` on a folder of eight videos."""
    shutil.copytree(REPO / "pipelines", root / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / ".dvcignore", root / ".dvcignore")
    for seed in range(8):
        video(root / f"videos/{seed}.mp4", seed=seed)
    section = footage_folder(Path("videos")).model_dump(mode="json")
    (root / "params.yaml").write_text(yaml.safe_dump({"raw_video": section}), encoding="utf-8")
    entry = yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["raw_video"]
    entry |= {"deps": ["videos"], "params": ["raw_video"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"raw_video": entry}}), encoding="utf-8")
    toy.dvc(root, "init", "--no-scm", "--quiet")
    return root


def arrives(root: Path, seconds: float) -> tuple[bool, bool, bool]:
    """A video arrives so long after the launcher's start: cut in that run, called up to date before it was, cut now."""
    waiting = root / "waiting"
    video(waiting / "late.mp4", seed=99)
    command = [sys.executable, "-m", "dvc", "repro"]
    running = subprocess.Popen(
        command, cwd=root, env=toy.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (root / ".work/raw_video/owner.json").exists() and running.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    for name in ("late.txt", "late.mp4"):
        (waiting / name).rename(root / "videos" / name)
    said, _ = running.communicate(timeout=300)
    if running.returncode:
        raise SystemExit(said)
    at_once = _is_cut(root)
    lied = not at_once and "up to date" in toy.dvc(root, "status").stdout
    toy.dvc(root, "repro")
    return at_once, lied, _is_cut(root)


def _is_cut(root: Path) -> bool:
    return any("late" in str(row["source"]) for row in read_catalog(root / "data/clips").to_dict("records"))


def arrivals(folder: Path, tries: int, dice: random.Random) -> str:
    """One line on files that arrive while ``raw_video`` runs."""
    template = footage_project(folder / "footage")
    found = []
    for number in range(tries):
        root = Path(shutil.copytree(template, folder / f"footage-{number}"))
        found.append(arrives(root, dice.uniform(0.0, 6.0)))
        print(f"arrival {number + 1} of {tries}: {found[-1]}", flush=True)
    at_once, lied, now = (sum(column) for column in zip(*found, strict=True))
    return (
        f"A video moved into the footage folder at {tries} random instants (0 to 6 s) of `dvc repro raw_video`: cut in "
        f"that very run {at_once} times, after the next `dvc repro` {now} times; called up to date without being cut: "
        f"{lied}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the page's part, or print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.changes", description=__doc__)
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--arrivals", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        dice = random.Random(given.seed)
        lines = training(Path(folder), given.tries, dice)
        text = "\n".join([*lines, "", arrivals(Path(folder), given.arrivals, dice)])
    print(text)
    if given.markdown:
        before, rest = given.markdown.read_text(encoding="utf-8").split(BEGIN)
        whole = f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"
        given.markdown.write_text(whole, encoding="utf-8")
    return 0 if all(line.endswith(f"| {given.tries} |") for line in lines[2:]) and text.endswith(": 0.") else 1


if __name__ == "__main__":
    sys.exit(main())
