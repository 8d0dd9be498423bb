"""Interpolation keeps what is given and never leaves the range; corruption leaves what is given for certain alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipelines.flow import corruption, interpolation, warp
from pipelines.stage import StageError

HOW = warp.Matching(patch=2, temperature=0.05, dustbin=-2.0, radius=3, iterations=50)


def mask_of(*places: int, total: int = 9, batch: int = 2) -> Tensor:
    mask = torch.zeros(batch, total, dtype=torch.bool)
    mask[:, list(places)] = True
    return mask


def clip_of(seed: int = 0, frames: int = 9) -> Tensor:
    return torch.randn(2, frames, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fill(clip: Tensor, mask: Tensor, mode: str) -> Tensor:
    return warp.transported(clip, mask, HOW) if mode == "transport" else interpolation.interpolate(clip, mask, mode)


ALL = [*interpolation.MODES, "transport"]


@pytest.mark.parametrize("mode", ALL)
def test_given_frames_are_kept_and_nothing_else_is_looked_at(mode: str) -> None:
    clip, mask = clip_of(), mask_of(0, 3, 8)
    found = fill(clip, mask, mode)
    assert torch.equal(found[mask], clip[mask])
    other = torch.where(mask[:, :, None, None, None], clip, 100.0)
    torch.testing.assert_close(fill(other, mask, mode), found)


@pytest.mark.parametrize("mode", ALL)
def test_a_still_clip_stays_as_it_is(mode: str) -> None:
    clip = clip_of()[:, :1].expand(-1, 9, -1, -1, -1).contiguous()
    torch.testing.assert_close(fill(clip, mask_of(0, 3, 8), mode), clip, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("mode", ALL)
def test_before_the_first_and_after_the_last_keyframe_the_nearest_is_held(mode: str) -> None:
    clip, mask = clip_of(), mask_of(2, 6)
    found = fill(clip, mask, mode)
    if mode == "smooth":  # the frame beside a keyframe hears of the other side
        torch.testing.assert_close(found[:, 0], clip[:, 2])
        torch.testing.assert_close(found[:, 8], clip[:, 6])
        return
    torch.testing.assert_close(found[:, :2], clip[:, 2:3].expand(-1, 2, -1, -1, -1))
    torch.testing.assert_close(found[:, 7:], clip[:, 6:7].expand(-1, 2, -1, -1, -1))


def test_lines_are_lines_and_smoothing_keeps_them() -> None:
    slope = torch.linspace(0, 1, 9, dtype=torch.float64)[None, :, None].expand(2, 9, 5)
    for mode in ("linear", "smooth"):
        torch.testing.assert_close(interpolation.interpolate(slope, mask_of(0, 8), mode), slope)


def test_great_circles_keep_the_length_that_lines_lose() -> None:
    clip = torch.zeros(1, 3, 2)
    clip[0, 0], clip[0, 2] = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    half = interpolation.slerp(clip, mask_of(0, 2, total=3, batch=1))[0, 1]
    torch.testing.assert_close(half, torch.full((2,), math.sqrt(2.0)))
    assert interpolation.linear(clip, mask_of(0, 2, total=3, batch=1))[0, 1].norm() < 1.5


def test_what_cannot_be_filled_is_told() -> None:
    with pytest.raises(StageError, match="interpolation 'cubic': known are linear, smooth, slerp"):
        interpolation.interpolate(clip_of(), mask_of(0), "cubic")
    with pytest.raises(StageError, match="a clip has no keyframe at all"):
        interpolation.linear(clip_of(), mask_of())


def test_errors_count_missing_frames_apart() -> None:
    clip, mask = clip_of(), mask_of(0, 8)
    found = torch.where(mask[:, :, None, None, None], clip, clip + 2.0)
    numbers = interpolation.errors(found, clip, mask)
    assert numbers["interp/mse_missing"].item() == pytest.approx(4.0)
    assert numbers["interp/mse_all"].item() == pytest.approx(4.0 * 7 / 9)
    assert "interp/mse_missing" not in interpolation.errors(clip, clip, mask_of(*range(9)))


# ---- patches ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 500), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_harmonic_fill_lies_between_what_is_given(seed: int, diagonal: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.rand(2, 42, 3, generator=draw, dtype=torch.float64) + 1.0
    mask = torch.rand(2, 42, generator=draw) < 0.3
    mask[:, 0] = True
    found = interpolation.harmonic(tokens, mask, (6, 7), diagonal, 0.2, 1.0, 1e-4)
    known = mask[:, :, None].expand_as(tokens)
    high = tokens.masked_fill(~known, -torch.inf).amax(1, keepdim=True)
    assert torch.equal(found[mask], tokens[mask])
    assert (found <= high + 1e-9).all() and (found > 0).all()
    exact = interpolation.harmonic(tokens, mask, (6, 7), diagonal, 0.2, 1.0, 1e-12)
    low = tokens.masked_fill(~known, torch.inf).amin(1, keepdim=True)
    assert (exact >= low - 1e-6).all()


def test_a_harmonic_fill_of_a_plane_is_the_plane_and_an_edge_stays_sharp() -> None:
    rows = torch.arange(6, dtype=torch.float64)[:, None].expand(6, 7)
    step = (rows > 2).double()
    border = torch.ones(6, 7, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    plane = (rows / 5).reshape(1, 42, 1)
    mask = border.reshape(1, 42)
    found = interpolation.harmonic(plane, mask, (6, 7), False, 1e3, 1.0, 1e-9)
    torch.testing.assert_close(found, plane, atol=1e-5, rtol=1e-5)
    edge = step.reshape(1, 42, 1)
    aware, blind = (interpolation.harmonic(edge, mask, (6, 7), False, width, 1.0, 1e-9) for width in (0.1, 1e3))
    assert (aware - edge).abs().mean() < (blind - edge).abs().mean()


# ---- transport ----------------------------------------------------------------------------------------------------


def textured(shift: int, side: int = 16) -> Tensor:
    """A frame of noise moved by so many pixels to the right (the border wraps)."""
    frame = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(1))
    return frame.roll(shift, 3)


def test_a_plan_has_the_marginals_that_were_prescribed() -> None:
    logits = torch.randn(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    for dust in (-2.0, 10.0):
        logits[-1, :], logits[:, -1] = dust, dust
        found = warp.plan(logits, 500)
        expected = torch.tensor([1.0] * 6 + [6.0], dtype=torch.float64)
        torch.testing.assert_close(found.sum(0), expected)
        torch.testing.assert_close(found.sum(1), expected)
    assert found[:-1, :-1].sum() < 0.05 * 6, "an attractive dustbin takes what it is offered"


def test_equal_frames_do_not_move() -> None:
    frame = textured(0)
    motion, sure = warp.flow(frame, frame, HOW)
    assert motion.abs().max() < 1e-5 and sure.min() > 0.9


def test_a_shifted_frame_moves_by_its_shift() -> None:
    motion, _ = warp.flow(textured(0), textured(4), HOW)
    inside = motion[:, :, :, 2:10]
    assert inside[:, 0].mean().item() == pytest.approx(4.0, abs=0.3)
    assert inside[:, 1].abs().mean() < 0.3


def test_unrelated_frames_are_not_believed() -> None:
    other = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(9))
    eager = warp.Matching(patch=2, temperature=0.05, dustbin=10.0, radius=3, iterations=50)
    assert warp.flow(textured(0), other, eager)[1].mean() < 0.2


def test_phase_correlation_finds_the_roll() -> None:
    one = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(0))
    other = torch.stack([one[0].roll((2, -3), (0, 1)), one[1].roll((-1, 4), (0, 1))])
    assert warp.phase_shift(one, other).tolist() == [[3, -2], [-4, 1]]


def test_half_way_between_two_shifts_is_half_the_shift() -> None:
    """Where straight lines show two faint copies."""
    clip = torch.stack([textured(0)[0], textured(2)[0], textured(4)[0]])[None]
    mask = mask_of(0, 2, total=3, batch=1)
    moved, mixed = warp.transported(clip, mask, HOW)[0, 1], interpolation.linear(clip, mask)[0, 1]
    inside = (slice(None), slice(None), slice(4, 12))
    error = [(found[inside] - clip[0, 1][inside]).square().mean() for found in (moved, mixed)]
    assert error[0] < 0.35 * error[1]


# ---- corruption ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "gauss", "dist"])
def test_given_frames_are_never_perturbed(kind: str) -> None:
    clip, mask = clip_of(), mask_of(0, 4, 8)
    certain = mask_of(0, 8)
    noise = torch.ones_like(clip)
    found = corruption.noised(clip, mask, noise, 0.1, kind, certain)  # type: ignore[arg-type]
    assert torch.equal(found[certain], clip[certain])
    change = (found - clip).flatten(2).mean(2)[0]
    expected = {"none": [0, 0, 0], "gauss": [0.1, 0.1, 0.025], "dist": [0.05, 0.1, 0.0]}[kind]
    assert [round(change[at].item(), 6) for at in (1, 2, 4)] == expected
    with pytest.raises(ValueError, match="known are none, gauss and dist"):
        corruption.noised(clip, mask, noise, 0.1, "other", certain)  # type: ignore[arg-type]


def test_replaced_keyframes_are_known_to_be() -> None:
    clip, other, mask, certain = clip_of(), clip_of(1), mask_of(0, 4, 8), mask_of(0, 8)
    found, which = corruption.replaced(clip, other, mask, torch.ones_like(mask), certain)
    assert torch.equal(which, mask_of(4)) and torch.equal(found[:, 4], other[:, 4])
    sure = corruption.confidence(mask, which, certain)
    assert sure[0].tolist() == pytest.approx([1.0, 0, 0, 0, 0.5, 0, 0, 0, 1.0])
    for kind in ("linear", "cosine"):
        assert torch.equal(corruption.annealed(sure, torch.tensor([4, 4]), 4, kind), sure), "level L: as it is"
        assert (corruption.annealed(sure, torch.tensor([0, 0]), 4, kind) == 1).all(), "level 0: all are sure"
