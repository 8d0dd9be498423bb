"""Formulas of the losses of an autoencoder, of video [B, 3, F, H, W] in [-1, 1]; each gives a value per sample [B].

Where a formula couples the samples of a batch (statistics over all of them), the value stands for every sample: it is a
function of the micro-batch, and accumulation or several processes average over such parts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Distance = Literal["l1", "mse", "smooth_l1", "charbonnier"]
SMALLEST = 1e-8


def per_sample(values: Tensor) -> Tensor:
    """Mean over everything but the samples."""
    return values.flatten(1).mean(dim=1)


def distance(predicted: Tensor, target: Tensor, kind: Distance, softness: float) -> Tensor:
    """Per element. ``softness``: beta of smooth L1, epsilon of Charbonnier's sqrt(d^2 + epsilon^2); else unused."""
    difference = predicted - target
    match kind:
        case "l1":
            return difference.abs()
        case "mse":
            return difference.square()
        case "smooth_l1":
            return functional.smooth_l1_loss(predicted, target, beta=softness, reduction="none")
        case "charbonnier":
            return (difference.square() + softness**2).sqrt()


def low_pass(video: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels; what lies outside the picture counts as 0."""
    frames = video.transpose(1, 2).flatten(0, 1)
    smooth = functional.avg_pool2d(frames, 3, stride=1, padding=1)
    return smooth.unflatten(0, (len(video), -1)).transpose(1, 2)


def frequency(predicted: Tensor, target: Tensor, high: float) -> Tensor:
    """L1 of what :func:`low_pass` keeps, plus ``high`` times L1 of the rest."""
    low, aim = low_pass(predicted), low_pass(target)
    return per_sample((low - aim).abs()) + high * per_sample(((predicted - low) - (target - aim)).abs())


def temporal(predicted: Tensor, target: Tensor) -> Tensor:
    """L1 between the differences from frame to frame: what flickers in one and not in the other."""
    return per_sample((predicted.diff(dim=2) - target.diff(dim=2)).abs())


# ---- of distributions of colours ----------------------------------------------------------------------------------


def color_statistics(predicted: Tensor, target: Tensor) -> Tensor:
    """Per channel over all samples, frames and places: squared difference of means plus that of deviations (n - 1)."""
    places = (0, 2, 3, 4)
    means = (predicted.mean(dim=places) - target.mean(dim=places)).square()
    spreads = (predicted.std(dim=places) - target.std(dim=places)).square()
    return (means + spreads).mean().expand(len(predicted))


def contrast(predicted: Tensor, target: Tensor) -> Tensor:
    """(sum over channels of (std_p / std_t - 1)^2 + mean over samples of (std_p - std_t)^2) / (channels + 1)."""
    places = (0, 2, 3, 4)
    ratio = predicted.std(dim=places) / (target.std(dim=places) + SMALLEST)
    channels = (ratio - 1.0).square().sum()
    samples = (predicted.flatten(1).std(dim=1) - target.flatten(1).std(dim=1)).square()
    return (channels + samples) / (predicted.shape[1] + 1)


def cumulative(values: Tensor, bins: int) -> Tensor:
    """Share of the values [C, N] below the upper edge of each of ``bins`` bins on [-1, 1]: [C, bins].

    A value counts as below an edge to the share by which a box of a bin's width around it is: a step would have no
    gradient. A box reaches over one edge at most, so each value is added in two places, whatever the number of bins.
    """
    where = (values + 1.0) * (bins / 2.0)  # in bins: edges are the whole numbers from 1 to bins
    edge = (where.detach().nan_to_num(0.0) + 0.5).floor().clamp(0, bins + 1)
    below = (edge - where + 0.5).clamp(0.0, 1.0)
    at = edge.long()
    added = values.new_zeros(len(values), bins + 3)
    added = added.scatter_add(1, at, below).scatter_add(1, at + 1, 1.0 - below)
    return added.cumsum(dim=1)[:, 1 : bins + 1] / values.shape[1]


def histogram(predicted: Tensor, target: Tensor, bins: int) -> Tensor:
    """Mean absolute difference of the cumulative histograms on [-1, 1] of each channel, over everything else."""
    found, aim = (cumulative(one.transpose(0, 1).flatten(1), bins) for one in (predicted, target))
    return (found - aim).abs().mean().expand(len(predicted))


# ---- of the posterior -----------------------------------------------------------------------------------------------


def kl(mean: Tensor, logvar: Tensor, free_bits: float, per_dimension: bool) -> Tensor:
    """KL divergence from N(0, 1): per element max(-(1 + logvar - mean^2 - exp(logvar)) / 2, free_bits).

    Per sample the mean over dimensions (the same at every resolution), or their sum, which is as many times larger.
    """
    element = -0.5 * (1.0 + logvar - mean.square() - logvar.exp())
    kept = element.clamp_min(free_bits).flatten(1)
    return kept.mean(dim=1) if per_dimension else kept.sum(dim=1)


def keep_prefix(codes: Tensor, share: float, least: int) -> Tensor:
    """Of a share of the samples [N, C, ...], only the first channels: how many is drawn from ``least`` to C.

    What is to survive such a loss goes into the first channels, so latents are ordered from coarse to fine.
    """
    channels = codes.shape[1]
    kept = torch.randint(least, channels + 1, (len(codes), 1), device=codes.device)
    whole = torch.rand(len(codes), 1, device=codes.device) >= share
    mask = whole | (torch.arange(channels, device=codes.device) < kept)
    return codes * mask.view(*mask.shape, *[1] * (codes.dim() - 2))


def hide_places(codes: Tensor, share: float, ratio: float) -> Tensor:
    """Of a share of the samples [N, C, ...], a share ``ratio`` of the places (all their channels) is set to 0."""
    hidden = torch.rand(len(codes), 1, *codes.shape[2:], device=codes.device) < ratio
    chosen = torch.rand(len(codes), *[1] * (codes.dim() - 1), device=codes.device) < share
    return codes.masked_fill(hidden & chosen, 0.0)
