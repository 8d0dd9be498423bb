"""`make same-loss BASE=main`: ten steps of every objective in two commits, compared to the last bit.

A change that should not touch numbers shows here that it did not; one that should shows where it begins. Compared are
all logged numbers of every step (losses, gradient norms, monitors) but those of the machine. Toy sizes, real
objectives, and each commit's own loop, optimizers and ``params.yaml``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.training.same import Row, first_difference

ROOT = Path(__file__).parents[1]
CASES = Path("tests/training/objectives.py")
STEPS = 10


def git(*words: str) -> str:
    """Output of a git command in this repository."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def tree(commit: str | None) -> Iterator[Path]:
    """The files of a commit in a worktree of their own; without a commit, the files as they are here."""
    if commit is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "tree"
        git("worktree", "add", "--quiet", "--detach", str(place), commit)
        try:
            yield place
        finally:
            git("worktree", "remove", "--force", str(place))


def trained(root: Path) -> dict[str, list[Row] | str]:
    """Rows of every objective in a tree, or why there are none. A tree without a list of objectives gets this one's."""
    if not (root / CASES).is_file():
        (root / CASES).write_text((ROOT / CASES).read_text(encoding="utf-8"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.objectives", str(STEPS)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{root}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def compared(base: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Per objective: its name, what was found, and whether it is the same."""
    found = []
    for name in {**base, **here}:
        one, other = base.get(name, "not there"), here.get(name, "not there")
        if isinstance(one, str) or isinstance(other, str):
            why = f"base: {one}" if isinstance(one, str) else f"here: {other}"
            found.append((name, f"cannot be compared: {why.splitlines()[0]}", False))
            continue
        difference = first_difference(one, other)
        said = (
            f"same in {len(one)} steps" if difference is None else f"differs at step {difference[0]}: {difference[1]}"
        )
        found.append((name, said, difference is None))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every objective trains the same, else 1."""
    parser = argparse.ArgumentParser(prog="make same-loss", description=__doc__)
    parser.add_argument("base", nargs="?", default="main", help="a commit")
    parser.add_argument("other", nargs="?", help="another commit; default: the files as they are here")
    given = parser.parse_args(argv)
    with tree(given.base) as base, tree(given.other) as other:
        results = compared(trained(base), trained(other))
    print(f"{given.base} against {given.other or 'the files here'}, {STEPS} steps each:")
    width = max(len(name) for name, _, _ in results)
    for name, said, _ in results:
        print(f"  {name.ljust(width)}  {said}")
    return 0 if all(same for _, _, same in results) else 1


if __name__ == "__main__":
    sys.exit(main())
