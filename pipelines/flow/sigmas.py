"""Levels of noise: what training draws, and the descending lists that samplers walk. Always float32 or better.

The shift k moves levels towards noise: sigma -> k sigma / (1 + (k - 1) sigma); half of them lie above k / (1 + k).
"""

from __future__ import annotations

import math

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


def table(steps: int, shift: float) -> Tensor:
    """[steps + 1] levels from 1 to 0, both exact, evenly spaced before the shift.

    This is the published schedule of Wan and Matrix-Game (seed E). diffusers' FlowMatchEulerDiscreteScheduler shifts
    its own list twice at inference, so it must be given this one explicitly.
    """
    even = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    return shifted(even, shift).float()
