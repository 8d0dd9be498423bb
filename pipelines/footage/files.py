"""Which files of a folder tree are videos or pictures: by their endings; where those say nothing, by what is inside.

Linked folders are followed, each once. What systems and programs leave behind is nobody's; every other file that is
neither media nor text is named with the reason, so that nothing vanishes without a word.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.containers import holds_video
from pipelines.data.endings import PICTURES as IMAGES
from pipelines.data.endings import VIDEOS
from pipelines.data.limits import Limits
from pipelines.data.stills import is_animated, is_picture
from pipelines.litter import is_litter
from pipelines.stage import StageError

TEXTS = (
    *(".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".toml", ".yaml", ".yml"),
    *(".srt", ".vtt", ".md", ".dvc"),
)
"""Endings of what stands beside videos; such files are not looked into."""
HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


@dataclass(frozen=True)
class Tree:
    """Names relative to the folder, sorted: of videos, of pictures, and of what was passed over, with the reason."""

    videos: list[str]
    pictures: list[str]
    passed: dict[str, str]

    @property
    def media(self) -> list[str]:
        """Videos and pictures."""
        return sorted([*self.videos, *self.pictures])


def ending(name: str) -> str:
    """A name's ending in small letters, with its dot; "" where it has none."""
    return Path(name).suffix.lower()


def find_media(root: Path, media: str, key: str) -> Tree:
    """What a folder tree holds of ``media``: videos, images or both.

    Raises:
        StageError: there is no such folder, or it holds no such files.
    """
    check_folder(root, key)
    videos, pictures, passed = [], [], {}
    for name in sorted(_names(root)):
        kind, why = _kind(root / name, media)
        if kind == "video":
            videos.append(name)
        elif kind == "picture":
            pictures.append(name)
        elif why:
            passed[name] = why
    if not videos and not pictures:
        kind = {"videos": "a video", "images": "a picture"}.get(media, "a video or picture")
        counts = Counter(ending(name) or "none" for name in passed)
        told = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(8))
        count = sum(1 for _ in _names(root))
        holds = f"holds {count} files, none of them {kind}" if count else "is empty"
        holds += f" ({told})" if told else ""
        suffixes = {"videos": VIDEOS, "images": IMAGES}.get(media, (*VIDEOS, *IMAGES))
        raise StageError(f"{key}: {root}: {holds}; put files with these endings there: {' '.join(suffixes)}.")
    return Tree(videos, pictures, passed)


def check_folder(root: Path, key: str) -> None:
    """That a parameter names a folder.

    Raises:
        StageError: it does not; with a folder of a similar name, if there is one.
    """
    if not root.is_dir():
        siblings = [path.name for path in root.parent.iterdir() if path.is_dir()] if root.parent.is_dir() else []
        close = difflib.get_close_matches(root.name, siblings, n=1)
        hint = f"did you mean {root.parent / close[0]}?" if close else "paths start at the project's root."
        raise StageError(f"{key}: {root}: {'is not a folder' if root.exists() else 'no such folder'}; {hint}")


def _names(root: Path) -> Iterator[str]:
    for folder, _, files in _walk(root):
        for name in files:
            if not _is_nobodys(name):
                yield Path(folder, name).relative_to(root).as_posix()


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk through linked folders too, but through no folder twice."""
    seen: set[tuple[int, int]] = set()
    for folder, inside, files in os.walk(root, followlinks=True):
        try:
            facts = Path(folder).stat()
        except OSError:  # gone since it was listed
            continue
        if (facts.st_dev, facts.st_ino) in seen:
            inside.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        inside[:] = sorted(name for name in inside if not _is_nobodys(name))
        yield folder, inside, files


def _is_nobodys(name: str) -> bool:
    return name.startswith(".") or is_litter(name)


def _kind(path: Path, media: str) -> tuple[str, str]:
    """("video" or "picture", ""), or ("", why it is neither that is wanted); no reason: it is text, or not there."""
    try:
        return _judged(path, media)
    except FileNotFoundError:
        return "", "went away while it was listed"
    except OSError as error:
        return "", f"cannot be read ({error.strerror})"


def _judged(path: Path, media: str) -> tuple[str, str]:
    if not path.is_file():
        return "", "is a link to nothing" if path.is_symlink() else "is no regular file"
    suffix, found = ending(path.name), ""
    if suffix in VIDEOS:
        found = "video"
    elif suffix in IMAGES:
        found = "video" if is_animated(path) else "picture"
    elif suffix in TEXTS:
        return "", ""
    elif path.stat().st_size and suffix not in (".part", ".crdownload", ".tmp"):
        found = "video" if holds_video(path, Limits()) else "picture" if is_picture(path) else ""
    if found == "video" and media == "images" and suffix in IMAGES:
        found = "picture"  # its first frame
    if not found:
        return "", _unknown(path)
    wanted = media == "both" or found == ("video" if media == "videos" else "picture")
    return (found, "") if wanted else ("", f"is a {found}, and raw_video.source.folder.media is {media}")


def _unknown(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF:
        return "is a HEIC picture, which is not read here; convert it to JPEG or PNG"
    return "is no video or picture known here" if head else "is empty"
