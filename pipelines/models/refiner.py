"""A one-step refiner: filled-in latents in, the correction of their missing frames out (seed C, C.5).

The network is a :class:`~pipelines.models.denoiser.VideoDenoiser`, ours or a pretrained one with or without an adapter.
Level, keyframe mask and confidence are one number per frame, told as the frame's level of noise: 0 where a frame is
given for certain, the level where it is missing. Prompt and class are told as to a flow; the guidance strength alpha is
one more token after the prompt's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.flow.filling import over_elements
from pipelines.models.denoiser import VideoDenoiser

WEIGHTS = "refiner.safetensors"


class TemporalFilling(nn.Module):
    """What a learned filling adds to straight lines between keyframes: a convolution over frames, by channel.

    It begins as the lines themselves, and never changes what is given.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        weight = torch.zeros(channels, kernel)
        weight[:, kernel // 2] = 1.0
        self.weight = nn.Parameter(weight)

    def forward(self, lines: Tensor, mask: Tensor) -> Tensor:
        """The change [B, C, T, H, W] of lines whose frames ``mask`` [B, T] are given."""
        side = self.weight.shape[1] // 2
        padded = nn.functional.pad(lines, (0, 0, 0, 0, side, side), mode="replicate")
        bent = torch.einsum("bcthwk,ck->bcthw", padded.unfold(2, self.weight.shape[1], 1), self.weight)
        return (bent - lines) * over_elements((~mask).to(lines))


class Refiner(nn.Module):
    """(filled, told, prompt, class, alpha) -> residual; zero before training.

    Args:
        denoiser: whose ``prompt_length`` is one more than that of prompts. Of a new one the last layer is zero; before
            what a pretrained one says stands a ``gate`` per channel that begins at zero.
        filling: frames of a learned filling's kernel; None: filling is not learned.
        temperature: where a temperature of the drift that is learned beside it begins; None: none is. What it says
            does not depend on it.
    """

    def __init__(
        self, denoiser: VideoDenoiser, gated: bool, filling: int | None = None, temperature: float | None = None
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.strength = nn.Linear(2, denoiser.layout.text_dim, bias=False)
        nn.init.zeros_(self.strength.weight)
        self.gate = nn.Parameter(torch.zeros(denoiser.layout.out_channels)) if gated else None
        self.filling = None if filling is None else TemporalFilling(denoiser.layout.out_channels, filling)
        self.log_temperature = None if temperature is None else nn.Parameter(torch.tensor([math.log(temperature)]))

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns per token."""
        return self.denoiser.patch

    @property
    def num_classes(self) -> int | None:
        """Number of pseudo-classes; None where it knows none."""
        return self.denoiser.num_classes

    @property
    def text_length(self) -> int:
        """Tokens of the longest prompt."""
        return self.denoiser.prompt_length - 1

    def forward(
        self,
        x: Tensor,
        told: Tensor,
        prompt_embeds: Tensor,
        prompt_mask: Tensor,
        pseudo_class: Tensor | None = None,
        alpha: Tensor | None = None,
        lines: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """The residual [B, C, T, H, W] of ``x``, filled-in latents with noise in their missing frames.

        Args:
            told: [B, T] or [B, T, H, W] in [0, 1], 0 where a frame (or place) is given for certain, the share of the
                sparsest level where it is missing.
            prompt_embeds, prompt_mask: [B, L, D] and bool [B, L].
            pseudo_class: int [B], negative where unknown; None where none is known.
            alpha: guidance strength [B], from 1; None: 1.
            lines, given: what was filled in, without noise, and which frames [B, T] of it are given: what a learned
                filling starts from. Its change is part of the residual.

        Raises:
            ValueError: a prompt is longer than ``text_length``.
        """
        if bool(prompt_mask[:, self.text_length :].any()):
            longest = int(prompt_mask.sum(1).max())
            raise ValueError(
                f"a prompt has {longest} tokens, this refiner takes {self.text_length}: shorten the prompt, or train "
                "with a larger refiner.text_length."
            )
        alpha = torch.ones(len(x), device=x.device) if alpha is None else alpha.to(x)
        token = self.strength(torch.stack([alpha - 1.0, alpha.log()], 1))[:, None].to(prompt_embeds)
        missing = max(0, self.text_length - prompt_embeds.shape[1])  # always as long: no clip hears of its neighbours
        embeds = nn.functional.pad(prompt_embeds[:, : self.text_length], (0, 0, 0, missing))
        mask = nn.functional.pad(prompt_mask[:, : self.text_length], (0, missing))
        embeds, mask = torch.cat([embeds, token], 1), nn.functional.pad(mask, (0, 1), value=True)
        bent = None
        if self.filling is not None and lines is not None and given is not None:
            bent = self.filling(lines, given)
            x = x + bent
        residual = self.denoiser(x, told, embeds, mask, pseudo_class)
        if self.log_temperature is not None:
            residual = residual + 0.0 * self.log_temperature  # of every step, as gradients of several processes want it
        residual = residual if self.gate is None else residual * self.gate[:, None, None, None]
        return residual if bent is None else residual + bent

    # ---- files ----

    def save_pretrained(self, save_directory: Path | str) -> None:
        """The denoiser's files, and beside them what surrounds it."""
        self.denoiser.save_pretrained(save_directory)
        own = {"strength": self.strength.weight.detach().contiguous()}
        if self.gate is not None:
            own["gate"] = self.gate.detach().contiguous()
        if self.filling is not None:
            own["filling"] = self.filling.weight.detach().contiguous()
        if self.log_temperature is not None:
            own["log_temperature"] = self.log_temperature.detach().contiguous()
        save_file(own, Path(save_directory) / WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Refiner:
        """What :meth:`save_pretrained` wrote.

        Raises:
            StageError: its denoiser is an adapter whose base cannot be found.
        """
        own = load_file(Path(folder) / WEIGHTS)
        kernel = own["filling"].shape[1] if "filling" in own else None
        temperature = float(own["log_temperature"].exp()) if "log_temperature" in own else None
        refiner = cls(VideoDenoiser.from_pretrained(folder), "gate" in own, kernel, temperature)
        with torch.no_grad():
            refiner.strength.weight.copy_(own["strength"])
            if refiner.gate is not None:
                refiner.gate.copy_(own["gate"])
            if refiner.filling is not None:
                refiner.filling.weight.copy_(own["filling"])
        return refiner


def temperature_of(network: nn.Module) -> Tensor:
    """Logarithm [1] of the temperature that is learned beside a refiner, which a process may have wrapped."""
    while not hasattr(network, "log_temperature"):
        network = network.module  # type: ignore[assignment]
    return network.log_temperature  # type: ignore[return-value]


def refined(
    refiner: nn.Module,
    filled: Tensor,
    told: Tensor,
    mask: Tensor,
    noise: Tensor,
    conditions: Mapping[str, Tensor],
    kept: Tensor | None,
) -> Tensor:
    """Refined latents [B, C, T, H, W] in one evaluation: filled + residual, ``kept`` as it was.

    The network sees ``noise`` (already scaled) where something is missing only: what is given is never touched. Masks
    are of frames [B, T] or of places [B, T, H, W].
    """
    missing = over_elements((~mask).to(filled))
    made = filled + refiner(filled + noise * missing, told, **conditions, lines=filled, given=mask)
    return made if kept is None else torch.where(over_elements(kept), filled, made)
