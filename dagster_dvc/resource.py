"""The resource that runs a stage for Dagster: through DVC, under the supervisor, with live progress."""

import contextlib
import json
import math
import multiprocessing
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_dvc.checks import gate_results, sync_result, undeclared_gates
from dagster_dvc.environment import grace_seconds
from dagster_dvc.events import data_version, reconcile, result_metadata
from dagster_dvc.lock import read_lock
from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.refresh import options, prepared
from dagster_dvc.repro import NOISE, Repro, Result, checkout
from dagster_dvc.shown import MOST_CELL, block, tamed, visible
from dagster_dvc.translator import Assets

Event = dg.MaterializeResult | dg.AssetCheckResult


class DvcResource(dg.ConfigurableResource):
    """Runs stages with ``dvc --wait-for-lock repro --single-item``."""

    grace_seconds: float = Field(
        default_factory=grace_seconds,
        description="Time a stage gets to save after a stop, before it is ended; REEL_GRACE_SECONDS where not said.",
    )
    busy_retries: int = Field(default=20, description="How often to try again while another process runs the stage.")
    busy_wait_seconds: float = Field(default=15.0, description="Seconds between those tries.")
    observe_every_seconds: float = Field(default=5.0, description="At most one progress observation in this time.")
    pull: bool = Field(default=False, description="Fetch missing inputs and run-cache entries from the DVC remote.")
    restore: bool = Field(default=True, description="Bring the earlier outputs back after a failure.")

    def repro(
        self, context: dg.AssetExecutionContext, assets: Assets, stage: Stage, force: bool = False
    ) -> Iterator[Event]:
        """Run one stage; yields a result per selected asset, with the stage's checks.

        Raises:
            dagster.Failure: the stage failed, with its own last words. dagster.RetryRequested: another process runs it.
        """
        began = time.time()
        with self._session(context, assets, stage) as (env, settle):
            result = prepared(assets.project, stage.name, pull=self.pull, on_line=lambda line: _echo(context, line))
            if result is None:
                words = options(
                    DvcProject(assets.project.root),
                    stage.name,
                    force=force,
                    pull=self.pull,
                    on_line=lambda line: _echo(context, line),
                )
                process = Repro(assets.project, stage.name, grace=self.grace_seconds, options=words, env=env)
                with _follow_parent(process, 2 * self.grace_seconds + 10):
                    result = process.result(lambda line: _echo(context, line))
            settle(result)
        if not result.succeeded:
            self._fail(context, assets.project, result)
        after = Assets(DvcProject(assets.project.root), assets.translator)
        yield from self._events(context, after, stage, result, began)

    @contextlib.contextmanager
    def _session(self, context: dg.AssetExecutionContext, assets: Assets, stage: Stage):
        """A Pipes session: the variables for the stage, and a function that ends it quietly if it was never opened."""
        progress = ProgressMessages(context, next(iter(assets.of_stage(stage).values())), self.observe_every_seconds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = dg.open_pipes_session(context, dg.PipesEnvContextInjector(), ProgressReader(progress))
            with session as pipes:

                def settle(result: Result) -> None:
                    if not pipes.message_handler.received_opened_message and not progress.heard:
                        _open_and_close(pipes.message_reader_params)

                yield dict(pipes.get_bootstrap_env_vars()), settle

    def _events(
        self, context: dg.AssetExecutionContext, assets: Assets, stage: Stage, result: Result, began: float
    ) -> Iterator[Event]:
        entry = read_lock(assets.project)[stage.name]
        now = assets.project.stages.get(stage.name, stage)
        facts = {
            "dvc/outcome": {"unchanged": "reused", "restored": "restored from run cache"}.get(
                result.outcome, result.outcome
            ),
            "dvc/seconds": round(time.time() - began, 1),
        }
        checks = [*gate_results(assets, now), sync_result(assets, now)]
        for out, key in assets.of_stage(now).items():
            metadata = result_metadata(context.instance, assets, now, out, entry, **facts)
            version = dg.DataVersion(data_version(now, out, entry))
            if key in context.selected_asset_keys:
                yield dg.MaterializeResult(asset_key=key, metadata=metadata, data_version=version)
            else:
                tags = {"dagster/data_version": version.value, "dagster/data_version_is_user_provided": "true"}
                context.log_event(dg.AssetMaterialization(key, metadata=metadata, tags=tags))
        selected = context.selected_asset_check_keys
        yield from (check for check in checks if dg.AssetCheckKey(check.asset_key, check.check_name) in selected)  # type: ignore[arg-type]
        for gate in undeclared_gates(assets, now):
            context.log.warning(
                f"gate not declared in meta.dagster.checks of {stage.name}: {visible(str(gate), MOST_CELL)}"
            )
        corrected = reconcile(context.instance, assets, only=stage.name)
        if corrected:
            context.log.info("dvc.lock says more than this process knew when it loaded; reported once more")

    def _fail(self, context: dg.AssetExecutionContext, project: DvcProject, result: Result) -> None:
        if result.outcome == "busy":
            context.log.warning(f"{result.stage}: {result.error}")
            raise dg.RetryRequested(max_retries=self.busy_retries, seconds_to_wait=self.busy_wait_seconds)
        frozen = project.stages[result.stage].frozen  # what lies there may be a person's own
        restored = self.restore and not frozen and checkout(project, result.stage)
        code = re.search(r"exited with (-?\d+)", "\n".join(result.tail))
        raise dg.Failure(
            description=visible(f"{result.stage}: {result.error}", kept="\n")
            + ("\nIts earlier outputs are back in place." if restored else ""),
            metadata={
                "last lines": dg.MetadataValue.md(block("\n".join(result.tail))),
                "exit code": code.group(1) if code else str(result.exit_code),
                "reproduce": f"dvc repro --single-item {result.stage}",
            },
            allow_retries=code is None or not 0 <= int(code.group(1)) <= 128,  # killed; else it would fail again
        )


class ProgressMessages:
    """Turns ``{"progress": {done, total, unit, seconds_left, numbers}}`` messages into log lines and observations."""

    def __init__(self, context: dg.AssetExecutionContext, key: dg.AssetKey, every_seconds: float) -> None:
        self.heard = False
        self._context = context
        self._key = key
        self._every = every_seconds
        self._last = -math.inf
        self._began = time.monotonic()

    def take(self, payload: object) -> bool:
        """Handle one custom message; False when it is not about progress."""
        progress = payload.get("progress") if isinstance(payload, Mapping) else None
        if not isinstance(progress, Mapping):
            return False
        self.heard = True
        ended = progress.get("done") == progress.get("total")
        now = time.monotonic()
        if now - self._last < observe_every(now - self._began, self._every) and not ended:
            return True
        self._last = now
        self._context.log.info(visible(progress_line(progress)))
        self._context.log_event(dg.AssetObservation(self._key, metadata=progress_metadata(progress)))
        return True


def observe_every(elapsed: float, every: float) -> float:
    """Seconds between two observations of a run: `every` at first, a minute after ten; each is kept in the database."""
    return every if elapsed < 600 else max(every, 60.0)


def progress_line(progress: Mapping[str, Any]) -> str:
    """``step 40/300 (13 %), loss/denoiser 0.46, about 41 s left``."""
    done, total = progress.get("done", 0), progress.get("total") or 0
    parts = [f"{progress.get('unit', 'step')} {done}/{total}" + (f" ({100 * done // total} %)" if total else "")]
    parts += [f"{name} {value:.4g}" for name, value in (progress.get("numbers") or {}).items()]
    if (progress.get("seconds_left") or 0) >= 1:
        parts.append(f"about {_time(progress['seconds_left'])} left")
    return ", ".join(parts)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def progress_metadata(progress: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers of a progress message, for the history plots of the asset's page."""
    done, total = progress.get("done", 0), progress.get("total") or 0
    found = {"progress/done": done, "progress/percent": round(100 * done / total, 1) if total else 0.0}
    found |= {name: value for name, value in (progress.get("numbers") or {}).items() if isinstance(value, int | float)}
    finite = {name: value for name, value in found.items() if math.isfinite(value)}
    return tamed({name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in finite.items()})


class ProgressReader(dg.PipesTempFileMessageReader):
    """Reads Pipes messages from a file; progress goes to `ProgressMessages`, everything else where it always goes."""

    def __init__(self, progress: ProgressMessages) -> None:
        super().__init__()
        self._progress = progress

    @contextlib.contextmanager
    def read_messages(self, handler: Any) -> Iterator[Any]:
        """Tail the messages file until the session closes."""
        with super().read_messages(_Relay(handler, self._progress)) as params:  # type: ignore[arg-type]
            yield params


class _Relay:
    def __init__(self, handler: Any, progress: ProgressMessages) -> None:
        self._handler = handler
        self._progress = progress

    def handle_message(self, message: Mapping[str, Any]) -> None:
        if message.get("method") != "report_custom_message" or not self._progress.take(message["params"]["payload"]):
            self._handler.handle_message(message)

    def report_pipes_framework_exception(self, origin: str, info: Any) -> None:
        self._handler.report_pipes_framework_exception(origin, info)


def _open_and_close(params: Mapping[str, Any]) -> None:
    """Say hello and goodbye for a stage that had no reason to run, so that Dagster does not warn about its silence."""
    with Path(params["path"]).open("a", encoding="utf-8") as stream:
        for method in ("opened", "closed"):
            stream.write(json.dumps({"__dagster_pipes_version": "0.1", "method": method, "params": {}}) + "\n")


def _echo(context: dg.AssetExecutionContext, line: str) -> None:
    """Stage output goes to the step's captured output as it is; warnings and errors also to the event log."""
    print(line, flush=True)
    if re.match(r"(WARNING|ERROR|\S+: (warning|error))\b", line) and not NOISE.match(line):
        context.log.warning(line)


@contextlib.contextmanager
def _follow_parent(process: Repro, patience: float) -> Iterator[None]:
    """Stop the stage when the run worker that started this step is gone, and leave.

    The step's parent in the process table may be a forkserver, which lives on; multiprocessing knows the real one.
    """
    parent, done = multiprocessing.parent_process(), threading.Event()

    def watch() -> None:
        while parent is not None and not done.wait(0.5):
            if not parent.is_alive():
                process.stop()
                process.wait(patience)
                os._exit(1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
