"""Which GPUs a stage gets: one allocator for every start on this machine; two stages never share one by accident.

`reel`, Dagster and ``dvc repro`` all come to the launcher, which asks here. A GPU is held by a ``flock`` whose
descriptor every process of the stage inherits: it is free when the last of them is gone, however it went. The locks lie
in this user's own folder among the temporary files, so that several projects and clones see the same ones.

What `reel` runs on a GPU besides stages comes here too: ``python -m pipelines.devices NAME MODULE WORD…`` is
``python -m MODULE WORD…`` on a GPU of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import machine
from pipelines.stage import StageError

VISIBLE = "CUDA_VISIBLE_DEVICES"
POOL = "gpu"
"""``meta.dagster.pool`` of a stage that wants a GPU; every other one of the graph gets none."""
LOOK_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Devices:
    """What a stage's processes are given: the devices (none: they run on the CPU) and descriptors to inherit."""

    names: tuple[str, ...] = ()
    locks: tuple[int, ...] = ()

    def variables(self) -> dict[str, str]:
        """The environment that shows these devices and no others; accelerate is told where there are none."""
        return {VISIBLE: ",".join(self.names)} | ({} if self.names else {"ACCELERATE_USE_CPU": "true"})


NONE = Devices()


def visible(config: Mapping[str, Any]) -> list[str]:
    """Devices that this machine's driver, its environment and its accelerate config leave to choose from."""
    stated = os.environ.get(VISIBLE)
    found = [str(number) for number in range(machine.gpus())]
    if stated is not None and found:
        found = [name.strip() for name in stated.split(",") if name.strip() and name.strip() != "-1"][: len(found)]
    chosen = str(config.get("gpu_ids") or "all")
    return found if chosen == "all" else [name for name in found if name in chosen.split(",")]


def wants_gpu(stage: str, entries: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a stage is one for GPUs; one that no graph knows is."""
    if stage not in entries:
        return True
    meta = entries[stage].get("meta") or {}
    return (meta.get("dagster") or {}).get("pool") == POOL


@contextlib.contextmanager
def held(
    stage: str,
    count: int,
    config: Mapping[str, Any],
    say: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Devices]:
    """Hold ``count`` GPUs until the block ends; waits for them, and says for whom. On the CPU: says so in one line.

    Args:
        config: this machine's accelerate config; ``use_cpu`` asks for none.
        stopped: is asked every second while waiting; True ends it.

    Raises:
        StageError: more are asked for than this machine has, or it was stopped while waiting.
    """
    found = [] if config.get("use_cpu") else visible(config)
    if found and not machine.torch_uses_gpus():
        say(f"runs on the CPU: there are {len(found)} GPUs, but the installed torch is built without them")
        found = []
    elif not found and config and not config.get("use_cpu", True):
        say("runs on the CPU: the accelerate config asks for GPUs, and no driver of this machine offers one")
    if not found:
        yield NONE
        return
    if count > len(found):
        raise StageError(
            f"num_processes {count} of the accelerate config: {len(found)} GPUs are here ({', '.join(found)}); "
            "lower it, or look at CUDA_VISIBLE_DEVICES and gpu_ids."
        )
    devices = _waited(stage, count, found, say, stopped)
    try:
        yield devices
    finally:
        for lock in devices.locks:
            os.close(lock)


def _waited(
    stage: str, count: int, names: Sequence[str], say: Callable[[str], None], stopped: Callable[[], bool]
) -> Devices:
    is_told = False
    while True:
        taken = _take(stage, count, names)
        if taken is not None:
            return taken
        if not is_told:
            is_told = True
            say(f"waits for {count} of {len(names)} GPUs; held by {', '.join(holders(names)) or 'others'}")
        if stopped():
            raise StageError("stopped while it waited for a GPU; nothing was begun.")
        time.sleep(LOOK_EVERY_SECONDS)


def _folder() -> Path:
    """This user's locks; a folder that somebody else put there is not used.

    Raises:
        StageError: it belongs to another user.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"reel-devices-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or (hasattr(os, "getuid") and folder.lstat().st_uid != user):
        raise StageError(f"{folder}: is not of this user; remove it, or set TMPDIR to a folder of your own.")
    return folder


def _file(name: str) -> Path:
    return _folder() / f"gpu-{''.join(c if c.isalnum() or c in '-_' else '_' for c in name)}"


def _take(stage: str, count: int, names: Sequence[str]) -> Devices | None:
    """``count`` free devices at once or none, so that two that want several never wait for one another."""
    locks: dict[str, int] = {}
    with (_folder() / "all").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for name in names:
            lock = os.open(_file(name), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            locks[name] = lock
            if len(locks) == count:
                break
        if len(locks) < count:
            for lock in locks.values():
                os.close(lock)
            return None
        for lock in locks.values():
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{stage} (process {os.getpid()}) in {Path.cwd().name}".encode(), 0)
    return Devices(tuple(locks), tuple(locks.values()))


def holders(names: Sequence[str]) -> list[str]:
    """Who was last given each of these devices."""
    found = []
    for name in names:
        with contextlib.suppress(OSError):
            found.append(f"{name}: {_file(name).read_text(encoding='utf-8')}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run a module as a program on one GPU, which no stage is given meanwhile; who asks for help needs none."""
    from pipelines.starting import machine_config  # here: it imports this module

    name, module, *words = sys.argv[1:] if argv is None else argv

    def say(text: str) -> None:
        print(f"reel {name}: {text}", file=sys.stderr, flush=True)

    try:
        with contextlib.ExitStack() as until:
            if not {"-h", "--help"} & set(words):
                devices = until.enter_context(held(f"reel {name}", 1, machine_config()[1], say))
                os.environ.update(devices.variables())
            sys.argv = [module, *words]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except StageError as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
