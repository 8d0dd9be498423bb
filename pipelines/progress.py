"""What a running stage says: lines on a terminal, messages in Dagster. Never carriage returns.

The training code imports no Dagster: ``dagster_pipes`` is imported only where its variables are set, and a report that
cannot be delivered never stops a stage.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import traceback
from types import TracebackType
from typing import Any, Protocol

from pipelines.credentials import without_credentials

LINE_EVERY_SECONDS = 4.0
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal obeys in place of showing it; names of files and members of tars may be anybody's."""


class Messages(Protocol):
    """The part of a Dagster Pipes context that a stage uses."""

    log: Any

    def report_custom_message(self, payload: Any) -> None: ...
    def close(self) -> None: ...


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``8.4 s``, ``3 min 12 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _open_pipes() -> Messages | None:
    if "DAGSTER_PIPES_CONTEXT" not in os.environ or os.environ.get("RANK", "0") != "0":
        return None
    try:
        from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes

        return open_dagster_pipes(params_loader=PipesEnvVarParamsLoader())
    except Exception as error:  # a broken channel must not stop the work
        print(f"progress will not reach Dagster: {error}", file=sys.stderr)
        return None


def _print(text: str) -> None:
    """A line for whoever looks; a terminal or pipe that is gone ends no work."""
    with contextlib.suppress(OSError, ValueError):
        print(text, flush=True)


def shown(text: str) -> str:
    """Text for a terminal: without credentials, its control characters written out."""
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], without_credentials(text))


def complain(stage: str, reason: object) -> None:
    """Why a stage ends, on the standard error, which logs and Dagster keep: without the credentials of an address."""
    print(shown(f"{stage}: {reason}"), file=sys.stderr, flush=True)


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python tells an error that nobody caught, without credentials: for ``sys.excepthook``."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(without_credentials(text), end="", file=sys.stderr, flush=True)


class Progress:
    """Throttled progress of one stage: at most one line every few seconds, with the time that is left."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.pipes = _open_pipes()
        self._began: dict[str, tuple[float, int]] = {}
        self._last_line = 0.0

    def say(self, text: str) -> None:
        """One line now."""
        if os.environ.get("RANK", "0") != "0":
            return
        text = shown(text)
        _print(f"{self.stage}: {text}")
        if self.pipes is not None:
            with contextlib.suppress(Exception):
                self.pipes.log.info(text)

    def report(self, done: int, total: int, unit: str = "step", **numbers: float) -> None:
        """``done`` of ``total`` units are finished; printed when the last line is old enough, or at the end."""
        now = time.monotonic()
        began, first = self._began.setdefault(unit, (now, done))
        if done < first or done >= total:
            self._began.pop(unit, None)
        if now - self._last_line < LINE_EVERY_SECONDS and done < total:
            return
        self._last_line = now
        rate = (done - first) / (now - began) if now > began and done > first else 0.0
        left = (total - done) / rate if rate else None
        parts = [f"{unit} {done}/{total}", *(f"{name} {value:.4g}" for name, value in numbers.items())]
        if rate:
            parts.append(f"{rate:.3g} {unit}/s")
        if left and done < total:
            parts.append(f"about {duration(left)} left")
        if os.environ.get("RANK", "0") == "0":
            _print(f"{self.stage}: {', '.join(parts)}")
        if self.pipes is not None:
            payload = {"done": done, "total": total, "unit": unit, "seconds_left": left, "numbers": numbers}
            with contextlib.suppress(Exception):
                self.pipes.report_custom_message({"progress": payload})

    def close(self) -> None:
        """End the channel to Dagster, if there is one."""
        if self.pipes is not None:
            with contextlib.suppress(Exception):
                self.pipes.close()
