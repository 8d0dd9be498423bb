"""Sensors that keep Dagster's picture equal to the project on disk."""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import dagster as dg

from dagster_dvc.events import observe_sources, reconcile, report_sync
from dagster_dvc.lock import lock_digest
from dagster_dvc.project import DvcProject, ProjectError
from dagster_dvc.translator import Assets, DvcTranslator

WEBSERVER = "DAGSTER_DVC_WEBSERVER"
SETTLED_SECONDS = 3.0


def build_lock_sensor(
    project: DvcProject,
    *,
    translator: DvcTranslator | None = None,
    name: str = "follow_dvc_lock",
    interval_seconds: int = 5,
) -> dg.SensorDefinition:
    """Reports what happened outside Dagster: a `dvc repro` in a terminal, a changed source, an output edited by hand.

    On an empty instance it reports everything that dvc.lock records. It waits until the lock file has been quiet for
    three seconds, so that a run of Dagster's own can report itself first.
    """

    @dg.sensor(
        name=name,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Turns the graph green after a `dvc repro` outside Dagster; notices changed sources and outputs.",
    )
    def follow(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            assets = Assets(DvcProject(project.root), translator)
            if assets.project.problems:
                return dg.SkipReason(f"waiting for a valid dvc.yaml: {assets.project.problems[0]}")
            if not _settled(assets.project):
                return dg.SkipReason("dvc.lock has just been written")
            sources = observe_sources(context.instance, assets)
            digest = lock_digest(assets.project)
            reported = reconcile(context.instance, assets) if sources or context.cursor != digest else []
            changed = report_sync(context.instance, assets)
        except ProjectError as error:
            return dg.SkipReason(str(error))
        assets.project.hashes.save()
        said = [_count(sources, "changed source"), _count(reported, "stage output"), _count(changed, "check")]
        text = ", ".join(part for part in said if part)
        return dg.SensorResult(skip_reason=f"reported {text}" if text else "nothing new", cursor=digest)

    return follow


def build_reload_sensor(
    project: DvcProject, *, name: str = "follow_dvc_yaml", interval_seconds: int = 5
) -> dg.SensorDefinition:
    """Reloads the code location after an edit of dvc.yaml, params.yaml or a stage's code.

    The web server's address is read from the variable DAGSTER_DVC_WEBSERVER (`http://127.0.0.1:3000`); without it the
    sensor only says that a reload is due.
    """
    loaded = project.fingerprint()

    @dg.sensor(
        name=name,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reloads the definitions after an edit of dvc.yaml, params.yaml or code.",
    )
    def reload(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            now = DvcProject(project.root).fingerprint()
        except ProjectError as error:
            return dg.SkipReason(str(error))
        if now == loaded:
            return dg.SkipReason("definitions are up to date")
        address = os.environ.get(WEBSERVER)
        if not address:
            return dg.SkipReason(
                f"dvc.yaml, params.yaml or code changed: reload the definitions ({WEBSERVER} is not set)"
            )
        threading.Thread(target=_reload, args=(address,), daemon=True).start()
        return dg.SkipReason("dvc.yaml, params.yaml or code changed: reloading the definitions")

    return reload


def _settled(project: DvcProject) -> bool:
    locks = [project.root / Path(stage.file).with_suffix(".lock") for stage in project.stages.values()]
    newest = max((lock.stat().st_mtime for lock in set(locks) if lock.is_file()), default=0.0)
    return time.time() - newest > SETTLED_SECONDS


def _count(items: list[dg.AssetKey], noun: str) -> str:
    return f"{len(items)} {noun}{'s' if len(items) > 1 else ''}" if items else ""


def _reload(address: str) -> None:
    """Ask the web server to load all code locations again. It calls back into this process: only from a thread."""
    query = "mutation { reloadWorkspace { __typename } }"
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    try:
        urllib.request.urlopen(request, timeout=60).close()
    except (urllib.error.URLError, OSError) as error:
        print(f"could not reload the definitions at {address}: {error}", flush=True)
