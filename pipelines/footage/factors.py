"""The factors of a rendered clip: what identity and motion a sprite can have, and the words for them.

The prompt determines identity and motion, so a model can learn both from text; the tiny jitter is all it cannot know.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

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

BLOCK = 12
"""Least common multiple of the numbers of values: every block of 12 clips has each value of a factor equally often."""


@dataclass(frozen=True)
class Factors:
    """One value per factor, in the words of :data:`FACTORS`."""

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
    """The factors in a sentence: "a large striped red square moves right slowly while growing over a dark checker …"."""
    texture = "" if factors.texture == "plain" else factors.texture + " "
    pace = {"slow": "slowly", "fast": "quickly"}[factors.speed]
    doing = [word for word in (factors.spin, factors.scaling) if word != "none"]
    aside = f" while {' and '.join(doing)}" if doing else ""
    return (
        f"a {factors.size} {texture}{factors.color} {factors.shape} moves {factors.direction} {pace}{aside} "
        f"over a {factors.tone} {factors.background} background"
    )


def draw(seed: int, index: int) -> Factors:
    """The factors of clip ``index``: a function of (seed, index), balanced over every :data:`BLOCK` clips.

    Each factor is shuffled on its own, so any two are independent up to chance; a longer series starts with the
    shorter one.
    """
    block, place = divmod(index, BLOCK)
    values = {}
    for number, (name, words) in enumerate(FACTORS.items()):
        order = np.random.default_rng((seed, 1, number, block)).permutation(BLOCK)
        values[name] = words[order[place] % len(words)]
    return Factors(**values)


def columns(factors: Factors) -> dict[str, str]:
    """The factors as catalog columns, ``factor_<name>``."""
    return {f"factor_{name}": value for name, value in asdict(factors).items()}
