"""Draws have the densities they claim; tables are the published ones."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.flow import sigmas
from pipelines.flow.params import ByResolution, CosMap, LogitNormal, Mix, Mode, ShiftByResolution, Uniform

LTX = ByResolution(name="by_resolution", std=1.0, few_tokens=1024, few_mean=0.95, many_tokens=4096, many_mean=2.05)
DRAWS = [
    Uniform(name="uniform", shift=1.0),
    Uniform(name="uniform", shift=5.0),
    LogitNormal(name="logit_normal", mean=0.0, std=1.0, shift=1.0),
    LTX,
    ShiftByResolution(name="shift_by_resolution", base_tokens=256),
    Mode(name="mode", scale=1.29),
    CosMap(name="cosmap"),
    Mix(name="mix", border=0.2, low_share=0.7),
]


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.floats(0.1, 20))
def test_shift_has_an_inverse_and_keeps_the_ends(level, shift):
    sigma = torch.tensor(level, dtype=torch.float64)
    torch.testing.assert_close(sigmas.unshifted(sigmas.shifted(sigma, shift), shift), sigma)
    assert sigmas.shifted(torch.tensor(0.0), shift) == 0
    assert sigmas.shifted(torch.tensor(1.0), shift) == 1


@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw.name)
def test_draws_stay_in_their_range_and_differ_from_every_other(draw):
    torch.manual_seed(0)
    sigma, weight = sigmas.drawn(draw, 4096, 80, within=(0.2, 0.6))
    assert sigma.shape == (4096, 1) and weight.shape == (4096,) and sigma.dtype == torch.float32
    assert sigma.min() >= 0.2 and sigma.max() <= 0.6
    assert (weight > 0).all()
    others = [sigmas.drawn(other, 4096, 80, within=(0.2, 0.6))[0] for other in DRAWS if other is not draw]
    assert all((sigma.sort(0)[0] - other.sort(0)[0]).abs().max() > 0.01 for other in others)


@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw.name)
def test_quantiles_are_monotone(draw):
    unit = torch.linspace(0.001, 0.999, 200)
    steps = sigmas.quantile(draw, unit, 80).diff()
    assert (steps > 0).all() or (steps < 0).all()


def test_known_moments():
    torch.manual_seed(0)
    uniform, _ = sigmas.drawn(DRAWS[0], 5000, 80)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    shifted, _ = sigmas.drawn(DRAWS[1], 5000, 80)
    assert float(shifted.median()) == pytest.approx(5 / 6, abs=0.01)
    normal, _ = sigmas.drawn(DRAWS[2], 5000, 80)
    assert float(torch.logit(normal).std()) == pytest.approx(1.0, abs=0.03)
    cosmap, _ = sigmas.drawn(DRAWS[6], 5000, 80)
    density = torch.histc(cosmap, 10, 0, 1) / 500
    middle = torch.linspace(0.05, 0.95, 10)
    torch.testing.assert_close(density, 2 / (math.pi * (1 - 2 * middle + 2 * middle**2)), atol=0.05, rtol=0.05)


def test_the_mix_draws_its_share_and_weighs_back_to_the_uniform_mean():
    torch.manual_seed(0)
    sigma, weight = sigmas.drawn(DRAWS[7], 10_000, 80)
    assert float((sigma < 0.2).float().mean()) == pytest.approx(0.7, abs=0.01)
    assert float((weight * sigma[:, 0]).mean()) == pytest.approx(0.5, abs=0.01)
    expected = [0.2 / 0.7, 0.2 / 0.7, 0.8 / 0.3]
    assert sigmas.importance(DRAWS[7], torch.tensor([0.1, 0.2, 0.9])).tolist() == pytest.approx(expected)


def test_resolution_mean_goes_through_its_points_and_beyond():
    assert sigmas.resolution_mean(LTX, 1024) == pytest.approx(0.95)
    assert sigmas.resolution_mean(LTX, 4096) == pytest.approx(2.05)
    assert sigmas.resolution_mean(LTX, 5120) == pytest.approx(2.05 + 1.1 / 3)


def test_stratified_numbers_cover_the_range():
    torch.manual_seed(1)
    unit = sigmas.stratified(50)
    assert sorted((unit * 50).long().tolist()) == list(range(50))


@pytest.mark.parametrize("steps", [10, 50, 100, 1000])
def test_table_equals_diffusers_given_explicit_sigmas(steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1].tolist())
    torch.testing.assert_close(sigmas.table(steps, 5.0), scheduler.sigmas, atol=1e-6, rtol=0)


def test_diffusers_default_table_shifts_twice():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(10)
    assert float((sigmas.table(10, 5.0) - scheduler.sigmas).abs().max()) > 0.3


def test_hand_computed_tables():
    assert sigmas.table(2, 5.0).tolist() == pytest.approx([1.0, 5 / 6, 0.0])
    for steps, shift in ((1, 3.0), (7, 3.0), (50, 0.5)):
        levels = sigmas.table(steps, shift)
        assert levels[0] == 1.0 and levels[-1] == 0.0 and (levels.diff() < 0).all() and len(levels) == steps + 1
