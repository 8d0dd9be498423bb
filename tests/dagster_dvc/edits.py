"""Edits of the toy project, one of every kind that can make a stage stale, and some that must not."""

import hashlib
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
    """A copy of the toy project after one edit, and the stages that DVC itself calls stale, or why it refuses."""

    root: Path
    stale: set[str]
    refusal: str = ""


def edited_copies(original: Path, folder: Path) -> dict[str, Edited]:
    """Every edit applied to a copy of its own; one DVC process answers for all of them."""
    roots = {name: Path(shutil.copytree(original, folder / str(number))) for number, name in enumerate(EDITS)}
    for name, root in roots.items():
        EDITS[name](root)
    script = (
        "import json, os, sys\nfrom dvc.repo import Repo\n"
        "for root in sys.argv[1:]:\n    os.chdir(root)\n"
        "    try:\n        print(json.dumps(sorted(Repo(root).status())))\n"
        "    except Exception as error:\n        print(json.dumps(str(error)))"
    )
    command = [sys.executable, "-c", script, *map(str, roots.values())]
    answers = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = {}
    for (name, root), line in zip(roots.items(), answers, strict=True):
        said = json.loads(line)
        found[name] = Edited(root, set(), said) if isinstance(said, str) else Edited(root, set(said))
    return found


def _rewrite(file: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / file).unlink() or ((root / file).write_text(text) and None)


def _edit(file: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda root: toy.edit(root, file, old, new)


def _again(file: str, old: str, new: str) -> Callable[[Path], None]:
    """An edit that was followed by a run: what DVC recorded of it is compared with what it reads again."""

    def edit(root: Path) -> None:
        toy.edit(root, file, old, new)
        toy.dvc(root, "repro", "--quiet")

    return edit


def _forget(root: Path, path: str) -> None:
    md5 = hashlib.md5((root / path).read_bytes(), usedforsecurity=False).hexdigest()
    (root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()


def _litter(root: Path, *, ignored: bool) -> None:
    if ignored:
        (root / ".dvcignore").write_text((toy.REPO / ".dvcignore").read_text())
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._all.txt", "@eaDir/all.txt@SynoEAStream"):
        path = root / "work/numbers" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("left behind")


LEFT = "deps: [add.py, work/numbers]\n    params: [left]"
"""What the stage `left` reads."""


def _all(*edits: Callable[[Path], None]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        for one in edits:
            one(root)

    return edit


def _recorded(old: str, new: str) -> Callable[[Path], None]:
    """What DVC would have recorded, had it run on other files; without its seconds."""
    return _edit("dvc.lock", old, new)


def _write(file: str, text: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(text.encode())

    return edit


def _key(before: str, now: str) -> Callable[[Path], None]:
    """A key of a mapping in a parameter, recorded and then written otherwise."""
    return _all(
        _recorded("          gate: 1\n", f"          gate: 1\n          map: {before}\n"),
        _edit("params.yaml", "gate: 1", f"gate: 1, map: {now}"),
    )


def _read_too(file: str, text: str, recorded: str) -> Callable[[Path], None]:
    """A parameter `a` of a file of another kind, recorded."""
    tracked = _edit("dvc.yaml", "params: [left]", f"params: [left, {{{file}: [a]}}]")
    held = _recorded(
        "      params.yaml:\n        left:", f"      {file}:\n        a: {recorded}\n      params.yaml:\n        left:"
    )
    return _all(_write(file, text), tracked, held)


def _of_dvc_2(root: Path) -> None:
    """A project that DVC 2 has recorded: no kind of hash in the lock file, objects in the cache of that time."""
    lines = (root / "dvc.lock").read_text().splitlines(keepends=True)
    (root / "dvc.lock").write_text("".join(line for line in lines if line.strip() != "hash: md5"))
    for place in list((root / ".dvc/cache/files/md5").iterdir()):
        place.rename(root / ".dvc/cache" / place.name)


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
    "a param 2 as 2.0": _edit("params.yaml", "amount: 2,", "amount: 2.0,"),
    "a param 1 as true": _edit("params.yaml", "gate: 1", "gate: true"),
    "a param 2 as 20e-1": _edit("params.yaml", "amount: 2,", "amount: 20e-1,"),
    "a param 2 as 0x2": _edit("params.yaml", "amount: 2,", "amount: 0x2,"),
    "a section in another order": _edit("params.yaml", "{amount: 2, seconds: 0}", "{seconds: 0, amount: 2}"),
    "a file of a dependency ignored": _edit(".dvcignore", "__pycache__\n", "__pycache__\nall.txt\n"),
    "a param as a word": _edit("params.yaml", "amount: 2,", "amount: '2',"),
    "NaN in a section": _again("params.yaml", "gate: 1", "gate: .nan"),
    "NaN in a list of a section": _again("params.yaml", "gate: 1", "gate: 1, list: [.nan, 1]"),
    "NaN in a parameter of its own": lambda root: (
        toy.edit(root, "dvc.yaml", "params: [train]", "params: [train.gate, train.total, train.steps]"),
        _again("params.yaml", "gate: 1", "gate: .nan")(root),
    )[0],
    "a cache object lost": lambda root: _forget(root, "work/model"),
    "an object of a folder lost": lambda root: _forget(root, "work/numbers/all.txt"),
    "the cache lost": lambda root: shutil.rmtree(root / ".dvc/cache/files"),
    "an output and the cache lost": lambda root: (
        shutil.rmtree(root / ".dvc/cache/files"),
        (root / "work/model").unlink(),
    )[0],
    "a .dvcignore in a dependency": lambda root: (root / "work/numbers/.dvcignore").touch(),
    "a link to nowhere": lambda root: (root / "work/numbers/link").symlink_to("nowhere"),
    "a linked folder": lambda root: (root / "work/numbers/link").symlink_to(root / "source"),
    "a linked file": lambda root: (root / "work/numbers/link").symlink_to(root / "source/numbers.txt"),
    "an empty folder": lambda root: (root / "work/numbers/empty").mkdir(),
    "an executable file": lambda root: (root / "source/numbers.txt").chmod(0o755),
    "a file in place of a folder": lambda root: (
        shutil.rmtree(root / "work/numbers"),
        (root / "work/numbers").write_text("x") and None,
    )[1],
    "what file managers leave": lambda root: [_litter(root, ignored=True), None][1],
    "what file managers leave, not ignored": lambda root: [_litter(root, ignored=False), None][1],
    "a metric edited": _rewrite("metrics/train.json", "{}"),
    "a dependency removed": _edit("dvc.yaml", "work/left, work/right]\n    params", "work/left]\n    params"),
    "an output removed": _edit("dvc.yaml", "outs: [work/scores, work/pictures]", "outs: [work/scores]"),
    "a parameter no longer read": _edit("dvc.yaml", "    params: [left]\n", ""),
    "a parameter that is nowhere": _edit("dvc.yaml", "params: [left]", "params: [left, nowhere]"),
    "a key 1 as '1'": _key("{1: a}", "{'1': a}"),
    "a key 1 as 1.0": _key("{1: a}", "{1.0: a}"),
    "a key true as 1": _key("{true: a}", "{1: a}"),
    "a key null as 'null'": _key("{null: a}", "{'null': a}"),
    "keys that look like others": _key(*2 * ("{'1e5': a, \"'x'\": b, 'nan': d, 3d: f, '1.0': g}",)),
    "a key that is a list": _edit("params.yaml", "gate: 1", "gate: 1, map: {[1, 2]: a}"),
    "NaN in a JSON file": _read_too("other.json", '{"a": {"b": NaN}}', "{b: .nan}"),
    "a tuple in a Python file": _read_too("other.py", "a = (1, 2)\n", "[1, 2]"),
    "a tuple inside a value of a Python file": _read_too("other.py", "class a:\n    b = (1, 2)\n", "{b: [1, 2]}"),
    "a dependency written ./": _edit("dvc.yaml", LEFT, LEFT.replace("add.py", "./add.py")),
    "a dependency written with a slash": _edit("dvc.yaml", LEFT, LEFT.replace("numbers", "numbers/")),
    "a dependency written ./ and run": _all(
        _edit("dvc.yaml", LEFT, LEFT.replace("add.py", "./add.py")),
        _recorded(
            "cmd: python add.py left\n    deps:\n    - path: add.py",
            "cmd: python add.py left\n    deps:\n    - path: ./add.py",
        ),
    ),
    "an output written ./": _edit("dvc.yaml", "outs: [work/left]", "outs: [./work/left]"),
    "a params file written ./": _edit("dvc.yaml", "params: [left]", "params: [{./params.yaml: [left]}]"),
    "a project inside a dependency": lambda root: (root / "work/numbers/.dvc").mkdir(),
    "a file .git in a dependency": _write("work/numbers/.git", "gitdir: elsewhere"),
    "a stage that reads and makes nothing": _all(
        _edit("dvc.yaml", "  evaluate:\n", "  call: {cmd: echo}\n  evaluate:\n"),
        _recorded("  evaluate:\n", "  call:\n    cmd: echo\n  evaluate:\n"),
    ),
    "recorded by DVC 2": _of_dvc_2,
    "recorded by DVC 2, other line ends": _all(_of_dvc_2, _write("source/numbers.txt", "1\r\n2\r\n3\r\n")),
    "recorded by DVC 2, code with other line ends": _all(
        _of_dvc_2, _write("evaluate.py", toy.textwrap.dedent(toy.FILES["evaluate.py"]).replace("\n", "\r\n"))
    ),
    "other line ends": _write("source/numbers.txt", "1\r\n2\r\n3\r\n"),
}
