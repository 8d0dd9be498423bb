"""Generators of the kind ``flow``: noise walked to latents, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.flow.params import Guidance, Sampling
from pipelines.flow.sampling import Phase, frame_noise, seeded_noise, walk
from pipelines.models.denoiser import VideoDenoiser, averaged
from pipelines.stage import StageError
from pipelines.training.generator import PROMPT, Generator

EVALUATIONS = {"euler": 1, "dpm_2m": 1, "heun": 2, "midpoint": 2}
"""Velocities that a step of each sampler asks for, without guidance."""


def shared_out(total: int, weights: Sequence[int]) -> list[int]:
    """``total`` in whole parts, at least 1 each, as near to the ratio of ``weights`` as whole parts can be.

    By largest remainders, after each part's first.
    """
    left, whole = total - len(weights), sum(weights)
    exact = [left * weight / whole for weight in weights]
    parts = [int(value) for value in exact]
    order = sorted(range(len(parts)), key=lambda number: parts[number] - exact[number])
    for number in order[: left - sum(parts)]:
        parts[number] += 1
    return [1 + part for part in parts]


@dataclass(frozen=True)
class FlowGenerator(Generator):
    """A flow: the phases of a checkpoint, in the order in which they are walked.

    Attributes:
        phases: from noise towards latents; an identity-stage checkpoint ends at the junction, with a still clip.
    """

    phases: tuple[Phase, ...]

    @classmethod
    def read(cls, folder: Path, content: Mapping[str, Any], device: torch.device | str) -> FlowGenerator:
        """The flow that ``generator.json`` describes."""
        networks: dict[str, VideoDenoiser] = {}
        phases = []
        for item in content["phases"]:
            name = item["network"]
            if name not in networks:
                networks[name] = VideoDenoiser.from_pretrained(averaged(folder / name)).to(device).eval()
            sampling = Sampling.model_validate(item["sampling"])
            given = item.get("first_frame", False)
            own = item.get("frame_noise_std", 0.0)
            phases.append(Phase(networks[name], sampling, item["start"], item["end"], item["still"], given, own))
        needs, takes = tuple(content.get("needs", ("prompt",))), tuple(content.get("takes", ()))
        return cls(folder, content["latents"], needs, takes, tuple(phases))

    @property
    def networks(self) -> list[Any]:
        """The denoisers of its phases, each once."""
        return list({id(phase.denoiser): phase.denoiser for phase in self.phases}.values())

    @property
    def evaluations(self) -> int:
        """Velocities asked for on the way, those of guidance included."""
        plans = [phase.sampling for phase in self.phases]
        return sum(plan.steps * EVALUATIONS[plan.sampler] * (2 if plan.guidance else 1) for plan in plans)

    @property
    def story(self) -> str:
        """Steps, sampler and guidance of every phase."""
        return " then ".join(_part(phase.sampling) for phase in self.phases)

    def with_sampling(
        self, steps: int | None = None, guidance: Guidance | None = None, sampler: str | None = None
    ) -> FlowGenerator:
        """The same generator with other steps (shared out over its phases), guidance or sampler.

        Guidance is changed where a phase has some; a flow of which no phase has any gets it in all.

        Raises:
            StageError: fewer steps than phases.
        """
        stated = [phase.sampling.steps for phase in self.phases]
        if steps is not None and steps < len(stated):
            raise StageError(f"{self.folder}: walked in {len(stated)} phases, so --steps is at least {len(stated)}.")
        shares = stated if steps is None else shared_out(steps, stated)
        guided = any(phase.sampling.guidance is not None for phase in self.phases)
        changed = []
        for phase, share in zip(self.phases, shares, strict=True):
            values = {**phase.sampling.model_dump(), "steps": share}
            if guidance is not None and (phase.sampling.guidance is not None or not guided):
                values["guidance"] = guidance.model_dump()
            if sampler is not None:
                values["sampler"] = sampler
            changed.append(replace(phase, sampling=Sampling.model_validate(values)))
        return replace(self, phases=tuple(changed))

    def without_guidance(self) -> FlowGenerator:
        """The same generator, walked along the conditional velocity alone."""
        plain = [phase.sampling.model_copy(update={"guidance": None}) for phase in self.phases]
        walked = zip(self.phases, plain, strict=True)
        return replace(self, phases=tuple(replace(phase, sampling=sampling) for phase, sampling in walked))

    def sample(
        self, conditions: Mapping[str, Any], seeds: Sequence[int], shape: tuple[int, int, int, int] | None = None
    ) -> Tensor:
        """As :meth:`Generator.sample`, walked from noise.

        Raises:
            ValueError: a prompt is missing or too long, or a first frame is given to a flow that was trained without.
        """
        absent = [name for name in PROMPT if name not in conditions]
        if absent:
            raise ValueError(f"{self.folder}: a flow samples from a prompt; conditions lack {', '.join(absent)}.")
        device, shared = self.device, self.phases[0].still
        noise = seeded_noise(seeds, shape or self.shape, shared).to(device)
        told = {name: conditions[name].to(device) for name in ("prompt_embeds", "prompt_mask")}
        if conditions.get("pseudo_class") is not None and self.num_classes is not None:
            told["pseudo_class"] = conditions["pseudo_class"].to(device)
        first = conditions.get("first_frame")
        given = first.to(device) if first is not None else None
        of_frames = frame_noise(seeds, shape or self.shape)
        return walk(self.phases, noise, told, conditions["empty_prompt"].to(device), given, of_frames)


def _part(sampling: Sampling) -> str:
    guidance = f"guidance {sampling.guidance.scale:g}" if sampling.guidance else "no guidance"
    return f"{sampling.steps} {sampling.sampler} steps with {guidance}"
