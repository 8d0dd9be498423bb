"""Anchored flow matching's path in two phases, through what all frames of a clip share (seed A).

With the junction s*, the anchor A [B, C, 1, H, W], one noise eps [B, C, 1, H, W] for all frames of a clip and a noise
eps_f [B, C, T, H, W] of each frame's own:

    identity   sigma >  s*   x = (1 - w) A + w eps,  w = (sigma - s*) / (1 - s*)     v = (eps - A) / (1 - s*)
    motion     sigma <= s*   x = (1 - r) x_0 + r (A + tau eps_f),  r = sigma / s*    v = (A + tau eps_f - x_0) / s*

Above the junction a clip stands still (identity is decided before frames differ); where it enters the motion phase,
tau eps_f is added, and below the frames part. ``v`` is the exact derivative on either side. tau = 0 is seed A's ring
path (there t* = 0.2 with t = 1 noise): with one start for all frames their deviation on the path gives its own
velocity away, v_dev = -x_dev / (s* - sigma) whatever the data: nothing about motion can be learnt below the junction,
and at it a squared loss asks for the mean motion. With tau > 0 the motion phase is a flow between distributions. The
global part of the seed is our identity phase, the local part our motion phase.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.flow.path import over_frames


def anchor(latents: Tensor, first_frame_weight: float, noise_std: float, unit_noise: Tensor | None = None) -> Tensor:
    """What all frames share: [B, C, 1, H, W].

    A = w first frame + (1 - w) mean over frames + noise_std xi; ``unit_noise`` is xi [B, C, 1, H, W]. The small noise
    lets the motion phase start from anchors that the identity phase got slightly wrong.
    """
    first, mean = latents[:, :, :1], latents.mean(2, keepdim=True)
    shared = first_frame_weight * first + (1.0 - first_frame_weight) * mean
    return shared if unit_noise is None else shared + noise_std * unit_noise


def is_local(sigma: Tensor, junction: float) -> Tensor:
    """Whether a level lies in the motion phase, to which the junction itself belongs."""
    return sigma <= junction


def start_of_motion(anchor: Tensor, frame_noise_std: float, frame_noise: Tensor) -> Tensor:
    """Where the motion phase starts: A + tau eps_f [B, C, T, H, W]; ``frame_noise`` is eps_f."""
    return anchor + frame_noise_std * frame_noise


def noised(
    latents: Tensor, anchor: Tensor, noise: Tensor, sigma: Tensor, junction: float, start: Tensor | None = None
) -> Tensor:
    """The point x of the path, [B, C, T, H, W], at ``sigma`` [B, T] or [B, 1].

    ``start`` of the motion phase; None: the anchor.
    """
    level = over_frames(sigma)
    toward_noise = (level - junction) / (1.0 - junction)
    still = (1.0 - toward_noise) * anchor + toward_noise * noise
    done = level / junction
    moving = (1.0 - done) * latents + done * (anchor if start is None else start)
    return torch.where(is_local(level, junction), moving, still.expand_as(latents))


def velocity(
    latents: Tensor, anchor: Tensor, noise: Tensor, sigma: Tensor, junction: float, start: Tensor | None = None
) -> Tensor:
    """dx/dsigma of :func:`noised`, exactly."""
    still = (noise - anchor) / (1.0 - junction)
    moving = ((anchor if start is None else start) - latents) / junction
    return torch.where(is_local(over_frames(sigma), junction), moving, still.expand_as(latents))


def split_over_frames(x: Tensor) -> tuple[Tensor, Tensor]:
    """What all frames share [B, C, 1, H, W] and what each frame adds [B, C, T, H, W]: orthogonal, their sum is x."""
    shared = x.mean(2, keepdim=True)
    return shared, x - shared


def still(velocity: Tensor) -> Tensor:
    """The identity phase's velocity: one for all frames, so that a still clip stays still while it is sampled."""
    return velocity.mean(2, keepdim=True).expand_as(velocity)


def frame_variation(velocity: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square of what frames add and of what they share, each [B] (the two parts of ``local_vs_global_ratio``)."""
    shared, moving = split_over_frames(velocity)
    return moving.square().flatten(1).mean(1), shared.square().flatten(1).mean(1)


def given_away(x: Tensor, sigma: Tensor, junction: float) -> Tensor:
    """The velocity -x_dev / (s* - sigma) of a formula that knows no data: the baseline of the motion phase, sigma < s*.

    With tau = 0 it is the frames' deviation part of the true velocity; its samples stand still all the same, because
    they start with no deviation.
    """
    _, moving = split_over_frames(x)
    return -moving / (junction - over_frames(sigma)).clamp_min(1e-6)
