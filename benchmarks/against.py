"""`python -m benchmarks.against COMMIT [ROW…]`: this commit and an earlier one, in turn, on one machine.

Each commit gets a worktree and an environment of its own under ``.work/against``. A row is a command (``status``,
``check``, ``help``) or a stage of the lineage, run anew in both trees alternately; stated are processor seconds of the
command and all its children, wall seconds, and the memory of its largest process. ``stages`` are all that both have.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PLACE = ROOT / ".work" / "against"
COMMANDS = {"help": ["--help"], "status": ["status"], "check": ["check"]}
TIMES = 7
"""Rounds of a command; stages run ``--rounds`` times."""


@dataclass(frozen=True)
class Cost:
    """What one run of a command took: processor and wall seconds, GiB of its largest process."""

    processor: float
    wall: float
    memory: float


def git(*words: str) -> str:
    """Output of a git command in this repository."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def tree(commit: str) -> Path:
    """The worktree of a commit with its environment; kept for the next time."""
    place = PLACE / git("rev-parse", "--short", commit)
    if not place.is_dir():
        git("worktree", "add", "--quiet", "--detach", str(place), commit)
    if not (place / ".venv" / ".complete").is_file():
        print(f"{place}: making its environment", flush=True)
        subprocess.run(["make", "env"], cwd=place, check=True, stdout=subprocess.DEVNULL)
    return place


def cost(place: Path, words: Sequence[str]) -> Cost:
    """Of ``reel WORDS`` in a tree, measured by a process of its own whose only child it is.

    Raises:
        SystemExit: the command failed; its last lines say why.
    """
    script = "import sys; from benchmarks.against import measured; measured(sys.argv[1:])"
    reel = place / ".venv" / "bin" / "reel"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{reel.parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", script, str(place), str(reel), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{place}: reel {' '.join(words)}: {done.stderr.strip()[-2000:]}")
    processor, wall, memory = map(float, done.stdout.split()[-3:])
    return Cost(processor, wall, memory)


def measured(argv: Sequence[str]) -> None:
    """Run a command in a folder and print its cost; called in a process of its own."""
    place, *command = argv
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit((done.stdout + done.stderr)[-2000:])
    print(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 2**20)


def stages(place: Path) -> list[str]:
    """Stages of a tree that can run in this order; ``code`` costs nothing worth a row."""
    found = yaml.safe_load((place / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return [name for name in found if name != "code"]


def wanted(rows: Sequence[str], base: Path, here: Path) -> Iterator[tuple[str, list[str], bool]]:
    """Name, words for ``reel`` and whether it is a stage, of every row asked for; commands first.

    Raises:
        SystemExit: a row is neither a command nor a stage of both.
    """
    common = [name for name in stages(here) if name in stages(base)]
    asked = [name for row in rows for name in (common if row == "stages" else [row])]
    unknown = [name for name in asked if name not in COMMANDS and name not in common]
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: no row; known are {', '.join([*COMMANDS, 'stages', *common])}.")
    for name, words in COMMANDS.items():
        if name in asked:
            yield name, words, False
    for name in common:
        if name in asked:
            yield name, ["run", name, "--force"], True


def line(name: str, base: Sequence[Cost], here: Sequence[Cost]) -> str:
    """One row of the table: medians, and the ratio of processor seconds pair by pair with its spread."""
    ratios = [one.processor / other.processor for one, other in zip(here, base, strict=True)]
    before, after = (statistics.median(one.processor for one in costs) for costs in (base, here))
    most = [max(one.memory for one in costs) for costs in (base, here)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return (
        f"| {name} | {before:.2f} s | {after:.2f} s | **{statistics.median(ratios):.2f}** | {spread} "
        f"| {most[0]:.2f} | {most[1]:.2f} |"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("rows", nargs="*", default=["help", "status", "check", "stages"])
    parser.add_argument("--rounds", type=int, default=1, help="of every stage")
    asked = parser.parse_args(argv)
    if git("status", "--porcelain", "--untracked-files=no"):
        print("note: uncommitted changes are not measured; the last commit is.", flush=True)
    base, here = tree(asked.commit), tree("HEAD")
    print("| row | processor, base | here | ratio | spread | GiB, base | GiB, here |\n|---|---|---|---|---|---|---|")
    total: list[tuple[Cost, Cost]] = []
    for name, words, is_stage in wanted(asked.rows, base, here):
        pairs = [(cost(base, words), cost(here, words)) for _ in range(asked.rounds if is_stage else TIMES)]
        print(line(name, [one for one, _ in pairs], [other for _, other in pairs]), flush=True)
        total += pairs[:1] if is_stage else []
    if len(total) > 1:
        sums = [Cost(sum(c.processor for c in part), sum(c.wall for c in part), max(c.memory for c in part))
                for part in zip(*total, strict=True)]  # fmt: skip
        print(line("all these stages", sums[:1], sums[1:]), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
