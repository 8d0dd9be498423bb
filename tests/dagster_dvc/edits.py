"""Edits of the toy project, one of every kind that can make a stage stale, and some that must not."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.dagster_dvc import toy


@dataclass(frozen=True)
class Edited:
    """A copy of the toy project after one edit, and the stages that DVC itself calls stale."""

    root: Path
    stale: set[str]


def edited_copies(original: Path, folder: Path) -> dict[str, Edited]:
    """Every edit applied to a copy of its own; one DVC process answers for all of them."""
    roots = {name: Path(shutil.copytree(original, folder / str(number))) for number, name in enumerate(EDITS)}
    for name, root in roots.items():
        EDITS[name](root)
    script = (
        "import json, os, sys\nfrom dvc.repo import Repo\n"
        "for root in sys.argv[1:]:\n    os.chdir(root)\n    print(json.dumps(sorted(Repo(root).status())))"
    )
    command = [sys.executable, "-c", script, *map(str, roots.values())]
    answers = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {
        name: Edited(root, set(json.loads(line))) for (name, root), line in zip(roots.items(), answers, strict=True)
    }


def _rewrite(file: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / file).unlink() or ((root / file).write_text(text) and None)


def _edit(file: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda root: toy.edit(root, file, old, new)


EDITS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda root: None,
    "a param": _edit("params.yaml", "total: 3", "total: 4"),
    "two params": lambda root: (
        toy.edit(root, "params.yaml", "total: 3", "total: 4"),
        toy.edit(root, "params.yaml", "amount: 2", "amount: 2.5"),
    )[0],
    "a param only re-spelt": _edit("params.yaml", "1.0e-4", "0.0001"),
    "a param removed": _edit("params.yaml", "amount: 2, ", ""),
    "code": _edit("train.py", "import json", "import json  # edited"),
    "code of two stages": _edit("add.py", "import sys", "import sys  # edited"),
    "a command": _edit("dvc.yaml", "cmd: python evaluate.py", "cmd: python -u evaluate.py"),
    "desc and meta": _edit("dvc.yaml", "desc: Sums both sides.", "desc: Sums."),
    "source data": _edit("source/numbers.txt", "3", "4"),
    "an output edited": _rewrite("work/left", "[1.0]"),
    "an output deleted": lambda root: shutil.rmtree(root / "work" / "numbers"),
    "an output added": _edit("dvc.yaml", "outs: [work/scores, ", "outs: [work/extra, work/scores, "),
    "a dependency added": _edit("dvc.yaml", "deps: [evaluate.py, ", "deps: [evaluate.py, source/numbers.txt, "),
    "a frozen stage behind params and data": lambda root: (
        toy.edit(root, "dvc.yaml", "cmd: python add.py right", "frozen: true\n    cmd: python add.py right"),
        toy.edit(root, "params.yaml", "amount: 2", "amount: 7"),
        toy.edit(root, "source/numbers.txt", "3", "4"),
    )[0],
    "a stage added": _edit(
        "dvc.yaml", "  evaluate:\n", "  extra: {cmd: echo, deps: [work/model], outs: [x]}\n  evaluate:\n"
    ),
}
