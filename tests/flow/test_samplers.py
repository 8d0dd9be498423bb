"""Samplers: exact where they must be, of the order they claim, equal to diffusers'."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from pipelines.flow import path, samplers, sigmas

SHAPE = (2, 3, 2, 4, 4)


def curved(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """dx/dsigma = sin x + sigma x: no closed form, smooth."""
    return torch.sin(x) + path.over_frames(sigma).to(x) * x


def start(seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).double()


def gaussian(x: torch.Tensor, sigma: torch.Tensor, spread: float = 0.5) -> torch.Tensor:
    """The exact velocity where the data are normal with this standard deviation."""
    level = path.over_frames(sigma).to(x)
    variance = ((1 - level) * spread) ** 2 + level**2
    return (level - (1 - level) * spread**2) / variance * x


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_straight_fields_are_walked_exactly_in_any_number_of_steps(name, steps):
    latents, noise = start(1), start(2)
    velocity = path.velocity(latents, noise)
    found = samplers.SAMPLERS[name](lambda x, sigma: velocity, noise, sigmas.table(steps, 3.0))
    torch.testing.assert_close(found, latents, atol=1e-5, rtol=1e-5)


def order(sampler, few: int, field=curved) -> float:
    levels = {n: torch.linspace(1, 0, n + 1, dtype=torch.float64) for n in (few, 2 * few, 4096)}
    exact = samplers.midpoint(field, start(), levels[4096])
    errors = [float((sampler(field, start(), levels[n]) - exact).abs().max()) for n in (few, 2 * few)]
    return math.log2(errors[0] / errors[1])


def test_orders_of_convergence():
    assert order(samplers.euler, 32) == pytest.approx(1.0, abs=0.1)
    assert order(samplers.heun, 32) == pytest.approx(2.0, abs=0.15)
    assert order(samplers.midpoint, 32) == pytest.approx(2.0, abs=0.15)


def test_dpm_2m_beats_euler_at_equal_cost_on_the_exact_gaussian_field():
    levels = sigmas.table(10, 1.0).double()
    exact = 0.5 * start()
    error = {
        name: float((samplers.SAMPLERS[name](gaussian, start(), levels) - exact).abs().max())
        for name in ("euler", "dpm_2m")
    }
    assert error["dpm_2m"] < 0.3 * error["euler"]


def test_heun_with_20_evaluations_is_better_than_euler_with_40():
    exact = samplers.heun(curved, start(), torch.linspace(1, 0, 4097, dtype=torch.float64))
    levels = [torch.linspace(1, 0, n + 1, dtype=torch.float64) for n in (10, 40)]
    heun = (samplers.heun(curved, start(), levels[0]) - exact).abs().max()
    euler = (samplers.euler(curved, start(), levels[1]) - exact).abs().max()
    assert heun < euler


def scheduled(scheduler, denoise, x: torch.Tensor) -> torch.Tensor:
    """Walk with a diffusers flow scheduler whose steps are already set."""
    for timestep in scheduler.timesteps:
        sigma = (timestep.float() / 1000.0).expand(len(x), 1)
        x = scheduler.step(denoise(x, sigma), timestep, x, return_dict=False)[0]
    return x


def explicit(scheduler, steps: int):
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1].tolist())
    return scheduler


def test_euler_equals_diffusers_given_explicit_sigmas():
    scheduler = explicit(FlowMatchEulerDiscreteScheduler(shift=5.0), 10)
    x = start().float()
    ours = samplers.euler(curved, x, sigmas.table(10, 5.0))
    torch.testing.assert_close(scheduled(scheduler, curved, x), ours, atol=1e-4, rtol=1e-4)


def test_heun_equals_diffusers_up_to_its_first_order_last_step():
    scheduler = FlowMatchHeunDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(10)
    levels = torch.unique(scheduler.sigmas).flip(0)
    x = start().float()
    ours = samplers.euler(curved, samplers.heun(curved, x, levels[:-1]), levels[-2:])
    torch.testing.assert_close(scheduled(scheduler, curved, x), ours, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # numpy 2 beside diffusers' own conversion
def test_dpm_2m_equals_diffusers():
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, lower_order_final=False
    )
    scheduler.set_timesteps(8)
    x = start().float()
    levels = iter(scheduler.sigmas)  # its timesteps are integers: give the field the level that it really uses

    def told(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return gaussian(x, next(levels).expand(len(x), 1))

    ours = samplers.dpm_2m(gaussian, x, scheduler.sigmas)
    torch.testing.assert_close(scheduled(scheduler, told, x), ours, atol=2e-4, rtol=2e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_unipc_runs_through_its_diffusers_scheduler():
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    scheduler.set_timesteps(20)
    x = start().float()
    error = (scheduled(scheduler, gaussian, x) - 0.5 * x).abs().max()
    assert error < (samplers.euler(gaussian, x, sigmas.table(20, 1.0)) - 0.5 * x).abs().max()
