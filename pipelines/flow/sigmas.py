"""Levels of noise: what training draws, and the descending lists that samplers walk. Always float32 or better.

The shift k moves levels towards noise: sigma -> k sigma / (1 + (k - 1) sigma); half of them lie above k / (1 + k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.flow.params import ByResolution, CosMap, Draw, LogitNormal, Mix, Mode, ShiftByResolution, Uniform


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """k sigma / (1 + (k - 1) sigma), written so that 0 and 1 stay exactly."""
    return shift * sigma / ((1.0 - sigma) + shift * sigma)


def unshifted(sigma: Tensor, shift: float) -> Tensor:
    """Inverse of :func:`shifted`."""
    return shifted(sigma, 1.0 / shift)


# ---- training -----------------------------------------------------------------------------------------------------


def stratified(count: int, device: torch.device | None = None) -> Tensor:
    """``count`` uniform numbers in [0, 1), one in each of ``count`` equal parts, in random order.

    Each is uniform; together they cover the range, so a batch's loss varies less (arXiv:2107.00630, I.1).
    """
    return (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count


def resolution_mean(draw: ByResolution, tokens: int) -> float:
    """The logit-normal's mean at this number of tokens: a straight line through the two points, not clamped."""
    slope = (draw.many_mean - draw.few_mean) / (draw.many_tokens - draw.few_tokens)
    return draw.few_mean + slope * (tokens - draw.few_tokens)


def quantile(draw: Draw, unit: Tensor, tokens: int) -> Tensor:
    """Maps uniform ``unit`` to drawn sigma: the level below which that share lies (mode and cosmap run downwards)."""
    match draw:
        case Uniform():
            return shifted(unit, draw.shift)
        case ShiftByResolution():
            return shifted(unit, math.sqrt(tokens / draw.base_tokens))
        case LogitNormal():
            return shifted(torch.sigmoid(draw.mean + draw.std * torch.special.ndtri(unit)), draw.shift)
        case ByResolution():
            return torch.sigmoid(resolution_mean(draw, tokens) + draw.std * torch.special.ndtri(unit))
        case Mode():
            return 1.0 - unit - draw.scale * (torch.cos(0.5 * math.pi * unit).square() - 1.0 + unit)
        case CosMap():
            return 1.0 - 1.0 / (torch.tan(0.5 * math.pi * unit) + 1.0)
        case Mix():
            low = draw.border * unit / draw.low_share
            high = draw.border + (1.0 - draw.border) * (unit - draw.low_share) / (1.0 - draw.low_share)
            return torch.where(unit < draw.low_share, low, high)


def importance(draw: Draw, sigma: Tensor) -> Tensor:
    """Weight of a draw at ``sigma``: 1, except for a mix, whose weights make its mean that of the uniform draw."""
    if not isinstance(draw, Mix):
        return torch.ones_like(sigma)
    below, above = draw.border / draw.low_share, (1.0 - draw.border) / (1.0 - draw.low_share)
    return torch.where(sigma <= draw.border, below, above)


def drawn(
    draw: Draw, count: int, tokens: int, device: torch.device | None = None, within: tuple[float, float] = (0.0, 1.0)
) -> tuple[Tensor, Tensor]:
    """Sigma [count, 1] and importance weight [count] of one batch, from torch's generator.

    ``within`` maps [0, 1] onto a stage's range; its upper end is reached, its lower end is not quite.
    """
    unit = 1.0 - stratified(count, device).clamp_max(1.0 - 1e-6)
    level = quantile(draw, unit, tokens).clamp(0.0, 1.0)
    low, high = within
    return (low + (high - low) * level)[:, None], importance(draw, level)


# ---- sampling -----------------------------------------------------------------------------------------------------


def table(steps: int, shift: float, strength: float = 1.0, sigma_min: float = 0.0) -> Tensor:
    """``steps`` levels and a final 0: [steps + 1], evenly spaced before the shift.

    ``strength`` below 1 starts from partly noised latents; ``sigma_min`` is where the unshifted list would end. This
    is the published schedule of Wan and Matrix-Game (seed E). diffusers' FlowMatchEulerDiscreteScheduler shifts its
    own list twice at inference, so it must be given this one explicitly.
    """
    start = sigma_min + (1.0 - sigma_min) * strength
    even = torch.linspace(start, sigma_min, steps + 1, dtype=torch.float64)[:-1]
    return torch.cat([shifted(even, shift), torch.zeros(1, dtype=torch.float64)]).float()


def between(start: float, end: float, steps: int, shift: float) -> Tensor:
    """[steps + 1] from ``start`` to ``end``, both exact: the list of one phase of a path."""
    levels = end + (start - end) * shifted(torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64), shift)
    levels = levels.float()
    levels[0], levels[-1] = start, end
    return levels


def karras(steps: int, rho: float = 7.0, sigma_min: float = 0.002) -> Tensor:
    """[steps + 1] evenly spaced in s^(1/rho), s = sigma / (1 - sigma) being EDM's level (arXiv:2206.00364, Eq. 5).

    EDM's largest s is taken as 1 / sigma_min; the first level is set to 1 and the last to 0.
    """
    high, low = (1.0 / sigma_min) ** (1.0 / rho), sigma_min ** (1.0 / rho)
    spread = torch.linspace(high, low, steps, dtype=torch.float64) ** rho
    levels = spread / (1.0 + spread)
    levels[0] = 1.0
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)]).float()


def few_steps(timesteps: Sequence[int], shift: float) -> Tensor:
    """A distilled generator's list, e.g. (1000, 666, 333): indices of the 1000-step table, shifted, and a final 0."""
    indices = torch.tensor(timesteps, dtype=torch.float64) / 1000.0
    return torch.cat([shifted(indices, shift), torch.zeros(1, dtype=torch.float64)]).float()


def bell_weight(sigmas: Tensor) -> Tensor:
    """Published training weight of each level of a table [N]: exp(-2 (sigma - 1/2)^2) minus its minimum, mean 1."""
    bell = torch.exp(-2.0 * (sigmas - 0.5).square())
    raised = bell - bell.min()
    return raised / raised.mean()
