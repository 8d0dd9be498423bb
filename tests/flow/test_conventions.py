"""Every conversion and its inverse, and what it means on the path."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.flow import conventions, path

LEVELS = st.floats(0.02, 0.98)


def on_path(level: float) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 2, 2, 3, 3, generator=generator).double()
    noise = torch.randn(1, 2, 2, 3, 3, generator=generator).double()
    sigma = torch.full((1, 1), level, dtype=torch.float64)
    return latents, noise, path.noised(latents, noise, sigma), torch.tensor(level, dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(LEVELS)
def test_pairs_are_inverses(level):
    _, _, x, sigma = on_path(level)
    level_again, again = conventions.from_data_time(*conventions.to_data_time(sigma, x))
    torch.testing.assert_close(level_again, sigma)
    torch.testing.assert_close(again, x)
    for forth, back in (
        (conventions.to_variance_preserving, conventions.from_variance_preserving),
        (conventions.to_variance_exploding, conventions.from_variance_exploding),
    ):
        again, level_again = back(*forth(x, sigma))
        torch.testing.assert_close(again, x)
        torch.testing.assert_close(level_again, sigma)


@settings(max_examples=20, deadline=None)
@given(LEVELS)
def test_other_predictions_give_the_velocity(level):
    latents, noise, x, sigma = on_path(level)
    velocity = path.velocity(latents, noise)
    torch.testing.assert_close(conventions.velocity_of_noise(x, noise, sigma), velocity)
    torch.testing.assert_close(conventions.velocity_of_clean(x, latents, sigma), velocity)
    _, alpha = conventions.to_variance_preserving(x, sigma)
    diffusion = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    torch.testing.assert_close(conventions.velocity_of_ddpm_v(x, diffusion, sigma), velocity)


def test_points_of_other_models_are_the_scaled_point():
    latents, noise, x, sigma = on_path(0.3)
    scaled, alpha = conventions.to_variance_preserving(x, sigma)
    torch.testing.assert_close(scaled, alpha.sqrt() * latents + (1 - alpha).sqrt() * noise)
    exploded, spread = conventions.to_variance_exploding(x, sigma)
    torch.testing.assert_close(exploded, latents + spread * noise)


def test_seed_b_runs_time_the_other_way():
    """Its path (1 - t) noise + t data has derivative data - noise at t = 1 - sigma."""
    latents, noise, x, sigma = on_path(0.3)
    time, velocity = conventions.to_data_time(sigma, path.velocity(latents, noise))
    torch.testing.assert_close((1 - time) * noise + time * latents, x)
    torch.testing.assert_close(velocity, latents - noise)


def test_timesteps_stay_float32():
    sigma = torch.linspace(0, 1, 1000)
    assert conventions.timestep(sigma.bfloat16()).dtype == torch.float32
    assert len(conventions.timestep(sigma).unique()) == 1000
    assert torch.equal(conventions.sigma_of_timestep(conventions.timestep(torch.tensor([0.25]))), torch.tensor([0.25]))
