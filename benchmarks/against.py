"""`python -m benchmarks.against COMMIT [ROW…]`: this commit and an earlier one, in turn, on one machine.

Each commit gets a worktree and an environment of its own under ``.work/against``. Rows are run in both trees in turn:

- ``help``, ``status``, ``check``: commands of `reel`, seven rounds;
- ``stages``, or the name of a stage: the stages that both have, by ``dvc repro --single-item --force``, each once
  unless ``--rounds`` says more, on what the stages before them made in the same tree;
- ``muon``: an update of Muon at the shapes of the tree's own ``checkpoints/rectified_flow``, 30 times in seven rounds;
- ``demo``: everything made away, then ``reel demo``;
- ``test``: ``make test``.

Stated are processor seconds of the command and all its children, wall seconds, and the memory of its largest process.
With ``--markdown PAGE`` the rows replace their namesakes between the page's markers.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PLACE = ROOT / ".work" / "against"
COMMANDS = ("help", "status", "check")
LONG = {"demo": ["reel", "demo"], "test": ["make", "test"]}
TIMES = 7
"""Rounds of a command; stages run ``--rounds`` times, what takes ten minutes once."""
MADE = ("data", "checkpoints", "metrics", "plots", "report", ".dvc/cache", ".dvc/tmp", "dvc.lock", "code.json")
HEAD = (
    "| row | processor s, base | here | ratio (spread) | wall s, base | here | GiB, base | here |\n" + "|---" * 8 + "|"
)
UPDATES = """
import pathlib, resource, time, torch
from safetensors import safe_open
from pipelines.training import muon
torch.set_num_threads(1)
torch.manual_seed(0)
with safe_open(next(pathlib.Path("checkpoints/rectified_flow").rglob("*.safetensors")), "pt") as file:
    shapes = [file.get_slice(name).get_shape() for name in sorted(file.keys())]
matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes if len(shape) == 2 and min(shape) > 16]
half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
optimizer = (getattr(muon, "BFloat16Muon", muon.Float32Muon) if half else muon.Float32Muon)(matrices, lr=1e-3)
for one in matrices:
    one.grad = torch.randn_like(one)
optimizer.step()
began, spent = time.perf_counter(), time.process_time()
for _ in range(30):
    optimizer.step()
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(time.process_time() - spent, time.perf_counter() - began, memory)
"""
"""What the row ``muon`` runs in a tree: it knows the names that Muon had in each."""
BEGIN, END = "<!-- against -->", "<!-- end -->"


@dataclass(frozen=True)
class Cost:
    """What one run of a command took: processor and wall seconds, GiB of its largest process."""

    processor: float
    wall: float
    memory: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.processor + other.processor, self.wall + other.wall, max(self.memory, other.memory))


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
    """Of a command in a tree, with the tree's own programs, measured by a process whose only child it is.

    Raises:
        SystemExit: the command failed; its last lines say why.
    """
    script = "import sys; from benchmarks.against import measured; measured(sys.argv[1:])"
    programs = place / ".venv" / "bin"
    kept = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}}
    environment = {**kept, "PYTHONPATH": str(ROOT), "PATH": f"{programs}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", script, str(place), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{place}: {' '.join(words)}: {done.stderr.strip()[-2000:]}")
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


def stages(place: Path, with_optional: bool = True) -> list[str]:
    """Stages of a tree in an order in which they can run, but ``code``, which costs little; or those of its demo."""
    found = yaml.safe_load((place / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    optional = {name for name, entry in found.items() if entry.get("meta", {}).get("dagster", {}).get("optional")}
    return [name for name in found if name != "code" and (with_optional or name not in optional)]


def muon(place: Path) -> Cost:
    """Of 30 updates of Muon; its own start is left out."""
    python = place / ".venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        [python, "-c", UPDATES], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{place}: {done.stderr.strip()[-2000:]}")
    return Cost(*map(float, done.stdout.split()))


def one(name: str, place: Path) -> Cost:
    """One round of a row in a tree."""
    if name == "muon":
        return muon(place)
    if name == "demo":
        for path in (place / made for made in MADE):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if name in LONG:
        return cost(place, LONG[name])
    if name in COMMANDS:
        return cost(place, ["reel", "--help" if name == "help" else name])
    shutil.rmtree(place / ".work" / name, ignore_errors=True)  # a training that was finished before would be taken up
    return cost(place, ["dvc", "repro", "--single-item", "--force", name])


def wanted(rows: Sequence[str], base: Path, here: Path) -> list[str]:
    """The rows asked for, commands first, stages in the order of the lineage.

    Raises:
        SystemExit: a row is neither a command nor a stage of both.
    """
    common = [name for name in stages(here) if name in stages(base)]
    known = [*COMMANDS, *common, "muon", *LONG]
    asked = [name for row in rows for name in (common if row == "stages" else [row])]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: no row; known are stages, {', '.join(known)}.")
    return [name for name in known if name in asked]


def line(name: str, base: Sequence[Cost], here: Sequence[Cost]) -> str:
    """One row of the table: medians, and the ratio of processor seconds pair by pair with its spread."""
    ratios = [ours.processor / theirs.processor for ours, theirs in zip(here, base, strict=True)]
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    processor, wall = (
        [statistics.median(getattr(cost, what) for cost in costs) for costs in (base, here)]
        for what in ("processor", "wall")
    )
    most = [max(cost.memory for cost in costs) for costs in (base, here)]
    return (
        f"| {name} | {processor[0]:.2f} | {processor[1]:.2f} | **{statistics.median(ratios):.2f}**{spread} "
        f"| {wall[0]:.1f} | {wall[1]:.1f} | {most[0]:.2f} | {most[1]:.2f} |"
    )


def table(names: Sequence[str], base: Path, here: Path, rounds: int) -> Iterator[str]:
    """The rows, each as soon as it is measured, and the sum of the stages."""
    sums: dict[str, tuple[Cost, Cost]] = {}
    cost(here, ["dvc", "repro", "--quiet", "code"])
    for name in names:
        is_stage = name not in (*COMMANDS, "muon", *LONG)
        times = 1 if name in LONG else rounds if is_stage else TIMES
        pairs = [(one(name, base), one(name, here)) for _ in range(times)]
        yield line(name, [first for first, _ in pairs], [second for _, second in pairs])
        sums |= {name: pairs[0]} if is_stage else {}
    if len(sums) > 1:
        yield from totals(sums, base, here)


def totals(sums: Mapping[str, tuple[Cost, Cost]], base: Path, here: Path) -> Iterator[str]:
    """All stages that were measured, and those of them that the demo of each tree runs."""
    whole = [reduce(add, part) for part in zip(*sums.values(), strict=True)]
    yield line(f"these {len(sums)} stages", whole[:1], whole[1:])
    ran = [
        reduce(add, (costs[side] for name, costs in sums.items() if name in stages(place, with_optional=False)))
        for side, place in enumerate((base, here))
    ]
    yield line("those that `reel demo` runs", ran[:1], ran[1:])


def write(page: Path, rows: Sequence[str]) -> None:
    """Replace the rows of the same names between the page's markers, and add the others."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    present, after = rest.split(END)
    kept = {row.split("|")[1]: row for row in [*present.strip().splitlines()[2:], *rows]}
    page.write_text("\n".join([f"{before}{BEGIN}", HEAD, *kept.values(), f"{END}{after}"]), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("rows", nargs="*", default=[*COMMANDS, "stages", "muon"])
    parser.add_argument("--rounds", type=int, default=1, help="of every stage")
    parser.add_argument("--markdown", type=Path, help="the page whose table gets the rows")
    asked = parser.parse_args(argv)
    if git("status", "--porcelain", "--untracked-files=no"):
        print("note: uncommitted changes are not measured; the last commit is.", flush=True)
    base, here = tree(asked.commit), tree("HEAD")
    print(HEAD)
    for row in table(wanted(asked.rows, base, here), base, here, asked.rounds):
        print(row, flush=True)
        if asked.markdown:
            write(asked.markdown, [row])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
