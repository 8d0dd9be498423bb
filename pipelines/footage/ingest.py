"""Sources of files: captioned, cut and judged; what cannot be used is listed, what was cut before is reused."""

from __future__ import annotations

import json
import threading
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines import machine, stage
from pipelines.data.catalog import JUDGED
from pipelines.data.limits import VideoError
from pipelines.data.stored import Place
from pipelines.data.video import Seen
from pipelines.footage.ahead import in_order
from pipelines.footage.captions import NotHere, with_prefix
from pipelines.footage.cutting import cut, forms, told_of
from pipelines.footage.digests import Digests
from pipelines.footage.found import Found, file_of
from pipelines.footage.opening import found_in
from pipelines.footage.packing import deliver
from pipelines.footage.params import Clip, Footage, RawVideoParams, Splits, Tars, Webdataset
from pipelines.footage.quality import judge, measure
from pipelines.footage.reels import VideoReel
from pipelines.footage.reuse import Reuse, emptied
from pipelines.footage.splits import split
from pipelines.footage.storing import Cut, Made, content_hash, store
from pipelines.stage import StageError, refused_by_disk
from pipelines.textfile import one_line

VERSION = 2
"""Part of every content key: raise it when the same file would be cut or resized to other pixels."""


def cut_file(
    params: Footage, clip: Clip, found: Found, digest: str, folder: Path, seen: Seen | None = None
) -> Iterator[dict[str, Any]]:
    """Cut one file and store its clips in ``folder``: per clip its row, its fidelity and its measures.

    What is seen of the file on the way is noted in ``seen``.

    Raises:
        VideoError: the file cannot be used.
    """
    reel, seen = found.open(digest), seen or Seen()
    choices = forms(clip, params.cutting.buckets, found.still)
    if not choices:
        raise VideoError("too_short", f"a picture; a clip has {clip.num_frames} frames")
    if isinstance(reel, VideoReel):
        hold = params.cutting.hold
        reel = replace(reel, hold_seconds=hold.max_seconds if hold else 0.0, seen=seen)
    windows = cut(reel.pictures(), choices, params.cutting, clip.frame_rate, seen)
    for number, window in enumerate(windows, 1):
        count, height, width = window.frames.shape[:3]
        form = clip.model_copy(update={"num_frames": count, "height": height, "width": width})
        identity = content_hash(form, cutter=VERSION, **reel.facts(window.start, count))
        begin = reel.start_seconds + window.start / clip.frame_rate
        held = reel.actions(window.start, count)
        row, fidelity = store(Cut(window.frames, identity, "", "", begin, held), form, folder)
        measures = {f"quality_{name}": value for name, value in measure(window.frames).items()}
        yield {"row": row | measures, "psnr": fidelity}
        if number == params.max_clips_per_video:
            return


@dataclass
class Looked:
    """What became of one file before its turn: its clips, or why it is refused; and whether it had to be decoded."""

    caption: str = ""
    metadata: str | None = None
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
            self._ask(found, looked)
            looked.digest = found.digest()
            looked.unit = found.unit() if found.unit else looked.digest
            with self._turns[looked.digest]:
                self._clips(found, looked)
        except VideoError as error:
            looked.refusal = error
        except (FileNotFoundError, PermissionError) as error:  # gone since it was listed, or not ours to read
            looked.refusal = VideoError("unreadable", f"{error.strerror or error}")
        except Exception as error:  # one odd file must not end a night's work; what is no file's fault does
            if isinstance(error, StageError | InterruptedError) or refused_by_disk(error):
                raise
            looked.refusal = VideoError("unforeseen", _told_of(error))
        return looked

    def _ask(self, found: Found, looked: Looked) -> None:
        """What is told of the file, where it may be used without a caption or has one."""
        told, rule = found.told(), self.params.quality.caption
        if told.refusal is not None and (rule is not None or told.refusal.reason not in ("no_caption", "bad_caption")):
            raise told.refusal
        if rule is not None and not told.caption:
            raise VideoError("no_caption", found.no_caption)
        if rule is not None and len(told.caption.split()) < rule.min_words:
            raise VideoError("no_caption", f"{told.caption!r} has fewer than {rule.min_words} words")
        looked.caption = with_prefix(self.params.prompt_prefix, told.caption)
        if told.metadata:
            looked.metadata = json.dumps(told.metadata, ensure_ascii=False, sort_keys=True)

    def _clips(self, found: Found, looked: Looked) -> None:
        known = self.reuse.find(looked.digest)
        looked.decoded = known is None
        if known is not None:
            looked.clips = known
            return
        with self.reuse.keeping(looked.digest) as (folder, clips):
            seen = Seen()
            for one in cut_file(self.params, self.clip, found, looked.digest, folder, seen):
                if self.stop.is_set():
                    raise InterruptedError(f"{found.name}: stopped")
                clips.append(one)
            for one in clips:
                one["file"] = told_of(seen, self.clip.frame_rate)
        looked.clips = clips


class Ingest:
    """One run over a source: what came of each file, and of each clip."""

    def __init__(self, params: Footage, reuse: Reuse) -> None:
        self.params, self.reuse = params, reuse
        self.made = Made(files_decoded=0)
        self.names: dict[str, str] = {}
        """Name of the first file of each content."""
        self.rows: list[dict[str, Any]] = []
        self.fidelity: dict[str, float] = {}
        self.places: dict[str, Place] = {}  # by key
        self.of: dict[str, str] = {}  # by key the content of the file that a clip was cut from

    def take(self, found: Found, looked: Looked) -> None:
        """Place the clips of one file; a refusal is noted with its reason."""
        assert self.made.files_decoded is not None
        error = self._twin(found, looked.digest) or looked.refusal
        if isinstance(error, NotHere):
            self._note_absent(found, error)
            return
        self.made.num_files += 1
        self.made.files_decoded += looked.decoded
        if error is not None:
            self.made.rejected.append({"file": found.name, "reason": error.reason, "detail": str(error)})
        else:
            facts = {
                "caption": looked.caption,
                "source": file_of(found.name),
                "unit": looked.unit,
                "metadata": looked.metadata,
            }
            for name, value in looked.clips[0]["file"].items():
                self.made.seen[name] = self.made.seen.get(name, 0.0) + value
            for clip in looked.clips:
                self._place(clip, looked.digest, facts)
        clips, rejected = len(self.rows), len(self.made.rejected)
        unit = "tar" if isinstance(self.params, Tars | Webdataset) else "file"
        stage.report(found.place, found.total, unit=unit, clips=clips, rejected=rejected)

    def _note_absent(self, found: Found, error: NotHere) -> None:
        """What the source only names is counted apart; a count of several is told at once."""
        self.made.absent[error.reason] += error.count
        self.made.listed.append({"file": found.name, "reason": error.reason, "detail": str(error)})
        if error.count > 1:
            stage.say(f"{found.name}: {error}.")

    def _twin(self, found: Found, digest: str) -> VideoError | None:
        twin = self.names.setdefault(digest, found.name) if digest else found.name
        return None if twin == found.name else VideoError("duplicate", f"has the same content as {twin}")

    def _place(self, clip: dict[str, Any], digest: str, facts: Mapping[str, str | None]) -> None:
        row = clip["row"]
        if row["key"] not in self.fidelity:  # equal stretches of a recording are one clip
            self.places[row["key"]] = self.reuse.place(digest, clip)
            self.of[row["key"]] = digest
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
        """Note what was decided on a clip."""
        columns = {f"{name}_decision": decision[name] for name in JUDGED}
        rest = {name: decision[name] for name in ("duplicate_of", "kept")}
        self.made.decisions.append({**row, **columns, **rest})

    def _check_share(self) -> None:
        made, name = self.made, place_of(self.params)
        if made.num_files == 0:
            raise StageError(f"raw_video.source.{name}: holds no sample; see docs/raw_video.md.")
        share = len(made.rejected) / made.num_files
        if self.rows and share <= self.params.max_rejected_share:
            return
        counts = Counter(row["reason"] for row in made.rejected)
        firsts = {row["reason"]: one_line(f"{row['file']}: {row['detail']}") for row in reversed(made.rejected)}
        table = [f"  {reason:<20}{n:>6}  {firsts[reason]}" for reason, n in counts.most_common()]
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


def _told_of(error: Exception) -> str:
    """An error of a library in one line, with the place where it arose."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = str(error).splitlines()[:1] or [""]
    return f"{type(error).__name__}: {said[0][:200]} ({Path(place.filename).name}:{place.lineno})"


def _spooled(found: Found) -> int:
    return found.spooled


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
    digests = Digests(work / "digests.json")
    reuse = Reuse(work / "cut", {"shape": shape}, digests.of)
    run, cutter = Ingest(footage, reuse), Cutter(footage, params.clip, reuse)
    finished = False
    try:
        with emptied(work / "spool") as spool:
            files, most = found_in(footage, params.clip.frame_rate, spool, digests.of), footage.limits.max_bytes
            for found, looked in in_order(cutter.look, files, machine.workers(), cutter.stop, _spooled, most):
                run.take(found, looked)
                if found.close is not None:
                    found.close()
        finished = True
    finally:
        digests.keep(finished)
    made = run.finish(params.splits)
    if deliver(made.clips, run.places, folder, params.tars_above, reuse.tars):
        reuse.note(made.clips, run.of)
    reuse.prune()
    return made
