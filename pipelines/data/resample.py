"""Frames at regular times from frames at any times: the nearest one, or none where the gap is too wide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

ROUNDING_SECONDS = 1e-3
"""Containers round timestamps to milliseconds."""


def _unknown(_: float) -> float | None:
    return None


def nearest_in_time(
    timed: Iterable[tuple[float, Item]],
    frame_rate: float,
    hold_seconds: float = 0.0,
    start: int = 0,
    upcoming: Callable[[float], float | None] = _unknown,
) -> Iterator[Item | None]:
    """For k = start, start + 1, …: the item whose time is nearest to k / frame_rate, if within half a period of it.

    Args:
        timed: (seconds, item) with rising times, the first at 0; later items with an earlier time are passed over.
        frame_rate: of the wanted series, per second.
        hold_seconds: where no item is near, the one before is taken if it is at most so old: what a screen shows
            until something changes.
        start: number of the first wanted time.
        upcoming: a time after the given one before which no further item comes, where that is known: what is nearest
            then needs not wait for the next item.

    Yields:
        Items, or None where none is near, as soon as they are decided, so that a long video needs the memory of two
        frames; the last one is the last that some item is near to.
    """
    half = 0.5 / frame_rate + ROUNDING_SECONDS
    k = start
    before: tuple[float, Item] | None = None
    for seconds, item in timed:
        if before is not None and seconds <= before[0]:
            continue
        while before is None and k / frame_rate < seconds - half:
            yield None
            k += 1
        while before is not None and (wanted := k / frame_rate) < seconds:
            later_is_nearer = wanted >= (before[0] + seconds) / 2
            if later_is_nearer and seconds - wanted <= half:
                break
            most = hold_seconds if later_is_nearer else max(half, hold_seconds)
            yield before[1] if wanted - before[0] <= most else None
            k += 1
        before = (seconds, item)
        after = upcoming(seconds)
        while after is not None and abs(k / frame_rate - seconds) <= half and k / frame_rate < (seconds + after) / 2:
            yield item
            k += 1
    while before is not None and k / frame_rate <= before[0] + half:
        yield before[1] if abs(k / frame_rate - before[0]) <= half else None
        k += 1
