"""Which clips training sees: whole files to train, validation and test, and no footage in two of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipelines import stage
from pipelines.data.catalog import TEST, TRAIN, VALIDATION
from pipelines.footage.cutting_params import Quality
from pipelines.footage.lookalikes import lookalikes
from pipelines.footage.params import Splits
from pipelines.stage import StageError

NAMES = (TRAIN, VALIDATION, TEST)
LOOKALIKE = 15
"""Bits of 256 in which the hashes of the same footage may differ, where ``quality.duplicate`` does not say.

Seen on real videos: the same clip in half the size and at crf 35 differs in 5 to 19 bits, its neighbour in 52 to 91.
"""


def even_share(num: int, share: float) -> list[bool]:
    """Mark ``share`` of a series, evenly spread; a longer series starts with the marks of the shorter one."""
    return [int((index + 1) * share + 1e-9) > int(index * share + 1e-9) for index in range(num)]


def split_by_hash(hashes: Sequence[str], splits: Splits) -> dict[str, str]:
    """The split of each hash by its place in the hash range, so that newcomers move nobody.

    Of three or more, each split gets at least one: an empty one takes from the largest.
    """
    ranked = sorted(set(hashes))
    found = {one: _by_place(int(one[:8], 16) / 2**32, splits) for one in ranked}
    for name in NAMES if len(ranked) >= len(NAMES) else ():
        if name not in found.values():
            largest = Counter(found.values()).most_common(1)[0][0]
            found[next(one for one in ranked if found[one] == largest)] = name
    return found


def _by_place(place: float, splits: Splits) -> str:
    if place < splits.validation:
        return VALIDATION
    return TEST if place < splits.validation + splits.test else TRAIN


def stretches(clips: list[dict[str, Any]], splits: Splits) -> None:
    """Split the clips of too few files by time: of all, file after file, the last are test, those before validation."""
    clips = sorted(clips, key=lambda row: (row["unit"], row["start_seconds"]))
    num_test, num_validation = (max(1, round(len(clips) * share)) for share in (splits.test, splits.validation))
    num_train = max(1, len(clips) - num_validation - num_test)
    for place, row in enumerate(clips):
        row["split"] = TRAIN if place < num_train else TEST if place >= len(clips) - num_test else VALIDATION


def overlapping(clips: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Clips that share frames with a later split of their file: their place, and the key of that split's first clip."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(clips, key=lambda row: row["start_seconds"]):
        first.setdefault((row["source"], row["split"]), row)
    found = {}
    for place, row in enumerate(clips):
        for name in NAMES[NAMES.index(row["split"]) + 1 :]:
            later = first.get((row["source"], name))
            if later is not None and row["end_seconds"] > later["start_seconds"] + 1e-9:
                found[place] = str(later["key"])
    return found


def alike(clips: Sequence[dict[str, Any]], max_bits: int) -> dict[int, str]:
    """Clips that look like one of another file whose split comes before theirs: their place, and that clip's key."""
    order = sorted(range(len(clips)), key=lambda place: (NAMES.index(clips[place]["split"]), place))
    hashes = [clips[place]["quality_hash"] for place in order]
    labels = [(clips[place]["split"], clips[place]["source"]) for place in order]
    pairs = zip(order, lookalikes(hashes, labels, max_bits), strict=True)
    return {place: str(clips[order[twin]]["key"]) for place, twin in pairs if twin is not None}


def split(clips: list[dict[str, Any]], splits: Splits, quality: Quality, where: str) -> dict[str, str]:
    """Set ``split`` of every clip, and take out of ``clips`` what would stand in two of them.

    A file is in one split, chosen by the hash of its content. Of fewer files than splits, each is split by time. A clip
    that shares frames with another split, or looks like a clip of another file there, is left out: of test before
    validation, and of either before train.

    Args:
        clips: catalog rows with ``unit``, which is removed, and ``quality_hash``.
        splits: the shares.
        quality: whose ``duplicate.max_bits`` says what looks alike, where it is given.
        where: the source's block, for messages.

    Returns:
        Per clip that was taken out, its key and that of the clip which shows the same.

    Raises:
        StageError: a split is left without a clip.
    """
    units = {row["unit"] for row in clips}
    if len(units) >= len(NAMES):
        chosen = split_by_hash([row["unit"] for row in clips], splits)
        for row in clips:
            row["split"] = chosen[row["unit"]]
    else:
        stretches(clips, splits)
        stage.say(
            f"{where}: clips of {len(units)} file{'s' if len(units) > 1 else ''} make three splits, so these are "
            "stretches of the same footage; numbers of validation and test flatter. Add files."
        )
    for row in clips:
        del row["unit"]
    check_filled([row["split"] for row in clips], where, "Add files")
    max_bits = quality.duplicate.max_bits if quality.duplicate else LOOKALIKE
    twice = alike(clips, max_bits) | overlapping(clips)
    gone = {str(clips[place]["key"]): other for place, other in twice.items()}
    before, clips[:] = list(clips), [row for place, row in enumerate(clips) if place not in twice]
    _check_left(before, clips, gone, where)
    return gone


def check_filled(splits: Sequence[str], where: str, what_to_do: str) -> None:
    """Check that each split has a clip.

    Raises:
        StageError: one has none.
    """
    empty = [name for name in NAMES if name not in splits]
    if empty:
        count = f"{len(splits)} clip{'s' if len(splits) > 1 else ''}"
        raise StageError(f"{where}: gave {count}, none of them for {empty[0]}; each split needs one. {what_to_do}.")


def _check_left(
    before: Sequence[dict[str, Any]], left: Sequence[dict[str, Any]], gone: dict[str, str], where: str
) -> None:
    for name in NAMES:
        if not any(row["split"] == name for row in left):
            first = next(row for row in before if row["split"] == name)
            twin = next(row for row in before if row["key"] == gone[first["key"]])
            raise StageError(
                f"{where}: every clip of {name} shows what another split shows ({first['source']} at "
                f"{first['start_seconds']:g} s like {twin['source']} at {twin['start_seconds']:g} s).\n"
                "Add other footage, or give quality.duplicate a block: its max_bits then says what looks alike."
            )
