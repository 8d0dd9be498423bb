"""The path through the anchor: exact derivative, exact junction, an orthogonal split."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.flow import anchored, path

JUNCTION = 0.2


def ingredients(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, 3, 4, 2, 2, generator=generator).double()
    return latents, torch.randn(2, 3, 1, 2, 2, generator=generator).double(), anchored.anchor(latents, 0.9, 0.0)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.001, 0.999), st.floats(0.05, 0.9), st.integers(0, 50))
def test_velocity_is_the_derivative_of_the_point_on_both_sides(level, junction, seed):
    latents, noise, anchor = ingredients(seed)
    sigma = torch.full((2, 1), level, dtype=torch.float64)
    _, slope = torch.autograd.functional.jvp(
        lambda s: anchored.noised(latents, anchor, noise, s, junction), (sigma,), (torch.ones_like(sigma),)
    )
    torch.testing.assert_close(slope, anchored.velocity(latents, anchor, noise, sigma, junction))


def test_the_path_meets_the_anchor_exactly_at_the_junction_from_both_sides():
    latents, noise, anchor = ingredients()
    at = torch.full((2, 1), JUNCTION, dtype=torch.float64)
    below = torch.nextafter(at, torch.zeros_like(at))
    assert torch.equal(anchored.noised(latents, anchor, noise, at, JUNCTION), anchor.expand_as(latents))
    torch.testing.assert_close(
        anchored.noised(latents, anchor, noise, below, JUNCTION), anchor.expand_as(latents), atol=1e-12, rtol=0
    )


def test_ends_are_latents_and_the_shared_noise():
    latents, noise, anchor = ingredients()
    zero = torch.zeros(2, 1, dtype=torch.float64)
    torch.testing.assert_close(anchored.noised(latents, anchor, noise, zero, JUNCTION), latents)
    torch.testing.assert_close(anchored.noised(latents, anchor, noise, zero + 1, JUNCTION), noise.expand_as(latents))


def test_hand_computed_points():
    latents = torch.tensor([1.0, 3.0]).reshape(1, 1, 2, 1, 1)
    anchor, noise = torch.full((1, 1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1, 1), 10.0)
    sigma = torch.tensor([[0.6]])
    assert anchored.noised(latents, anchor, noise, sigma, 0.2).flatten().tolist() == pytest.approx([6.0, 6.0])
    assert anchored.velocity(latents, anchor, noise, sigma, 0.2).flatten().tolist() == pytest.approx([10.0, 10.0])
    sigma = torch.tensor([[0.1]])
    assert anchored.noised(latents, anchor, noise, sigma, 0.2).flatten().tolist() == pytest.approx([1.5, 2.5])
    assert anchored.velocity(latents, anchor, noise, sigma, 0.2).flatten().tolist() == pytest.approx([5.0, -5.0])


def test_above_the_junction_all_frames_are_alike():
    latents, noise, anchor = ingredients()
    sigma = torch.full((2, 1), 0.5, dtype=torch.float64)
    x = anchored.noised(latents, anchor, noise, sigma, JUNCTION)
    assert torch.equal(x, x[:, :, :1].expand_as(x))


def test_anchor_weighs_first_frame_and_mean():
    latents, _, _ = ingredients()
    assert torch.equal(anchored.anchor(latents, 1.0, 0.0), latents[:, :, :1])
    torch.testing.assert_close(anchored.anchor(latents, 0.0, 0.0), latents.mean(2, keepdim=True))
    unit = torch.ones(2, 3, 1, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(
        anchored.anchor(latents, 0.5, 0.1, unit) - anchored.anchor(latents, 0.5, 0.0, unit), 0.1 * unit
    )


def test_the_split_is_orthogonal_and_adds_up():
    latents, _, _ = ingredients()
    shared, moving = anchored.split_over_frames(latents)
    torch.testing.assert_close(shared + moving, latents)
    torch.testing.assert_close(moving.mean(2), torch.zeros_like(moving.mean(2)))
    parts = path.per_sample(shared.square()) + path.per_sample(moving.square())
    torch.testing.assert_close(parts, path.per_sample(latents.square()))


def test_frame_variation_of_a_still_clip_is_zero():
    latents, _, _ = ingredients()
    moving, shared = anchored.frame_variation(anchored.still(latents))
    assert moving.tolist() == [0.0, 0.0]
    assert (shared > 0).all()
