"""Which members of a tar make a sample: told by their names alone, before anything is read.

WebDataset's key is a name up to its first dot. Names have dots of their own, too (``clip_12.5_17.0.mp4``), so only
words are taken off the end: ``k.depth.mp4`` belongs to ``k``, and ``clip_12.5_17.0.mp4`` to nothing shorter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipelines.data.endings import VIDEOS
from pipelines.data.limits import VideoError
from pipelines.footage.captions import SIDECARS

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
"""What names a part of a sample, between its key and its ending."""
CAPTIONING = ("", "caption", "prompt", "text")
"""Parts that caption the sample, the surest first; ``k.negative.txt`` does not."""


@dataclass(frozen=True)
class Name:
    """A member's name: the sample's key, the part of the sample that it is ("" for its main one), its ending."""

    key: str
    part: str
    suffix: str


@dataclass(frozen=True)
class SamplePlan:
    """One sample: its name, and of its members the video and the texts by their places; or why there is none."""

    name: str
    video: int | None = None
    texts: tuple[int, ...] = ()
    refusal: VideoError | None = None


def is_wanted(member: str) -> bool:
    """Whether a member is somebody's: not a Mac's ``._`` twin of a file, and nothing hidden."""
    parts = PurePosixPath(member).parts
    return bool(parts) and not parts[-1].startswith(".") and "__MACOSX" not in parts


def taken_apart(member: str) -> Name:
    """Key, part and ending of a member's name."""
    path = PurePosixPath(member)
    stem, dot, ending = path.name.rpartition(".")
    if not dot:
        stem, ending = path.name, ""
    suffix = "." + ending.lower().removeprefix("__")  # some writers name the field __json
    words: list[str] = []
    while "." in stem:
        rest, _, word = stem.rpartition(".")
        if not rest or not WORD.fullmatch(word):
            break
        stem, words = rest, [word, *words]
    return Name(str(path.parent / stem), ".".join(words), suffix)


def grouped(members: Iterable[str]) -> dict[str, list[list[int]]]:
    """Places of the wanted members by key; where a name comes again, the key has another group."""
    found: dict[str, list[list[int]]] = {}
    names: dict[str, list[set[str]]] = {}
    for place, member in enumerate(members):
        if not is_wanted(member):
            continue
        key = taken_apart(member).key
        groups, seen = found.setdefault(key, [[]]), names.setdefault(key, [set()])
        number = next((number for number, one in enumerate(seen) if member not in one), len(seen))
        if number == len(seen):
            groups.append([])
            seen.append(set())
        groups[number].append(place)
        seen[number].add(member)
    return found


def plans(members: Sequence[str], again: bool = False) -> Iterator[SamplePlan]:
    """The samples that members of one key make.

    A key's main video is ``key.mp4``; further videos are parts of the sample, unless a text of their own name makes
    each a sample of its own.

    Args:
        members: their names.
        again: the names stood in the tar before.
    """
    names = [taken_apart(member) for member in members]
    videos = {name.part: place for place, name in enumerate(names) if name.suffix in VIDEOS}
    key = names[0].key
    if again and videos:
        first = members[next(iter(videos.values()))]
        yield SamplePlan(first, refusal=VideoError("repeated_key", f"{first} stands twice in the tar; rename one"))
        return
    own = [part for part in videos if part and _texts(names, (part,))]
    rest = [part for part in videos if part not in own]
    if not videos:
        texts = tuple(place for place, name in enumerate(names) if name.suffix in SIDECARS)
        yield SamplePlan(key, None, texts, VideoError("not_video", "the sample has no video member"))
    elif "" in videos or len(videos) == 1:
        main = "" if "" in videos else next(iter(videos))
        yield SamplePlan(members[videos[main]], videos[main], _texts(names, dict.fromkeys((main, *CAPTIONING))))
    elif not own:
        held = " and ".join(PurePosixPath(members[place]).name for place in list(videos.values())[:2])
        main = f"{PurePosixPath(key).name}{names[next(iter(videos.values()))].suffix}"
        yield SamplePlan(key, refusal=VideoError("ambiguous_sample", f"holds {held}; name the one to use {main}"))
    else:
        for part in rest:
            yield SamplePlan(members[videos[part]], videos[part])
    for part in own if len(videos) > 1 else ():
        yield SamplePlan(members[videos[part]], videos[part], _texts(names, (part,)))


def _texts(names: Sequence[Name], parts: Iterable[str]) -> tuple[int, ...]:
    """Places of the sidecars of these parts, the surest first."""
    known = {(name.part, name.suffix): place for place, name in enumerate(names)}
    wanted = [(part, suffix) for part in parts for suffix in SIDECARS]
    return tuple(known[one] for one in wanted if one in known)
