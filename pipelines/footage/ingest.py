"""The folder source: a user's own videos, captioned, decoded and cut into clips; the unusable are listed."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import stage
from pipelines.data.video import SUFFIXES, Limits, VideoError, sample_frames
from pipelines.footage.captions import captions_from_file, sidecar_captions
from pipelines.footage.clips import Cut, Made, content_hash, share_by_hash, store
from pipelines.footage.params import Clip, Folder
from pipelines.stage import StageError

VERSION = 1
"""Part of every content key: raise it when the same file would be cut or resized to other pixels."""

KEY = "raw_video.source.folder.path"


def find_videos(root: Path) -> list[str]:
    """The video files of a folder tree by suffix, as sorted posix paths relative to it; hidden ones are passed over.

    Raises:
        StageError: there is no such folder, or it holds no videos.
    """
    if not root.is_dir():
        siblings = [path.name for path in root.parent.iterdir() if path.is_dir()] if root.parent.is_dir() else []
        close = difflib.get_close_matches(root.name, siblings, n=1)
        hint = f"did you mean {root.parent / close[0]}?" if close else "paths start at the project's root."
        raise StageError(f"{KEY}: {root}: {'is not a folder' if root.exists() else 'no such folder'}; {hint}")
    inside = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    seen = sorted(path.as_posix() for path in inside if not any(part.startswith(".") for part in path.parts))
    videos = [name for name in seen if name.lower().endswith(SUFFIXES)]
    if not videos:
        holds = f"holds {len(seen)} files, none of them a video" if seen else "is empty"
        raise StageError(f"{KEY}: {root}: {holds}; put files with these endings there: {' '.join(SUFFIXES)}.")
    return videos


def find_captions(params: Folder, videos: list[str]) -> dict[str, str]:
    """Captions by video, from the file or the sidecars that the parameters name.

    Raises:
        StageError: the captions file cannot be used.
    """
    root = Path(params.path)
    if params.captions is None:
        return sidecar_captions(root, videos)
    inside = root / params.captions
    return captions_from_file(inside if inside.is_file() else Path(params.captions), videos)


def windows(path: Path, clip: Clip, limits: Limits) -> Iterator[tuple[int, np.ndarray]]:
    """Clips one after another: the number of the first frame on the time grid, and uint8 [T, H, W, 3].

    A stretch without a frame near its time is cut around.

    Raises:
        VideoError: the file cannot be used, or not one whole clip is in it.
    """
    frames: list[np.ndarray] = []
    count = whole = gaps = 0
    for frame in sample_frames(path, clip.frame_rate, (clip.height, clip.width), limits):
        count += 1
        if frame is None:
            gaps += 1
            frames = []
            continue
        frames.append(frame)
        if len(frames) == clip.num_frames:
            whole += 1
            yield count - clip.num_frames, np.stack(frames)
            frames = []
    if whole == 0 and count < clip.num_frames:
        raise VideoError("too_short", f"{count} frames at {clip.frame_rate:g} per second; a clip has {clip.num_frames}")
    if whole == 0:
        raise VideoError("frame_rate_too_low", f"{gaps} of {count} times have no frame within half a period")


def _limits(params: Folder) -> Limits:
    return Limits(params.limits.max_pixels, params.limits.max_frames, params.limits.max_seconds)


def cut_video(params: Folder, clip: Clip, cut: Cut, folder: Path) -> list[tuple[dict[str, Any], float]]:
    """Cut one video and store its clips: their rows and fidelities. A video that fails leaves no clip behind.

    Args:
        params: the folder and its limits.
        clip: the form of a clip.
        cut: what the clips have in common; its content hash is the video file's.
        folder: where the clips go.

    Raises:
        VideoError: the video cannot be used.
    """
    stored: list[tuple[dict[str, Any], float]] = []
    try:
        for start, frames in windows(Path(params.path) / cut.source, clip, _limits(params)):
            identity = content_hash(clip, cutter=VERSION, source=cut.content_hash, start=start)
            part = replace(cut, frames=frames, content_hash=identity, start_seconds=start / clip.frame_rate)
            stored.append(store(part, clip, folder))
            if len(stored) == params.max_clips_per_video:
                break
    except VideoError:
        for row, _ in stored:
            (folder / row["file"]).unlink()
        raise
    return stored


def ingest(params: Folder, clip: Clip, held_out_share: float, folder: Path) -> Made:
    """Cut every captioned video of the folder into clips.

    All clips of a video are in one split (of a single video, the clips themselves are split), chosen by content hash.

    Raises:
        StageError: the folder or the captions cannot be used, or more than the allowed share of files was refused.
    """
    videos = find_videos(Path(params.path))
    captions = find_captions(params, videos)
    made = Made(num_files=len(videos))
    digests: dict[str, str] = {}
    for done, video in enumerate(videos, 1):
        try:
            cut = _describe(params, video, captions.get(video, ""), digests)
            for row, fidelity in cut_video(params, clip, cut, folder):
                made.clips.append(row)
                made.fidelity.append(fidelity)
        except VideoError as error:
            made.rejected.append({"file": video, "reason": error.reason, "detail": str(error)})
        stage.report(done, len(videos), unit="video", clips=len(made.clips), rejected=len(made.rejected))
    _check_share(params, made)
    if len(made.clips) == 1 and held_out_share > 0:
        raise StageError(f"{params.path}: gave one clip; training needs one and another to hold out. Add videos.")
    _split(made, digests, held_out_share)
    return made


def _describe(params: Folder, video: str, caption: str, digests: dict[str, str]) -> Cut:
    """What a video's clips have in common; notes its content in ``digests`` (file digest by video)."""
    if not caption:
        sidecar = Path(video).with_suffix(".txt")
        raise VideoError(
            "no_caption", f"no text in {sidecar}" if params.captions is None else f"not in {params.captions}"
        )
    digest = stage.file_digest(Path(params.path) / video)
    twin = next((name for name, other in digests.items() if other == digest), None)
    if twin is not None:
        raise VideoError("duplicate", f"has the same content as {twin}")
    digests[video] = digest
    return Cut(np.empty((0, 0, 0, 3), np.uint8), digest, caption, video, 0.0)


def _split(made: Made, digests: dict[str, str], held_out_share: float) -> None:
    alone = len({row["source"] for row in made.clips}) == 1
    units = [row["content_hash"] if alone else digests[row["source"]] for row in made.clips]
    held_out = share_by_hash(units, held_out_share)
    for row, unit in zip(made.clips, units, strict=True):
        row["split"] = "held_out" if unit in held_out else "train"


def _check_share(params: Folder, made: Made) -> None:
    """Stop when too many files were refused, or no clip is left.

    Raises:
        StageError: with a table of the reasons.
    """
    share = len(made.rejected) / made.num_files
    if made.clips and share <= params.max_rejected_share:
        return
    counts = Counter(row["reason"] for row in made.rejected)
    table = []
    for reason, count in counts.most_common():
        first = next(row for row in made.rejected if row["reason"] == reason)
        table.append(f"  {reason:<20}{count:>6}  {first['file']}: {first['detail']}")
    allowed = f"raw_video.source.folder.max_rejected_share allows {params.max_rejected_share:.0%}"
    raise StageError(
        f"{params.path}: {len(made.rejected)} of {made.num_files} files were refused, {allowed}; "
        "mend or remove them, or raise the share:\n" + "\n".join(table)
    )
