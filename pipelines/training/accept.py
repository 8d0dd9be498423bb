"""``python -m pipelines.training.accept STAGE``: does the code of today train as the code that made a result did?

A refactoring changes the identity of a stage's code and not its numbers. To tell one from the other, the stage itself
is trained for ten steps by both codes, on its own data and parameters, in two folders below ``.work``; all logged
numbers and all files of the two checkpoints are compared to the last bit. Where they are equal, the result is taken
over. The code that made it is looked for in git, by its identity.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import origin
from pipelines.code.definitions import CodeError
from pipelines.code.stages import CODE_FILE, read, stage_identity
from pipelines.commands import GRAPH, command_text, launch_options, stage_entries
from pipelines.document import PARAMS_FILE, ParamsError, load, read_document, written
from pipelines.journal import read_records
from pipelines.leftovers import WORK
from pipelines.record import now as time_now
from pipelines.stage import ANEW, CODE, StageError, path_flags, write_json
from pipelines.starting import WRITTEN, command_line
from pipelines.told import plain
from pipelines.training.same import different_file, first_difference
from pipelines.training.tracking import read_rows

STEPS = 10
MOST_COMMITS = 60
"""Commits that touch the code, the newest first, that are looked through for the code that made a result."""
MADE = ".made"
"""Folder of a trial in which its outputs go; what else is there is the code, and the project's folders by link."""
SHORT = 12


@dataclass(frozen=True)
class AcceptedResult:
    """A stage's result as it is recorded: the identity in dvc.lock, the run's record, the code that trained it."""

    stage: str
    identity: str
    record: Path
    trained_by: str
    commit: str | None


def recorded(stage: str) -> AcceptedResult:
    """What is known of the stage's result.

    Raises:
        StageError: it was never run, or nothing says which code trained it.
    """
    anew = f"train it anew: `reel run {stage}`"
    lock = Path("dvc.lock")
    content = load(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    entry = ((content or {}).get("stages") or {}).get(stage) or {}
    identity = (entry.get("params") or {}).get(CODE_FILE.name, {}).get(stage)
    if identity is None:
        raise StageError(f"dvc.lock: {stage}: no run of it is recorded, so there is nothing to accept; {anew}.")
    for path, record in reversed(read_records()):
        code = record["header"].get("code") or {}
        taken_over = [one["to"] for one in record.get("accepted") or []]
        if record["header"]["stage"] == stage and code.get("identity") and identity in (code["identity"], *taken_over):
            return AcceptedResult(stage, identity, path, code["identity"], code.get("commit"))
    raise StageError(f"{WORK / stage}: no record of the run that made the result ({identity[:SHORT]}); {anew}.")


# ---- the two codes ------------------------------------------------------------------------------------------------


def _git(*words: str) -> bytes:
    try:
        return subprocess.run(["git", *words], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def code_of(commit: str, folder: Path) -> bool:
    """Put the code of a commit into a new folder; whether git has it."""
    known = _git("ls-tree", "--name-only", commit, "pipelines", GRAPH.name, "graph.yaml").decode().split()
    content = _git("archive", commit, *known) if "pipelines" in known else b""
    if not content:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(folder, filter="data")
    return True


def identity_in(folder: Path, stage: str) -> str | None:
    """The identity that the code in a folder gives the stage by its own analysis; None where it cannot tell."""
    command = [sys.executable, "-m", "pipelines.code"]
    done = subprocess.run(command, cwd=folder, env=environment_of(folder), capture_output=True, check=False)
    return None if done.returncode else read(folder / CODE_FILE.name).get(stage)


def put_code_that_trained(result: AcceptedResult, folder: Path) -> str:
    """Put the code that trained the result into the folder; returns its commit.

    A result that was trained with local changes is found where these were committed later.

    Raises:
        StageError: no commit has it.
    """
    found = put_code(result.stage, result.trained_by, result.commit, folder)
    if found is not None:
        return found
    told = f"at {result.commit[:SHORT]} with local changes that no commit has" if result.commit else "outside git"
    raise StageError(
        f"{result.stage}: trained {told}, so its code ({result.trained_by[:SHORT]}) cannot be compared; commit "
        f"that code if you still have it, or train it anew: `reel run {result.stage}`."
    )


def put_code(stage: str, identity: str, likely: str | None, folder: Path) -> str | None:
    """Put the code that gives the stage this identity into the folder; returns its commit, None where none has it.

    ``likely``: the commit to look at first; what was made with local changes is found where these were committed later.
    """
    later = _git("log", "--all", f"-{MOST_COMMITS}", "--format=%H", "--", "pipelines", GRAPH.name).decode().split()
    for commit in dict.fromkeys([*filter(None, [likely]), *later]):
        if code_of(commit, folder) and identity_in(folder, stage) == identity:
            return commit
        for name in ("pipelines", GRAPH.name, "graph.yaml", CODE_FILE.name):
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
    return None


def put_code_of_today(folder: Path) -> None:
    """Copy the code as it is on disk."""
    shutil.copytree("pipelines", folder / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))


# ---- ten steps ----------------------------------------------------------------------------------------------------


def shortened(stage: str) -> dict[str, Any]:
    """The stage's section with ten steps, each logged, one validation and one save at the end.

    Raises:
        StageError: the stage is no training.
    """
    section = json.loads(json.dumps(read_document(PARAMS_FILE)[0].get(stage)))
    blocks = list(_trainings(section))
    if len(blocks) != 1:
        raise StageError(
            f"{PARAMS_FILE}: {stage}: is no training, so there are no ten steps to compare; "
            f"`reel run {stage}` runs it, and what follows stays fresh where it makes the same bytes."
        )
    every = {"steps": STEPS, "log_every": 1, "save_every": STEPS, "validate_every": STEPS, "stop_when": None}
    blocks[0].update(every)
    return section


def _trainings(values: Any) -> Iterator[dict[str, Any]]:
    if isinstance(values, dict):
        if {"steps", "optimizer", "schedule"} <= values.keys():
            yield values
        else:
            for value in values.values():
                yield from _trainings(value)


def environment_of(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for a process that is to run the code in a folder, whatever project the command is of."""
    mine = {name: value for name, value in (known or os.environ).items() if not name.startswith(("DVC_", "REEL_"))}
    return {**mine, "PYTHONPATH": str(folder.resolve()), "REEL_PROJECT": str(folder.resolve())}


def train(stage: str, folder: Path, section: Mapping[str, Any], code: str) -> None:
    """Train the stage for ten steps with the code in the folder, its outputs below :data:`MADE`.

    Raises:
        StageError: it does not run; with what it said last.
    """
    for path in Path().iterdir():
        if not path.name.startswith(".") and not (folder / path.name).exists() and path.name != PARAMS_FILE.name:
            (folder / path.name).symlink_to(path.resolve())
    (folder / PARAMS_FILE.name).write_text(written({stage: dict(section)}), encoding="utf-8")
    words = command_text(stage_entries()[stage]).split()
    options, words = launch_options(words[words.index("pipelines.launch") + 1 :])
    module, function, *rest = words
    flags = {flag: f"{MADE}/{flag}" if flag in WRITTEN else value for flag, value in path_flags(rest).items()}
    flags |= {"metrics": f"{MADE}/metrics.json"} if "metrics" in flags else {}
    command, environment = command_line([module, function], alone=True)
    environment = environment_of(folder, environment) | {"REEL_STAGE": stage, CODE: code, ANEW: "1"}
    threads = [word.removeprefix("--threads=") for word in options if word.startswith("--threads=")]
    environment |= {"OMP_NUM_THREADS": threads[0]} if threads else {}
    told = [word for flag, value in flags.items() for word in (f"--{flag.replace('_', '-')}", value)]
    done = subprocess.run([*command, *told], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"it ended with {done.returncode}").splitlines()[-1]
        raise StageError(f"it does not run here: {said.removeprefix(f'{stage}: ')}")


def difference(one: Path, other: Path) -> str | None:
    """The first number, or else file, in which two trials differ; None where they are the same to the last bit."""
    found = first_difference(*(rows(folder) for folder in (one, other)))
    if found is not None:
        return f"at step {found[0]}, {found[1]}"
    return different_file(one / MADE / "out", other / MADE / "out")


def rows(folder: Path) -> list[dict[str, Any]]:
    """All that a trial logged."""
    return [row for path in sorted((folder / WORK).rglob("rows.jsonl")) for row in read_rows(path)]


@contextlib.contextmanager
def _place(stage: str) -> Iterator[Path]:
    """A folder that the stage's next run removes where this process is killed."""
    folder = WORK / stage / f".accept.partial-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compared(result: AcceptedResult) -> str:
    """Train with both codes and compare; returns what was found equal.

    Raises:
        StageError: they differ, or one of them does not run, or the code that trained the result is nowhere.
    """
    stage, section = result.stage, shortened(result.stage)
    with _place(stage) as place:
        before, now = place / "before", place / "now"
        commit = put_code_that_trained(result, before)
        put_code_of_today(now)
        for folder, name in ((before, f"code of {commit[:SHORT]}"), (now, "code of today")):
            print(f"{stage}: {STEPS} steps by the {name}", flush=True)
            try:
                train(stage, folder, section, result.trained_by)
            except StageError as error:
                raise StageError(f"{stage}: {name}: {error}. Nothing is accepted.") from None
        found = difference(before, now)
        if found is None:
            logged = rows(before)
            files = sum(path.is_file() for path in (before / MADE / "out").rglob("*"))
            return f"{STEPS} steps as by {commit[:SHORT]} to the last bit: {len(logged)} rows of numbers, {files} files"
        again = place / "again"
        shutil.copytree(before / "pipelines", again / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
        train(stage, again, section, result.trained_by)
        by_chance = difference(before, again)
    if by_chance:
        said = f"the code of {commit[:SHORT]} does not even repeat itself here ({by_chance}), so nothing can be told"
        raise StageError(f"{stage}: {said}. Nothing is accepted.")
    raise StageError(f"{stage}: not the same: {found}. Nothing is accepted; `reel run {stage}` trains it anew.")


# ---- the record ---------------------------------------------------------------------------------------------------


def note(result: AcceptedResult, identity: str, because: str, what: str) -> None:
    """Write into the run's record that its result counts as one of today's code, and why."""
    record = json.loads(result.record.read_text(encoding="utf-8"))
    made = {"from": result.identity, "to": identity, "because": " ".join(because.split()), "compared": what}
    made |= {"at": time_now(), **origin.commit()}
    earlier = [one for one in record.get("accepted") or [] if one["to"] != identity]
    write_json(result.record, {**record, "accepted": [*earlier, made]})


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="reel accept", description=plain(__doc__))
    parser.add_argument("stage")
    parser.add_argument("--because", required=True, help="what was changed, and why no number changes by it")
    given = parser.parse_args(argv)
    try:
        if not given.because.strip():
            raise StageError("--because: give the reason.")
        entry = stage_entries().get(given.stage)
        if entry is None:
            raise StageError(f"{GRAPH}: no stage {given.stage}.")
        if (identity := stage_identity(given.stage, entry)) is None:
            raise StageError(f"{GRAPH}: stage {given.stage} launches none of ours.")
        result = recorded(given.stage)
        what = compared(result)
        note(result, identity.value, given.because, what)
    except (StageError, ParamsError, CodeError) as error:
        print(f"accept: {error}", file=sys.stderr)
        return 1
    print(f"{given.stage}: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
