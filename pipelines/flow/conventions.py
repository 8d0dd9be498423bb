"""Other conventions of time and target, each with its inverse. Inside the project only :mod:`path` holds.

Every pair is a function to the other convention and one back; ``sigma`` broadcasts against ``x``.
"""

from __future__ import annotations

from torch import Tensor

from pipelines.flow.path import velocity

TIMESTEPS = 1000.0
"""What published Wan, LTX-Video and Matrix-Game weights are told: ``timestep = 1000 sigma``, in float32."""


def timestep(sigma: Tensor) -> Tensor:
    """1000 sigma in float32: in bfloat16 the thousand values collapse to 294."""
    return sigma.float() * TIMESTEPS


def sigma_of_timestep(timestep: Tensor) -> Tensor:
    """Inverse of :func:`timestep`."""
    return timestep.float() / TIMESTEPS


def to_data_time(sigma: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Seed B's guide: t = 1 is data and v = data - noise, so t = 1 - sigma and the ``slope`` v changes its sign."""
    return 1.0 - sigma, -slope


def from_data_time(time: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of :func:`to_data_time` (the map is its own inverse)."""
    return 1.0 - time, -slope


def to_variance_preserving(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """A diffusion model's point sqrt(a) x_0 + sqrt(1 - a) eps and its a (cumulative alpha), from ours.

    The two differ by a factor: x / sqrt((1 - sigma)^2 + sigma^2), with a = (1 - sigma)^2 / ((1 - sigma)^2 + sigma^2).
    """
    power = (1.0 - sigma).square() + sigma.square()
    return x / power.sqrt(), (1.0 - sigma).square() / power


def from_variance_preserving(x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of :func:`to_variance_preserving`: our point and sigma."""
    signal, spread = alpha.sqrt(), (1.0 - alpha).sqrt()
    return x / (signal + spread), spread / (signal + spread)


def to_variance_exploding(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """EDM's point x_0 + s eps and its s = sigma / (1 - sigma) (arXiv:2206.00364), for sigma < 1."""
    return x / (1.0 - sigma), sigma / (1.0 - sigma)


def from_variance_exploding(x: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of :func:`to_variance_exploding`."""
    return x / (1.0 + spread), spread / (1.0 + spread)


def velocity_of_noise(x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Velocity from a noise prediction: v = (eps - x) / (1 - sigma), for sigma < 1."""
    return (noise - x) / (1.0 - sigma)


def velocity_of_clean(x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """Velocity from a prediction of the clean latents: v = (x - x_0) / sigma, for sigma > 0."""
    return (x - clean) / sigma


def velocity_of_ddpm_v(x: Tensor, predicted: Tensor, sigma: Tensor) -> Tensor:
    """Our velocity from diffusion's v-prediction sqrt(a) eps - sqrt(1 - a) x_0 (arXiv:2202.00512; seed D).

    ``x`` is our point; the two velocities share the plane of (x_0, eps), hence a linear combination.
    """
    scaled, alpha = to_variance_preserving(x, sigma)
    signal, spread = alpha.sqrt(), (1.0 - alpha).sqrt()
    latents = signal * scaled - spread * predicted
    noise = spread * scaled + signal * predicted
    return velocity(latents, noise)
