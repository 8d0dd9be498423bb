"""What lies at a path, recognised by its files: which source block reads it, and with which values."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.data.endings import PICTURES as IMAGES
from pipelines.data.endings import VIDEOS
from pipelines.footage import trainer_configs
from pipelines.footage.captions import Table, captions_from_files, sidecars_of
from pipelines.footage.files import find_media
from pipelines.footage.lerobot import INFO, cameras_of, is_depth, read_info
from pipelines.footage.places import written
from pipelines.footage.recordings import NAME
from pipelines.footage.tables import FORMATS, LISTS, read_rows
from pipelines.footage.tar_kinds import pictures_in
from pipelines.footage.tars import counted, expand
from pipelines.stage import StageError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tzst")
LIKELY = ("metadata", "prompts", "prompt", "captions", "caption", "dataset", "videos", "train", "data")
"""Names of tables, the likeliest first."""
HUB = re.compile(r"[\w.-]+/[\w.-]+")
UNWATCHED = (
    "DVC does not look at addresses: where the server states an ETag, add the tars to deps of raw_video; else "
    "`reel run raw_video --force` reads a changed tar"
)
TRIED = 24
"""Tables of a folder that are tried."""


@dataclass(frozen=True)
class Layout:
    """A source found: in words, its block with the values that are its own, and what DVC is to watch."""

    words: str
    block: str
    values: dict[str, Any]
    watched: tuple[str, ...]
    captioned: bool = True
    notes: tuple[str, ...] = ()


def recognise(path: str) -> Layout:
    """The layout of what lies at a path, or of a tar by URL.

    Raises:
        StageError: nothing is there, or nothing that is read here; the message names the remedy.
    """
    if "://" in path:
        return _tars("a tar by URL, streamed", [path], expand([path])[0], (), (UNWATCHED,))
    place = Path(path)
    if place.is_dir():
        return _folder(place)
    if place.is_file():
        return _file(place)
    if HUB.fullmatch(path) and not place.parent.is_dir():
        raise StageError(
            f"{path}: no such folder. If it is a data set of the Hugging Face hub, get it first:\n"
            f"hf download --repo-type dataset {path} --local-dir {place.name}, then `reel use {place.name}`."
        )
    near = [one.name for one in place.parent.iterdir()] if place.parent.is_dir() else []
    close = difflib.get_close_matches(place.name, near, n=1)
    hint = f"did you mean {place.parent / close[0]}?" if close else "paths start at the project's root."
    raise StageError(f"{path}: no such file or folder; {hint}")


def _file(path: Path) -> Layout:
    if path.name.lower().endswith(TARS):
        return _tars("a tar", [path.as_posix()], path.as_posix(), (path.as_posix(),))
    pointed = trainer_configs.of_toml(path) if path.suffix.lower() == ".toml" else None
    pointed = trainer_configs.of_json(path) if path.suffix.lower() == ".json" else pointed
    if pointed is not None:
        layout = recognise(pointed.place.as_posix())
        words = f"a data set of {pointed.program}: {layout.words}"
        return replace(layout, words=words, notes=(*pointed.notes, *layout.notes))
    if path.suffix.lower() in FORMATS:
        return _table(path)
    kind = "one video" if path.suffix.lower() in VIDEOS else "a file that is no table, tar or folder"
    raise StageError(
        f"{path}: is {kind}; name the folder it lies in, and put captions beside the videos or in a table."
    )


def _walk(root: Path) -> Iterator[Path]:
    """The files of a tree, without hidden ones, in order."""
    for folder, inside, files in os.walk(root):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _folder(root: Path) -> Layout:
    if (root / INFO).is_file():
        return _lerobot(root)
    files = list(_walk(root))
    videos, images = _media(root)
    tars = [file for file in files if file.name.lower().endswith(TARS)]
    if tars and not videos:
        urls = counted([tar.as_posix() for tar in tars])
        words = f"{len(tars)} tar{'s' * (len(tars) > 1)}"
        return _tars(words, urls, tars[0].as_posix(), (root.as_posix(),))
    if any(NAME.fullmatch(image.name) for image in images) and not videos:
        return _recordings(root, files)
    if not videos and not images:
        raise StageError(_nothing(root, files))
    if videos and _is_vpt(videos):
        words = "recordings as of VPT: an mp4 with a jsonl of actions each"
        captioned = any(sidecars_of(video) for video in videos)
        return Layout(words, "vpt", {"path": root.as_posix(), "captions": None}, (root.as_posix(),), captioned)
    media = "both" if videos and len(images) > len(videos) else "videos" if videos else "images"
    chosen = [*videos, *images] if media == "both" else videos or images
    return _captioned(root, files, chosen, media)


def _media(root: Path) -> tuple[list[Path], list[Path]]:
    """The videos and the pictures of a tree; none where it holds none."""
    with contextlib.suppress(StageError):
        tree = find_media(root, "both", "path")
        return [root / name for name in tree.videos], [root / name for name in tree.pictures]
    return [], []


def _captioned(root: Path, files: Sequence[Path], chosen: Sequence[Path], media: str) -> Layout:
    """A folder of videos or pictures with its captions: the table that names most, or a text beside each."""
    names = [file.relative_to(root).as_posix() for file in chosen]
    beside = sum(bool(sidecars_of(file)) for file in chosen)
    best, most, notes = _best_table(root, files, names)
    what = {"videos": "videos", "images": "pictures", "both": "videos and pictures"}[media]
    base = {"path": root.as_posix(), "media": media}
    if best is not None and most >= beside:
        words = f"a folder of {what}, {most} of {len(names)} captioned by {best}"
        return Layout(words, "folder", {**base, "captions": best}, (root.as_posix(),))
    if best is None and not beside:
        near = [one for one in root.parent.glob("*.*") if one.is_file() and one.stem.lower() in (*LIKELY, root.name)]
        outside, count, _ = _best_table(root, near, names)
        if outside is not None:
            words = f"a folder of {what}, {count} of {len(names)} captioned by {outside} beside it"
            return Layout(words, "folder", {**base, "captions": outside}, (root.as_posix(), outside))
    words = f"a folder of {what}, {beside} of {len(names)} with a text beside it"
    notes = () if beside else notes
    return Layout(words, "folder", {**base, "captions": None}, (root.as_posix(),), beside > 0, notes)


def _best_table(root: Path, files: Sequence[Path], names: Sequence[str]) -> tuple[str | None, int, tuple[str, ...]]:
    """The table, or the pattern of equally named tables in folders, that captions most, and how many; why others do
    not.

    A table outside of the folder is named as its path stands.
    """
    tables = [file for file in files if file.suffix.lower() in FORMATS and file.name not in LISTS]
    beside = {(root / name).with_suffix("") for name in names}
    tables = [file for file in tables if file.with_suffix("") not in beside]
    groups: dict[str, list[Path]] = {}
    for table in tables:
        groups.setdefault(table.name, []).append(table)
    tried = [(_inside(many[0], root), many[:1]) for many in groups.values()]
    tried += [(f"**/{name}", many) for name, many in groups.items() if len(many) > 1]
    tried.sort(key=lambda one: LIKELY.index(Path(one[0]).stem) if Path(one[0]).stem in LIKELY else len(LIKELY))
    best: tuple[str | None, int] = (None, 0)
    notes: list[str] = []
    for name, many in tried[:TRIED]:
        try:
            told = captions_from_files(many, root, names)
        except StageError as error:
            notes.append(f"not taken for captions: {str(error).splitlines()[0].rstrip('.')}")
            continue
        lacking = [one.refusal for table in told for every in table.told.values() for one in every if one.refusal]
        notes += [f"not taken for captions: {lacking[0]}"] if lacking else []
        count = len({video for table in told for video, all_told in table.told.items() if all_told[0].caption})
        if count > best[1]:
            best = (name, count)
    return best[0], best[1], tuple(notes[:3])


def _inside(table: Path, root: Path) -> str:
    """As a source names a table: relative to its folder where it lies in it."""
    return (table.relative_to(root) if table.is_relative_to(root) else table).as_posix()


def _common(table: Table, root: Path) -> Path:
    """Where a table lies in the project's root, the folder that all its files lie in: the project is no data set."""
    inside = os.path.commonpath([Path(name).parent for name in table.told])
    return root / inside if root.resolve() == Path.cwd() and inside else root


def _table(path: Path) -> Layout:
    """A table: its videos are in its folder, or where its names say."""
    roots = [path.parent]
    firsts = [_first_name(path)]
    roots += [Path(name).parent for name in firsts if name and Path(name).is_absolute() and Path(name).is_file()]
    for root in roots:
        videos, images = _media(root)
        chosen = videos or images
        if chosen:
            names = [file.relative_to(root).as_posix() for file in chosen]
            (table,) = captions_from_files([path], root, names, path.name)
            root = _common(table, root)
            inside = _inside(path, root)
            media = "videos" if videos else "images"
            what = "cuts of videos" if any(one.span for many in table.told.values() for one in many) else media
            held = sum(file.is_relative_to(root) for file in chosen)
            words = f"a table of {table.rows} {what}; {len(table.told)} of {held} files here are in it"
            watched = (root.as_posix(),) if path.is_relative_to(root) else (root.as_posix(), path.as_posix())
            values = {"path": root.as_posix(), "media": media, "captions": inside}
            return Layout(words, "folder", values, watched)
    raise StageError(f"{path}: no video lies beside it, nor where it says; put it into the folder of its videos.")


def _first_name(path: Path) -> str | None:
    for row in read_rows(path):
        for value in row.values.values():
            if isinstance(value, str) and value.lower().endswith(VIDEOS + IMAGES):
                return written(value)
    return None


def _tars(words: str, urls: list[str], first: str, watched: tuple[str, ...], notes: tuple[str, ...] = ()) -> Layout:
    """Tars of videos, or of pictures where the first one holds pictures alone."""
    pictures = pictures_in(first)
    values: dict[str, Any] = {"urls": urls, "max_samples": None}
    if pictures is None:
        return Layout(words, "tars", values, watched, notes=notes)
    values |= {"media": pictures.media, "captions": pictures.captions, "caption": None}
    return Layout(f"{words} of pictures", "webdataset", values, watched, pictures.captions is not None, notes)


def _lerobot(root: Path) -> Layout:
    info = read_info(root)
    cameras = cameras_of(info)
    if not cameras:
        raise StageError(
            f"{root}: a LeRobot data set without videos; its pictures stand in parquet files, not read here."
        )
    action = "action" if "action" in info["features"] else None
    colours = [name for name in cameras if not is_depth(info["features"][name])]
    values = {"path": root.as_posix(), "camera": (colours or cameras)[0], "action": action}
    notes = (f"cameras: {', '.join(cameras)}; `camera` in params.yaml chooses one",) if len(cameras) > 1 else ()
    words = f"a LeRobot data set: {info.get('total_episodes', '?')} episodes, {info['fps']} frames per second"
    return Layout(words, "lerobot", values, (root.as_posix(),), True, notes)


def _recordings(root: Path, files: Sequence[Path]) -> Layout:
    folders = {file.parent for file in files if NAME.fullmatch(file.name)}
    logs = Counter(file.name for file in files if file.suffix.lower() == ".csv" and file.parent in folders)
    log = logs.most_common(1)[0][0] if logs else None
    values = {"path": root.as_posix(), "frame_rate": 30.0, "action_log": log, "captions": None}
    captioned = any(sidecars_of(folder) for folder in folders)
    note = "their rate stands nowhere: `frame_rate` is set to 30; mend it in params.yaml"
    words = f"{len(folders)} recordings of numbered frames" + (f" with {log} as log of actions" if log else "")
    return Layout(words, "recordings", values, (root.as_posix(),), captioned, (note,))


def _is_vpt(videos: Sequence[Path]) -> bool:
    """Whether the first video that has a jsonl beside it has actions there."""
    for video in videos[:TRIED]:
        log = video.with_suffix(".jsonl")
        if log.is_file():
            try:
                with log.open(encoding="utf-8-sig") as stream:
                    first = json.loads(next((line for line in stream if line.strip()), "null"))
                return isinstance(first, dict) and {"mouse", "keyboard"} <= set(first)
            except (OSError, ValueError, RecursionError):
                return False
    return False


def _nothing(root: Path, files: Sequence[Path]) -> str:
    """Why a folder cannot be used."""
    for file in files[:TRIED]:
        if file.suffix.lower() == ".parquet":
            try:
                embedded = [field.name for field in pq.read_schema(file) if "bytes" in str(field.type)]
            except (OSError, ValueError):
                continue
            if embedded:
                return (
                    f"{root}: the videos stand inside parquet files (column {embedded[0]}), which are not read here; "
                    "write each row's bytes to a file, with its caption beside it."
                )
    endings = Counter(file.suffix.lower() or "no ending" for file in files).most_common(4)
    held = ", ".join(f"{count} {ending}" for ending, count in endings) or "nothing"
    return f"{root}: holds no video, picture or tar that is known here ({held})."
