"""`dagster dev` with the layer of :mod:`dagster_project.own_page` in front of its web server.

``python -m dagster_project.web dev …`` takes the words of ``dagster dev``; it is what `reel ui` becomes. Dagster starts
its services as ``python -m dagster_webserver …``, ``dagster._daemon …`` and ``dagster code-server start …``; here each
is started as ``python -m dagster_project.web serve …``, ``daemon …`` and ``code-server …``, which look round less
often: most of what an idle interface costs is services that ask each other every second whether they are there.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from typing import Any

from dagster_dvc.environment import grace_seconds
from dagster_project.own_page import TOKEN, OwnPageOnly

SERVICES = {
    ("dagster_webserver",): "serve",
    ("dagster._daemon",): "daemon",
    ("dagster", "code-server"): "code-server",
}
"""What follows ``python -m`` when Dagster starts a service, and our word for it."""
SECONDS = {
    ("dagster._grpc.client", "CLIENT_HEARTBEAT_INTERVAL"): 10,
    ("dagster._grpc.server_watcher", "WATCH_INTERVAL"): 10,
    ("dagster._daemon.sensor", "MIN_INTERVAL_LOOP_TIME"): 15,
    ("dagster._daemon.asset_daemon", "MIN_INTERVAL_LOOP_SECONDS"): 30,
    ("dagster._daemon.controller", "RELOAD_WORKSPACE_INTERVAL"): 240,
}
"""How often a service looks round: every 1, 1, 5, 5 and 60 s in Dagster.

A code server that hears nothing for 30 s ends itself. The daemon loads the whole location by the last one, although it
is told of every new one; a single failure is forgiven up to 300 s.
"""


def started_as(words: Sequence[str]) -> list[str]:
    """The command of one of Dagster's services, as ours.

    Raises:
        SystemExit: it is no service that is known here: another version of Dagster starts others.
    """
    for named, word in SERVICES.items():
        if words[1:2] == ["-m"] and tuple(words[2 : 2 + len(named)]) == named:
            return [words[0], "-m", "dagster_project.web", word, *words[2 + len(named) :]]
    raise SystemExit(f"dagster dev starts {' '.join(words[:4])}, which `reel ui` does not know; use dagster 1.13.*")


def calm() -> None:
    """Let this service look round as often as :data:`SECONDS` says.

    Raises:
        SystemExit: another version of Dagster has no such interval.
    """
    for (name, interval), seconds in SECONDS.items():
        module = importlib.import_module(name)
        if not hasattr(module, interval):
            raise SystemExit(f"{name} has no {interval}, which `reel ui` sets; use dagster 1.13.*")
        setattr(module, interval, seconds)


def dev(words: Sequence[str]) -> None:
    """`dagster dev`; the token goes to the web server alone, not to the daemon, whose runs' stages would have it."""
    from dagster._cli import dev as module
    from dagster._grpc import server

    open_process, open_server = module.open_ipc_subprocess, server.open_ipc_subprocess  # gone: nothing is unguarded
    token = os.environ.pop(TOKEN, None)

    def opened(parts: Sequence[str], **options: Any) -> Any:
        command = started_as(parts)
        own = {TOKEN: token} if token and command[3] == "serve" else {}
        return open_process(command, env={**os.environ, **own}, **options)

    module.open_ipc_subprocess = opened
    server.open_ipc_subprocess = lambda parts, **options: open_server(started_as(parts), **options)
    module._SUBPROCESS_WAIT_TIMEOUT = max(module._SUBPROCESS_WAIT_TIMEOUT, int(2 * grace_seconds() + 30))
    module.dev_command.main(list(words), prog_name="dagster dev")


def daemon(words: Sequence[str]) -> None:
    """Dagster's daemon: sensors, schedules, the queue of runs."""
    calm()
    _module("dagster._daemon", words)


def code_server(words: Sequence[str]) -> None:
    """Dagster's server of the code location, which keeps another one that can be loaded anew."""
    calm()
    _module("dagster", ["code-server", *words])


def _module(name: str, words: Sequence[str]) -> None:
    """``python -m NAME WORDS`` in this process."""
    sys.argv = [name, *words]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def serve(words: Sequence[str]) -> None:
    """Dagster's web server behind the layer."""
    calm()
    import dagster_webserver.app
    from dagster_webserver.cli import cli
    from dagster_webserver.webserver import DagsterWebserver
    from starlette.middleware import Middleware

    token = os.environ.pop(TOKEN, None)

    class Guarded(DagsterWebserver):
        def build_middleware(self) -> list[Middleware]:
            return [Middleware(OwnPageOnly, token=token), *super().build_middleware()]

    dagster_webserver.app.DagsterWebserver = Guarded
    cli.main(list(words), auto_envvar_prefix="DAGSTER_WEBSERVER", prog_name="dagster-webserver")


if __name__ == "__main__":
    {"dev": dev, "serve": serve, "daemon": daemon, "code-server": code_server}[sys.argv[1]](sys.argv[2:])
