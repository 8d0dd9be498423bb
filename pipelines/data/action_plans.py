"""Actions that a person gives: a word, a trajectory string, or a csv log. All become float32 [frames, A].

A trajectory string is minWM's: ``w*8,a*4`` holds W for eight frames, then A for four. Keys held together are joined
(``W+D*10`` or ``wd*10``), an axis has a value (``mouse_dx=0.5*10``), ``none*5`` holds nothing.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from pipelines.data.actions import ActionError, kinds_of
from pipelines.data.contract import ActionFacts

WORDS = ("forward", "random")
NOTHING = ("none", "-")
STRETCH = (4, 12)
"""Fewest and most frames for which random actions hold the same."""
MOST_ROWS = 1_000_000
LATE = 0.9
"""Frames by which a line of a log is late after the one before it, and too late: clocks of recorders are not even."""
ROUNDED = 0.03
"""Share by which most steps of a log's times may miss the frame rate without its being another."""


def forward(facts: ActionFacts, frames: int) -> np.ndarray:
    """The first key held throughout."""
    keys, _ = kinds_of(facts)
    held = np.zeros((frames, len(facts.names)), np.float32)
    held[:, keys[:1]] = 1.0
    return held


def drawn(facts: ActionFacts, frames: int, seed: int) -> np.ndarray:
    """Random actions, held for a while each: no key, one, or two that stand next to each other in the list.

    W A S D in this order: neighbours (around the circle) are never opposites.
    """
    random = np.random.default_rng(seed)
    keys, axes = kinds_of(facts)
    held = np.zeros((frames, len(facts.names)), np.float32)
    start = 0
    while start < frames:
        stop = start + int(random.integers(*STRETCH, endpoint=True))
        if keys:
            number, first = int(random.choice([0, 1, 1, 1, 2])), int(random.integers(len(keys)))
            held[start:stop, [keys[(first + more) % len(keys)] for more in range(number)]] = 1.0
        held[start:stop, axes] = random.uniform(-1, 1, len(axes)).round(2)
        start = stop
    return held


# ---- trajectory strings -------------------------------------------------------------------------------------------


def trajectory(text: str, facts: ActionFacts) -> np.ndarray:
    """A trajectory string as rows [N, A].

    Raises:
        ActionError: naming the part that cannot be read.
    """
    rows: list[np.ndarray] = []
    for number, part in enumerate(text.split(","), 1):
        held, star, count = part.strip().partition("*")
        if not held.strip():
            raise ActionError(f"trajectory {text!r}: part {number} names no key; write such as W*8,none*2,D*4.")
        times = count.strip() if star else "1"
        if not times.isdecimal() or not 0 < int(times) <= MOST_ROWS:
            raise ActionError(f"{part.strip()!r} in the trajectory: {count!r} is no number of frames; write W*8.")
        rows.append(np.tile(_held(held.strip(), facts), (int(times), 1)))
    made = np.concatenate(rows)
    if len(made) > MOST_ROWS:
        raise ActionError(f"a trajectory of {len(made)} frames; the most is {MOST_ROWS}.")
    return made


def _held(text: str, facts: ActionFacts) -> np.ndarray:
    row = np.zeros(len(facts.names), np.float32)
    if text.lower() in NOTHING:
        return row
    for word in text.split("+"):
        name, _, value = word.strip().partition("=")
        for place in _places(name, facts, text):
            row[place] = _value(value or "1", facts, place, text)
    return row


def _places(name: str, facts: ActionFacts, where: str) -> list[int]:
    """The column of a name, whatever its case; of a word such as ``wd``, those of its letters."""
    known = {one.lower(): place for place, one in enumerate(facts.names)}
    if name.lower() in known:
        return [known[name.lower()]]
    if name and all(letter in known for letter in name.lower()):
        return [known[letter] for letter in name.lower()]
    raise ActionError(f"{where!r}: unknown key {name!r}; known here: {', '.join(facts.names)}, none.")


def _value(text: str, facts: ActionFacts, place: int, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ActionError(f"{where!r}: {text!r} is no number for {facts.names[place]}.") from None
    allowed = {"key": (0.0, 1.0), "mouse": (-1.0, 1.0)}.get(facts.kinds[place], (-np.inf, np.inf))
    if not np.isfinite(value) or not allowed[0] <= value <= allowed[1]:
        raise ActionError(f"{where!r}: {facts.names[place]} is {text}, outside [{allowed[0]:g}, {allowed[1]:g}].")
    return value


# ---- logs ---------------------------------------------------------------------------------------------------------


def read_log(path: Path, facts: ActionFacts, frame_rate: float) -> np.ndarray:
    """A csv as rows [N, A], one per frame from 0 on; columns are found by name, in any order.

    Either a column per action (``frame,W,A,S,D,mouse_dx,mouse_dy``; those that are absent are 0), or a line per key and
    frame at which it is down (``key,time,frame``), where frames without a line are frames without a key.

    Raises:
        ActionError: with file and line: no such file, an unknown column or key, a gap, a frame twice, a value out of
            range, or times of another frame rate.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "no csv in UTF-8"
        raise ActionError(f"{path}: cannot be read ({reason}).") from None
    if len(lines) < 2:
        raise ActionError(f"{path}: no line of actions; the first line names the columns, such as frame,W,A,S,D.")
    names = [name.lower() for name in lines[0][1]]
    if "frame" not in names or len(set(names)) < len(names):
        raise ActionError(
            f"{path}:{lines[0][0]}: columns {', '.join(names)}; it needs each once, parted by commas, "
            "and `frame` among them."
        )
    read = []
    for number, row in lines[1:]:
        if len(row) != len(names):
            raise ActionError(f"{path}:{number}: {len(row)} values for {len(names)} columns.")
        read.append((number, dict(zip(names, row, strict=True))))
    _check_rate(path, read, frame_rate)
    return _by_key(path, read, facts) if "key" in names else _by_column(path, read, facts)


Lines = Sequence[tuple[int, Mapping[str, str]]]


def _frame(path: Path, number: int, line: Mapping[str, str]) -> int:
    if not re.fullmatch(r"\d{1,7}", line["frame"]) or int(line["frame"]) >= MOST_ROWS:
        raise ActionError(f"{path}:{number}: frame {line['frame']!r} is no whole number from 0 to {MOST_ROWS - 1}.")
    return int(line["frame"])


def _check_rate(path: Path, lines: Lines, frame_rate: float) -> None:
    """Where times stand beside frames, they say at which rate the log was made."""
    if "time" not in lines[0][1]:
        return
    points = []
    for number, line in lines:
        try:
            points.append((_frame(path, number, line), float(line["time"])))
        except ValueError as error:
            if isinstance(error, ActionError):
                raise
            raise ActionError(f"{path}:{number}: time {line['time']!r} is no number of seconds.") from None
    timed = sorted(zip(points, (number for number, _ in lines), strict=True))
    steps = [(b[0] - a[0]) / (b[1] - a[1]) for (a, _), (b, _) in pairwise(timed) if b[0] > a[0] and b[1] > a[1]]
    (first, _), (last, _) = timed[0], timed[-1]
    if steps and last[1] > first[1] and abs(median(steps) / frame_rate - 1) > ROUNDED:
        rate = (last[0] - first[0]) / (last[1] - first[1])
        if abs(rate / frame_rate - 1) > 0.05:
            raise ActionError(
                f"{path}: a log at {rate:.3g} frames per second, the network makes {frame_rate:g}; resample the log."
            )
    _check_course(path, timed, frame_rate)


def _check_course(path: Path, timed: Sequence[tuple[tuple[int, float], int]], frame_rate: float) -> None:
    """Times go on as the frames do: a pause in them is a gap that the numbers of the frames hide."""
    for ((before, then), _), ((frame, now), number) in pairwise(timed):
        late = (now - then) * frame_rate - (frame - before)
        if now < then or late >= LATE:
            what = "before" if now < then else f"{now - then:.3g} s after"
            raise ActionError(
                f"{path}:{number}: frame {frame} comes {what} frame {before}, and the network makes {frame_rate:g} a "
                "second; give every frame a line, with the time at which it is shown."
            )


def _by_key(path: Path, lines: Lines, facts: ActionFacts) -> np.ndarray:
    frames = [_frame(path, number, line) for number, line in lines]
    held = np.zeros((max(frames) + 1, len(facts.names)), np.float32)
    for frame, (number, line) in zip(frames, lines, strict=True):
        try:
            place = _places(line["key"], facts, line["key"])[0]
        except ActionError as error:
            raise ActionError(f"{path}:{number}: {error}") from None
        if facts.kinds[place] != "key":
            raise ActionError(f"{path}:{number}: {line['key']} is no key; give axes a column of their own.")
        held[frame, place] = 1.0
    return held


def _by_column(path: Path, lines: Lines, facts: ActionFacts) -> np.ndarray:
    known = {one.lower(): place for place, one in enumerate(facts.names)}
    unknown = [name for name in lines[0][1] if name not in (*known, "frame", "time")]
    if unknown:
        raise ActionError(
            f"{path}:1: unknown column {unknown[0]!r}; known here: frame, time, {', '.join(facts.names)}."
        )
    held = np.zeros((len(lines), len(facts.names)), np.float32)
    for row, (number, line) in enumerate(lines):
        frame = _frame(path, number, line)
        if frame != row:
            what = f"follows {row - 1}: a gap" if row else "is the first: a gap"
            what = "comes twice or out of order" if frame < row else what
            raise ActionError(f"{path}:{number}: frame {frame} {what}; a line for every frame from 0 on is needed.")
        for name, place in known.items():
            if name in line:
                try:
                    held[row, place] = _value(line[name], facts, place, line[name])
                except ActionError as error:
                    raise ActionError(f"{path}:{number}: {error}") from None
    return held


def write_log(path: Path, actions: np.ndarray, facts: ActionFacts, frame_rate: float) -> None:
    """Write rows as :func:`read_log` reads them."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["frame", "time", *facts.names])
        for frame, row in enumerate(actions):
            writer.writerow([frame, f"{frame / frame_rate:.4f}", *(f"{value:g}" for value in row)])
