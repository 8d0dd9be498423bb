"""Footage that waits at an address is brought before the clips are looked at: `reel fetch` in front of their stage."""

import os
import subprocess
import sys
from collections.abc import Iterator

import dagster as dg

from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.resource import DvcResource, Event
from dagster_dvc.translator import Assets
from dagster_project.footage import STAGE

URL = "REEL_INCOMING_URL"
"""Variable of the machine that runs the stages: where footage arrives. Without it nothing is fetched."""


class FetchingResource(DvcResource):
    """Runs stages as `DvcResource` does; the one that reads footage after what has arrived is here."""

    def repro(
        self, context: dg.AssetExecutionContext, assets: Assets, stage: Stage, force: bool = False
    ) -> Iterator[Event]:
        """Run one stage.

        Raises:
            dagster.Failure: also where the address cannot be read; what came before that stays.
        """
        if stage.name == STAGE and os.environ.get(URL):
            bring(context, assets.project)
        yield from super().repro(context, assets, stage, force)


def bring(context: dg.AssetExecutionContext, project: DvcProject) -> None:
    """Run `reel fetch`, with what it says in the run's log.

    Raises:
        dagster.Failure: it failed, in its own words.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "dagster_project.cli", "fetch"],
        cwd=project.root,
        env={**os.environ, "REEL_PROJECT": str(project.root)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    for line in done.stdout.splitlines():
        context.log.info(line)
    if done.returncode:
        raise dg.Failure(done.stderr.strip() or f"reel fetch: exit {done.returncode}")
