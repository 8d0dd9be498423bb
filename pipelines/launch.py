"""From a stage's command to its processes on this machine: checked first, one writer, no orphans, no false lineage.

``python -m pipelines.launch [--alone] <module> <function> --params <section> --<flag> <path> …`` is the
``cmd`` of every stage in ``dvc.yaml``. It

1. validates all of ``params.yaml`` and the stage's input paths before anything heavy is imported;
2. refuses a second writer of the same output, naming the first (:mod:`pipelines.ownership`);
3. waits for the GPUs that the stage is given (:mod:`pipelines.devices`) and says where it runs on the CPU instead;
   starts the stage through accelerate as this machine is configured (``launch.yaml``, an ordinary accelerate config
   file that neither ``dvc.yaml`` nor ``params.yaml`` knows of); without one, one process on what is here; or hands the
   processes to Slurm or Kubernetes, where that file names one as ``target`` (:mod:`pipelines.targets`);
4. passes a first SIGTERM or SIGINT on, so that the stage can save, and ends every process that is left after the grace
   time; when whoever started it is gone, it stops too;
5. sees to it that ``code.json`` says which code runs, compares parameters and the definitions that the stage reaches
   with what they were at the start, warns within seconds of an edit, and fails the stage if it is still there at the
   end: DVC records what it finds *then*;
6. looks at the data that no stage makes before and after, and runs the stage once more when some of it moved meanwhile
   (:mod:`pipelines.arrivals`);
7. puts the stage's earlier outputs back when it fails (DVC deletes them before it runs a stage).
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pipelines import arrivals, revisions
from pipelines.code import stages as code_stages
from pipelines.code.definitions import CodeError
from pipelines.code.stages import CODE_FILE, Identity
from pipelines.commands import launch_options, stage_entries, stage_words
from pipelines.document import read_document
from pipelines.ownership import owned
from pipelines.params import Params, ParamsError, check, parse_section, section_class
from pipelines.processes import is_forced
from pipelines.progress import complain
from pipelines.recording import note_time, restore_outputs, unchanged_inputs
from pipelines.stage import ANEW, CODE, LEFT, STOPPED, STOPPED_NOTE, StageError, path_flags, refused_by_disk
from pipelines.starting import WRITTEN, by_engine, here, said, sent_to


def stated(name: str, graph: Path = Path("dvc.yaml")) -> tuple[Params, dict[str, Path]]:
    """What a stage of dvc.yaml would be called with: its section of the parameters, and its paths by flag.

    Raises:
        ParamsError: the section or its module is wrong. StageError: the command cannot be read.
    """
    module, function, *rest = stage_words(read_document(graph)[0]["stages"][name]["cmd"])
    flags = path_flags(rest)
    params = parse_section(section_class(module, function), flags.pop("params"))
    return params, {flag: Path(value) for flag, value in flags.items()}


def _check_inputs(arguments: list[str]) -> None:
    for flag, value in path_flags(arguments).items():
        if flag not in WRITTEN | {"params"} and not Path(value).exists():
            raise StageError(f"--{flag} {value}: not there. Run the stage that makes it first (dvc repro does).")


def _discard_outputs(arguments: list[str]) -> None:
    for flag, value in path_flags(arguments).items():
        if flag in WRITTEN:
            path = Path(value)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def settled_code(stage: str, entry: Mapping[str, Any], seen: Identity | None = None) -> Identity:
    """The identity of the stage's code as it is on disk, which ``code.json`` says too from now on.

    ``seen``: somebody has just looked, and it is this.

    Raises:
        StageError: the code cannot be understood.
    """
    try:
        found = seen or code_stages.stage_identity(stage, entry)
        if found is None:
            return Identity("", {})
        if code_stages.settle(stage, entry, found):
            print(f"{stage}: {CODE_FILE} was not of the code on disk and is written anew", flush=True)
    except CodeError as error:
        raise StageError(str(error)) from None
    return found


def launch(argv: list[str]) -> int:
    """Run one stage on this machine; returns its exit code.

    Raises:
        ParamsError, StageError: what is wrong and what to do, before or after the run.
    """
    options, words = launch_options(argv)
    alone = "--alone" in options
    if len(words) < 2 or set(options) - {"--alone"}:
        raise StageError(
            "expected [--alone] <module> <function> --params <section> --<flag> <path> …; the number of threads is a "
            "fact of the machine (OMP_NUM_THREADS)."
        )
    module, function, *arguments = words
    section = path_flags(arguments).get("params", function)
    stage = os.environ.get("DVC_STAGE", section)
    entry = stage_entries().get(stage)
    code_here = settled_code(stage, entry or {"cmd": f"pipelines.launch {module} {function}"})
    if Path("dvc.yaml").is_file():
        check()
    settle_revisions(stage, parse_section(section_class(module, function), section), section)
    _check_inputs(arguments)
    told = {"REEL_STAGE": stage, CODE: code_here.value} | ({ANEW: "1"} if is_forced() else {})
    elsewhere = sent_to(stage)
    with owned(stage, Path(".work") / stage) as lock:
        began = time.monotonic()
        start = here if elsewhere is None else by_engine(elsewhere)
        try:
            with (
                start(stage, words, alone, lock, told) as run,
                unchanged_inputs(stage, code_here if entry else None) as look,
            ):
                code, asked = arrivals.until_still(stage, lambda: run(look))
                if code:
                    note = Path(".work") / stage / STOPPED_NOTE
                    return STOPPED if asked and note.is_file() else code
            if entry:  # its code is what it was, as was seen on the way out; `code.json` may have been touched
                settled_code(stage, entry, code_here)
        except StageError:
            _discard_outputs(arguments)
            raise
        note_time(stage, time.monotonic() - began)
    return 0


def settle_revisions(stage: str, params: Params, section: str) -> None:
    """See :mod:`pipelines.revisions`; the hub's client is loaded only where something is to be asked."""
    if any(revisions.moving(params, (section,))):
        from pipelines.hub import commit

        for line in revisions.settle(params, section, commit):
            said(stage)(line)


def _of_this_project() -> bool:
    """Whether this code is that of the project in the current folder, where that has code of its own."""
    own = Path("pipelines/launch.py")
    return not own.is_file() or own.samefile(__file__)


def _hand_over() -> NoReturn:
    """Start again with the code of the project in the current folder.

    ``python -m`` looks there first, unless PYTHONSAFEPATH or ``-P`` forbids it; then it finds what is installed.
    """
    path = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.stdout.flush()
    os.execve(
        sys.executable, [sys.executable, "-m", "pipelines.launch", *sys.argv[1:]], {**os.environ, "PYTHONPATH": path}
    )


def main() -> int:
    """Entry point of every stage's ``cmd``."""
    stage = os.environ.get("DVC_STAGE", "launch")
    if not _of_this_project():
        _hand_over()
    try:
        code = launch(sys.argv[1:])
    except (ParamsError, StageError) as error:
        complain(stage, error)
        code = 2
    except OSError as error:
        reason = refused_by_disk(error)
        if reason is None:
            raise
        complain(stage, reason)
        code = 2
    if code and code != LEFT:
        restored = restore_outputs(stage)
        if restored:
            print(f"{stage}: failed; the earlier {', '.join(restored)} are back in place.", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
