"""Sources of files: captioned, cut and judged; what cannot be used is listed, what was cut before is reused."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import stage
from pipelines.data.catalog import JUDGED
from pipelines.data.limits import VideoError
from pipelines.footage.ahead import in_order, processors
from pipelines.footage.captions import with_prefix
from pipelines.footage.clips import Cut, Made, content_hash, store
from pipelines.footage.cutting import cut, forms
from pipelines.footage.params import Clip, Folder, Footage, RawVideoParams, Recordings, Splits, Tars
from pipelines.footage.quality import judge, measure
from pipelines.footage.reuse import Reuse
from pipelines.footage.sources import Found, folder_files, recordings
from pipelines.footage.splits import split
from pipelines.footage.tars import tar_samples
from pipelines.recording import link
from pipelines.stage import StageError

VERSION = 1
"""Part of every content key: raise it when the same file would be cut or resized to other pixels."""


def found_in(params: Footage, frame_rate: float, spool: Path) -> Iterator[Found]:
    """What the source holds, one after another; what has to lie on this disk to be read lies in ``spool``."""
    if isinstance(params, Tars):
        return tar_samples(params, frame_rate, spool)
    assert isinstance(params, Folder | Recordings)  # there is no other
    return listed(params, frame_rate)


def listed(params: Folder | Recordings, frame_rate: float) -> Iterator[Found]:
    """The files of a source that is a folder."""
    return folder_files(params, frame_rate) if isinstance(params, Folder) else recordings(params, frame_rate)


def cut_file(params: Footage, clip: Clip, found: Found, digest: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Cut one file and store its clips in ``folder``: per clip its row, its fidelity and its measures.

    Raises:
        VideoError: the file cannot be used.
    """
    reel = found.open(digest)
    choices = forms(clip, params.cutting.buckets, found.still)
    if not choices:
        raise VideoError("too_short", f"a picture; a clip has {clip.num_frames} frames")
    windows = cut(reel.pictures(), choices, params.cutting, clip.frame_rate)
    for number, window in enumerate(windows, 1):
        count, height, width = window.frames.shape[:3]
        form = clip.model_copy(update={"num_frames": count, "height": height, "width": width})
        identity = content_hash(form, cutter=VERSION, **reel.facts(window.start, count))
        begin, held = window.start / clip.frame_rate, reel.actions(window.start, count)
        row, fidelity = store(Cut(window.frames, identity, "", "", begin, held), form, folder)
        measures = {f"quality_{name}": value for name, value in measure(window.frames).items()}
        yield {"row": row | measures, "psnr": fidelity}
        if number == params.max_clips_per_video:
            return


@dataclass
class Looked:
    """What became of one file before its turn: its clips, or why it is refused; and whether it had to be decoded."""

    caption: str = ""
    digest: str = ""
    unit: str = ""
    clips: list[dict[str, Any]] = field(default_factory=list)
    decoded: bool = False
    refusal: VideoError | None = None


class Cutter:
    """Cuts files, or finds what they gave before, in any order and several at once: one file of a content at a time."""

    def __init__(self, params: Footage, clip: Clip, reuse: Reuse) -> None:
        self.params, self.clip, self.reuse = params, clip, reuse
        self.stop = threading.Event()
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def look(self, found: Found) -> Looked:
        """Caption, digest and clips of one file; a refusal is part of the answer."""
        looked = Looked()
        try:
            looked.caption = self._caption(found)
            looked.digest = found.digest()
            looked.unit = found.unit() if found.unit else looked.digest
            with self._turns[looked.digest]:
                self._clips(found, looked)
        except VideoError as error:
            looked.refusal = error
        return looked

    def _caption(self, found: Found) -> str:
        caption, rule = found.caption(), self.params.quality.caption
        if rule is not None and not caption:
            raise VideoError("no_caption", found.no_caption)
        if rule is not None and len(caption.split()) < rule.min_words:
            raise VideoError("no_caption", f"{caption!r} has fewer than {rule.min_words} words")
        return with_prefix(self.params.prompt_prefix, caption)

    def _clips(self, found: Found, looked: Looked) -> None:
        known = self.reuse.find(looked.digest)
        looked.decoded = known is None
        if known is not None:
            looked.clips = known
            return
        with self.reuse.keeping(looked.digest) as (folder, clips):
            for one in cut_file(self.params, self.clip, found, looked.digest, folder):
                if self.stop.is_set():
                    raise InterruptedError(f"{found.name}: stopped")
                clips.append(one)
        looked.clips = clips


class Ingest:
    """One run over a source: what came of each file, and of each clip."""

    def __init__(self, params: Footage, reuse: Reuse, folder: Path) -> None:
        self.params, self.reuse, self.folder = params, reuse, folder
        self.made = Made(files_decoded=0)
        self.names: dict[str, str] = {}
        """Name of the first file of each content."""
        self.rows: list[dict[str, Any]] = []
        self.fidelity: dict[str, float] = {}

    def take(self, found: Found, looked: Looked) -> None:
        """Place the clips of one file; a refusal is noted with its reason."""
        assert self.made.files_decoded is not None
        self.made.num_files += 1
        self.made.files_decoded += looked.decoded
        error = self._twin(found, looked.digest) or looked.refusal
        if error is not None:
            self.made.rejected.append({"file": found.name, "reason": error.reason, "detail": str(error)})
        else:
            facts = {"caption": looked.caption, "source": found.name, "unit": looked.unit}
            for clip in looked.clips:
                self._place(clip, looked.digest, facts)
        clips, rejected = len(self.rows), len(self.made.rejected)
        unit = "tar" if isinstance(self.params, Tars) else "file"
        stage.report(found.place, found.total, unit=unit, clips=clips, rejected=rejected)

    def _twin(self, found: Found, digest: str) -> VideoError | None:
        twin = self.names.setdefault(digest, found.name) if digest else found.name
        return None if twin == found.name else VideoError("duplicate", f"has the same content as {twin}")

    def _place(self, clip: dict[str, Any], digest: str, facts: dict[str, str]) -> None:
        row = clip["row"]
        if row["key"] not in self.fidelity:  # equal stretches of a recording are one clip
            link(self.reuse.entry(digest) / row["file"], self.folder / row["file"])
            self.fidelity[row["key"]] = clip["psnr"]
            self.rows.append({**row, **facts})

    def finish(self, splits: Splits) -> Made:
        """Judge the clips, drop those refused, split the rest, and drop what would stand in two splits.

        Raises:
            StageError: too many files were refused, or too few clips are left.
        """
        self._check_share()
        decided = judge(self.params.quality, self.rows)
        self.made.clips = [row for row, one in zip(self.rows, decided, strict=True) if one["kept"]]
        self._check_left(decided)
        where = f"raw_video.source.{place_of(self.params)}"
        twice = split(self.made.clips, splits, self.params.quality, where)
        for row, decision in zip(self.rows, decided, strict=True):
            if row["key"] in twice:
                decision |= {"split": "refused", "duplicate_of": twice[row["key"]], "kept": False}
            self._decide(row, decision)
        self.made.fidelity = [self.fidelity[row["key"]] for row in self.made.clips]
        return self.made

    def _decide(self, row: dict[str, Any], decision: dict[str, Any]) -> None:
        """Note what was decided on a clip; one that is refused leaves no file."""
        columns = {f"{name}_decision": decision[name] for name in JUDGED}
        rest = {name: decision[name] for name in ("duplicate_of", "kept")}
        self.made.decisions.append({**row, **columns, **rest})
        if not decision["kept"]:
            (self.folder / row["file"]).unlink()

    def _check_share(self) -> None:
        made, name = self.made, place_of(self.params)
        if made.num_files == 0:
            raise StageError(f"raw_video.source.{name}: holds no sample; see docs/raw_video.md.")
        share = len(made.rejected) / made.num_files
        if self.rows and share <= self.params.max_rejected_share:
            return
        counts = Counter(row["reason"] for row in made.rejected)
        firsts = {row["reason"]: row for row in reversed(made.rejected)}
        table = [f"  {reason:<20}{n:>6}  {_first(firsts[reason])}" for reason, n in counts.most_common()]
        allowed = f"raw_video.source.{name}.max_rejected_share allows {self.params.max_rejected_share:.0%}"
        raise StageError(
            f"{len(made.rejected)} of {made.num_files} files were refused, {allowed}; "
            "mend or remove them, or raise the share:\n" + "\n".join(table)
        )

    def _check_left(self, decided: list[dict[str, Any]]) -> None:
        if not self.made.clips:
            counts = Counter(name for one in decided for name in JUDGED if one[name] == "refused")
            told = ", ".join(f"{name} {count}" for name, count in counts.most_common())
            raise StageError(
                f"raw_video.source.{place_of(self.params)}.quality: refused all {len(self.rows)} clips ({told}).\n"
                "Move the thresholds or write null to judge nothing; docs/raw_video.md says what is measured."
            )


def _first(row: dict[str, str]) -> str:
    return f"{row['file']}: {row['detail']}"


def place_of(params: Footage) -> str:
    """The name of the source's block."""
    return type(params).__name__.lower()


def ingest(params: RawVideoParams, footage: Footage, work: Path, folder: Path) -> Made:
    """Clips of every usable file of a source.

    Args:
        params: the form of the clips and the shares of the splits.
        footage: the source's block.
        work: where clips of earlier runs are kept by content.
        folder: the new data set; its folder ``clips`` exists.

    Raises:
        StageError: the source cannot be used, or more than the allowed share of files was refused.
    """
    named = {"cutting", "limits", "max_clips_per_video", "frame_rate", "action_log"}
    shape = {"version": VERSION, "clip": params.clip.model_dump(), "source": place_of(footage)}
    shape |= {name: value for name, value in footage.model_dump().items() if name in named}
    reuse = Reuse(work / "cut", {"shape": shape})
    run, cutter = Ingest(footage, reuse, folder), Cutter(footage, params.clip, reuse)
    with _empty(work / "spool") as spool:
        files = found_in(footage, params.clip.frame_rate, spool)
        for found, looked in in_order(cutter.look, files, processors(), cutter.stop):
            run.take(found, looked)
            if found.close is not None:
                found.close()
    made = run.finish(params.splits)
    reuse.prune()
    return made


@contextlib.contextmanager
def _empty(folder: Path) -> Iterator[Path]:
    """A folder without what a killed run left in it; gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
