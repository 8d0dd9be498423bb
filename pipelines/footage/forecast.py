"""What the stage ``raw_video`` would find new, told beforehand from names alone: no file is opened."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pipelines import stage
from pipelines.data.catalog import read_catalog, read_decisions, read_rejected
from pipelines.footage.ingest import listed
from pipelines.footage.params import RawVideoParams, Tars
from pipelines.launch import stated
from pipelines.params import ParamsError


def forecast(params: RawVideoParams, out: Path) -> str | None:
    """One line: how many files are new, how many gone, and about how many clips that makes; None where it is unknown.

    Tars are not listed, because that reads them. A file that changed under its old name is not counted.

    Raises:
        StageError: the source cannot be used, or nothing was made of it yet.
    """
    clips = read_catalog(out)
    if params.source.rendered is not None:
        drawn = clips["source"].tolist().count("rendered")
        wanted = params.source.rendered.num_clips
        return f"{max(0, wanted - drawn)} of {wanted} clips are new"
    footage = params.source.footage
    if footage is None or isinstance(footage, Tars):
        return None
    before = {*read_decisions(out)["source"], *read_rejected(out)["file"]}
    now = {found.name for found in listed(footage, params.clip.frame_rate)}
    new, used = len(now - before), len(set(clips["source"]))
    return (
        f"{new} of {len(now)} files are new by their names, {len(before - now)} are gone; files gave "
        f"{len(clips) / used:.3g} clips each so far, so about {round(new * len(clips) / used)} new clips"
    )


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
