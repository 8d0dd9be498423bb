"""How this project's stages look in Dagster: on top of the general translator, pictures and provenance."""

from typing import Any

import dagster as dg

from assets.previews import thumbnails
from assets.provenance import checkpoint_metadata, code_metadata, report_metadata
from dagster_dvc.lock import Entry
from dagster_dvc.project import DvcProject, Out, Stage
from dagster_dvc.results import headline, read_metrics, verdicts
from dagster_dvc.shown import line
from dagster_dvc.translator import DvcTranslator


class ReelTranslator(DvcTranslator):
    """Adds thumbnails, gates, checkpoint digests, code commit and the commands that make a result again."""

    def get_description(self, stage: Stage, out: Out | None) -> str:
        """What the stage is, what it writes, and the command that makes it."""
        writes = ", ".join(f"`{made.path}`" for made in stage.outs)
        return f"{stage.desc or ''}\n\nWrites {writes}.\n\nMake it: `reel run {stage.name}`"

    def get_metadata(self, project: DvcProject, stage: Stage, out: Out | None) -> dict[str, Any]:
        """Adds the page of the documentation, where there is one."""
        metadata = super().get_metadata(project, stage, out)
        page = project.root / "docs" / f"{stage.name}.md"
        if page.is_file():
            metadata["docs"] = dg.MetadataValue.path(str(page))
        return metadata

    def get_result_metadata(self, project: DvcProject, stage: Stage, out: Out | None, entry: Entry) -> dict[str, Any]:
        """The headline first, then pictures, then where it came from, then everything else."""
        metrics = read_metrics(project, stage)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in headline(stage, metrics).items())
        metadata: dict[str, Any] = {"headline": shown} if shown else {}
        metadata |= thumbnails(project, stage)
        gates = verdicts(stage, metrics)
        if gates:
            metadata["gates"] = dg.MetadataValue.md("\n".join(f"- {line(str(gate))}" for gate in gates))
        if out is not None:
            metadata |= checkpoint_metadata(project.root / out.path)
            metadata |= report_metadata(project.root / out.path)
        metadata |= code_metadata(project.root)
        metadata["reproduce"] = f"git checkout <commit> && reel run {stage.name}   # or: dvc repro {stage.name}"
        return metadata | super().get_result_metadata(project, stage, out, entry)
