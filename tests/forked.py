"""DVC, imported once for many tests: to import it takes ten times as long as most things that they ask of it.

A process of its own imports DVC and what it needs, and forks for every call: each call is a fresh process with its own
folder, environment and output, as ``python -m dvc`` is. What is seen from outside alone (a command line, what a process
has imported) differs; tests of that start their own.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dagster_dvc import resolved

REPO = Path(__file__).parents[1]
ONE_AT_A_TIME = threading.Lock()
spent = 0.0
"""Processor seconds of all calls: they are no children of this process."""
in_its_own_process = resolved.asked
"""How a graph is asked for outside of tests."""


def run(module: str, *words: str, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """``python -m module words…`` in a folder and an environment, without input."""
    global spent
    with tempfile.TemporaryDirectory() as place, ONE_AT_A_TIME:
        out, err = Path(place, "out"), Path(place, "err")
        call = {"words": [module, *words], "cwd": str(cwd), "env": dict(env), "files": [os.devnull, str(out), str(err)]}
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(call) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        spent += answer["seconds"]
        return subprocess.CompletedProcess(call["words"], answer["status"], out.read_text(), err.read_text())


def graph(root: Path) -> subprocess.CompletedProcess[str]:
    """What :data:`in_its_own_process` answers."""
    return run("dagster_dvc.manifest", str(root), cwd=Path.cwd(), env=os.environ)


@cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.forked"]
    server = subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # it ends with its input
    return server


def _serve() -> None:
    """Answer calls until there is no more input; in the process of a call, be that call."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _rehearse()
    gc.freeze()  # what is here stays in memory that all calls share
    while line := sys.stdin.readline():
        call = json.loads(line)
        if not (process := os.fork()):
            return _be(call)
        _, status, used = os.wait4(process, 0)
        answer = {"status": os.waitstatus_to_exitcode(status), "seconds": used.ru_utime + used.ru_stime}
        print(json.dumps(answer), file=answers, flush=True)


def _rehearse() -> None:
    """Import and prepare what calls would, each anew, by a project with a stage."""
    from dvc.cli.parser import get_main_parser
    from dvc.progress import Tqdm
    from dvc.repo import Repo

    import dagster_dvc.complaint
    import dagster_dvc.values_files  # noqa: F401

    bars = next(kind for kind in Tqdm.__mro__ if "monitor_interval" in vars(kind))
    bars.monitor_interval = 0  # type: ignore[attr-defined]  # its thread would not be there after a fork
    get_main_parser()
    with tempfile.TemporaryDirectory() as place:
        Path(place, "dvc.yaml").write_text("stages: {a: {cmd: a, params: [a], outs: [b]}}")
        Path(place, "params.yaml").write_text("a: 1")
        with Repo.init(place, no_scm=True) as repo:
            repo.status()


def _be(call: Mapping[str, Any]) -> None:
    for number, file in enumerate(call["files"]):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(call["env"])
    os.chdir(call["cwd"])
    sys.argv = list(call["words"])
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
