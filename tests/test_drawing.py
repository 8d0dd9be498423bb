"""Figures: text is drawn as it is written, whatever it is."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from pipelines.drawing import PALETTE_PIXELS, _sample, logarithmic, new_figure, palette


def drawn(text: str) -> np.ndarray:
    """The pixels of a figure with the text as title, label, tick, legend and free text."""
    figure = new_figure(figsize=(4, 3), dpi=50)
    axes = figure.subplots()
    axes.plot([0, 1], [1, 2], label=f"a {text}")
    axes.set_xticks([0, 1], [text, "x"])
    axes.set_title(text)
    axes.set_ylabel(text)
    axes.text(0.5, 1.5, text)
    axes.legend()
    figure.suptitle(text)
    figure.savefig(buffer := io.BytesIO(), format="png")
    return np.asarray(Image.open(buffer).convert("L"))


@pytest.mark.parametrize(
    "text", ['a sign reading "$$"', "a $^_^$ face", "a$$.mp4", "$\\frac$", "\\$5 and $6_", "\u732b $x"]
)
def test_dollars_and_letters_without_a_glyph_end_nothing(text: str) -> None:
    assert drawn(text).min() < 128


@pytest.mark.costly
@settings(max_examples=15, deadline=None)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("$\\{}^_"), max_size=12))
def test_any_text_can_be_drawn(text: str) -> None:
    drawn(text)


def test_what_stands_between_dollars_is_drawn_as_text_and_not_as_a_formula() -> None:
    """The dollars are ink of their own."""
    assert (drawn("$a$") < 128).sum() > (drawn("a") < 128).sum()


def test_a_figure_with_a_layout_is_laid_out_once_and_looks_as_matplotlib_saves_it() -> None:
    def saved(kind: type[Figure]) -> bytes:
        figure = kind(figsize=(4, 3), layout="constrained")
        figure.suptitle("over all")
        for axes in figure.subplots(1, 2):
            axes.plot([0, 1], [1, 2000], label="a line")
            axes.set(title="a title", xlabel="along", ylabel="up")
            axes.legend()
        figure.savefig(buffer := io.BytesIO(), format="png", dpi=40)
        return buffer.getvalue()

    ours = type(new_figure())
    assert ours is not Figure and saved(ours) == saved(Figure)


def test_a_figure_with_a_layout_that_is_drawn_and_not_saved_shows_the_same() -> None:
    figure = new_figure(figsize=(4, 3), dpi=40, layout="constrained")
    figure.subplots().plot([0, 1], [1, 2000])
    figure.canvas.draw()
    shown = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=40)
    assert shown.min() < 128 and np.array_equal(shown, np.asarray(Image.open(buffer)))


@pytest.mark.parametrize("which", ["x", "y", "xy"])
def test_a_logarithmic_axis_has_numbers_as_one_writes_them_and_no_formulas(which: str) -> None:
    figure = new_figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.plot([0.02, 1, 200], [1e-5, 0.1, 2000])
    logarithmic(axes, which)
    figure.canvas.draw()
    texts = {"x": axes.get_xticklabels(), "y": axes.get_yticklabels()}
    for letter in which:
        labels = [label.get_text() for label in texts[letter]]
        assert "0.1" in labels and {"10", "100"} & set(labels)
        assert all(float(label) > 0 for label in labels if label)


def test_the_small_ticks_of_a_short_logarithmic_axis_have_plain_numbers_too() -> None:
    figure = new_figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.plot([0, 1], [0.15, 0.6])
    logarithmic(axes)
    figure.canvas.draw()
    labels = {label.get_text() for label in axes.get_yticklabels(minor=True)} - {""}
    assert labels and not any("e" in label for label in labels)


def apart(picture: Image.Image, count: int = 256) -> np.ndarray:
    """How far each pixel is from its colour in the palette."""
    return np.abs(np.asarray(picture, int) - np.asarray(palette(picture, count).convert("RGB"), int)).max(-1)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_a_picture_of_few_colours_keeps_each_of_them(seed: int, colours: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, 256, (colours, 3), dtype=np.uint8)
    assert apart(Image.fromarray(chosen[rng.integers(0, colours, (40, 50))])).max() == 0


def test_a_picture_of_very_many_colours_gets_those_of_some_of_its_pixels_and_what_is_plain_stays_plain() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).resize(
        (600, 400), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(noise).copy()
    pixels[:100], pixels[20:40, 100:300] = 255, 0
    picture = Image.fromarray(pixels)
    assert len(picture.getcolors(1 << 24) or []) > 100_000
    assert np.prod(_sample(picture).size) <= PALETTE_PIXELS
    far = apart(picture)
    assert far[:100].max() == 0 and far[100:].mean() < 20
