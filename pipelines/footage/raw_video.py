"""Stage ``raw_video``: a folder of clips of one form, with a catalog, from the renderer or from a user's videos."""

from __future__ import annotations

from pathlib import Path

from pipelines import stage
from pipelines.data.catalog import write_catalog
from pipelines.footage import overview, rendered
from pipelines.footage.ingest import ingest
from pipelines.footage.params import RawVideoParams, RenderedSource


def make(params: RawVideoParams, out: Path, metrics: Path, plots: Path) -> None:
    """Make the clips, their catalog, the metrics and the pictures.

    Args:
        params: the section ``raw_video``.
        out: folder for ``clips/*.mp4``, ``catalog.parquet`` and ``rejected.parquet``; written whole or not at all.
        metrics: JSON file for the counts and the fidelity of the mp4 files.
        plots: folder for the pictures.

    Raises:
        StageError: the source folder cannot be used, or too many of its files were refused.
    """
    with stage.whole_folder(out) as folder:
        (folder / "clips").mkdir()
        if isinstance(params.source, RenderedSource):
            made = rendered.make_clips(params.source.rendered, params.clip, params.held_out_share, folder)
        else:
            made = ingest(params.source.folder, params.clip, params.held_out_share, folder)
        catalog = write_catalog(folder, made.clips, made.rejected)
        numbers = overview.numbers(catalog, made.rejected, made.num_files, made.fidelity)
        with stage.whole_folder(plots) as pictures:
            overview.draw(folder, catalog, pictures)
        stage.write_metrics(metrics, numbers)
    stage.say(overview.summary(numbers))
