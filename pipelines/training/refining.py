"""Generators of the kind ``refiner``: keyframes are filled in, and corrected in one step (or one per level)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from pipelines.flow.filling import alike, fill, level_share
from pipelines.flow.params import Filling, Guidance
from pipelines.flow.sampling import seeded_noise
from pipelines.models.denoiser import averaged
from pipelines.models.refiner import Refiner, refined
from pipelines.training.generator import Generator


@dataclass(frozen=True)
class OneStep(Generator):
    """A refiner of clips or of pictures: what is given of them is filled in, and corrected.

    Attributes:
        levels: numbers of what is given, K_0 … K_L, that it was trained with.
        clamp: whether what is given comes out as it went in.
        noise_std: of the noise in what is missing.
        alpha: guidance strength that it is told.
        steps: evaluations; 1, or one per level where it was trained to give the next finer level.
    """

    refiner: Refiner
    levels: tuple[int, ...]
    clamp: bool
    noise_std: float
    alpha: float
    steps: int

    @property
    def networks(self) -> list[Any]:
        """The refiner."""
        return [self.refiner]

    @property
    def evaluations(self) -> int:
        """One, or one per level."""
        return self.steps

    def with_sampling(
        self, steps: int | None = None, guidance: Guidance | None = None, sampler: str | None = None
    ) -> Self:
        """The same refiner told another guidance strength: of steps and samplers it has none to choose from."""
        return self if guidance is None else replace(self, alpha=guidance.scale)

    def without_guidance(self) -> Self:
        """The same refiner told a strength of 1."""
        return replace(self, alpha=1.0)

    def corrected(
        self, filled: Tensor, unsure: Tensor, mask: Tensor, noise: Tensor, told: dict[str, Tensor], kept: Tensor | None
    ) -> Tensor:
        """``filled`` after all steps, each told it is as sparse as what is left to do.

        Args:
            filled, noise: [B, C, T, H, W].
            unsure: of the sparsest level, as :func:`refined` is told it.
            mask: bool, what is given.
            kept: bool, what comes out as it went in; None: nothing.
        """
        for left in range(self.steps, 0, -1):
            share = left / self.steps
            filled = refined(self.refiner, filled, unsure * share, mask, noise * share, told, kept)
        return filled


@dataclass(frozen=True)
class RefinerGenerator(OneStep):
    """A refiner of clips and how it is asked.

    Attributes:
        filling: what stands between keyframes before it sees them.
    """

    filling: Filling

    @classmethod
    def read(cls, folder: Path, content: Mapping[str, Any], device: torch.device | str) -> RefinerGenerator:
        """The refiner that ``generator.json`` describes."""
        refiner = Refiner.from_pretrained(averaged(folder)).to(device).eval()
        return cls(
            folder=folder,
            facts=content["latents"],
            needs=tuple(content["needs"]),
            takes=tuple(content["takes"]),
            refiner=refiner,
            filling=Filling.model_validate({"learned": None, **content["filling"]}),
            levels=tuple(content["levels"]),
            clamp=content["clamp"],
            **content["sampling"],
        )

    @property
    def story(self) -> str:
        """Interpolation and steps."""
        return f"keyframes filled in ({self.filling.mode}) and refined in {self.steps} step{'s' * (self.steps > 1)}"

    def _require(self, conditions: Mapping[str, Any]) -> None:
        """Check that keyframes and their mask are there and fit.

        Raises:
            ValueError: they do not.
        """
        absent = [name for name in ("keyframes", "keyframe_mask") if conditions.get(name) is None]
        if absent:
            raise ValueError(f"{self.folder}: a refiner starts from keyframes; conditions lack {', '.join(absent)}.")
        clip, mask = conditions["keyframes"], conditions["keyframe_mask"]
        if clip.shape[1] != self.shape[0] or mask.shape != (len(clip), clip.shape[2]):
            raise ValueError(
                f"{self.folder}: keyframes {list(clip.shape)} with a mask {list(mask.shape)}; wanted are "
                f"[B, {self.shape[0]}, T, H, W] and [B, T]."
            )

    @torch.no_grad()
    def starting_clips(self, conditions: Mapping[str, Any]) -> Tensor:
        """The interpolation of given keyframes alone, [B, C, T, H, W]; a learned one with what was learned.

        Raises:
            ValueError: keyframes or their mask are missing or do not fit. StageError: a clip has no keyframe.
        """
        self._require(conditions)
        clip, mask = conditions["keyframes"], conditions["keyframe_mask"]
        filled = fill(clip, mask, self.filling)
        if self.refiner.filling is not None:
            filled = filled + self.refiner.filling(filled.to(self.device), mask.to(self.device)).to(filled)
        return filled

    @torch.no_grad()
    def sample(
        self, conditions: Mapping[str, Any], seeds: Sequence[int], shape: tuple[int, int, int, int] | None = None
    ) -> Tensor:
        """As :meth:`Generator.sample`, from ``keyframes`` and ``keyframe_mask``, whose shape is that of the samples.

        Without ``prompt_embeds`` it is told the ``empty_prompt``.

        Raises:
            ValueError: keyframes are missing or do not fit, or a prompt is too long.
        """
        self._require(conditions)
        filled = fill(conditions["keyframes"], conditions["keyframe_mask"], self.filling).to(self.device)
        mask = conditions["keyframe_mask"].to(self.device)
        noise = self.noise_std * seeded_noise(seeds, filled.shape[1:]).to(filled)
        told = told_of(conditions, len(filled), self.alpha, self.refiner, self.device)
        sure = mask.to(filled)
        if conditions.get("keyframe_confidence") is not None:
            sure = sure * conditions["keyframe_confidence"].to(filled)
        unsure = alike(level_share(mask, self.levels), mask) * (1.0 - sure)
        kept = sure >= 1.0 if self.clamp else None
        return self.corrected(filled, unsure, mask, noise, told, kept)


def told_of(
    conditions: Mapping[str, Any], count: int, alpha: float, refiner: Refiner, device: torch.device
) -> dict[str, Tensor]:
    """Prompt, class and strength as a refiner takes them."""
    if "prompt_embeds" in conditions:
        told = {name: conditions[name] for name in ("prompt_embeds", "prompt_mask")}
    else:
        empty = conditions["empty_prompt"].expand(count, -1, -1)
        told = {"prompt_embeds": empty, "prompt_mask": torch.ones(empty.shape[:2], dtype=torch.bool)}
    if conditions.get("pseudo_class") is not None and refiner.num_classes is not None:
        told["pseudo_class"] = conditions["pseudo_class"]
    told["alpha"] = torch.full((count,), alpha)
    return {name: value.to(device) for name, value in told.items()}
