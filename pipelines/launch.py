"""From a stage's command to its processes on this machine: checked first, one writer, no orphans, no false lineage.

``python -m pipelines.launch [--alone] <module> <function> --params <section> --<flag> <path> …`` is the
``cmd`` of every stage in ``dvc.yaml``. It

1. validates all of ``params.yaml`` and the stage's input paths before anything heavy is imported;
2. refuses a second writer of the same output, naming the first (:mod:`pipelines.ownership`);
3. waits for the GPUs that the stage is given (:mod:`pipelines.devices`) and says where it runs on the CPU instead;
   starts the stage through accelerate as this machine is configured (``launch.yaml``, an ordinary accelerate config
   file that neither ``dvc.yaml`` nor ``params.yaml`` knows of); without one, one process on what is here;
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

import contextlib
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from pipelines import arrivals, machine, revisions
from pipelines.code import stages as code_stages
from pipelines.code.definitions import CodeError
from pipelines.code.stages import CODE_FILE
from pipelines.commands import launch_options, stage_entries, stage_words
from pipelines.devices import NONE, Devices, held, wants_gpu
from pipelines.document import load, read_document
from pipelines.leftovers import remove_partials
from pipelines.ownership import owned
from pipelines.params import Params, ParamsError, check, parse_section, section_class
from pipelines.processes import is_forced, stop_sets, supervise
from pipelines.recording import note_time, restore_outputs, unchanged_inputs
from pipelines.stage import ANEW, CODE, STOPPED, STOPPED_NOTE, StageError, path_flags, refused_by_disk

WRITTEN = {"out", "metrics", "plots"}
"""Flags that name what a stage makes; every other path must exist before it starts."""


REFUSED = {"DEEPSPEED", "MEGATRON_LM", "TP"}
"""Kinds of distribution that accelerate knows and the training loop does not."""


def free_port() -> int:
    """A TCP port nobody uses (accelerate's default collides when two stages run side by side)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def machine_config() -> tuple[Path | None, dict[str, Any]]:
    """This machine's accelerate config: ``REEL_LAUNCH`` or ``launch.yaml`` beside ``dvc.yaml``; none: one process."""
    path = Path(os.environ.get("REEL_LAUNCH", "launch.yaml"))
    if not path.is_file():
        if "REEL_LAUNCH" in os.environ:
            raise StageError(f"REEL_LAUNCH names {path}, which does not exist.")
        return None, {}
    content = load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise StageError(
            f"{path}: not an accelerate config file; make one with `accelerate config --config_file {path}`."
        )
    kind = str(content.get("distributed_type", "")).upper()
    if kind in REFUSED:
        raise StageError(
            f"{path}: distributed_type {kind} is not supported: the training loop steps its own optimizers. FSDP "
            "spreads weights, gradients and optimizer states in the same way: profiles/launch/fsdp.yaml."
        )
    return path, content


def _variables(config: dict[str, Any]) -> dict[str, str]:
    """What accelerate's launcher would tell the processes of a config that asks for FSDP."""
    if str(config.get("distributed_type", "")).upper() != "FSDP":
        return {}
    said = {name.upper(): str(value).lower() for name, value in (config.get("fsdp_config") or {}).items()}
    return {"ACCELERATE_USE_FSDP": "true"} | said


def stated(name: str, graph: Path = Path("dvc.yaml")) -> tuple[Params, dict[str, Path]]:
    """What a stage of dvc.yaml would be called with: its section of the parameters, and its paths by flag.

    Raises:
        ParamsError: the section or its module is wrong. StageError: the command cannot be read.
    """
    module, function, *rest = stage_words(read_document(graph)[0]["stages"][name]["cmd"])
    flags = path_flags(rest)
    params = parse_section(section_class(module, function), flags.pop("params"))
    return params, {flag: Path(value) for flag, value in flags.items()}


def processes(alone: bool) -> int:
    """How many processes of a stage this machine's accelerate config asks for."""
    return 1 if alone else int(machine_config()[1].get("num_processes", 1))


def command_line(stage_words: list[str], alone: bool, devices: Devices = NONE) -> tuple[list[str], dict[str, str]]:
    """The command that starts the stage's processes on these devices, and its environment.

    ``accelerate launch`` on a CPU silently runs one process whatever ``num_processes`` says, so several CPU processes
    are started by torchrun with accelerate's variables; one process needs only the variables that its launcher sets.
    """
    environment = {"TOKENIZERS_PARALLELISM": "false"} | dict(os.environ) | devices.variables()
    path = filter(None, [os.environ.get("PYTHONPATH")])
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(Path.cwd()), *path]))  # whatever else is installed
    path, config = machine_config()
    count = processes(alone)
    if not devices.names:
        environment |= _variables(config)
    python = [sys.executable, "-m"]
    if count == 1:
        return [*python, "pipelines", *stage_words], environment
    port = str(free_port())
    if not devices.names and int(config.get("num_machines", 1)) == 1:
        rendezvous = ["--nnodes=1", f"--nproc-per-node={count}", "--master-addr=127.0.0.1", f"--master-port={port}"]
        return [*python, "torch.distributed.run", *rendezvous, "-m", "pipelines", *stage_words], environment
    ours = [] if int(config.get("num_machines", 1)) > 1 else ["--main_process_port", port]
    launcher = ["accelerate.commands.launch", "--config_file", str(path), *ours]
    return [*python, *launcher, "-m", "pipelines", *stage_words], environment


def _check_inputs(arguments: list[str]) -> None:
    for flag, value in path_flags(arguments).items():
        if flag not in WRITTEN | {"params"} and not Path(value).exists():
            raise StageError(f"--{flag} {value}: not there. Run the stage that makes it first (dvc repro does).")


def _discard_outputs(arguments: list[str]) -> None:
    for flag, value in path_flags(arguments).items():
        if flag in WRITTEN:
            path = Path(value)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def settled_code(stage: str, module: str, function: str) -> str:
    """The identity of the stage's code as it is on disk, which ``code.json`` says too from now on.

    Raises:
        StageError: the code cannot be understood.
    """
    entry = stage_entries().get(stage) or {"cmd": f"pipelines.launch {module} {function}"}
    try:
        found = code_stages.stage_identity(stage, entry)
        if found is None:
            return ""
        if code_stages.settle(stage, entry, found):
            print(f"{stage}: {CODE_FILE} was not of the code on disk and is written anew", flush=True)
    except CodeError as error:
        raise StageError(str(error)) from None
    return found.value


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
    code_here = settled_code(stage, module, function)
    if Path("dvc.yaml").is_file():
        check()
    settle_revisions(stage, parse_section(section_class(module, function), section), section)
    _check_inputs(arguments)
    with owned(stage, Path(".work") / stage) as lock, given_devices(stage, alone) as devices:
        remove_partials(stage, [Path(value) for flag, value in path_flags(arguments).items() if flag in WRITTEN])
        command, environment = command_line(words, alone, devices)
        environment |= {"REEL_STAGE": stage, CODE: code_here} | ({ANEW: "1"} if is_forced() else {})
        environment.setdefault(machine.THREADS, str(machine.threads(stage, stage_entries(), processes(alone))))
        began, note = time.monotonic(), Path(".work") / stage / STOPPED_NOTE
        note.unlink(missing_ok=True)
        locks = (lock, *devices.locks)
        try:
            with unchanged_inputs(stage) as look:
                code, asked = arrivals.until_still(stage, lambda: supervise(command, environment, locks, look))
                if code:
                    return STOPPED if asked and note.is_file() else code
            settled_code(stage, module, function)
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
            _said(stage)(line)


@contextlib.contextmanager
def given_devices(stage: str, alone: bool) -> Iterator[Devices]:
    """The GPUs of this stage, a GPU for each of its processes; none for one that is not for GPUs."""
    if not wants_gpu(stage, stage_entries()):
        yield NONE
        return
    stopping = threading.Event()
    with contextlib.ExitStack() as given:
        with stop_sets(stopping):
            asked = processes(alone), machine_config()[1]
            devices = given.enter_context(held(stage, *asked, _said(stage), stopping.is_set))
        yield devices


def _said(stage: str) -> Callable[[str], None]:
    return lambda text: print(f"{stage}: {text}", flush=True)


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
        print(f"{stage}: {error}", file=sys.stderr, flush=True)
        code = 2
    except OSError as error:
        reason = refused_by_disk(error)
        if reason is None:
            raise
        print(f"{stage}: {reason}", file=sys.stderr, flush=True)
        code = 2
    if code:
        restored = restore_outputs(stage)
        if restored:
            print(f"{stage}: failed; the earlier {', '.join(restored)} are back in place.", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
