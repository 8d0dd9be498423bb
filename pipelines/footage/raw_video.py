"""Stage ``raw_video``: a folder of clips with a catalog, from the renderer or from a user's footage."""

from __future__ import annotations

from pathlib import Path

from pipelines import stage
from pipelines.data.catalog import JUDGEMENTS, write_catalog, write_decisions
from pipelines.data.stored import Place
from pipelines.document import load
from pipelines.footage import overview
from pipelines.footage.ingest import ingest
from pipelines.footage.packing import deliver
from pipelines.footage.params import RawVideoParams
from pipelines.footage.rendered import make_clips
from pipelines.footage.reuse import emptied
from pipelines.footage.storing import Made


def make(params: RawVideoParams, out: Path, metrics: Path, plots: Path) -> None:
    """Make the clips, their catalog, the metrics and the pictures.

    Args:
        params: the section ``raw_video``.
        out: folder for ``clips/*.mp4`` or ``clips/*.tar``, ``catalog.parquet``, ``rejected.parquet`` and, for footage,
            ``decisions.parquet``; written whole or not at all.
        metrics: JSON file for the counts and the fidelity of the mp4 files.
        plots: folder for the pictures.

    Raises:
        StageError: the source folder cannot be used, or too many of its files were refused.
    """
    with stage.whole_folder(out) as folder:
        (folder / "clips").mkdir()
        made = _clips(params, stage.current().work_folder(out), folder)
        catalog = write_catalog(folder, made.clips, [*made.rejected, *made.listed])
        if made.files_decoded is not None:
            write_decisions(folder, [{name: one[name] for name in JUDGEMENTS.names} for one in made.decisions])
        numbers = overview.numbers(catalog, made)
        with stage.whole_folder(plots) as pictures:
            overview.draw(folder, catalog, made, pictures)
        stage.write_metrics(metrics, numbers)
    stage.say(overview.summary(numbers))


def _clips(params: RawVideoParams, work: Path, folder: Path) -> Made:
    """Clips of whichever source the parameters name."""
    footage = params.source.footage
    if footage is not None:
        warn_unwatched(getattr(footage, "path", None))
        return ingest(params, footage, work, folder)
    assert params.source.rendered is not None  # the parameters hold exactly one
    made = make_clips(params.source.rendered, params.clip, params.splits, folder)
    places = {row["key"]: Place(row["key"], folder / row["file"]) for row in made.clips}
    with emptied(work / "tars") as tars:
        if deliver(made.clips, places, folder, params.tars_above, tars):
            for place in places.values():
                place.file.unlink()
    return made


def warn_unwatched(path: str | None, graph: Path = Path("dvc.yaml")) -> None:
    """Say so when DVC will not notice new files, because the source folder is no dependency of the stage."""
    if path is None or not graph.is_file() or not Path(path).is_dir():
        return
    stages = (load(graph.read_text(encoding="utf-8")) or {}).get("stages", {})
    deps = [Path(dep) for dep in stages.get(stage.current().name, {}).get("deps", []) if isinstance(dep, str)]
    if stages.get(stage.current().name) and not any(dep in (Path(path), *Path(path).parents) for dep in deps):
        name = stage.current().name
        stage.say(f"dvc.yaml: {name}: {path} is not in deps, so DVC will not see new files there; add `{path}`.")
