"""Pictures of clips: what is in a class, and who is near whom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image, ImageDraw, ImageFont

from pipelines import stage
from pipelines.data.shards import Shards
from pipelines.drawing import drawn, new_figure, palette
from pipelines.models.autoencoder import load_autoencoder
from pipelines.representation.mae_figures import GREEN, ORANGE, save, strip

KEYFRAMES, CLIPS, CLIP_FRAMES = 9, 3, 5
NEIGHBOURS, QUERIES = 5, 6
PLAYING, PLAYED_FRAMES, PLAYED_SIDE = 5, 24, 96
"""Clips per class that play, most of their frames, and their longest side in pixels."""
PAGE, PAGE_COLUMNS, TILES, TILE_SIDE = 64, 4, 5, 64
"""Classes on a page of exemplars and their columns; frames per class, and their longest side in pixels."""
GAP, LABEL, HEADING, COLOURS = 4, 84, 26, 128


def spread(clips: np.ndarray, count: int) -> np.ndarray:
    """``count`` frames spread over each clip: [N, T, ...] -> [N, count, ...]."""
    return clips[:, np.linspace(0, clips.shape[1] - 1, count).round().astype(int)]


class Decoder:
    """Decoded frames of samples (row numbers of the index)."""

    def __init__(self, shards: Shards, autoencoder: Path) -> None:
        self.shards = shards
        self.network = load_autoencoder(autoencoder)

    @torch.no_grad()
    def clips(self, samples: np.ndarray) -> np.ndarray:
        """All frames [N, T, H, W, 3] in [0, 1] of samples of one length and size."""
        latents = torch.from_numpy(self.shards.load(samples, "latents").astype(np.float32))
        return ((self.network.decode(latents).float() + 1) / 2).clamp(0, 1).numpy().transpose(0, 2, 3, 4, 1)

    def frames(self, samples: np.ndarray, count: int) -> np.ndarray:
        """``count`` frames spread over each clip: [N, count, H, W, 3] in [0, 1]."""
        return spread(self.clips(samples), count)


def _show(axes: Axes, frames: np.ndarray, edge: str | None, gap: int = 0) -> None:
    """Frames [n, H, W, 3] side by side."""
    axes.imshow(strip(frames, gap))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(edge is not None)
        spine.set(color=edge or "white", linewidth=3)


def chosen_classes(labels: np.ndarray, seed: int) -> list[tuple[str, int]]:
    """Two largest, two smallest and two random classes (fewer where there are fewer), with the word for each."""
    classes, counts = np.unique(labels, return_counts=True)
    ordered = classes[np.argsort(-counts, kind="stable")].tolist()
    words = [("largest", label) for label in ordered[:2]] + [("smallest", label) for label in ordered[2:][-2:]]
    rest = ordered[2:-2]
    picked = np.random.default_rng(seed).permutation(rest)[:2].tolist() if rest else []
    return words + [("random", int(label)) for label in picked]


@drawn
def draw_exemplars(
    decoder: Decoder, h: np.ndarray, labels: np.ndarray, centroids: np.ndarray, seed: int, path: Path
) -> None:
    """Per class, the clips nearest to its centre, decoded: middle frames of many (``path``), of a few the course over
    time (``<name>_clips``), and playing (``playing.gif``)."""
    rows, playing, seconds = [], [], 0.0
    for word, label in chosen_classes(labels, seed):
        members = np.flatnonzero(labels == label)
        nearest = members[np.argsort(np.linalg.norm(h[members] - centroids[label], axis=1))][:KEYFRAMES]
        text, clips = f"{word}\nclass {label}\n{len(members)} clips", decoder.clips(nearest)
        rows.append((text, spread(clips, CLIP_FRAMES)))
        playing.append((text, played(clips[:PLAYING])))
        seconds = clips.shape[1] / decoder.shards.manifest.frame_rate
    middle = [(text, frames[:, CLIP_FRAMES // 2, None]) for text, frames in rows]
    _grid(middle, KEYFRAMES, "Classes by the clips nearest to their centre (middle frame; decoded latents)", path)
    title = "Classes over time: first to last frame of the clips nearest to their centre (decoded latents)"
    _grid(rows, CLIPS, title, path.with_name(f"{path.stem}_clips{path.suffix}"))
    write_playing(playing, seconds, path.with_name("playing.gif"))


@drawn
def draw_pages(decoder: Decoder, h: np.ndarray, labels: np.ndarray, centroids: np.ndarray, path: Path) -> None:
    """Every class, by the middle frames of the clips nearest to its centre: pages of :data:`PAGE` classes, ``path`` and
    ``<name>_002`` and so on. A class without a sample here has its number and no pictures."""
    for page, start in enumerate(range(0, len(centroids), PAGE), start=1):
        tiles = []
        for label in range(start, min(start + PAGE, len(centroids))):
            members = np.flatnonzero(labels == label)
            nearest = members[np.argsort(np.linalg.norm(h[members] - centroids[label], axis=1))][:TILES]
            frames = spread(decoder.clips(nearest), 3)[:, 1] if len(nearest) else np.zeros((0, 1, 1, 3))
            tiles.append((f"class {label} · {len(members)} clips", frames))
        place = path if page == 1 else path.with_name(f"{path.stem}_{page:03d}{path.suffix}")
        write_page(tiles, place)


def write_page(tiles: list[tuple[str, np.ndarray]], path: Path) -> None:
    """Tiles of frames [n, H, W, 3] in [0, 1] under their texts, in columns, as one picture."""
    side = max(frames.shape[1:3] for _, frames in tiles)[0]
    step = -(-side // TILE_SIDE)
    width, height = TILES * (TILE_SIDE + 2) + 10, TILE_SIDE + 24
    columns = min(PAGE_COLUMNS, len(tiles))
    canvas = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (text, frames) in enumerate(tiles):
        left, top = number % columns * width + 4, number // columns * height + 2
        draw.text((left, top), text, "black", ImageFont.load_default(12))
        for place, frame in enumerate(frames[:, ::step, ::step]):
            picture = Image.fromarray((255 * frame).round().astype(np.uint8))
            canvas.paste(picture, (left + place * (TILE_SIDE + 2), top + 16))
    path.parent.mkdir(parents=True, exist_ok=True)
    with stage.bookkeeping(f"the picture {path}"):
        canvas.quantize(256).save(path, optimize=True)


def played(clips: np.ndarray) -> np.ndarray:
    """Clips [N, T, H, W, 3] in [0, 1] as bytes, with few enough frames and pixels to play on a page."""
    few = spread(clips, min(PLAYED_FRAMES, clips.shape[1]))
    step = -(-max(few.shape[2:4]) // PLAYED_SIDE)
    return (255 * few[:, :, ::step, ::step]).round().astype(np.uint8)


def write_playing(rows: list[tuple[str, np.ndarray]], seconds: float, path: Path) -> None:
    """A moving picture: every row's text, and beside it its clips [n, T, H, W, 3], all playing at once and again."""
    count, height, width = rows[0][1].shape[1:4]
    line = max(height, 48) + GAP
    canvas = Image.new("RGB", (LABEL + PLAYING * (width + GAP), HEADING + len(rows) * line), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP), "The clips nearest to their class's centre, playing", "black", ImageFont.load_default(14))
    for number, (text, _) in enumerate(rows):
        draw.text((GAP, HEADING + number * line), text, "black", ImageFont.load_default(12))
    frames = []
    for time in range(count):
        frame = canvas.copy()
        for number, (_, clips) in enumerate(rows):
            for place, clip in enumerate(clips):
                at = LABEL + place * (width + GAP), HEADING + number * line
                frame.paste(Image.fromarray(clip[time]), at)
        frames.append(frame)
    colours = palette(frames[count // 2], COLOURS)
    first, *rest = (frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames)
    each = round(1000 * seconds / count)
    with stage.bookkeeping(f"the picture {path}"):
        first.save(path, save_all=True, append_images=rest, duration=each, loop=0, disposal=1)


def _grid(rows: list[tuple[str, np.ndarray]], columns: int, title: str, path: Path) -> None:
    """Frames [n, frames, H, W, 3] of each row beside one another, at most ``columns``; the row's text to the left."""
    count = rows[0][1].shape[1]
    figure = new_figure(figsize=(13, 0.5 + 11.4 / (columns * count) * len(rows)), layout="constrained")
    for axes, (text, clips) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        parts = [np.concatenate(list(frames), axis=1) for frames in clips[:columns]]
        parts += [np.ones_like(parts[0])] * (columns - len(parts))
        _show(axes, np.stack(parts), None, GAP)
        axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title)
    save(figure, path, 77)


@drawn
def draw_retrieval(
    decoder: Decoder,
    near: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    numbers: Mapping[str, Any],
    path: Path,
) -> None:
    """A few of the queries [Q] and their neighbours [Q, k]: green edge for the same class, orange for another."""
    queries, indices = near
    count = min(NEIGHBOURS, indices.shape[1])
    chosen = np.unique(np.linspace(0, len(queries) - 1, QUERIES).round().astype(int))
    figure = new_figure(figsize=(13, 0.75 + 1.13 * len(chosen)), layout="constrained")
    grid = figure.subplots(len(chosen), count + 1, squeeze=False)
    for row, place in zip(grid, chosen, strict=True):
        shown = np.concatenate([[queries[place]], indices[place, :count]])
        for axes, frames, sample in zip(row, decoder.frames(shown, 2), shown, strict=True):
            same = labels[sample] == labels[queries[place]]
            _show(axes, frames, "black" if sample == queries[place] else GREEN if same else ORANGE)
    for number, axes in enumerate(grid[0]):
        axes.set_title("query" if number == 0 else f"neighbour {number}", fontsize=10)
    top = next((f"top-{k} {numbers[f'top{k}']:.2f}" for k in (5, 1, 10) if f"top{k}" in numbers), "")
    words = f"same class: {top}, by chance {numbers['chance']:.2f}"
    figure.suptitle(f"Nearest neighbours (first and last frame; green: same class, orange: another) · {words}")
    save(figure, path, 77)
