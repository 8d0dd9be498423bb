"""From a stage's command to its processes on this machine: checked first, one writer, no orphans, no false lineage.

``python -m pipelines.launch [--alone] <module> <function> --params <section> --<flag> <path> …`` is the ``cmd`` of
every stage in ``dvc.yaml``. It

1. validates all of ``params.yaml`` and the stage's input paths before anything heavy is imported;
2. refuses a second writer of the same output, naming the first (:mod:`pipelines.ownership`);
3. starts the stage through accelerate as this machine is configured (``launch.yaml``, an ordinary accelerate config
   file that neither ``dvc.yaml`` nor ``params.yaml`` knows of); without one, one process on what is here;
4. passes a first SIGTERM or SIGINT on, so that the stage can save, and ends every process that is left after the grace
   time; when whoever started it is gone, it stops too;
5. compares parameters and code with what they were at the start, and fails the stage if somebody edited them
   meanwhile: DVC records what it finds at the *end*;
6. puts the stage's earlier outputs back when it fails (DVC deletes them before it runs a stage).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipelines.ownership import owned
from pipelines.params import PARAMS_FILE, ParamsError, check, parse_section, read_document, section_class
from pipelines.stage import STOPPED, StageError, file_digest, path_flags

GRACE_SECONDS = float(os.environ.get("REEL_GRACE_SECONDS", "8"))
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
WRITTEN = {"out", "metrics", "plots"}
"""Flags that name what a stage makes; every other path must exist before it starts."""


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def follow_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent dies, and leave for good when the grace time has passed."""
    parent = os.getppid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)  # where the kernel sends nothing
        time.sleep(GRACE_SECONDS)
        os._exit(STOPPED)

    threading.Thread(target=watch, daemon=True, name="follow-parent").start()


# ---- processes ----------------------------------------------------------------------------------------------------


def descendants(root: int) -> list[int]:
    """All processes below ``root``, whatever session they moved to (Linux: read from /proc)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = entry.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _starters() -> list[int]:
    """The processes that must live for this one to go on: the parent and, above shells, whoever runs DVC."""
    chain, pid = [], os.getppid()
    for _ in range(4):
        if pid <= 1:
            break
        chain.append(pid)
        words = Path(f"/proc/{pid}/cmdline").read_bytes() if Path(f"/proc/{pid}/cmdline").exists() else b""
        if b"dvc" in words:
            return chain
        stat = Path(f"/proc/{pid}/stat")
        pid = int(stat.read_text().rpartition(")")[2].split()[1]) if stat.exists() else 0
    return chain[:1]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def end_descendants(grace: float) -> None:
    """SIGTERM, then after ``grace`` seconds SIGKILL, to everything below this process."""
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 2.0)):
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + wait
        while descendants(os.getpid()) and time.monotonic() < until:
            time.sleep(0.05)


def supervise(command: list[str], environment: dict[str, str], lock: int) -> int:
    """Run the command to its end; on a signal, or when whoever started us is gone, stop everything below."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    starters = _starters()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    child = subprocess.Popen(
        command,
        env=environment,
        pass_fds=(lock,),
        start_new_session=True,
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    while child.poll() is None and not stopping.is_set():
        if not all(_is_alive(pid) for pid in starters):
            stopping.set()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.25)
    end_descendants(GRACE_SECONDS if stopping.is_set() else 0.5)
    code = child.wait()
    return code if code >= 0 else 128 - code


# ---- accelerate ---------------------------------------------------------------------------------------------------


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
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise StageError(
            f"{path}: not an accelerate config file; make one with `accelerate config --config_file {path}`."
        )
    return path, content


def command_line(stage_words: list[str], alone: bool) -> tuple[list[str], dict[str, str]]:
    """The command that starts the stage's processes, and its environment.

    ``accelerate launch`` on a CPU silently runs one process whatever ``num_processes`` says, so several CPU processes
    are started by torchrun with accelerate's variables; one process needs only the variables that its launcher sets.
    """
    cores = os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // 2)), "TOKENIZERS_PARALLELISM": "false"} | dict(os.environ)
    path, config = machine_config()
    processes = 1 if alone else int(config.get("num_processes", 1))
    on_cpu = bool(config.get("use_cpu", not Path("/dev/nvidia0").exists()))
    if on_cpu:
        environment["ACCELERATE_USE_CPU"] = "true"
    python = [sys.executable, "-m"]
    if processes == 1:
        return [*python, "pipelines", *stage_words], environment
    port = str(free_port())
    if on_cpu:
        rendezvous = ["--nnodes=1", f"--nproc-per-node={processes}", "--master-addr=127.0.0.1", f"--master-port={port}"]
        return [*python, "torch.distributed.run", *rendezvous, "-m", "pipelines", *stage_words], environment
    ours = [] if int(config.get("num_machines", 1)) > 1 else ["--main_process_port", port]
    launcher = ["accelerate.commands.launch", "--config_file", str(path), *ours]
    return [*python, *launcher, "-m", "pipelines", *stage_words], environment


# ---- lineage ------------------------------------------------------------------------------------------------------


def _stage_entry(stage: str) -> dict[str, Any]:
    graph = Path("dvc.yaml")
    stages = (yaml.safe_load(graph.read_text(encoding="utf-8")) or {}) if graph.is_file() else {}
    return stages.get("stages", {}).get(stage, {})


def tracked_inputs(stage: str) -> dict[str, Any]:
    """What DVC will record of the stage besides data: values of its parameters, digests of its code files."""
    entry = _stage_entry(stage)
    values = read_document(PARAMS_FILE)[0]
    snapshot: dict[str, Any] = {f"params.yaml: {name}": values.get(name) for name in entry.get("params", [])}
    snapshot["dvc.yaml: cmd"] = entry.get("cmd")
    for dependency in entry.get("deps", []):
        path = Path(dependency)
        sources = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.suffix == ".py" else []
        snapshot |= {str(source): file_digest(source) for source in sources}
    return snapshot


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def restore_outputs(stage: str) -> list[str]:
    """Put outputs that DVC removed back from its cache, as ``dvc.lock`` records them; returns the paths restored."""
    lock, cache = Path("dvc.lock"), Path(".dvc/cache/files/md5")
    if "DVC_STAGE" not in os.environ or not lock.is_file() or not cache.is_dir():
        return []
    entry = ((yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages") or {}).get(stage, {})
    restored = []
    for out in entry.get("outs", []):
        target, md5 = Path(out["path"]), out.get("md5", "")
        source = cache / md5[:2] / md5[2:]
        if target.exists() or not source.is_file():
            continue
        files = {"": md5}
        if md5.endswith(".dir"):
            files = {item["relpath"]: item["md5"] for item in json.loads(source.read_text(encoding="utf-8"))}
        parts = {target / name if name else target: cache / key[:2] / key[2:] for name, key in files.items()}
        if not all(part.is_file() for part in parts.values()):
            continue
        for destination, part in parts.items():
            destination.parent.mkdir(parents=True, exist_ok=True)
            try:
                destination.hardlink_to(part)
            except OSError:
                shutil.copyfile(part, destination)
        restored.append(out["path"])
    return restored


@contextlib.contextmanager
def unchanged_inputs(stage: str) -> Iterator[None]:
    """Fail the stage if its parameters or code were edited inside the block.

    Raises:
        StageError: naming what changed. The work is kept in ``.work`` for a run with the old values.
    """
    before = tracked_inputs(stage)
    yield
    changed = _changed(before, tracked_inputs(stage))
    if changed:
        raise StageError(
            f"{', '.join(changed)} changed while the stage was running, so its result would be recorded under the "
            "wrong values. Nothing is recorded; run it again (work with the old values is kept in .work)."
        )


def _check_inputs(arguments: list[str]) -> None:
    for flag, value in path_flags(arguments).items():
        if flag not in WRITTEN | {"params"} and not Path(value).exists():
            raise StageError(f"--{flag} {value}: not there. Run the stage that makes it first (dvc repro does).")


def _discard_outputs(arguments: list[str]) -> None:
    for flag, value in path_flags(arguments).items():
        if flag in WRITTEN:
            path = Path(value)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def launch(argv: list[str]) -> int:
    """Run one stage on this machine; returns its exit code.

    Raises:
        ParamsError, StageError: what is wrong and what to do, before or after the run.
    """
    alone = argv[:1] == ["--alone"]
    words = argv[1:] if alone else argv
    if len(words) < 2:
        raise StageError("expected [--alone] <module> <function> --params <section> --<flag> <path> …")
    module, function, *arguments = words
    section = path_flags(arguments).get("params", function)
    stage = os.environ.get("DVC_STAGE", section)
    if Path("dvc.yaml").is_file():
        check()
    else:
        parse_section(section_class(module, function), section)
    _check_inputs(arguments)
    command, environment = command_line(words, alone)
    environment["REEL_STAGE"] = stage
    with owned(stage, Path(".work") / stage) as lock:
        try:
            with unchanged_inputs(stage):
                code = supervise(command, environment, lock)
                if code:
                    return code
        except StageError:
            _discard_outputs(arguments)
            raise
    return 0


def main() -> int:
    """Entry point of every stage's ``cmd``."""
    stage = os.environ.get("DVC_STAGE", "launch")
    try:
        code = launch(sys.argv[1:])
    except (ParamsError, StageError) as error:
        print(f"{stage}: {error}", file=sys.stderr, flush=True)
        code = 2
    if code:
        restored = restore_outputs(stage)
        if restored:
            print(f"{stage}: failed; the earlier {', '.join(restored)} are back in place.", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
