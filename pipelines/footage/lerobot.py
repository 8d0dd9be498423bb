"""LeRobot data sets of version 3: many episodes in each mp4 and parquet file, told apart by ``meta/episodes``.

A clip never crosses from one episode to the next. Layout: ``meta/info.json`` (rate, features, patterns of paths),
``meta/tasks.parquet``, ``meta/episodes/**.parquet`` (a row per episode), ``data/**.parquet`` (a row per frame).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.limits import Limits, VideoError, check_bytes
from pipelines.footage.captions import Told
from pipelines.footage.columns import storable
from pipelines.footage.digests import Hashed
from pipelines.footage.found import Found, Reel, refused
from pipelines.footage.params import Lerobot
from pipelines.footage.reels import CutReel, first_time
from pipelines.stage import StageError

KEY = "raw_video.source.lerobot"
INFO = "meta/info.json"
CONVERT = "python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id=NAME"
Log = Callable[[Path, str], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class EpisodeReel(CutReel):
    """One episode of a video; ``log``: float32 [frames, A], the action taken at each of its frames."""

    rate: float = 0.0
    log: np.ndarray | None = None

    def actions(self, start: int, num_frames: int) -> np.ndarray | None:
        """Row k is the last action before frame k was seen; at an episode's first frame, that of the frame itself."""
        if self.log is None:
            return None
        seen = np.array(self.times[start : start + num_frames])
        before = np.rint(seen * self.rate).astype(int) - 1
        return self.log[before.clip(0, len(self.log) - 1)]


def read_info(root: Path) -> dict[str, Any]:
    """``meta/info.json``.

    Raises:
        StageError: there is none, it cannot be read, or it is of another version.
    """
    path = root / INFO
    if not path.is_file():
        raise StageError(f"{KEY}.path: {root}: is no LeRobot data set: it has no {INFO}.")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version, rate = str(info["codebase_version"]), float(info["fps"])
        info["features"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(f"{path}: cannot be used ({type(error).__name__}: {error}); is the download whole?") from None
    if not version.startswith("v3."):
        raise StageError(f"{path}: the data set is of version {version}; make it v3.0: `{CONVERT}`.")
    if not (math.isfinite(rate) and rate > 0):
        raise StageError(f"{path}: fps is {rate}; it must be above 0.")
    return info


def cameras_of(info: dict[str, Any]) -> list[str]:
    """The features that are videos."""
    return [name for name, feature in info["features"].items() if feature.get("dtype") == "video"]


def is_depth(feature: dict[str, Any]) -> bool:
    """Whether a video's grey levels are distances."""
    told = {**feature, **(feature.get("info") or feature.get("video_info") or {})}
    return any(bool(value) for name, value in told.items() if str(name).rpartition(".")[2] == "is_depth_map")


def action_names(params: Lerobot, width: int) -> list[str]:
    """Names of an action's columns: those that the data set states, where they are so many, or else numbers.

    Raises:
        StageError: as :func:`read_info`.
    """
    stated = read_info(Path(params.path))["features"].get(params.action, {}).get("names")
    parts = list(stated.values()) if isinstance(stated, dict) else [stated]  # {"motors": […]}, or […]
    names = [str(name) for part in parts if isinstance(part, list) for name in part]
    return names if len(set(names)) == len(names) == width else [f"action_{place}" for place in range(width)]


def _feature(params: Lerobot, info: dict[str, Any]) -> None:
    """Check that the named features are there.

    Raises:
        StageError: one is not.
    """
    cameras = cameras_of(info)
    if params.camera not in cameras:
        raise StageError(f"{KEY}.camera: no camera {params.camera}; there are {', '.join(cameras) or 'none'}.")
    if params.action is not None and params.action not in info["features"]:
        raise StageError(f"{KEY}.action: no feature {params.action}; there are {', '.join(info['features'])}.")


def _episodes(root: Path, camera: str) -> list[dict[str, Any]]:
    """The rows of ``meta/episodes`` by number, without their statistics.

    Raises:
        StageError: there are none, or they cannot be read.
    """
    files = sorted((root / "meta" / "episodes").rglob("*.parquet"))
    if not files:
        raise StageError(f"{KEY}.path: {root}: no parquet file in meta/episodes; is the download whole?")
    place = [f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]
    wanted = ["episode_index", "tasks", "data/chunk_index", "data/file_index", *place]
    rows = []
    for file in files:
        try:
            rows += pq.read_table(file, columns=wanted).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise StageError(f"{file}: cannot be used ({str(error).splitlines()[0]}).") from None
        if rows and set(rows[-1]) != set(wanted):
            lacking = ", ".join(sorted(set(wanted) - set(rows[-1])))
            raise StageError(f"{file}: has no column {lacking}; is the data set of version 3?")
    return sorted(rows, key=lambda row: row["episode_index"])


def episodes(params: Lerobot, frame_rate: float, limits: Limits, hashed: Hashed) -> Iterator[Found]:
    """The episodes of a data set, as the files of a source.

    Raises:
        StageError: the data set cannot be used.
    """
    root = Path(params.path)
    info = read_info(root)
    _feature(params, info)
    rows = _episodes(root, params.camera)
    hashed = cache(hashed)
    log = lru_cache(maxsize=4)(partial(_log, root))
    for place, row in enumerate(rows, 1):
        yield _episode(params, info, row, (place, len(rows)), (frame_rate, limits), (hashed, log))


def _episode(
    params: Lerobot,
    info: dict[str, Any],
    row: dict[str, Any],
    progress: tuple[int, int],
    how: tuple[float, Limits],
    read: tuple[Hashed, Log],
) -> Found:
    root, number = Path(params.path), int(row["episode_index"])
    name = f"episode_{number:06d}"
    try:
        place = {part: row[f"videos/{params.camera}/{part}"] for part in ("chunk_index", "file_index")}
        video = root / info["video_path"].format(video_key=params.camera, **place)
        table = root / info["data_path"].format(**{part: row[f"data/{part}"] for part in place})
        span = tuple(float(row[f"videos/{params.camera}/{part}_timestamp"]) for part in ("from", "to"))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return refused(
            name, *progress, VideoError("bad_row", f"meta/episodes or {INFO}: {type(error).__name__} {error}")
        )
    if not 0 <= span[0] < span[1] < math.inf:
        text = (
            f"meta/episodes: it stands from {span[0]:g} s to {span[1]:g} s of {video.name}, which is no stretch of it"
        )
        return refused(name, *progress, VideoError("bad_row", text))
    if not (video.resolve().is_relative_to(root.resolve()) and table.resolve().is_relative_to(root.resolve())):
        return refused(name, *progress, VideoError("bad_row", f"{INFO}: a path leaves the data set"))
    told = partial(_told, row)
    actions = partial(_actions, read[1], table, number, params.action)
    digest = partial(_digest, read[0], (video, span), actions, how[1])
    opened: Callable[[str], Reel] = partial(_open, (video, span), actions, float(info["fps"]), how)
    return Found(name, *progress, False, told, "the episode has no task", digest, None, opened)


def _told(row: dict[str, Any]) -> Told:
    tasks = [str(task) for task in row["tasks"] or () if task]
    return Told(" ".join(" ".join(tasks).split()), {"episode_index": storable(row["episode_index"])})


def _log(root: Path, table: Path, action: str) -> tuple[np.ndarray, np.ndarray]:
    """Of a file of frames: the episode of each, and its action, float32 [frames, A].

    Raises:
        VideoError: there is no such file, or it holds no such action.
    """
    try:
        found = pq.read_table(table, columns=["episode_index", "frame_index", action]).sort_by("frame_index")
        values = found.column(action).combine_chunks()
        nested = pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type)
        flat = np.asarray(values.flatten() if nested else values, np.float32)
        if not np.isfinite(flat).all():
            raise ValueError(f"{action} is not finite everywhere")
        return found.column("episode_index").to_numpy(), flat.reshape(len(values), -1)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VideoError("bad_action_log", f"{table.relative_to(root).as_posix()}: {text}") from None


def _actions(log: Log, table: Path, number: int, action: str | None) -> np.ndarray | None:
    if action is None:
        return None
    if not table.is_file():
        raise VideoError("no_action_log", f"no {table.name} with its actions; is the download whole?")
    episode, values = log(table, action)
    own = values[episode == number]
    if len(own) == 0:
        raise VideoError("bad_action_log", f"{table.name} has no frame of episode {number}")
    return own


def _digest(hashed: Hashed, cut: tuple[Path, Any], actions: Callable[[], np.ndarray | None], limits: Limits) -> str:
    video, span = cut
    if not video.is_file():
        raise VideoError("missing", f"no {video.name} of its video; is the download whole?")
    check_bytes(video, limits)
    held = actions()
    log = "" if held is None else hashlib.sha256(held.tobytes()).hexdigest()
    return hashlib.sha256(f"{hashed(video)} {span[0]!r} {span[1]!r} {log}".encode()).hexdigest()


def _open(cut: tuple[Path, Any], actions: Any, rate: float, how: tuple[float, Limits], digest: str) -> Reel:
    video, span = cut
    return EpisodeReel(video, digest, *how, first_time(span, how[0]), span=span, rate=rate, log=actions())
