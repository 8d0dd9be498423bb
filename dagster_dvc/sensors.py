"""Sensors that keep Dagster's picture equal to the project on disk."""

import json
import os
import threading
import urllib.error
import urllib.request

import dagster as dg

from dagster_dvc.follower import Fingerprint, Follower
from dagster_dvc.project import DvcProject, ProjectError
from dagster_dvc.translator import DvcTranslator

WEBSERVER = "DAGSTER_DVC_WEBSERVER"
INTERVAL_SECONDS, RELOAD_SECONDS = 30, 60
"""Between two ticks of the sensors. Dagster takes about 0.06 s of a core for one that finds nothing."""


def build_lock_sensor(
    project: DvcProject,
    *,
    translator: DvcTranslator | None = None,
    name: str = "follow_dvc_lock",
    interval_seconds: int = INTERVAL_SECONDS,
) -> dg.SensorDefinition:
    """Reports what happened outside Dagster: a `dvc repro` in a terminal, a changed source, an output edited by hand.

    On an empty instance it reports everything that dvc.lock records. It waits until the lock file has been quiet for
    three seconds, so that a run of Dagster's own can report itself first. A tick in which nothing moved costs a few
    stats; what must be hashed is hashed by a process of its own and reported by a later tick.
    """

    follower = Follower(project.root, translator)

    @dg.sensor(
        name=name,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Turns the graph green after a `dvc repro` outside Dagster; notices changed sources and outputs.",
    )
    def follow(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            said, cursor = follower.tick(lambda: context.instance, context.cursor)
        except ProjectError as error:
            return dg.SkipReason(str(error))
        return dg.SensorResult(skip_reason=said, cursor=cursor)

    return follow


def build_reload_sensor(
    project: DvcProject, *, name: str = "follow_dvc_yaml", interval_seconds: int = RELOAD_SECONDS
) -> dg.SensorDefinition:
    """Reloads the code location after an edit of dvc.yaml, params.yaml or a stage's code.

    The web server's address is read from the variable DAGSTER_DVC_WEBSERVER (`http://127.0.0.1:3000`); without it the
    sensor only says that a reload is due.
    """
    found = Fingerprint(project.root)
    loaded = found.now()

    @dg.sensor(
        name=name,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reloads the definitions after an edit of dvc.yaml, params.yaml or code.",
    )
    def reload(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            now = found.now()
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
