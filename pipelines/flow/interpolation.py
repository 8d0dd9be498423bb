"""The missing frames of a clip from its keyframes: linear, smooth, spherical; the missing patches of a picture.

Clips are [B, T, ...] with a mask [B, T] of the frames that are given; what stands at missing frames is ignored. Before
the first and after the last keyframe the nearest one is held. All of it is deterministic and keeps what is given.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.flow.keyframes import neighbours
from pipelines.stage import StageError


def _enclosing(clip: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The keyframes [B, T, D] before and after each frame, and how far between them it lies [B, T, 1]."""
    if not bool(mask.any(1).all()):
        raise StageError("interpolation: a clip has no keyframe at all; give it one.")
    before, after = neighbours(mask)
    outside_left, outside_right = before < 0, after >= mask.shape[1]
    left = torch.where(outside_left, after, before)
    right = torch.where(outside_right, before, after)
    place = torch.arange(mask.shape[1], device=mask.device)
    share = (place - left).to(clip) / (right - left).clamp(min=1)
    flat = clip.flatten(2)
    ends = [flat.gather(1, index[:, :, None].expand_as(flat)) for index in (left, right)]
    return ends[0], ends[1], share.clamp(0.0, 1.0)[:, :, None]


def linear(clip: Tensor, mask: Tensor) -> Tensor:
    """Straight lines between neighbouring keyframes."""
    left, right, share = _enclosing(clip, mask)
    return torch.lerp(left, right, share).view_as(clip)


def smooth(clip: Tensor, mask: Tensor) -> Tensor:
    """:func:`linear`, then a mean over three frames (1/4, 1/2, 1/4); keyframes are put back."""
    lines = linear(clip, mask).flatten(2).mT
    padded = functional.pad(lines, (1, 1), mode="replicate")
    found = (0.25 * padded[..., :-2] + 0.5 * padded[..., 1:-1] + 0.25 * padded[..., 2:]).mT.reshape(clip.shape)
    return kept(found, clip, mask)


def slerp(clip: Tensor, mask: Tensor) -> Tensor:
    """Along the great circle between keyframes, lengths between theirs: keeps the spread that lines lose half-way.

    Where two are nearly parallel, or one is zero, the straight line.
    """
    left, right, share = _enclosing(clip, mask)
    sizes = [end.norm(dim=2, keepdim=True) for end in (left, right)]
    cosine = (left * right).sum(2, keepdim=True) / (sizes[0] * sizes[1]).clamp(min=1e-12)
    angle = torch.arccos(cosine.clamp(-1.0, 1.0))
    sine = torch.sin(angle)
    flat = (sine < 1e-4) | (sizes[0] < 1e-12) | (sizes[1] < 1e-12)
    units = [end / size.clamp(min=1e-12) for end, size in zip((left, right), sizes, strict=True)]
    safe = torch.where(flat, torch.ones_like(sine), sine)
    turned = (torch.sin((1.0 - share) * angle) * units[0] + torch.sin(share * angle) * units[1]) / safe
    found = torch.where(flat, torch.lerp(left, right, share), turned * torch.lerp(sizes[0], sizes[1], share))
    return kept(found.view_as(clip), clip, mask)


MODES = {"linear": linear, "smooth": smooth, "slerp": slerp}


def interpolate(clip: Tensor, mask: Tensor, mode: str) -> Tensor:
    """The clip filled by the mode of that name.

    Raises:
        StageError: there is no such mode, or a clip has no keyframe.
    """
    if mode not in MODES:
        raise StageError(f"interpolation {mode!r}: known are {', '.join(MODES)}.")
    return MODES[mode](clip, mask)


def kept(found: Tensor, clip: Tensor, mask: Tensor) -> Tensor:
    """``found`` with the given frames of ``clip`` in their places."""
    return torch.where(mask.view(*mask.shape, *[1] * (clip.dim() - 2)), clip, found)


def errors(found: Tensor, clip: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """``interp/mse_missing`` over the missing frames (absent if none is), ``interp/mse_all`` over all."""
    squares = (found - clip).square().flatten(2).mean(2)
    numbers = {"interp/mse_all": squares.mean()}
    missing = ~mask
    if bool(missing.any()):
        numbers["interp/mse_missing"] = squares[missing].mean()
    return numbers


# ---- patches of a picture -----------------------------------------------------------------------------------------


def _grid_distances(rows: int, columns: int, like: Tensor) -> Tensor:
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], 1).to(like)
    return torch.cdist(places, places)


def inverse_distance(tokens: Tensor, mask: Tensor, grid: tuple[int, int], power: float) -> Tensor:
    """Patches [B, N, D] of a grid of rows and columns: missing ones are means of the given, weighted by d^-power."""
    weight = _grid_distances(*grid, tokens).clamp(min=1e-6) ** -power
    weight = weight[None] * mask[:, None, :]
    found = (weight @ tokens) / weight.sum(2, keepdim=True)
    return kept(found, tokens, mask)


def harmonic(
    tokens: Tensor,
    mask: Tensor,
    grid: tuple[int, int],
    diagonal: bool,
    edge_width: float,
    reach: float,
    regulariser: float,
) -> Tensor:
    """Patches [B, N, D]: the harmonic fill of the grid's graph, whose edges are weak where the picture changes.

    w_ij = max(exp(-mean (u_i - u_j)^2 / (2 edge_width^2)) exp(-d^2 / (2 reach^2)), 1e-6) between neighbours (4, or 8
    with ``diagonal``), u the inverse-distance fill. Missing x solve (L_UU + regulariser I) x_U = -L_UK x_K,
    L = degree - weight, so every value lies between those given (the maximum principle, but for the regulariser).
    """
    start = inverse_distance(tokens, mask, grid, 2.0)
    apart = _grid_distances(*grid, tokens)
    edges = (apart > 0) & (apart < (1.5 if diagonal else 1.1))
    change = torch.cdist(start, start).square() / tokens.shape[2]
    weight = torch.exp(-change / (2 * edge_width**2)) * torch.exp(-(apart**2) / (2 * reach**2))[None]
    weight = torch.where(edges[None], weight.clamp(min=1e-6), 0.0)
    laplacian = torch.diag_embed(weight.sum(2)) - weight
    missing = ~mask
    free = (missing[:, :, None] & missing[:, None, :]).to(tokens)
    system = laplacian * free + torch.diag_embed(torch.where(missing, regulariser, 1.0).to(tokens))
    pull = -(laplacian * (missing[:, :, None] & mask[:, None, :]).to(tokens)) @ torch.where(
        mask[..., None], tokens, 0.0
    )
    found = torch.linalg.solve(system, torch.where(mask[..., None], tokens, pull))
    return kept(found, tokens, mask)
