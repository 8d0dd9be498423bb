"""The path through the anchor: exact derivative, exact junction, an orthogonal split."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.flow import anchored, path
from pipelines.flow.params import Sampling
from pipelines.flow.sampling import Phase, frame_noise, seeded_noise, walk

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
    length = junction if level <= junction else 1.0 - junction
    torch.testing.assert_close(slope * length, anchored.velocity(latents, anchor, noise, sigma, junction))


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
    assert anchored.clock(sigma, 0.2).item() == pytest.approx(0.5)
    assert anchored.velocity(latents, anchor, noise, sigma, 0.2).flatten().tolist() == pytest.approx([8.0, 8.0])
    sigma = torch.tensor([[0.1]])
    assert anchored.noised(latents, anchor, noise, sigma, 0.2).flatten().tolist() == pytest.approx([1.5, 2.5])
    assert anchored.clock(sigma, 0.2).item() == pytest.approx(0.5)
    assert anchored.velocity(latents, anchor, noise, sigma, 0.2).flatten().tolist() == pytest.approx([1.0, -1.0])


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
    moving, shared = anchored.frame_variation(latents[:, :, :1].expand_as(latents))
    assert moving.tolist() == [0.0, 0.0]
    assert (shared > 0).all()


# ---- noise of each frame's own at the junction --------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(0.001, 0.999), st.floats(0.0, 2.0), st.integers(0, 50))
def test_velocity_is_the_derivative_with_noise_of_the_frames_own(level, tau, seed):
    latents, noise, anchor = ingredients(seed)
    start = anchored.start_of_motion(anchor, tau, torch.randn_like(latents))
    sigma = torch.full((2, 1), level, dtype=torch.float64)
    _, slope = torch.autograd.functional.jvp(
        lambda s: anchored.noised(latents, anchor, noise, s, JUNCTION, start), (sigma,), (torch.ones_like(sigma),)
    )
    length = JUNCTION if level <= JUNCTION else 1.0 - JUNCTION
    torch.testing.assert_close(slope * length, anchored.velocity(latents, anchor, noise, sigma, JUNCTION, start))


def test_the_junction_belongs_to_the_motion_phase():
    latents, noise, anchor = ingredients()
    start = anchored.start_of_motion(anchor, 0.5, torch.randn_like(latents))
    at = torch.full((2, 1), JUNCTION, dtype=torch.float64)
    torch.testing.assert_close(anchored.noised(latents, anchor, noise, at, JUNCTION, start), start)
    assert torch.equal(anchored.velocity(latents, anchor, noise, at, JUNCTION, start), start - latents)


CLIPS = torch.tensor([[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]], dtype=torch.float64)[:, None, :, None, None]
"""Two clips with one mean and opposite motions, under one prompt."""


def exact_field(tau):
    """E[v | x, r] of the two clips in closed form: (x - E[x_0 | x]) / r, S = A + tau eps_f having A = 0."""

    def field(x, told, **_):
        r = float(told[0, 0])
        if tau == 0.0:  # off the path's one start point the clips are told apart by the sign of what is seen
            seen = (x[:, None] * CLIPS[None]).sum((2, 3, 4, 5))
            weight = torch.where(seen == 0, 0.0, 1e9) * seen.sign()
        else:
            apart = (x[:, None] - (1.0 - r) * CLIPS[None]).square().sum((2, 3, 4, 5))
            weight = -apart / (2.0 * (r * tau) ** 2)
        expected = (weight.softmax(1)[:, :, None, None, None, None] * CLIPS[None]).sum(1)
        return (x - expected) / told[:, :, None, None, None]

    return field


def sampled(tau, count=200):
    plan = Sampling(sampler="euler", steps=20, shift=1.0, guidance=None)
    phase = Phase(exact_field(tau), plan, JUNCTION, 0.0, frame_noise_std=tau)
    shape = (1, 3, 1, 1)
    still = torch.zeros(count, *shape, dtype=torch.float64)
    return walk([phase], still, {}, None, None, frame_noise(range(count), shape))


def test_two_opposite_motions_from_one_anchor_are_both_sampled():
    """By the field that a perfect network would learn: each half of the time, and nothing between."""
    found = sampled(0.5)
    rightwards = (found[:, 0, 2, 0, 0] - found[:, 0, 0, 0, 0]) / 2.0
    torch.testing.assert_close(rightwards.abs(), torch.ones_like(rightwards), atol=1e-3, rtol=0)
    assert 0.35 < (rightwards > 0).double().mean() < 0.65


def test_without_noise_of_the_frames_own_the_mean_of_both_motions_is_sampled():
    """The document's literal path: at the junction a squared loss asks for the mean, which stands still."""
    assert sampled(0.0).abs().max() == 0


def test_what_is_sampled_is_a_function_of_the_seed():
    torch.testing.assert_close(sampled(0.5)[7], sampled(0.5, 8)[7])
    one, other = frame_noise([3], (1, 3, 1, 1)), seeded_noise([3], (1, 3, 1, 1))
    assert not torch.allclose(one, other), "the noise of frames is another than what the clip starts from"


def test_a_formula_without_data_predicts_the_literal_path_and_gets_no_credit_for_it():
    latents, noise, anchor = ingredients()
    sigma = torch.full((2, 1), 0.1, dtype=torch.float64)
    x = anchored.noised(latents, anchor, noise, sigma, JUNCTION)
    _, moving = anchored.split_over_frames(anchored.velocity(latents, anchor, noise, sigma, JUNCTION))
    told = anchored.clock(sigma, JUNCTION)
    torch.testing.assert_close(anchored.given_away(x, told), moving)
    plan = Sampling(sampler="euler", steps=20, shift=1.0, guidance=None)
    phase = Phase(lambda y, r, **_: anchored.given_away(y, r), plan, JUNCTION, 0.0)
    made = walk([phase], anchor.expand_as(latents), {}, None)
    assert anchored.frame_variation(made)[0].max() < 1e-20, "its samples stand still"
    start = anchored.start_of_motion(anchor, 0.5, torch.randn_like(latents))
    x = anchored.noised(latents, anchor, noise, sigma, JUNCTION, start)
    _, moving = anchored.split_over_frames(anchored.velocity(latents, anchor, noise, sigma, JUNCTION, start))
    assert (anchored.given_away(x, told) - moving).square().mean() > 0.1 * moving.square().mean()


def test_noise_of_frames_must_be_given_where_it_is_added():
    phase = Phase(
        exact_field(0.5),
        Sampling(sampler="euler", steps=2, shift=1.0, guidance=None),
        JUNCTION,
        0.0,
        frame_noise_std=0.5,
    )
    with pytest.raises(ValueError, match="adds noise of each frame's own, and none was given"):
        walk([phase], torch.zeros(1, 1, 3, 1, 1, dtype=torch.float64), {}, None)


# ---- how networks are asked ---------------------------------------------------------------------------------------


def test_each_phase_has_a_clock_that_runs_from_one_to_zero():
    sigma = torch.tensor([[1.0], [0.6], [0.2], [0.1], [0.0]])
    assert anchored.clock(sigma, 0.2).flatten().tolist() == pytest.approx([1.0, 0.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("local", [[True, False, True], [True] * 3, [False] * 3])
def test_a_batch_of_both_phases_asks_for_one_frame_above_and_for_all_below(local):
    asked, latents = [], torch.randn(3, 2, 4, 2, 2)

    def network(x, told, tag):
        asked.append((x.shape[2], len(x)))
        return x * tag[:, None, None, None, None] + told[:, :, None, None, None]

    told, tag = torch.rand(3, 1), torch.tensor([1.0, 2.0, 3.0])
    found = anchored.in_both_phases(network, torch.tensor(local))(latents, told, tag=tag)
    assert [frames for frames, _ in asked] == [1, 4], "the same calls whatever was drawn: processes stay together"
    for row, moves in enumerate(local):
        seen = latents[row] if moves else latents[row, :, :1].expand(2, 4, 2, 2)
        torch.testing.assert_close(found[row], seen * tag[row] + told[row, 0])


def test_a_sample_that_only_fills_a_call_has_no_gradient():
    scale = torch.ones(2, requires_grad=True)

    def network(x, told):
        return x * scale[int(x.shape[2] == 1)]

    latents = torch.randn(3, 2, 4, 2, 2)
    anchored.in_both_phases(network, torch.tensor([True] * 3))(latents, torch.rand(3, 1)).sum().backward()
    assert scale.grad is not None and scale.grad[0] != 0 and scale.grad[1] == 0
