"""The procedural renderer: a sprite moved by keys and mouse over a quiet background, antialiased by signed distances.

Lengths are in frame widths until the last moment, so a clip looks the same at every resolution. A signed distance is
negative inside; a pixel's coverage falls from 1 to 0 over EDGE pixels about the edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.footage.factors import STEERED, Factors, Series, generator

VERSION = 3
"""Part of every content key: raise it when the same scene would give other pixels."""

COLORS = {
    "red": (226, 44, 48),
    "green": (44, 186, 74),
    "blue": (48, 104, 240),
    "yellow": (250, 212, 38),
    "purple": (164, 62, 216),
    "white": (232, 232, 232),
}
TONES = {
    "dark": ((46, 49, 57), (68, 72, 82)),
    "sandy": ((148, 133, 108), (171, 157, 132)),
    "teal": ((66, 102, 104), (89, 126, 127)),
    "mauve": ((108, 88, 108), (132, 111, 130)),
}
RADIUS = {"small": 0.15, "large": 0.21}
DISTANCE = {"slow": 0.16, "fast": 0.32, STEERED: 0.32}
"""Frame widths travelled by one key that is down over the whole clip."""
GROWTH = 0.4
"""Share of its first radius that a growing sprite gains, and a shrinking one loses, over the whole clip."""
START = 0.12
"""How far from the centre a sprite may start, along each side, whatever it will do."""
TURN = 0.75 * np.pi
"""Angle a spinning sprite turns over the whole clip."""
SEGMENTS = (2, 4)
"""Fewest and most stretches of a steered clip in which the same is held; of the keys and of the mouse by themselves."""
JITTER = 0.02
EDGE = 2.0
"""Pixels over which an edge blends."""
KEYS = {"up": (0, (0.0, -1.0)), "left": (1, (-1.0, 0.0)), "down": (2, (0.0, 1.0)), "right": (3, (1.0, 0.0))}
"""Per direction: the column of its key in the actions (W A S D), and the way it points, x right and y down."""
CHORDS = tuple(
    tuple(float(key in chord) for key in KEYS)
    for chord in (
        *((), ("up",), ("left",), ("down",), ("right",)),
        *(("up", "left"), ("up", "right"), ("down", "left"), ("down", "right")),
    )
)
"""What may be down at once: nothing, one key, or two that are no opposites; [9][4], columns as in KEYS."""


@dataclass(frozen=True)
class Scene:
    """Everything that shapes the pixels of one rendered clip; ``steering``: the actions of one that is steered."""

    factors: Factors
    num_frames: int
    height: int
    width: int
    offset: tuple[float, float]
    angle: float
    phase: tuple[float, float]
    steering: tuple[tuple[float, ...], ...] | None = None


def scene(factors: Factors, series: Series, index: int, num_frames: int, size: tuple[int, int]) -> Scene:
    """Scene ``index`` of a series, with these factors; ``size`` is (height, width) in pixels."""
    jitter = generator(*series, 2, index).uniform(-1, 1, 5).round(4).tolist()
    return Scene(
        factors=factors,
        num_frames=num_frames,
        height=size[0],
        width=size[1],
        offset=(START * jitter[0], START * jitter[1]),
        angle=0.12 * jitter[2],
        phase=(JITTER * jitter[3], JITTER * jitter[4]),
        steering=steering(generator(*series, 3, index), num_frames) if factors.direction == STEERED else None,
    )


def _stretches(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """The number of the stretch that each frame is in [T], of two to four of random lengths."""
    count = min(int(rng.integers(SEGMENTS[0], SEGMENTS[1] + 1)), num_frames - 1)
    ends = rng.choice(np.arange(2, num_frames), max(0, count - 1), replace=False)
    return (np.arange(num_frames)[:, None] >= ends).sum(1)


def steering(rng: np.random.Generator, num_frames: int) -> tuple[tuple[float, ...], ...]:
    """Actions that nothing else in the clip tells: [T][6] as in :func:`actions`.

    In each stretch one key, two that are no opposites, or none is down, never the same as in the stretch before; the
    mouse has stretches of its own, and moves in them by even amounts.
    """
    held = np.zeros((num_frames, 6))
    stretch = _stretches(rng, num_frames)
    chords = [int(rng.integers(len(CHORDS)))]
    while len(chords) <= stretch[-1]:
        chords.append((chords[-1] + int(rng.integers(1, len(CHORDS)))) % len(CHORDS))
    held[:, :4] = np.array([CHORDS[one] for one in chords])[stretch]
    stretch = _stretches(rng, num_frames)
    held[:, 4:] = rng.uniform(-1, 1, (stretch[-1] + 1, 2)).round(2)[stretch]
    return tuple(map(tuple, held.tolist()))


def actions(scene: Scene) -> np.ndarray:
    """What is held at every frame: float32 [T, 6], keys W A S D in {0, 1}, mouse dx (turning), dy (scaling) in [-1, 1].

    Row k leads from frame k - 1 to frame k; row 0 is held too but has nothing to move yet. A key says which way, not
    how fast: the speed belongs to the sprite and is in the prompt.
    """
    if scene.steering is not None:
        return np.array(scene.steering, np.float32)
    row = np.zeros(6, np.float32)
    row[KEYS[scene.factors.direction][0]] = 1
    row[4] = scene.factors.spin == "spinning"
    row[5] = {"none": 0, "growing": 1, "shrinking": -1}[scene.factors.scaling]
    return np.tile(row, (scene.num_frames, 1))


def poses(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integrate the actions: centre [T, 2] (x, y in frame widths), angle [T] in radians, radius [T] in frame widths."""
    factors, held = scene.factors, actions(scene)
    share = np.concatenate([np.zeros((1, 6)), np.cumsum(held[1:], 0)]) / max(1, scene.num_frames - 1)
    ways = np.array([way for _, way in KEYS.values()])
    start = 0.5 + np.array(scene.offset)
    start[1] += (scene.height / scene.width - 1) / 2
    centre = start + DISTANCE[factors.speed] * share[:, :4] @ ways
    angle = scene.angle + TURN * share[:, 4]
    radius = RADIUS[factors.size] * (1 + GROWTH * share[:, 5])
    return centre, angle, radius


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    across, along = np.abs(x) - half_width, np.abs(y) - half_height
    outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
    return outside + np.minimum(np.maximum(across, along), 0)


def distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the edge of a shape of radius 1 about the origin, y down; the areas are alike."""
    if shape == "circle":
        return np.hypot(x, y) - 0.95
    if shape == "square":
        return _box(x, y, 0.84, 0.84)
    if shape == "cross":
        return np.minimum(_box(x, y, 1.05, 0.4), _box(x, y, 0.4, 1.05))
    half = np.sqrt(3) / 2
    return np.maximum(y + 0.12, np.maximum(half * x, -half * x) - (y + 0.12) / 2) - 0.62


def _coverage(pixels: np.ndarray) -> np.ndarray:
    """Share of a pixel that is inside, [..., 1], from its signed distance to the edge in pixels."""
    return np.clip(0.5 - pixels / EDGE, 0, 1)[..., None]


def background(scene: Scene) -> np.ndarray:
    """Float [H, W, 3] in 0..255: two shades of the tone in the pattern, the same at every frame."""
    row, column = np.mgrid[: scene.height, : scene.width] + 0.5
    x, y = column / scene.width + scene.phase[0], row / scene.width + scene.phase[1]
    soft = scene.width / 2.5
    pattern = scene.factors.background
    if pattern == "gradient":
        mix = (x + y) / 2 * 1.6 - 0.3
    elif pattern == "checker":
        mix = 0.5 + soft * 0.08 * np.sin(4 * np.pi * x) * np.sin(4 * np.pi * y)
    elif pattern == "stripes":
        mix = 0.5 + soft * 0.06 * np.sin(6 * np.pi * (x + y) / np.sqrt(2))
    else:
        lean = np.round(y / 0.25)
        near = np.hypot((x + 0.125 * (lean % 2)) % 0.25 - 0.125, y - 0.25 * lean)
        mix = 0.5 + (0.07 - near) * soft
    mix = np.clip(mix, 0, 1)[..., None]
    dark, light = (np.array(shade, float) for shade in TONES[scene.factors.tone])
    return dark + (light - dark) * mix


REACH = 1.37
"""Radii from a sprite's centre within which all of every shape lies: the triangle points to 1.36."""


def _windows(centre: np.ndarray, radius: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Rows [T, h, 1] and columns [T, 1, w] that hold a sprite with its soft edge, as many in every frame."""
    half = REACH * float(radius.max()) * scene.width + EDGE
    found = []
    for middle, length in ((centre[:, 1], scene.height), (centre[:, 0], scene.width)):
        most = min(length, int(2 * half) + 2)
        first = np.clip(np.floor(middle * scene.width - half), 0, length - most).astype(int)
        found.append(first[:, None] + np.arange(most))
    return found[0][:, :, None], found[1][:, None, :]


def render(scene: Scene) -> np.ndarray:
    """The clip: uint8 [T, H, W, 3], RGB. An off-centre dot in a darker shade shows the spin of a plain circle.

    Edges are as soft as two pixels: what an 8 x 8 x 4 patch of the demo's autoencoder can hold. Painted is only what
    lies about the sprite.
    """
    factors = scene.factors
    centre, angle, radius = poses(scene)
    rows, columns = _windows(centre, radius, scene)
    centre, angle, radius = (part[:, None, None] for part in (centre, angle, radius))
    dx, dy = (columns + 0.5) / scene.width - centre[..., 0], (rows + 0.5) / scene.width - centre[..., 1]
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = (cos * dx + sin * dy) / radius, (cos * dy - sin * dx) / radius
    pixels = radius * scene.width
    edge = distance(factors.shape, x, y)
    inside = _coverage(edge * pixels)
    color = np.array(COLORS[factors.color], float)
    paint = np.broadcast_to(color, (*x.shape, 3))
    if factors.texture == "striped":
        band = 0.5 + 0.5 * np.sin(2 * np.pi * x / 1.1 + np.pi / 2)[..., None]
        paint = (0.4 + 0.6 * band) * color
    dot = _coverage((np.hypot(x, y + 0.4) - 0.22) * pixels)
    paint = paint + (0.4 * color - paint) * dot
    scenery = background(scene)
    video = np.broadcast_to(np.clip(scenery + 0.5, 0, 255).astype(np.uint8), (scene.num_frames, *scenery.shape)).copy()
    behind, frame = scenery[rows, columns], np.arange(scene.num_frames)[:, None, None]
    video[frame, rows, columns] = np.clip(behind + (paint - behind) * inside + 0.5, 0, 255).astype(np.uint8)
    return video
