"""How a stage's processes start: on this machine through accelerate, or as a job of a cluster."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import machine
from pipelines.commands import stage_entries
from pipelines.devices import NONE, Devices, held, wants_gpu
from pipelines.document import load
from pipelines.handed_over import NOTES
from pipelines.leftovers import remove_partials
from pipelines.processes import stop_sets, supervise
from pipelines.stage import STOPPED_NOTE, StageError, path_flags, write_json

if TYPE_CHECKING:
    from pipelines.targets import Target

WRITTEN = {"out", "metrics", "plots"}
"""Flags that name what a stage makes; every other path must exist before it starts."""

ENGINES = {"target", *NOTES}
"""Keys of the machine file that are not accelerate's."""
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


def sent_to(stage: str) -> Target | None:
    """Where the machine file sends this stage (a :class:`pipelines.targets.Target`); None for this machine.

    Raises:
        StageError: the file asks for what is not there.
    """
    path, config = machine_config()
    if int(config.get("num_machines", 1)) > 1:
        raise StageError(
            f"{path}: num_machines {config['num_machines']}: a launcher starts the processes of its own machine, and "
            "owns the stage. Processes on several are for an engine to start: `target: slurm`, docs/cluster.md."
        )
    if not ENGINES & config.keys():
        return None
    from pipelines.targets import target

    return target(path, config, stage, set(stage_entries()))


def _accelerate_file(path: Path | None, config: dict[str, Any]) -> str:
    """The machine file as accelerate reads it, which knows no keys of ours."""
    if not ENGINES & config.keys():
        return str(path)
    plain = Path(".work/accelerate.json")
    plain.parent.mkdir(exist_ok=True)
    write_json(plain, {name: value for name, value in config.items() if name not in ENGINES})
    return str(plain)


def _variables(config: dict[str, Any]) -> dict[str, str]:
    """What accelerate's launcher would tell the processes of a config that asks for FSDP."""
    if str(config.get("distributed_type", "")).upper() != "FSDP":
        return {}
    said = {name.upper(): str(value).lower() for name, value in (config.get("fsdp_config") or {}).items()}
    return {"ACCELERATE_USE_FSDP": "true"} | said


def processes(alone: bool) -> int:
    """How many processes of a stage this machine's accelerate config asks for."""
    return 1 if alone else int(machine_config()[1].get("num_processes", 1))


KEPT_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
}
"""glibc keeps memory that was freed, up to 512 MiB. By its own rules a training's activations go back to the kernel
after every step and come again zeroed page by page: 5 to 12 % of the time of a step of the demo's networks."""


def _environment() -> dict[str, str]:
    """What every process of a stage gets, wherever it runs."""
    environment = {"TOKENIZERS_PARALLELISM": "false"} | KEPT_MEMORY | dict(os.environ)
    path = filter(None, [os.environ.get("PYTHONPATH")])
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(Path.cwd()), *path]))  # whatever else is installed
    return environment


def command_line(stage_words: list[str], alone: bool, devices: Devices = NONE) -> tuple[list[str], dict[str, str]]:
    """The command that starts the stage's processes on these devices, and its environment.

    ``accelerate launch`` on a CPU silently runs one process whatever ``num_processes`` says, so several CPU processes
    are started by torchrun with accelerate's variables; one process needs only the variables that its launcher sets.
    """
    environment = _environment() | devices.variables()
    path, config = machine_config()
    count = processes(alone)
    if not devices.names:
        environment |= _variables(config)
    python = [sys.executable, "-m"]
    if count == 1:
        return [*python, "pipelines", *stage_words], environment
    port = str(free_port())
    if not devices.names:
        rendezvous = ["--nnodes=1", f"--nproc-per-node={count}", "--master-addr=127.0.0.1", f"--master-port={port}"]
        return [*python, "torch.distributed.run", *rendezvous, "-m", "pipelines", *stage_words], environment
    told = ["--config_file", _accelerate_file(path, config), "--main_process_port", port]
    return [*python, "accelerate.commands.launch", *told, "-m", "pipelines", *stage_words], environment


Run = Callable[[Callable[[], None]], tuple[int, bool]]
"""Runs a stage's processes to their end, calling what it is given meanwhile: exit code, and whether it was stopped."""


@contextlib.contextmanager
def here(stage: str, words: list[str], alone: bool, lock: int, told: dict[str, str]) -> Iterator[Run]:
    """Inside, the stage's processes can be run on this machine."""
    _refuse_beside(stage)
    with given_devices(stage, alone) as devices:
        _clear(stage, words)
        command, environment = command_line(words, alone, devices)
        environment |= told
        if not environment.get(machine.THREADS):
            environment[machine.THREADS] = str(machine.threads(stage, stage_entries(), processes(alone)))
        yield lambda look: supervise(command, environment, (lock, *devices.locks), look)


def by_engine(target: Target) -> Callable[..., contextlib.AbstractContextManager[Run]]:
    """As :func:`here`, as a job of a cluster."""

    @contextlib.contextmanager
    def start(stage: str, words: list[str], alone: bool, lock: int, told: dict[str, str]) -> Iterator[Run]:
        _refuse_beside(stage, target.engine)
        environment = _environment() | _variables(machine_config()[1]) | told
        environment.pop("CUDA_VISIBLE_DEVICES", None)  # of this machine
        job = target.job(stage, words, alone, environment, _written(words))
        if not job.is_begun():
            _clear(stage, words)
        yield lambda look: job.run(lock, look)

    return start


def _refuse_beside(stage: str, engine: str = "local") -> None:
    """No second writer beside a job that an earlier launcher left with another engine; most machines know of none."""
    if any((Path(".work") / stage / note).exists() for note in NOTES.values()):
        from pipelines.targets import refuse_beside

        refuse_beside(stage, engine)


def _written(words: list[str]) -> list[Path]:
    return [Path(value) for flag, value in path_flags(words[2:]).items() if flag in WRITTEN]


def _clear(stage: str, words: list[str]) -> None:
    """Remove what killed runs have half written, and the note of an earlier stop."""
    remove_partials(stage, _written(words))
    (Path(".work") / stage / STOPPED_NOTE).unlink(missing_ok=True)


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
            devices = given.enter_context(held(stage, *asked, said(stage), stopping.is_set))
        yield devices


def said(stage: str) -> Callable[[str], None]:
    """What prints a line under the stage's name."""
    return lambda text: print(f"{stage}: {text}", flush=True)
