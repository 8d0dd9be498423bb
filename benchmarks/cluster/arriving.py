"""Footage that arrives under a prefix of an object store, and a download of it that is killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.cluster.training import Row

if TYPE_CHECKING:
    from benchmarks.cluster.objects import Store

CUT_FETCH = """
import os, signal
from pathlib import Path
from pipelines.footage import fetch
fetch.PIECE = 2**20
one, pieces = fetch.Fetch("s3://lab/in", Path("clips"), {}), []
real = one.files.cat_file
def cut(*words, **more):
    pieces.append(1)
    if len(pieces) > 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*words, **more)
one.files.cat_file = cut
one.run()
"""
"""Downloads in pieces, and is killed in the fourth one."""


def footage(store: Store) -> Row:
    """New objects under a prefix come once, whole."""
    root = store.folder / "footage"
    root.mkdir()
    put = "import s3fs; f = s3fs.S3FileSystem(); [f.pipe(f'lab/in/{n}.mp4', bytes([n]) * 1000000) for n in range(%d)]"
    fetch = ("-m", "pipelines.footage.fetch", "s3://lab/in", "clips")
    said = []
    for count in (3, 3, 4):
        store.run("-c", put % count) if count != 3 or not said else None
        said.append(store.run(*fetch, cwd=root))
    counts = [line.split()[0] for line in said]
    names = sorted(path.name for path in (root / "clips").iterdir())
    is_well = counts[:2] == ["3", "0"] and names == [f"{n}.mp4" for n in range(4)]
    text = "; ".join(said)
    return Row("footage under a prefix of S3, three times", text, "nothing" if is_well else str(names), is_well)


def cut_download(store: Store) -> Row:
    """A download of footage is killed; the same again."""
    root = store.folder / "cut-footage"
    root.mkdir()
    store.run("-c", "import s3fs; s3fs.S3FileSystem().pipe('lab/in/a.mp4', bytes(range(256)) * 32768)")
    store.run("-c", "import s3fs; f = s3fs.S3FileSystem(); [f.rm(x) for x in f.find('lab/in') if x[-5:] != 'a.mp4']")
    store.run("-c", CUT_FETCH, cwd=root, code=-9)
    seen = [path.name for path in (root / "clips").iterdir() if not path.name.startswith(".")]
    said = store.run("-m", "pipelines.footage.fetch", "s3://lab/in", "clips", cwd=root)
    whole = (root / "clips" / "a.mp4").read_bytes() == bytes(range(256)) * 32768
    is_well = whole and not seen and "5.0 MiB moved" in said and "3.0 MiB of it had come before" in said
    lost = "nothing" if is_well else f"{seen} {whole}"
    return Row("kill -9 in the fourth MiB of footage from S3", f"no file was seen; then {said}", lost, is_well)
