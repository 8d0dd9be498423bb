"""A trained generator, ready to sample: ``generator.json`` in the checkpoint says its kind and what it needs.

Evaluation, report and ``reel generate`` find generators by that file; none is listed by hand. Whatever the kind, the
interface is ``sample(conditions, seeds, shape)`` with conditions by name (:data:`CONDITIONS`).
"""

from __future__ import annotations

import json
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

FILE = "generator.json"
CONDITIONS = {
    "prompt_embeds": "[B, L, D]",
    "prompt_mask": "bool [B, L]",
    "empty_prompt": "[L0, D] of the data set, for guidance",
    "pseudo_class": "int [B], negative where unknown",
    "first_frame": "clean latents [B, C, 1, H, W] to go on from",
    "keyframes": "clean latents [B, C, T, H, W]; what stands at other frames is not looked at",
    "keyframe_mask": "bool [B, T], true where a frame is given",
    "actions": "[B, rows, names], as the shards hold them",
}
"""What a generator may be told, by name. ``needs`` in ``generator.json`` lists what it cannot do without (the prompt is
one word for the first three), ``takes`` what it can be given besides."""
PROMPT = ("prompt_embeds", "prompt_mask", "empty_prompt")
CLOCKS = "of phases"
"""What the networks of a flow in several phases are told: 1 to 0 in each (:mod:`pipelines.flow.anchored`)."""
KINDS = ("flow",)


def found(checkpoints: Path) -> dict[str, Path]:
    """The generators in a folder of checkpoints, by name: each subfolder with a ``generator.json``."""
    places = sorted(place.parent for place in checkpoints.glob(f"*/{FILE}"))
    return {place.name: place for place in places if not place.name.startswith(".")}


def read_description(folder: Path) -> dict[str, Any]:
    """``generator.json`` of a checkpoint.

    Raises:
        StageError: there is none, or it is of a kind that this program does not know.
    """
    path = folder / FILE
    if not path.is_file():
        raise StageError(f"{path}: no such file, so {folder} is no checkpoint of a generator.")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("kind", "flow") not in KINDS:
        raise StageError(f"{path}: kind {content['kind']!r}; this program knows {', '.join(KINDS)}.")
    parts = [(phase["start"], phase["end"]) for phase in content.get("phases", ())]
    if parts != [(1.0, 0.0)] * len(parts) and content.get("clocks") != CLOCKS:
        raise StageError(f"{path}: of an earlier version, whose networks were told another time; train it again.")
    return content


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
class Generator:
    """The phases of a checkpoint, in the order in which they are walked, and the facts of its latents.

    Attributes:
        folder: the checkpoint.
        phases: from noise towards latents; an identity-stage checkpoint ends at the junction, with a still clip.
        facts: shape (C, T, H, W), frame rate, autoencoder and text encoder (id, digest, strides) of its training data.
        needs, takes: names of conditions, as in ``generator.json``.
    """

    folder: Path
    phases: tuple[Phase, ...]
    facts: dict[str, Any]
    needs: tuple[str, ...] = ("prompt",)
    takes: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Generator:
        """The generator in a checkpoint folder, on the device; averaged weights where there are any.

        Raises:
            StageError: the folder holds no flow.
        """
        content = read_description(folder)
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
        told = {name: tuple(content[name]) for name in ("needs", "takes") if name in content}
        return cls(folder, tuple(phases), content["latents"], **told)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of its training latents."""
        channels, frames, height, width = self.facts["shape"]
        return channels, frames, height, width

    @property
    def name(self) -> str:
        """Stage and run that made the checkpoint, as its record states them."""
        path = self.folder / "checkpoint.json"
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return f"{record.get('stage', self.folder.name)} {record.get('run_id', '')}".strip()

    @property
    def device(self) -> torch.device:
        """Where its networks live."""
        return next(iter(self.phases[0].denoiser.parameters())).device  # type: ignore[attr-defined]

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns per token: latents must be multiples of it."""
        return self.phases[0].denoiser.patch  # type: ignore[attr-defined]

    @property
    def num_classes(self) -> int | None:
        """Number of pseudo-classes it can be told; None where it knows the prompt only."""
        return getattr(self.phases[0].denoiser, "num_classes", None)

    def require_autoencoder(self, digest: str, where: str) -> None:
        """Check that latents of this generator are the ones that an autoencoder decodes.

        Raises:
            StageError: it was trained on latents of another one.
        """
        known = self.facts["autoencoder"]
        if known["digest"] != digest:
            raise StageError(
                f"{self.folder}: trained on latents of autoencoder {known['id']} ({known['digest'][:12]}), but {where} "
                f"is {digest[:12]}; decode with the one it was trained with, or train it again."
            )

    def with_sampling(
        self, steps: int | None = None, guidance: Guidance | None = None, sampler: str | None = None
    ) -> Generator:
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

    def without_guidance(self) -> Generator:
        """The same generator, walked along the conditional velocity alone."""
        plain = [phase.sampling.model_copy(update={"guidance": None}) for phase in self.phases]
        walked = zip(self.phases, plain, strict=True)
        return replace(self, phases=tuple(replace(phase, sampling=sampling) for phase, sampling in walked))

    def sample(
        self, conditions: Mapping[str, Any], seeds: Sequence[int], shape: tuple[int, int, int, int] | None = None
    ) -> Tensor:
        """Latents [B, C, T, H, W] (normalised, as in the shards), one sample per seed.

        Args:
            conditions: by name, see :data:`CONDITIONS`; what the generator has no use for is passed over.
            seeds: B integers; a sample depends on its own seed and conditions, not on the batch.
            shape: (C, T, H, W); None: that of the training latents.

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
