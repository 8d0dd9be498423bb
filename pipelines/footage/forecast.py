"""What the stage ``raw_video`` would find new, told beforehand from names alone: no video is opened."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pandas as pd

from pipelines import stage
from pipelines.data.catalog import read_catalog, read_decisions, read_rejected
from pipelines.footage.found import file_of
from pipelines.footage.opening import listed
from pipelines.footage.params import RawVideoParams, Tars, Webdataset
from pipelines.footage.tars import expand, listed_samples, tar_name
from pipelines.launch import stated
from pipelines.params import ParamsError


def forecast(params: RawVideoParams, out: Path) -> str | None:
    """One line: how many files are new, how many gone, and about how many clips that makes; None where it is unknown.

    A file that changed under its old name is not counted. The samples of a tar are counted where it lies on this disk;
    of tars by URL only the tars, because their headers lie between the videos.

    Raises:
        StageError: the source cannot be used, or nothing was made of it yet.
    """
    clips = read_catalog(out)
    if params.source.rendered is not None:
        drawn = clips["source"].tolist().count("rendered")
        wanted = params.source.rendered.num_clips
        return f"{max(0, wanted - drawn)} of {wanted} clips are new"
    footage = params.source.footage
    if footage is None or isinstance(footage, Webdataset):  # what is in the tars is known when they are read
        return None
    before = {*read_decisions(out)["source"], *map(file_of, read_rejected(out)["file"])}
    if isinstance(footage, Tars):
        return _of_tars(footage, clips, before)
    now = {file_of(found.name) for found in listed(footage, params.clip.frame_rate)}
    return _counted("files", now, before, clips)


def _counted(what: str, now: set[str], before: set[str], clips: pd.DataFrame) -> str:
    new, used = len(now - before), len(set(clips["source"]))
    return (
        f"{new} of {len(now)} {what} are new by their names, {len(before - now)} are gone; {what} gave "
        f"{len(clips) / used:.3g} clips each so far, so about {round(new * len(clips) / used)} new clips"
    )


def _of_tars(tars: Tars, clips: pd.DataFrame, before: set[str]) -> str:
    """Samples of the tars on this disk; tars elsewhere by their names."""
    urls = expand(tars.urls)
    near = [Path(url) for url in urls if not urlsplit(url).scheme]
    far = {tar_name(url) for url in urls if urlsplit(url).scheme}
    told = []
    if near:
        samples = [name for path in near for name in listed_samples(path)][: tars.max_samples]
        told.append(_counted("samples", set(samples), {name for name in before if _tar(name) not in far}, clips))
    if far:
        new = len(far - {_tar(name) for name in before})
        told.append(
            f"{new} of {len(far)} tars by URL are new by their names; what they hold is known when they are read"
        )
    return "; ".join(told)


def _tar(source: str) -> str:
    return source.partition("/")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the forecast of a stage of ``dvc.yaml``; nothing where it cannot be told. The exit status is 0."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.footage.forecast")
    parser.add_argument("--stage", default="raw_video")
    parser.add_argument("--before", nargs="*", help="every forecast is told; here nothing that runs before counts")
    try:
        params, paths = stated(parser.parse_args(argv).stage)
        told = forecast(cast(RawVideoParams, params), paths["out"])
    except (ParamsError, stage.StageError, OSError):
        return 0  # told by `reel check`, or the first run
    if told is not None:
        print(told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
