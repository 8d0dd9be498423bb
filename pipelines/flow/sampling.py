"""From noise to latents: what training previews, evaluation and generation share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pipelines.flow import first_frame, sigmas
from pipelines.flow.guidance import guided, padded
from pipelines.flow.params import Guidance, Sampling
from pipelines.flow.samplers import SAMPLERS, Denoise

Conditions = Mapping[str, Any]
"""Keyword arguments of a denoiser, named as in the data contract: prompt_embeds, prompt_mask, pseudo_class."""


@dataclass(frozen=True)
class Phase:
    """One denoiser's part of the way from noise to latents.

    Attributes:
        denoiser: (x, clock, **conditions) -> velocity on that clock, which runs from 1 at ``start`` to 0 at ``end``;
            it is sigma itself where one part is the whole way.
        sampling: sampler, steps, shift and guidance of this part.
        start, end: sigmas where it begins and ends; where one part ends the next begins.
        still: whether the part moves all frames alike (the identity phase of anchored flow): it walks one frame.
        first_frame: whether the denoiser was trained to go on from a given first frame.
        frame_noise_std: size of the noise of each frame's own that is added where the part begins (tau of
            :mod:`pipelines.flow.anchored`); 0: none.
    """

    denoiser: Callable[..., Tensor]
    sampling: Sampling
    start: float = 1.0
    end: float = 0.0
    still: bool = False
    first_frame: bool = False
    frame_noise_std: float = 0.0

    @property
    def sigmas(self) -> Tensor:
        """The levels this phase walks on its own clock, [steps + 1] from 1 to 0."""
        return sigmas.table(self.sampling.steps, self.sampling.shift)


def seeded_noise(seeds: Sequence[int], shape: Sequence[int], shared: bool = False) -> Tensor:
    """Noise [B, C, T, H, W], a sample per seed, the same whatever else is in the batch; ``shared`` by all frames."""
    channels, frames, height, width = shape
    drawn_frames = 1 if shared else frames
    noise = [
        torch.randn(channels, drawn_frames, height, width, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.stack(noise).expand(-1, -1, frames, -1, -1)


FRAME_SEEDS = 0x9E3779B9
"""Turns bits of a sample's seed for the noise of its frames' own, which is another than what it starts from. Within 32
bits: torch's generator of a processor looks at no others."""


def frame_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Noise [B, C, T, H, W] of each frame's own, for phases that add some: a sample's is a function of its seed."""
    return seeded_noise([(seed ^ FRAME_SEEDS) & 0xFFFFFFFF for seed in seeds], shape)


def without_prompt(conditions: Conditions, empty_prompt: Tensor) -> dict[str, Tensor]:
    """The unconditional conditions of the same batch: the empty prompt [L0, D], no class, everything else kept."""
    embeds, mask = padded(empty_prompt.to(conditions["prompt_embeds"]), conditions["prompt_embeds"].shape[1])
    count = len(conditions["prompt_embeds"])
    kept = {name: value for name, value in conditions.items() if name != "pseudo_class"}
    return {**kept, "prompt_embeds": embeds.expand(count, -1, -1), "prompt_mask": mask.expand(count, -1)}


def conditioned(
    denoiser: Callable[..., Tensor], conditions: Conditions, guidance: Guidance | None, empty_prompt: Tensor | None
) -> Denoise:
    """The velocity field of one batch of prompts, guided where there is a guidance block.

    Raises:
        ValueError: guidance without the empty prompt's embedding.
    """
    if guidance is None:
        return lambda x, sigma: denoiser(x, sigma, **conditions)
    if empty_prompt is None:
        raise ValueError("guidance needs the empty prompt's embedding (data/latents/empty_prompt.npy).")
    unconditional = without_prompt(conditions, empty_prompt)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        with_prompt, without = denoiser(x, sigma, **conditions), denoiser(x, sigma, **unconditional)
        return guided(with_prompt, without, guidance.scale, guidance.rescale)

    return denoise


@torch.no_grad()
def walk(
    phases: Sequence[Phase],
    noise: Tensor,
    conditions: Conditions,
    empty_prompt: Tensor | None = None,
    given: Tensor | None = None,
    of_frames: Tensor | None = None,
) -> Tensor:
    """Latents [B, C, T, H, W] from noise, phase after phase; where a phase ends the next begins, at the same level.

    ``given`` [B, C, 1, H, W] is a clean first frame to go on from; ``of_frames`` the noise of :func:`frame_noise`.

    Raises:
        ValueError: two phases do not meet, a first frame is given to a denoiser that was not trained for one, or a
            phase adds noise of each frame's own and there is none.
    """
    for earlier, later in pairwise(phases):
        if earlier.end != later.start:
            raise ValueError(f"a phase ends at sigma {earlier.end}, but the next begins at {later.start}.")
    if given is not None and not all(phase.first_frame for phase in phases):
        raise ValueError("this flow was not trained to start from a given first frame (first_frame_share 0).")
    x, frames = noise if given is None else first_frame.placed(noise, given), noise.shape[2]
    for phase in phases:
        if phase.frame_noise_std:
            if of_frames is None:
                raise ValueError("a phase adds noise of each frame's own, and none was given.")
            x = x + phase.frame_noise_std * of_frames.to(x)
        field = conditioned(phase.denoiser, conditions, phase.sampling.guidance, empty_prompt)
        field = field if given is None else first_frame.kept(field, given)
        x = SAMPLERS[phase.sampling.sampler](field, x[:, :, :1] if phase.still else x, phase.sigmas)
        x = x.expand(-1, -1, frames, -1, -1) if phase.still else x
    return x if given is None else first_frame.placed(x, given)
