"""Classes and gates that fit the size of one's own data: those that stand in params.yaml are of the rendered clips.

What is more than fits is lowered, nothing here is raised: who wants other values writes them after `reel use`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.data.endings import VIDEOS

CLIPS_PER_CLASS = 20
"""Fewer than the rendered clips have in each of their classes (37), and enough for ten neighbours."""
OVER_EVEN = (0.12, 0.37)
"""By how much of all clips the fullest class may exceed its even part, to warn and to fail: as of 32 classes."""
CLOSE_TO_EVEN = 1.5
"""A gate within so many even parts fails for the number of classes, not for the classes."""
NEAR_EMPTY = 4
"""A class of less than this part of an even one counts as near-empty, where the stated number of clips is more."""

JUDGED = ("retrieval_excess", "text_to_keyframes", "keyframes_to_text", "stability")
"""Gates of differences between shares, by their names in diagnostics."""
QUERIES = 20
"""Held-out clips below which one of them moves such a share by more than a gate's way from warn to fail."""
NEVER = -1.0
"""Below every such difference."""


@dataclass(frozen=True)
class FittedValue:
    """A value of params.yaml that does not fit: where, what fits, and why in a few words."""

    key: tuple[str, ...]
    value: Any
    reason: str

    @property
    def nested(self) -> dict[str, Any]:
        """As blocks within blocks."""
        found: Any = self.value
        for name in reversed(self.key):
            found = {name: found}
        return found


def fitted(values: Mapping[str, Any], clips: int, wordless: str | None) -> Iterator[FittedValue]:
    """The values that do not fit so many clips; ``wordless``: why captions tell none apart, None where they do."""
    yield from _of_captions(values, wordless)
    stated = _at(values, "pseudo_classes", "num_classes")
    if not isinstance(stated, int):
        return
    num = min(stated, max(2, clips // CLIPS_PER_CLASS))
    splits = _at(values, "raw_video", "splits") or {}
    train = clips * (1 - sum(share for share in splits.values() if isinstance(share, float)))
    if num < stated:
        yield FittedValue(("pseudo_classes", "num_classes"), num, f"about {clips} clips, {CLIPS_PER_CLASS} per class")
    yield from _of_fallback(values, num, train)
    yield from _of_diagnostics(values, num, train)
    yield from _of_few_queries(values, clips)


def forms_with_pictures(media: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Buckets with a form of one frame for pictures, beside that of clips where there are videos too; None where
    none is needed.
    """
    clip = _at(values, "raw_video", "clip") or {}
    frames, height, width = (clip.get(name) for name in ("num_frames", "height", "width"))
    if frames == 1 or f".{media}".endswith(VIDEOS) or not isinstance(frames, int):
        return None
    sizes = [[frames, height, width]] if media == "both" else []
    return {"fold": 8 if frames % 8 == 1 else 4, "sizes": [*sizes, [1, height, width]]}


def _at(values: Any, *key: str) -> Any:
    for name in key:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _of_captions(values: Mapping[str, Any], wordless: str | None) -> Iterator[FittedValue]:
    """Without captions that differ, text says nothing, nor what it has in common with pictures."""
    for name in ("text", "alignment") if wordless is not None else ():
        if _at(values, "pseudo_classes", "embedding", name) is not None:
            reason = f"{wordless}, so text tells no classes apart"
            yield FittedValue(("pseudo_classes", "embedding", name), None, reason)


def _of_fallback(values: Mapping[str, Any], num: int, train: float) -> Iterator[FittedValue]:
    key, fallback = ("pseudo_classes", "fallback"), _at(values, "pseudo_classes", "fallback")
    smaller = _at(fallback, "num_classes")
    if not isinstance(smaller, int):
        return
    if smaller >= num and num < 4:
        yield FittedValue(key, None, f"{num} classes have no smaller codebook to fall back on")
        return
    if smaller >= num:
        yield FittedValue((*key, "num_classes"), num // 2, "half of them")
    yield from _near_empty((*key, "near_empty"), fallback["near_empty"], min(smaller, num // 2), train)


def _of_diagnostics(values: Mapping[str, Any], num: int, train: float) -> Iterator[FittedValue]:
    key, section = ("diagnostics",), _at(values, "diagnostics")
    fallback = _at(values, "pseudo_classes", "fallback", "num_classes")
    least = min(fallback, max(num // 2, 2)) if isinstance(fallback, int) and num >= 4 else num
    tops = _at(section, "neighbours")
    if isinstance(tops, list) and tops:
        fitting = [top for top in tops if top <= max(1, train / num / 2)] or [1]
        if fitting != tops:
            yield FittedValue((*key, "neighbours"), fitting, f"training clips per class: about {train / num:.0f}")
    yield from _near_empty((*key, "near_empty"), _at(section, "near_empty"), num, train)
    gate = _at(section, "gates", "largest_share")
    warn, fail = (min(0.98, round(1 / least + over, 2)) for over in OVER_EVEN)
    if isinstance(_at(gate, "warn"), float) and gate["warn"] < min(warn, CLOSE_TO_EVEN / least):
        reason = f"of {least} classes even the fullest of equal ones holds {1 / least:.0%}"
        yield FittedValue((*key, "gates", "largest_share"), {"warn": warn, "fail": fail}, reason)


def _of_few_queries(values: Mapping[str, Any], clips: int) -> Iterator[FittedValue]:
    """Gates that a single clip would decide warn and stop nothing."""
    gates, share = _at(values, "diagnostics", "gates"), _at(values, "raw_video", "splits", "validation")
    if not isinstance(share, float) or clips * share >= QUERIES:
        return
    lowered = {name: {"fail": NEVER} for name in JUDGED if _at(gates, name, "fail") not in (None, NEVER)}
    if lowered:
        reason = f"about {clips * share:.0f} held-out clips decide nothing: these gates warn, and stop no training"
        yield FittedValue(("diagnostics", "gates"), lowered, reason)


def _near_empty(key: tuple[str, ...], stated: Any, num: int, train: float) -> Iterator[FittedValue]:
    fitting = max(1, int(train / num / NEAR_EMPTY))
    if isinstance(stated, int) and stated > max(1.0, train / num / 2):
        yield FittedValue(key, fitting, f"training clips per class: about {train / num:.0f}")
