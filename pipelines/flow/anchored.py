"""Anchored flow matching's path in two phases, through what all frames of a clip share (seed A).

With the junction s*, the anchor A [B, C, 1, H, W], one noise eps [B, C, 1, H, W] for all frames of a clip and a noise
eps_f [B, C, T, H, W] of each frame's own:

    identity   sigma >  s*   x = (1 - w) A + w eps,  w = (sigma - s*) / (1 - s*)     dx/dw = eps - A
    motion     sigma <= s*   x = (1 - r) x_0 + r S,  r = sigma / s*                  dx/dr = S - x_0,  S = A + tau eps_f

Above the junction a clip stands still (identity is decided before frames differ), so one frame stands for all; where it
enters the motion phase, tau eps_f is added, and below the frames part. tau = 0 is seed A's ring path (there t* = 0.2
with t = 1 noise): with one start for all frames their deviation on the path gives its own velocity away, v_dev =
-x_dev / (s* - sigma) whatever the data: nothing about motion can be learnt below the junction, and at it a squared loss
asks for the mean motion. With tau > 0 the motion phase is a flow between distributions. The global part of the seed is
our identity phase, the local part our motion phase.

Each phase has its own clock, w or r, which runs from 1 to 0. A network is told the clock of the phase and gives the
velocity on it; dx/dsigma is that divided by the phase's length, 1 - s* or s*. In the identity phase w is the noise that
x holds and eps - A the difference that every published flow predicts: a pretrained network starts at its own task.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipelines.flow.path import over_frames

Velocity = Callable[..., Tensor]
"""(x [B, C, T, H, W], clock [B, 1], **conditions) -> velocity on that clock, of the shape of x."""


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


def clock(sigma: Tensor, junction: float) -> Tensor:
    """w above the junction, r below it: the share of its phase's way that lies before a level."""
    return torch.where(is_local(sigma, junction), sigma / junction, (sigma - junction) / (1.0 - junction))


def start_of_motion(anchor: Tensor, frame_noise_std: float, frame_noise: Tensor) -> Tensor:
    """S, where the motion phase starts: A + tau eps_f [B, C, T, H, W]; ``frame_noise`` is eps_f."""
    return anchor + frame_noise_std * frame_noise


def noised(
    latents: Tensor, anchor: Tensor, noise: Tensor, sigma: Tensor, junction: float, start: Tensor | None = None
) -> Tensor:
    """The point x of the path, [B, C, T, H, W], at ``sigma`` [B, 1].

    ``start`` of the motion phase; None: the anchor.
    """
    done = over_frames(clock(sigma, junction))
    still = (1.0 - done) * anchor + done * noise
    moving = (1.0 - done) * latents + done * (anchor if start is None else start)
    return torch.where(is_local(over_frames(sigma), junction), moving, still.expand_as(latents))


def velocity(
    latents: Tensor, anchor: Tensor, noise: Tensor, sigma: Tensor, junction: float, start: Tensor | None = None
) -> Tensor:
    """The derivative of :func:`noised` by the phase's own clock, exactly."""
    moving = (anchor if start is None else start) - latents
    return torch.where(is_local(over_frames(sigma), junction), moving, (noise - anchor).expand_as(latents))


def on_one_frame(denoise: Velocity) -> Velocity:
    """The velocity field of the identity phase: one frame is computed, and stands for all of them."""

    def field(x: Tensor, told: Tensor, **conditions: Tensor) -> Tensor:
        return denoise(x[:, :, :1], told, **conditions).expand_as(x)

    return field


def in_both_phases(denoise: Velocity, local: Tensor) -> Velocity:
    """The velocity field of samples of which those in ``local`` (bool [B]) are in the motion phase, the others above.

    The network is called for either kind, with a sample that does not count where a kind is absent: processes that
    share a network make the same calls.
    """

    def field(x: Tensor, told: Tensor, **conditions: Tensor) -> Tensor:
        made = torch.zeros_like(x)
        for mine, network in ((~local, on_one_frame(denoise)), (local, denoise)):
            rows = mine.nonzero()[:, 0]
            counted = 1.0 if len(rows) else 0.0
            rows = rows if len(rows) else rows.new_zeros(1)
            given = {name: value[rows] for name, value in conditions.items()}
            made = made.index_add(0, rows, counted * network(x[rows], told[rows], **given).to(x))
        return made

    return field


def split_over_frames(x: Tensor) -> tuple[Tensor, Tensor]:
    """What all frames share [B, C, 1, H, W] and what each frame adds [B, C, T, H, W]: orthogonal, their sum is x."""
    shared = x.mean(2, keepdim=True)
    return shared, x - shared


def frame_variation(velocity: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square of what frames add and of what they share, each [B] (the two parts of ``local_vs_global_ratio``)."""
    shared, moving = split_over_frames(velocity)
    return moving.square().flatten(1).mean(1), shared.square().flatten(1).mean(1)


def given_away(x: Tensor, told: Tensor) -> Tensor:
    """The velocity -x_dev / (1 - r) of a formula that knows no data: the baseline of the motion phase, r < 1.

    With tau = 0 it is the frames' deviation part of the true velocity; its samples stand still all the same, because
    they start with no deviation.
    """
    _, moving = split_over_frames(x)
    return -moving / (1.0 - over_frames(told)).clamp_min(1e-6)
