"""`dagster dev` with the layer of :mod:`dagster_project.own_page` in front of its web server.

``python -m dagster_project.web dev …`` takes the words of ``dagster dev``; it is what `reel ui` becomes. Dagster starts
its web server as ``python -m dagster_webserver …``; here it is started as ``python -m dagster_project.web serve …``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from dagster_dvc.environment import grace_seconds
from dagster_project.own_page import TOKEN, OwnPageOnly

SERVER, DAEMON = "dagster_webserver", "dagster._daemon"


def started_as(words: Sequence[str]) -> list[str]:
    """The command of one of Dagster's services, with ours in place of its web server.

    Raises:
        SystemExit: it is neither the web server nor the daemon: another version of Dagster starts others.
    """
    module = words[2] if len(words) > 2 and words[1] == "-m" else None
    if module == SERVER:
        return [words[0], "-m", "dagster_project.web", "serve", *words[3:]]
    if module != DAEMON:
        raise SystemExit(f"dagster dev starts {' '.join(words[:3])}, which `reel ui` does not know; use dagster 1.13.*")
    return list(words)


def dev(words: Sequence[str]) -> None:
    """`dagster dev`; the token goes to the web server alone, not to the daemon, whose runs' stages would have it."""
    from dagster._cli import dev as module

    open_process = module.open_ipc_subprocess  # where it is gone, nothing is started unguarded
    token = os.environ.pop(TOKEN, None)

    def opened(parts: Sequence[str], **options: Any) -> Any:
        command = started_as(parts)
        own = {TOKEN: token} if token and command != list(parts) else {}
        return open_process(command, env={**os.environ, **own}, **options)

    module.open_ipc_subprocess = opened
    module._SUBPROCESS_WAIT_TIMEOUT = max(module._SUBPROCESS_WAIT_TIMEOUT, int(2 * grace_seconds() + 30))
    module.dev_command.main(list(words), prog_name="dagster dev")


def serve(words: Sequence[str]) -> None:
    """Dagster's web server behind the layer."""
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
    {"dev": dev, "serve": serve}[sys.argv[1]](sys.argv[2:])
