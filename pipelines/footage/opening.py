"""The files of whichever source the parameters name, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.footage import lerobot, vpt
from pipelines.footage.digests import Hashed
from pipelines.footage.found import Found
from pipelines.footage.params import Folder, Footage, Lerobot, Recordings, Tars, Vpt, Webdataset
from pipelines.footage.sources import folder_files, limits_of, recordings
from pipelines.footage.tars import tar_samples
from pipelines.stage import file_digest


def found_in(params: Footage, frame_rate: float, spool: Path, hashed: Hashed = file_digest) -> Iterator[Found]:
    """What the source holds, one after another; what has to lie on this disk to be read lies in ``spool``."""
    if isinstance(params, Tars):
        return tar_samples(params, frame_rate, spool)
    if isinstance(params, Webdataset):
        from pipelines.footage.webdatasets import webdataset_samples  # the library takes a second to import

        return webdataset_samples(params, frame_rate, spool)
    return listed(params, frame_rate, hashed)


def listed(params: Footage, frame_rate: float, hashed: Hashed = file_digest) -> Iterator[Found]:
    """The files of a source that is a folder."""
    if isinstance(params, Lerobot):
        return lerobot.episodes(params, frame_rate, limits_of(params), hashed)
    if isinstance(params, Vpt):
        return vpt.recordings(params, frame_rate, limits_of(params), hashed)
    assert isinstance(params, Folder | Recordings)
    if isinstance(params, Folder):
        return folder_files(params, frame_rate, hashed)
    return recordings(params, frame_rate, hashed)
