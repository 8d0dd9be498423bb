"""What other trainers' files of data sets point at: musubi-tuner's toml, finetrainers' json."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.footage.captions import SIDECARS
from pipelines.stage import StageError
from pipelines.textfile import TextError, read_text

MUSUBI = ("video_jsonl_file", "video_directory", "image_jsonl_file", "image_directory")
FINETRAINERS = ("data_root", "dataset_file")
"""Keys of a data set that say where it lies."""


@dataclass(frozen=True)
class Pointed:
    """The program whose file it is, the place of the one data set that is taken, and what is to be said."""

    program: str
    place: Path
    notes: tuple[str, ...] = ()


def of_toml(path: Path) -> Pointed:
    """The data set of musubi-tuner's toml: a folder with a text beside each file, or a jsonl.

    Raises:
        StageError: it is no toml, names no data set, or several that could be meant.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: is no toml ({error}).") from None
    sets = [one for one in found.get("datasets", ()) if isinstance(one, dict)]
    named = [(name, one) for one in sets for name in MUSUBI if name in one]
    if not named:
        raise StageError(f"{path}: has no [[datasets]] with {' or '.join(MUSUBI[:2])}.")
    (name, chosen), notes = _one(path, named)
    if name.endswith("directory"):
        general = found.get("general")
        stated = chosen.get("caption_extension") or (general if isinstance(general, dict) else {}).get(
            "caption_extension"
        )
        if isinstance(stated, str) and stated.lower() not in SIDECARS:
            raise StageError(
                f"{path}: caption_extension {stated}: captions are read from {', '.join(SIDECARS)}; rename."
            )
    return Pointed("musubi-tuner", _place(path, chosen[name]), notes)


def of_json(path: Path) -> Pointed | None:
    """The data set of finetrainers' json, ``{"datasets": [{"data_root": …}]}``; None: the file is another one.

    Raises:
        StageError: it names several data sets that could be meant, or one that is not there.
    """
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError, TextError):
        return None
    sets = found.get("datasets") if isinstance(found, dict) else None
    named = [(name, one) for one in sets or () if isinstance(one, dict) for name in FINETRAINERS if name in one]
    if not named:
        return None
    (name, chosen), notes = _one(path, named)
    return Pointed("finetrainers", _place(path, chosen[name]), notes)


def _one(path: Path, named: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[tuple[str, Any], tuple[str, ...]]:
    """The one data set that is meant: the only one, or the only one of videos.

    Raises:
        StageError: there are several.
    """
    videos = [one for one in named if not one[0].startswith("image") and one[1].get("dataset_type", "video") == "video"]
    chosen = named if len(named) == 1 else videos
    if len(chosen) != 1:
        told = ", ".join(str(one[name]) for name, one in named)
        raise StageError(f"{path}: holds {len(named)} data sets; use one of them: {told}.")
    others = [str(one[name]) for name, one in named if one is not chosen[0][1]]
    return chosen[0], (f"left out, as pictures: {', '.join(others)}",) if others else ()


def _place(path: Path, named: Any) -> Path:
    """Where it lies: from here, or beside the file.

    Raises:
        StageError: nothing is there.
    """
    place = Path(str(named))
    near = path.parent / place
    if not place.exists() and near.exists():
        return near
    if not place.exists():
        raise StageError(f"{path}: {place}: no such file or folder; mend the path, or name the folder itself.")
    return place
