"""One job per situation a user is in. Each brings its goal and everything before it up to date; the rest is reused."""

import os
import subprocess
import sys

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.stages import TRANSLATOR
from dagster_dvc.assets import build_dvc_asset_selection
from dagster_dvc.project import DvcProject, ProjectError
from dagster_project.promoting import released

Job = UnresolvedAssetJobDefinition

JOBS: dict[str, tuple[tuple[str, ...], str]] = {
    "refresh_data": (("+latent_shards",), "New or changed clips: clips, autoencoder, latents."),
    "representation": (("+diagnostics",), "The latent-MAE encoder, the pseudo-classes and their diagnostics."),
    "anchored_flow": (
        ("+anchored_flow_motion", "+anchored_flow_unified"),
        "Both stages of anchored flow matching, and their baseline.",
    ),
    "rectified_flow": (("+rectified_flow",), "Rectified flow matching."),
    "world_model": (("+world_model_autoregressive",), "The action-conditioned world model, base and autoregressive."),
    "evaluation": (("+report",), "Scores of every generator, and the report."),
    "everything": (("*",), "The whole lineage."),
}


def build_jobs(project: DvcProject) -> dict[str, Job]:
    """The jobs whose stages exist, by name."""
    found = {}
    for name, (words, description) in JOBS.items():
        try:
            selection = build_dvc_asset_selection(project, words, translator=TRANSLATOR)
        except ProjectError:
            continue  # a stage that dvc.yaml no longer has, or that is broken, takes only its own job with it
        found[name] = dg.define_asset_job(name, selection=selection, description=description)
    return found


PROMOTION = "promotion"


def build_promotion_job(project: DvcProject) -> dg.JobDefinition:
    """Releases what a retraining made, stage by stage, where it is not worse than what is released (`reel promote`)."""

    @dg.op(
        description="For every stage of released.json: compared with the released one on the test split, or refused."
    )
    def promote(context: dg.OpExecutionContext) -> None:
        for name in sorted(released(project)):
            command = [sys.executable, "-P", "-m", "dagster_project.cli", "promote", name]
            done = subprocess.run(
                command, cwd=project.root, env={**os.environ, "REEL_PROJECT": str(project.root)}, capture_output=True,
                text=True, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            for line in (done.stdout + done.stderr).splitlines():
                context.log.info(line)

    @dg.job(name=PROMOTION, description="After a retraining: releases checkpoints that are not worse, and says why.")
    def promotion() -> None:
        promote()

    return promotion
