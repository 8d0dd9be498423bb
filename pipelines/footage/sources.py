"""What a source on this disk holds: files found, with their captions, to be opened one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from pipelines.data.limits import Limits, check_bytes
from pipelines.footage.captions import SIDECARS, NotHere, Table, Told, captions_from_files, sidecar_told
from pipelines.footage.columns import Span
from pipelines.footage.digests import Hashed
from pipelines.footage.files import check_folder, ending, find_media
from pipelines.footage.found import Found, Reel, cut_name, refused
from pipelines.footage.params import Folder, Footage, Recordings, Vpt
from pipelines.footage.recordings import find_recordings, numbered_frames, open_recording
from pipelines.footage.reels import cut_reel, open_file
from pipelines.stage import StageError, file_digest
from pipelines.textfile import storable_text


def limits_of(params: Footage) -> Limits:
    """The limits of a source's block as the decoder takes them."""
    return Limits(**params.limits.model_dump())


def find_videos(root: Path, key: str = "raw_video.source.folder.path") -> list[str]:
    """The videos of a folder tree, as sorted posix paths relative to it.

    Raises:
        StageError: there is no such folder, or it holds none.
    """
    return find_media(root, "videos", key).videos


def captions_files(root: Path, captions: str, key: str) -> list[Path]:
    """The tables that a parameter names: one in the folder or from the project's root, or all that fit a pattern.

    Raises:
        StageError: nothing fits the pattern.
    """
    if not any(mark in captions for mark in "*?["):
        inside = root / captions
        return [inside if inside.is_file() else Path(captions)]
    found = sorted(path for path in root.glob(captions) if path.is_file())
    if not found:
        raise StageError(f"{key}: {captions}: no file in {root} fits this pattern.")
    return found


def tables_of(params: Folder | Recordings | Vpt, names: list[str], kind: str) -> list[Table]:
    """What the captions files say, read now; none where the captions are beside the files.

    Raises:
        StageError: a file cannot be used.
    """
    if params.captions is None:
        return []
    root, key = Path(params.path), f"raw_video.source.{kind}.captions"
    return captions_from_files(captions_files(root, params.captions, key), root, names, key)


def told_of(params: Folder | Recordings | Vpt, tables: list[Table], name: str) -> list[Callable[[], Told]]:
    """What is told of a file, once for each cut of it: by a table, or beside it, which is read when it is asked for."""
    if not tables:
        return [partial(sidecar_told, Path(params.path) / name)]
    table = next((table for table in tables if name in table.told), tables[0])
    return [partial(_same, told) for told in table.of(name)]


def _same(told: Told) -> Told:
    return told


def noted(tables: list[Table], total: int) -> Iterator[Found]:
    """Rows of the tables that cannot be used, and how many are of videos that are not here."""
    for table in tables:
        for place, error in table.bad.items():
            yield refused(f"{table.file.name}:{place}", total, total, error)
        elsewhere = table.not_here()
        if elsewhere is not None:
            yield refused(table.file.name, total, total, elsewhere)


def companions(tables: list[Table]) -> dict[str, str]:
    """Videos that only stand beside others in the tables, such as masks and control videos, and in which column."""
    told = {name for table in tables for name in table.told}
    return {name: one for table in tables for name, one in table.companions.items() if name not in told}


def absent(params: Folder | Recordings | Vpt, name: str) -> str:
    """Where a caption was looked for."""
    if params.captions:
        return f"not in {params.captions}"
    stem = name if isinstance(params, Recordings) else Path(name).with_suffix("").as_posix()
    return f"no text in {stem}{SIDECARS[0]} (or {', '.join(SIDECARS[1:])})"


def _file_digest(path: Path, limits: Limits, hashed: Hashed) -> str:
    check_bytes(path, limits)
    return hashed(path)


def cut_digest(whole: Callable[[], str], span: Span) -> str:
    """What identifies a cut: its file's content and its times."""
    return hashlib.sha256(f"{whole()} {span[0]!r} {span[1]!r}".encode()).hexdigest()


def folder_files(params: Folder, frame_rate: float, hashed: Hashed = file_digest) -> Iterator[Found]:
    """The videos and pictures of a folder tree; where a table names cuts of a video, each cut by itself.

    Raises:
        StageError: the folder or the captions file cannot be used.
    """
    root, limits = Path(params.path), limits_of(params)
    tree = find_media(root, params.media, "raw_video.source.folder.path")
    names, stills = tree.media, set(tree.pictures)
    tables = tables_of(params, names, "folder")
    beside = companions(tables)
    names = [name for name in names if name not in beside]
    listed = [(name, told) for name in names for told in told_of(params, tables, name)]
    digest_of = cache(partial(_file_digest, limits=limits, hashed=hashed))  # several cuts are of one file
    for place, (name, told) in enumerate(listed, 1):
        path, still = root / name, name in stills
        whole = partial(digest_of, path)
        lacks = absent(params, name)
        span = told().span if tables else None
        if span is None:
            opened: Callable[[str], Reel] = partial(open_file, path, still, frame_rate, limits)
            yield Found(storable_text(name), place, len(listed), still, told, lacks, whole, None, opened)
        else:
            cut, opened = partial(cut_digest, whole, span), partial(cut_reel, path, span, frame_rate, limits)
            yield Found(cut_name(storable_text(name), span), place, len(listed), False, told, lacks, cut, whole, opened)
    yield from noted(tables, len(listed))
    for name, column in beside.items():
        reason = NotHere("companion", f"belongs to another video: it stands in the column {column} of that one's row")
        yield refused(storable_text(name), len(listed), len(listed), reason)
    for name, why in tree.passed.items():
        reason = NotHere(f"passed_over{ending(name)}", why)
        yield refused(storable_text(name), len(listed), len(listed), reason)


def recordings(params: Recordings, frame_rate: float, hashed: Hashed = file_digest) -> Iterator[Found]:
    """The folders of numbered frames below a folder.

    Raises:
        StageError: the folder or the captions file cannot be used, or there is no recording.
    """
    root, limits, key = Path(params.path), limits_of(params), "raw_video.source.recordings.path"
    check_folder(root, key)
    names = find_recordings(root)
    if not names:
        raise StageError(f"{key}: {root}: no folder in it holds frame_0000.png, frame_0001.png, …; see docs/raw_video.")
    tables = tables_of(params, names, "recordings")
    for place, name in enumerate(names, 1):
        folder, rates = root / name, (params.frame_rate, frame_rate)
        opened = partial(_open_recording, folder, params.action_log, rates, limits)
        whole, first = partial(_tree_digest, folder, params.action_log, hashed), partial(_first_digest, folder, hashed)
        told = told_of(params, tables, name)[0]
        yield Found(storable_text(name), place, len(names), False, told, absent(params, name), whole, first, opened)
    yield from noted(tables, len(names))


def _open_recording(folder: Path, log: str | None, rates: tuple[float, float], limits: Limits, _: str) -> Reel:
    return open_recording(folder, log, rates, limits)


def _tree_digest(folder: Path, log: str | None, hashed: Hashed) -> str:
    files = list(numbered_frames(folder).values())
    if log is not None and (folder / log).is_file():
        files.append(folder / log)
    return hashlib.sha256("".join(f"{path.name} {hashed(path)}\n" for path in files).encode()).hexdigest()


def _first_digest(folder: Path, hashed: Hashed) -> str:
    return hashed(next(iter(numbered_frames(folder).values())))
