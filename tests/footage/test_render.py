"""The renderer: what the factors and actions say is what the pixels show."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipelines.footage.factors import BLOCK, FACTORS, IDENTITY, MOTION, STEERED, Factors, caption, draw, draw_steered
from pipelines.footage.render import COLORS, DISTANCE, GROWTH, KEYS, Scene, actions, background, poses, render, scene

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
    mask = sprite(still(replace(PLAIN, direction=direction, speed=speed, size="small", scaling="growing")))
    path = centres(mask)
    travelled = (path[-1] - path[0]) / 64
    assert travelled == pytest.approx(np.array(KEYS[direction][1]) * DISTANCE[speed], abs=0.02)
    areas = mask.reshape(17, -1).sum(1)
    assert areas[-1] / areas[0] == pytest.approx((1 + GROWTH) ** 2, rel=0.15)


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


@pytest.mark.parametrize("index", range(4))
def test_the_first_frame_is_the_same_whatever_moves_next(index: int) -> None:
    """Exactly: nothing of it depends on the motion, so it tells nothing of it."""
    drawn = draw((0,), index)
    motions = [*product(*(FACTORS[name] for name in MOTION)), (STEERED,) * len(MOTION)]
    scenes = [scene(replace(drawn, **dict(zip(MOTION, one, strict=True))), (0,), index, 5, (32, 32)) for one in motions]
    firsts = {render(one)[0].tobytes() for one in scenes}
    assert len(motions) == 49 and len(firsts) == 1
    assert len({render(one)[-1].tobytes() for one in scenes}) == len(motions)


def test_a_probe_of_the_first_frame_scores_chance_and_of_the_whole_clip_does_not() -> None:
    """Ridge classifiers on grey pixels, and on where the sprite is, of 480 clips, tried on 240 others."""
    drawn = [draw((0,), index) for index in range(720)]
    paths = [poses(scene(one, (0,), index, 5, (32, 32))) for index, one in enumerate(drawn)]
    places = np.array([np.column_stack([*centre.T, angle, radius]) for centre, angle, radius in paths])
    grey = np.array(
        [render(scene(one, (0,), index, 1, (32, 32)))[0].mean(-1).ravel() for index, one in enumerate(drawn)]
    )
    for name in MOTION:
        values = np.array([FACTORS[name].index(getattr(one, name)) for one in drawn])
        chance, noise = 1 / len(FACTORS[name]), 3.5 * np.sqrt(1 / len(FACTORS[name]) / 240)
        for first in (grey, places[:, 0]):
            assert accuracy(first, values) < chance + noise, name
        changes = (places[:, -1] - places[:, 0]) / np.array([1, 1, 1, 0.1])
        assert accuracy(np.hstack([changes, changes**2]), values) > 0.9, name


def accuracy(features: np.ndarray, values: np.ndarray) -> float:
    """Of a ridge classifier fitted on the first 480, on the rest."""
    model = make_pipeline(StandardScaler(), RidgeClassifier(1.0)).fit(features[:480], values[:480])
    return float(model.score(features[480:], values[480:]))


def steered(index: int) -> Scene:
    return scene(draw_steered((0, 1), index), (0, 1), index, 17, (64, 64))


def test_steered_clips_have_two_to_four_stretches_of_keys_and_of_mouse() -> None:
    counts: set[tuple[int, int]] = set()
    for index in range(200):
        held = actions(steered(index))
        assert held.shape == (17, 6) and set(np.unique(held[:, :4])) <= {0.0, 1.0} and np.abs(held[:, 4:]).max() <= 1
        assert not (held[:, 0] * held[:, 2]).any() and not (held[:, 1] * held[:, 3]).any()  # no opposite keys
        keys, mouse = ((np.diff(part, axis=0) != 0).any(1).sum() + 1 for part in (held[:, :4], held[:, 4:]))
        counts.add((int(keys), int(mouse)))
    assert counts == {(keys, mouse) for keys in (2, 3, 4) for mouse in (2, 3, 4)}


def test_row_k_leads_from_frame_k_minus_1_to_frame_k() -> None:
    for index in range(20):
        drawn = steered(index)
        held, (centre, angle, radius) = actions(drawn), poses(drawn)
        ways = np.array([way for _, way in KEYS.values()])
        assert np.diff(centre, axis=0) * 16 == pytest.approx(DISTANCE[STEERED] * held[1:, :4] @ ways)
        for moved, column in ((angle, 4), (radius, 5)):
            steps = np.diff(moved)
            assert (np.sign(np.round(steps, 9)) == np.sign(held[1:, column])).all()
        cut = replace(drawn, steering=(*[(0.0,) * 6] * 6, *drawn.steering[6:]))  # type: ignore[index]
        assert (render(cut)[:6] == render(cut)[0]).all()


def test_actions_of_steered_clips_are_told_by_neither_caption_nor_first_frame() -> None:
    """The same sprite at the same place goes every way: a probe of all that a prompt or a frame shows scores chance."""
    drawn = [steered(index) for index in range(720)]
    keys = np.array([actions(one)[1:, :4].mean(0) @ np.array([0, 1, 2, 3]) for one in drawn])
    values = np.digitize(keys, np.quantile(keys, [0.25, 0.5, 0.75]))
    told = np.array(
        [
            [
                FACTORS[name].index(getattr(one.factors, name)) == k
                for name in (*IDENTITY, "background", "tone")
                for k in range(len(FACTORS[name]))
            ]
            for one in drawn
        ],
        float,
    )
    shown = np.array(
        [
            render(replace(one, num_frames=1, steering=one.steering and one.steering[:1]))[0].mean(-1).ravel()
            for one in drawn
        ]
    )
    for known in (told, shown):
        assert accuracy(known, values) < 0.25 + 3.5 * np.sqrt(0.25 * 0.75 / 240)
    assert all("is steered over" in caption(one.factors) for one in drawn)


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
