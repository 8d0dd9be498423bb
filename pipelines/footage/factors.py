"""The factors of a rendered clip: what identity and motion a sprite can have, and the words for them.

The prompt determines identity and motion, so a model can learn both from text. Of a steered clip it says no more than
that: its motion is in its actions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np

FACTORS: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "cross"),
    "color": ("red", "green", "blue", "yellow", "purple", "white"),
    "texture": ("plain", "striped"),
    "size": ("small", "large"),
    "direction": ("left", "right", "up", "down"),
    "speed": ("slow", "fast"),
    "spin": ("none", "spinning"),
    "scaling": ("none", "growing", "shrinking"),
    "background": ("gradient", "checker", "stripes", "speckle"),
    "tone": ("dark", "sandy", "teal", "mauve"),
}
IDENTITY = ("shape", "color", "texture", "size")
MOTION = ("direction", "speed", "spin", "scaling")
STEERED = "steered"
"""The value of every motion factor of a clip whose motion changes with its actions."""

BLOCK = 12
"""Least common multiple of the numbers of values: every block of 12 clips has each value of a factor equally often."""
ATTEMPTS = 2000
"""Draws of a block, until none of its clips shows what is held out."""

END = 0x5EED
"""Behind the last word of a name of random numbers."""

Series = tuple[int, ...]
"""What names a series of clips: a seed, and what else tells it from others of that seed."""
Combination = tuple[tuple[str, str], ...]
"""Names of factors with the values that they have together."""


@dataclass(frozen=True)
class Factors:
    """One value per factor, in the words of :data:`FACTORS`; or :data:`STEERED` for each of :data:`MOTION`."""

    shape: str
    color: str
    texture: str
    size: str
    direction: str
    speed: str
    spin: str
    scaling: str
    background: str
    tone: str


def caption(factors: Factors) -> str:
    """A sentence: "a large striped red square moves right slowly while growing over a dark checker background".

    Of a steered clip: "a large striped red square is steered over a dark checker background".
    """
    texture = "" if factors.texture == "plain" else factors.texture + " "
    who = f"a {factors.size} {texture}{factors.color} {factors.shape}"
    return f"{who} {_doing(factors)} over a {factors.tone} {factors.background} background"


def _doing(factors: Factors) -> str:
    if factors.direction == STEERED:
        return "is steered"
    pace = {"slow": "slowly", "fast": "quickly"}[factors.speed]
    doing = [word for word in (factors.spin, factors.scaling) if word != "none"]
    aside = f" while {' and '.join(doing)}" if doing else ""
    return f"moves {factors.direction} {pace}{aside}"


def generator(*words: int) -> np.random.Generator:
    """The random numbers that these words name. The last one is ours: numpy takes (1, 2) and (1, 2, 0) for the same."""
    return np.random.default_rng((*words, END))


@lru_cache(maxsize=16)
def _block(series: Series, block: int, never: tuple[Combination, ...]) -> tuple[Factors, ...]:
    for attempt in range(ATTEMPTS):
        values = {}
        for number, (name, words) in enumerate(FACTORS.items()):
            order = generator(*series, 1, number, block, attempt).permutation(BLOCK)
            values[name] = [words[place % len(words)] for place in order]
        drawn = tuple(Factors(*chosen) for chosen in zip(*values.values(), strict=True))
        if not any(shows(one, combination) for one in drawn for combination in never):
            return drawn
    raise ValueError(f"the combinations leave no balanced series: none in {ATTEMPTS} draws; hold out fewer")


def shows(factors: Factors, combination: Combination) -> bool:
    """Whether a clip has all values of a combination."""
    return all(getattr(factors, name) == value for name, value in combination)


def draw(series: Series, index: int, never: tuple[Combination, ...] = ()) -> Factors:
    """The factors of clip ``index``: a function of (series, index), balanced over every :data:`BLOCK` clips.

    Each factor is shuffled on its own, so any two are independent up to chance, but for the combinations that must
    ``never`` occur: a block that shows one is drawn again as a whole. A longer series starts with the shorter one.

    Raises:
        ValueError: the combinations leave no such block.
    """
    block, place = divmod(index, BLOCK)
    return _block(series, block, never)[place]


def draw_combined(series: Series, index: int, combinations: Sequence[Combination]) -> Factors:
    """The factors of clip ``index`` of a series that shows nothing but the combinations, one after another."""
    return replace(draw(series, index), **dict(combinations[index % len(combinations)]))


def draw_steered(series: Series, index: int, never: tuple[Combination, ...] = ()) -> Factors:
    """The factors of steered clip ``index``, whose sprite may move in every way.

    So it is none that a combination forbids any motion.

    Raises:
        ValueError: the combinations leave no sprite.
    """
    names = set(MOTION)
    forbidden = [
        tuple(one for one in combination if one[0] not in names)
        for combination in never
        if names & {name for name, _ in combination}
    ]
    for attempt in range(ATTEMPTS):
        drawn = draw((*series, attempt), index, tuple(one for one in never if not names & {name for name, _ in one}))
        if not any(shows(drawn, part) for part in forbidden):
            return replace(drawn, **dict.fromkeys(MOTION, STEERED))
    raise ValueError(f"the combinations leave no sprite to steer: none in {ATTEMPTS} draws; hold out fewer")


def columns(factors: Factors) -> dict[str, str]:
    """The factors as catalog columns, ``factor_<name>``."""
    return {f"factor_{name}": value for name, value in asdict(factors).items()}
