"""``reel use PATH``: look at a folder, a tar or a data set, say what it holds, and make it the source of the clips."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, cast

import av

from pipelines import stage
from pipelines.commands import GRAPH, stage_entries
from pipelines.data.limits import VideoError
from pipelines.data.video import Seen, read_frames
from pipelines.document import PARAMS_FILE, ParamsError, load
from pipelines.editing import edited
from pipelines.footage.captions import NotHere
from pipelines.footage.fitting import fitted, forms_with_pictures
from pipelines.footage.fitting_text import fitted_text
from pipelines.footage.found import Found
from pipelines.footage.ingest import cut_file
from pipelines.footage.layouts import Layout, recognise
from pipelines.footage.opening import found_in
from pipelines.footage.own_outputs import refuse_own
from pipelines.footage.params import Folder, Footage, RawVideoParams
from pipelines.footage.source_block import SHARED, flow, paths_of, shared_values, with_deps, with_source
from pipelines.footage.sources import limits_of
from pipelines.params import check, parse_section
from pipelines.progress import duration
from pipelines.stage import StageError
from pipelines.told import plain

TRIED = 3
"""Files that are opened."""
COUNTED = 2000
"""Files whose captions are looked at."""
MEASURED = 200
"""Files whose stated lengths are read."""
LAST = "Next: reel check, reel plan raw_video, reel run raw_video; then look at plots/raw_video."
FRAMES = 48
"""Frames that are read of each to tell its size and rate."""


@dataclass
class Glance:
    """What a look at a source showed."""

    files: int = 0
    captioned: int = 0
    lacking: int = 0
    captions: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)

    @property
    def wordless(self) -> str | None:
        """Why captions tell no clips apart; None where they do."""
        if self.captioned == 0:
            return "there are no captions"
        return "all captions are the same" if self.captioned > 1 and len(self.captions) == 1 else None

    def refuse(self, name: str, error: VideoError) -> None:
        """Note why a file, or its first clip, cannot be used, or why it is none of the source's."""
        self.refused[error.reason] += error.count if isinstance(error, NotHere) else 1
        self.first.setdefault(error.reason, f"{name}: {error}")


def look(params: RawVideoParams, spool: Path) -> Glance:
    """Captions of the first files, and what the first of them are, cut into one clip each."""
    footage = params.source.footage
    assert footage is not None
    seen, opened = Glance(), 0
    for found in itertools.islice(found_in(footage, params.clip.frame_rate, spool), COUNTED):
        seen.files += 1
        try:
            told = found.told()
            if told.refusal is not None:
                raise told.refusal
            seen.captioned += bool(told.caption)
            seen.lacking += not told.caption
            seen.captions |= {told.caption} if told.caption else set()
            if seen.files <= MEASURED:
                seen.lengths += stated_seconds(found)
            if opened < TRIED:
                opened += 1
                _open(params, footage, found, seen, spool / f"cut-{opened}")
        except NotHere as error:
            seen.files -= 1
            seen.passed.add(error.reason)
            seen.refuse(found.name, error)
        except VideoError as error:
            seen.lacking += error.reason == "no_caption"
            seen.refuse(found.name, error)
        finally:
            if found.close is not None:
                found.close()
    return seen


def stated_seconds(found: Found) -> list[float]:
    """How long a file's container says it is; nothing where it does not say."""
    reel = found.open("")
    path, span = getattr(reel, "path", None), getattr(reel, "span", None)
    if span is not None:
        return [span[1] - span[0]]
    if path is None or found.still:
        return []
    with contextlib.suppress(av.FFmpegError, OSError), av.open(str(path), metadata_errors="replace") as container:
        return [] if container.duration is None else [container.duration / av.time_base]
    return []


def _open(params: RawVideoParams, footage: Footage, found: Found, seen: Glance, folder: Path) -> None:
    """Size and rate of a file's first frames, and the cost of its first clip."""
    reel = found.open(found.digest())
    path = getattr(reel, "path", None)
    if path is not None and not found.still:
        frames = list(itertools.islice(read_frames(path, limits_of(footage)), FRAMES))
        seen.sizes.append(frames[0][1].shape[:2])
        if len(frames) > 1 and frames[-1][0] > 0:
            seen.rates.append((len(frames) - 1) / frames[-1][0])
    (folder / "clips").mkdir(parents=True)
    begin = time.process_time()
    one = footage.model_copy(update={"max_clips_per_video": 1})
    for clip in cut_file(one, params.clip, found, "looked at", folder, Seen()):
        seen.seconds.append(time.process_time() - begin)
        seen.bytes.append((folder / clip["row"]["file"]).stat().st_size)


def described(layout: Layout, seen: Glance, params: RawVideoParams) -> Iterator[str]:
    """What was found, a line each."""
    clip = params.clip
    yield f"{layout.words[0].upper()}{layout.words[1:]}."
    more = f" (the first {COUNTED} looked at)" if seen.files == COUNTED else ""
    yield f"{seen.captioned} of {seen.files} with a caption{more}; the source is `{layout.block}`."
    if seen.sizes:
        sizes = ", ".join(f"{width}x{height}" for height, width in dict.fromkeys(seen.sizes))
        rates = ", ".join(dict.fromkeys(f"{rate:.3g}" for rate in seen.rates))
        yield f"The first {len(seen.sizes)} are {sizes} at {rates or 'an unknown number of'} frames per second."
    form = f"{clip.num_frames} frames of {clip.width}x{clip.height} at {clip.frame_rate:g} per second"
    if seen.seconds:
        cost = f"{median(seen.seconds):.2g} s of one core and {median(seen.bytes) / 1024:.3g} KiB"
        yield f"A clip ({form}) takes {cost}."
    slow = [rate for rate in seen.rates if rate < 0.99 * clip.frame_rate]
    if slow:
        yield (
            f"The footage has {min(slow):.3g} frames per second, clips want {clip.frame_rate:g}: "
            f"set raw_video.clip.frame_rate to {min(slow):.3g} or less."
        )
    for reason, count in seen.refused.most_common():
        what = "Passed over" if reason in seen.passed else "Not usable"
        yield f"{what}: {count} {reason}, as {seen.first[reason].rstrip('.?')}."
    unusable = seen.refused.total() - sum(seen.refused[reason] for reason in seen.passed)
    allowed = params.source.footage.max_rejected_share if params.source.footage else 1.0
    if unusable > allowed * seen.files:
        key = f"raw_video.source.{layout.block}.max_rejected_share"
        yield f"A run would stop at that: {key} allows {allowed:.0%}. Mend or remove them, or raise it."
    yield from (f"{note[0].upper()}{note[1:]}." for note in layout.notes)


def chosen(layout: Layout, params: str) -> dict[str, Any]:
    """The values of the block: its own, and those that every source states."""
    shared = shared_values(params)
    if not layout.captioned:
        shared["quality"] = {**shared["quality"], "caption": None}
    if layout.values.get("media", "videos") != "videos" and shared["cutting"].get("buckets") is None:
        shared["cutting"] = {**shared["cutting"], "buckets": forms_with_pictures(layout.values["media"], load(params))}
    values = {**layout.values, **shared}
    return {name: values[name] for name in [*layout.values, *SHARED]}


def _parsed(text: str) -> RawVideoParams:
    """The section as the stage would read it.

    Raises:
        ParamsError: params.yaml with the new block is not valid.
    """
    with tempfile.TemporaryDirectory() as place:
        trial = Path(place) / "params.yaml"
        trial.write_text(text, encoding="utf-8")
        try:
            check(trial)
            params = parse_section(RawVideoParams, "raw_video", trial)
        except ParamsError as error:
            raise ParamsError(str(error).replace(str(trial), str(PARAMS_FILE))) from None
    assert isinstance(params, RawVideoParams)
    return params


def use(path: str, only_look: bool) -> None:
    """Look at what lies at ``path``, say what it is, and write it to params.yaml and dvc.yaml.

    Raises:
        StageError: it cannot be used. ParamsError: params.yaml would not be valid.
    """
    if not PARAMS_FILE.is_file() or not GRAPH.is_file():
        raise StageError(f"{PARAMS_FILE}, {GRAPH}: not both here; run from the project's root.")
    refuse_own(path, stage_entries(), "raw_video")
    layout = recognise(path)
    before = PARAMS_FILE.read_text(encoding="utf-8")
    text = with_source(before, layout.block, chosen(layout, before))
    gone = [] if only_look else paths_of(before)
    graph = with_deps(GRAPH.read_text(encoding="utf-8"), layout.watched, gone)
    params = _parsed(text)
    with tempfile.TemporaryDirectory() as spool:
        seen = look(params, Path(spool))
    for line in described(layout, seen, params):
        print(line)
    refused = sum(count for reason, count in seen.refused.items() if reason not in (*seen.passed, "no_caption"))
    if seen.files == refused:
        raise StageError(f"{path}: nothing in it can be used, so nothing was written.")
    if only_look:
        print("Nothing was written. Next: reel use", path)
        return
    clips = _clips(params, seen)
    text, changed = fit(text, clips, seen)
    _parsed(text)
    PARAMS_FILE.write_text(text, encoding="utf-8")
    GRAPH.write_text(graph, encoding="utf-8")
    print(f"{PARAMS_FILE}: raw_video.source is now `{layout.block}`; the earlier source stands there as a comment.")
    if layout.watched:
        print(f"{GRAPH}: raw_video depends on {', '.join(layout.watched)}.")
    for line in (*_next(params, seen), *changed, LAST):
        print(line)


def _clips(params: RawVideoParams, seen: Glance) -> int | None:
    """About how many clips there will be, from what the containers of some files state; None where none states it."""
    if not seen.lengths:
        return None
    clip, cutting = params.clip, cast(Footage, params.source.footage).cutting
    step = clip.num_frames * cutting.stride
    each = [max(0.0, 1 + (seconds * clip.frame_rate - clip.num_frames) // step) for seconds in seen.lengths]
    return round(sum(each) / len(each) * seen.files)


def fit(text: str, clips: int | None, seen: Glance) -> tuple[str, list[str]]:
    """params.yaml with what fits so many clips, where that is known, and the captions; and a line for each change."""
    values, lines = load(text), []
    by_number = () if clips is None else fitted(values, clips, seen.wordless)
    for change in (*by_number, *fitted_text(values, seen.captions, seen.files < COUNTED)):
        text = edited(text, change.nested)
        lines.append(f"{PARAMS_FILE}: {'.'.join(change.key)} is now {flow(change.value)} ({change.reason}).")
    return text, lines


def _costs(clips: int, seen: Glance) -> Iterator[str]:
    """What all clips will take, by those that were made."""
    if seen.seconds:
        minutes = duration(clips * median(seen.seconds))
        yield f"All of them take about {minutes} of one core and {clips * median(seen.bytes) / 2**20:.3g} MiB."


def _next(params: RawVideoParams, seen: Glance) -> Iterator[str]:
    """What to try next."""
    clips = _clips(params, seen)
    if clips is not None:
        yield f"About {clips} clips, by the lengths that {len(seen.lengths)} files state."
        yield from _costs(clips, seen)
    lacking = seen.lacking
    quality = params.source.footage.quality if params.source.footage else None
    if lacking and quality is not None and quality.caption is not None:
        files = "1 file has" if lacking == 1 else f"{lacking} files have"
        yield f"{files} no caption and will be refused; raise max_rejected_share, or add captions."
    footage = params.source.footage
    if isinstance(footage, Folder) and footage.media != "videos":
        yield "Pictures are clips of one frame; docs/raw_video.md (buckets) says how they go with videos."


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="reel use", description=plain(__doc__))
    parser.add_argument("path", help="a folder, a tar or its address, a table, a LeRobot data set")
    parser.add_argument("--look", action="store_true", help="only look and say what is there; write nothing")
    given = parser.parse_args(argv)
    try:
        use(given.path, given.look)
    except (StageError, ParamsError, stage.Stopped) as error:
        print(f"use: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
