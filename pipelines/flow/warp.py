"""Missing frames by optical flow between keyframes, the flow from matching tokens by optimal transport (seed C, C.3).

Tokens are unit vectors of 2 x 2 latent pixels (or any patch). Two frames' tokens are matched by a Sinkhorn plan with a
dustbin, within a radius. Three faults of the log's version are mended: the plan's marginals are prescribed,
(1, …, 1, N) on both sides, so that a token without a partner really goes to the dustbin; cosines are divided by the
temperature alone, not by sqrt(D) too; and a frame's match with itself is taken off the flow, so that equal keyframes
give no motion. Positions are (x, y) in pixels of the map at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.flow.interpolation import kept, linear
from pipelines.flow.keyframes import neighbours


@dataclass(frozen=True)
class Matching:
    """How tokens are matched.

    Attributes:
        patch: latent pixels to a token's side.
        temperature: cosines are divided by it; lower is sharper.
        dustbin: logit of having no partner.
        radius: tokens within which a partner is looked for, after the whole frame's shift.
        iterations: of Sinkhorn's normalisation.
    """

    patch: int
    temperature: float
    dustbin: float
    radius: int
    iterations: int


# ---- matching -----------------------------------------------------------------------------------------------------


def plan(logits: Tensor, iterations: int) -> Tensor:
    """The transport plan [..., N + 1, N + 1] of logits whose last row and column are the dustbin's.

    Rows and columns sum to 1, those of the dustbin to N. Iterated in the logarithm.
    """
    count = logits.shape[-1] - 1
    target = torch.zeros(count + 1, dtype=logits.dtype, device=logits.device)
    target[-1] = math.log(count)
    rows, columns = torch.zeros_like(logits[..., :1]), torch.zeros_like(logits[..., :1, :])
    for _ in range(iterations):
        rows = target[:, None] - torch.logsumexp(logits + columns, -1, keepdim=True)
        columns = target[None, :] - torch.logsumexp(logits + rows, -2, keepdim=True)
    return (logits + rows + columns).exp()


def tokens(frames: Tensor, patch: int) -> Tensor:
    """Frames [B, C, H, W] as unit vectors [B, N, C patch^2], row by row."""
    cut = functional.unfold(frames, patch, stride=patch).mT
    return functional.normalize(cut, dim=2, eps=1e-6)


def places(rows: int, columns: int, like: Tensor) -> Tensor:
    """(x, y) of a grid's tokens, row by row: [N, 2]."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1).to(like)


def _match(one: Tensor, other: Tensor, grid: tuple[int, int], how: Matching, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Displacement [B, N, 2] in tokens from ``one`` to ``other``, and how sure it is [B, N].

    ``shift`` [B, 2]: where to look first.
    """
    at = places(*grid, one)
    offset = at[None, None] - at[None, :, None] - shift[:, None, None]
    logits = (one @ other.mT / how.temperature).masked_fill(offset.abs().amax(-1) > how.radius, -torch.inf)
    padded = functional.pad(logits, (0, 1, 0, 1), value=how.dustbin)
    found = plan(padded, how.iterations)
    matched = found[:, :-1, :-1]
    mass = matched.sum(2, keepdim=True)
    aim = (matched @ at) / mass.clamp(min=1e-6)
    return torch.where(mass > 1e-3, aim - at, shift[:, None, :]), mass[..., 0].clamp(max=1.0)


def phase_shift(one: Tensor, other: Tensor) -> Tensor:
    """(dx, dy) [B, 2]: the roll that brings ``other`` onto ``one``, maps [B, H, W]; by phase correlation."""
    height, width = one.shape[1:]
    spectra = [torch.fft.fft2(frame - frame.mean((1, 2), keepdim=True)) for frame in (one, other)]
    cross = spectra[0] * spectra[1].conj()
    peak = torch.fft.ifft2(cross / (cross.abs() + 1e-6)).real.flatten(1).argmax(1)
    y, x = peak // width, peak % width
    wrapped = [torch.where(at > size // 2, at - size, at) for at, size in ((x, width), (y, height))]
    return torch.stack(wrapped, 1).to(one)


def flow(one: Tensor, other: Tensor, how: Matching) -> tuple[Tensor, Tensor]:
    """Motion [B, 2, H, W] in pixels from frame ``one`` to ``other`` [B, C, H, W], and how sure it is [B, 1, H, W]."""
    height, width = one.shape[2:]
    grid = height // how.patch, width // how.patch
    ours, theirs = tokens(one, how.patch), tokens(other, how.patch)
    maps = [frame.mean(2).unflatten(1, grid) for frame in (ours, theirs)]
    shift = phase_shift(maps[1], maps[0])
    shift = torch.where(_agrees(ours, theirs, grid, shift)[:, None], shift, torch.zeros_like(shift))
    moved, sure = _match(ours, theirs, grid, how, shift)
    still, _ = _match(ours, ours, grid, how, torch.zeros_like(shift))
    motion = (moved - still) * how.patch
    size = {"size": (height, width), "mode": "bilinear", "align_corners": True}
    return (
        functional.interpolate(motion.mT.unflatten(2, grid), **size),
        functional.interpolate(sure[:, None].unflatten(2, grid), **size),
    )


def _agrees(one: Tensor, other: Tensor, grid: tuple[int, int], shift: Tensor) -> Tensor:
    """Whether the shift makes the frames more alike than they are: a peak of noise would mislead. [B]"""
    rolled = torch.stack(
        [
            frame.unflatten(0, grid).roll((int(dy), int(dx)), (0, 1)).flatten(0, 1)
            for frame, (dx, dy) in zip(one, shift.tolist(), strict=True)
        ]
    )
    return (rolled * other).sum(2).mean(1) > (one * other).sum(2).mean(1)


# ---- warping ------------------------------------------------------------------------------------------------------


def warp(frames: Tensor, motion: Tensor) -> Tensor:
    """Frames [B, C, H, W] sampled at position + motion [B, 2, H, W] pixels; beyond the border, the border."""
    height, width = frames.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([x.to(frames) + motion[:, 0], y.to(frames) + motion[:, 1]], -1)
    last = torch.tensor([max(1, width - 1), max(1, height - 1)], dtype=frames.dtype, device=frames.device)
    return functional.grid_sample(frames, 2 * at / last - 1, padding_mode="border", align_corners=True)


def between(one: Tensor, other: Tensor, share: Tensor, how: Matching) -> Tensor:
    """The frame [B, C, H, W] a ``share`` [B] of the way from ``one`` to ``other``: both warped, each by how sure it is.

    Where neither is sure, the straight mixture.
    """
    (there, sure), (back, sure_back) = flow(one, other, how), flow(other, one, how)
    part = share.view(-1, 1, 1, 1).to(one)
    from_one, from_other = -part * there * sure, -(1.0 - part) * back * sure_back
    weights = (1.0 - part) * warp(sure, from_one), part * warp(sure_back, from_other)
    total = weights[0] + weights[1]
    mixed = weights[0] * warp(one, from_one) + weights[1] * warp(other, from_other)
    return torch.where(total > 1e-6, mixed / total.clamp(min=1e-6), torch.lerp(one, other, part))


def transported(clip: Tensor, mask: Tensor, how: Matching) -> Tensor:
    """Clips [B, T, C, H, W] filled by warping the two keyframes around each missing frame; held outside."""
    before, after = neighbours(mask)
    found = linear(clip, mask)
    inside = ~mask & (before >= 0) & (after < mask.shape[1])
    rows, frames = inside.nonzero(as_tuple=True)
    if len(rows):
        left, right = before[rows, frames], after[rows, frames]
        share = (frames - left) / (right - left)
        found = found.clone()
        found[rows, frames] = between(clip[rows, left], clip[rows, right], share, how)
    return kept(found, clip, mask)
