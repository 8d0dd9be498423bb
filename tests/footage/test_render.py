"""The renderer: what the factors and actions say is what the pixels show."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.footage.factors import BLOCK, FACTORS, Factors, caption, draw
from pipelines.footage.render import COLORS, DISTANCE, KEYS, SCALE, Scene, actions, background, render, scene

PLAIN = Factors("circle", "red", "plain", "small", "right", "fast", "none", "none", "gradient", "dark")


def still(factors: Factors = PLAIN, size: tuple[int, int] = (64, 64)) -> Scene:
    """A scene without jitter."""
    return Scene(factors, 17, *size, offset=(0.0, 0.0), angle=0.0, phase=(0.0, 0.0))


def sprite(drawn: Scene) -> np.ndarray:
    """Where the picture is not the background: bool [T, H, W]."""
    return np.abs(render(drawn).astype(float) - background(drawn)).max(-1) > 12


def centres(mask: np.ndarray) -> np.ndarray:
    """Centre of mass per frame: [T, 2] as x, y in pixels."""
    return np.array([[columns.mean(), rows.mean()] for rows, columns in map(np.nonzero, mask)])


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    assert scene(PLAIN, (3,), 5, 17, (64, 64)) == scene(PLAIN, (3,), 5, 17, (64, 64))
    assert scene(PLAIN, (3,), 5, 17, (64, 64)) != scene(PLAIN, (4,), 5, 17, (64, 64))
    assert (render(scene(PLAIN, (3,), 5, 5, (64, 64))) == render(scene(PLAIN, (3,), 5, 5, (64, 64)))).all()


def test_every_factor_is_balanced_over_every_block() -> None:
    for block in range(4):
        drawn = [draw((0,), block * BLOCK + place) for place in range(BLOCK)]
        for name, values in FACTORS.items():
            counts = [sum(getattr(one, name) == value for one in drawn) for value in values]
            assert counts == [BLOCK // len(values)] * len(values), name


def test_factors_are_independent_up_to_chance() -> None:
    drawn = [draw((0,), index) for index in range(1200)]
    joint = np.array(
        [[sum(d.shape == s and d.color == c for d in drawn) for c in FACTORS["color"]] for s in FACTORS["shape"]]
    )
    assert abs(joint - 50).max() < 25


@pytest.mark.parametrize("direction", FACTORS["direction"])
@pytest.mark.parametrize("speed", FACTORS["speed"])
def test_the_sprite_moves_as_its_caption_says_and_stays_in_view(direction: str, speed: str) -> None:
    mask = sprite(still(replace(PLAIN, direction=direction, speed=speed, size="large", scaling="growing")))
    path = centres(mask)
    travelled = (path[-1] - path[0]) / 64
    assert travelled == pytest.approx(np.array(KEYS[direction][1]) * DISTANCE[speed], abs=0.02)
    start = (path[0] - 31.5) @ np.array(KEYS[direction][1])
    assert start < -8  # it starts on the side that it moves away from
    areas = mask.reshape(17, -1).sum(1)
    assert areas[-1] / areas[0] == pytest.approx((SCALE["growing"][1] / SCALE["growing"][0]) ** 2, rel=0.15)


@pytest.mark.parametrize("shape", FACTORS["shape"])
def test_a_spin_is_visible_on_every_shape(shape: str) -> None:
    drawn = still(replace(PLAIN, shape=shape, speed="slow", spin="spinning"))
    still_twin = still(replace(PLAIN, shape=shape, speed="slow"))
    assert (render(drawn)[0] == render(still_twin)[0]).all()
    changed = np.abs(render(drawn)[8].astype(int) - render(still_twin)[8]).max(-1) > 60
    assert changed.sum() > 12


@pytest.mark.parametrize("color", FACTORS["color"])
def test_the_color_fills_the_sprite(color: str) -> None:
    pixels = render(still(replace(PLAIN, color=color)))
    alike = np.abs(pixels.astype(int) - np.array(COLORS[color])).max(-1) < 8
    assert (alike.reshape(17, -1).sum(1) > 90).all()


def test_a_texture_changes_half_of_the_sprite() -> None:
    striped, plain = (render(still(replace(PLAIN, size="large", texture=name))) for name in ("striped", "plain"))
    changed = np.abs(striped.astype(int) - plain).max(-1)[0] > 60
    assert 0.25 < changed.sum() / sprite(still(replace(PLAIN, size="large")))[0].sum() < 0.6


def test_actions_are_the_keys_and_the_mouse_that_move_the_sprite() -> None:
    held = actions(still(replace(PLAIN, direction="up", spin="spinning", scaling="shrinking")))
    assert held.shape == (17, 6) and held.dtype == np.float32
    assert (held == np.array([1, 0, 0, 0, 1, -1])).all()
    assert (actions(still())[:, :4] == np.array([0, 0, 0, 1])).all()


def test_a_clip_looks_the_same_at_another_size() -> None:
    small, large = render(still()), render(still(size=(128, 128)))
    shrunk = large.reshape(17, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(shrunk - small).mean() < 2


def test_a_wide_frame_keeps_the_sprite_in_its_middle() -> None:
    for size in ((64, 96), (96, 64)):
        path = centres(sprite(still(replace(PLAIN, speed="slow"), size)))
        assert path[0][1] == pytest.approx(size[0] / 2 - 0.5, abs=1.5)


def test_captions_name_what_can_be_seen() -> None:
    full = Factors("square", "red", "striped", "large", "right", "slow", "spinning", "growing", "checker", "dark")
    assert caption(PLAIN) == "a small red circle moves right quickly over a dark gradient background"
    assert caption(full) == (
        "a large striped red square moves right slowly while spinning and growing over a dark checker background"
    )
    drawn = [draw((0,), index) for index in range(240)]
    assert len({caption(one) for one in drawn}) == len(set(drawn))
