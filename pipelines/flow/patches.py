"""A picture from some of its patches: which are given at each level, and the picture filled in (seed C's image pivot).

Pictures are [B, C, 1, H, W], of pixels or latents; masks of what is given are of elements, [B, 1, H, W]. No patch is
given by rule, as endpoints of a clip are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.flow import interpolation, keyframes
from pipelines.flow.params import InverseDistance, PatchFilling
from pipelines.stage import StageError


def grid_of(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
        StageError: the picture is not a whole number of patches.
    """
    if height % patch or width % patch:
        raise StageError(
            f"keypatches.patch: pictures of {height} x {width} are not a whole number of patches of {patch}; choose a "
            "divisor of both."
        )
    return height // patch, width // patch


def elements(chosen: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Masks [B, L + 1, 1, H, W] of elements from masks [B, L + 1, N] of patches."""
    return chosen.unflatten(2, grid).repeat_interleave(patch, 2).repeat_interleave(patch, 3)[:, :, None]


def evenly(grid: tuple[int, int], numbers: Sequence[int], batch: int) -> Tensor:
    """Nested masks [B, L + 1, N] of patches spread over the picture: from the middle on, always the one farthest from
    all before it; of equally far ones the first."""
    places = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float32) for side in grid))
    apart = torch.full((len(places),), torch.inf)
    rank, place = torch.zeros(len(places)), (grid[0] // 2) * grid[1] + grid[1] // 2
    for number in range(len(places)):
        rank[place], apart[place] = number, -1.0
        apart = torch.minimum(apart, (places - places[place]).square().sum(1))
        apart[place] = -1.0
        place = int(apart.argmax())
    return keyframes.ranked(rank.expand(batch, -1), numbers, False)


def fill(pictures: Tensor, mask: Tensor, patch: int, how: PatchFilling) -> Tensor:
    """The pictures with their missing patches filled in; what stood there is not looked at, what is given stays.

    Raises:
        StageError: nothing of a picture is given.
    """
    if not bool(mask.flatten(1).any(1).all()):
        raise StageError("patches: nothing of a picture is given; give it one patch.")
    with torch.autocast(pictures.device.type, enabled=False):
        return _filled(pictures, mask, patch, how)


def _filled(pictures: Tensor, mask: Tensor, patch: int, how: PatchFilling) -> Tensor:
    grid = grid_of(pictures.shape[3], pictures.shape[4], patch)
    given = mask[:, 0, ::patch, ::patch].flatten(1)
    tokens = functional.unfold(pictures[:, :, 0], patch, stride=patch).mT
    tokens = torch.where(given[..., None], tokens, 0.0)
    if isinstance(how, InverseDistance):
        found = interpolation.inverse_distance(tokens, given, grid, how.power)
    else:
        found = interpolation.harmonic(tokens, given, grid, how.diagonal, how.edge_width, how.reach, how.regulariser)
    size = (pictures.shape[3], pictures.shape[4])
    return functional.fold(found.mT, size, patch, stride=patch)[:, :, None]
