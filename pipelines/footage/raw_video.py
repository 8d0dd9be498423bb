"""Stage ``raw_video``: a folder of clips of one form, with a catalog, from the renderer or from a user's videos."""

from __future__ import annotations

from pathlib import Path

from pipelines import stage
from pipelines.data.catalog import write_catalog
from pipelines.footage import overview
from pipelines.footage.clips import Made
from pipelines.footage.ingest import ingest
from pipelines.footage.params import RawVideoParams
from pipelines.footage.rendered import make_clips


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
        made = _clips(params, folder)
        catalog = write_catalog(folder, made.clips, made.rejected)
        numbers = overview.numbers(catalog, made)
        with stage.whole_folder(plots) as pictures:
            overview.draw(folder, catalog, made, pictures)
        stage.write_metrics(metrics, numbers)
    stage.say(overview.summary(numbers))


def _clips(params: RawVideoParams, folder: Path) -> Made:
    """Clips of whichever source the parameters name."""
    if params.source.folder is not None:
        return ingest(params.source.folder, params.clip, params.held_out_share, folder)
    assert params.source.rendered is not None  # the parameters hold exactly one
    return make_clips(params.source.rendered, params.clip, params.held_out_share, folder)
