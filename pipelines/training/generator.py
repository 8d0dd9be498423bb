"""A trained generator, ready to sample: ``generator.json`` in the checkpoint says its kind and what it needs.

Evaluation, report and ``reel generate`` find generators by that file; none is listed by hand. Whatever the kind, the
interface is ``sample(conditions, seeds, shape)`` with conditions by name (:data:`CONDITIONS`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from pipelines.flow.params import Guidance
from pipelines.stage import StageError
from pipelines.written import read_json

FILE = "generator.json"
CONDITIONS = {
    "prompt_embeds": "[B, L, D]",
    "prompt_mask": "bool [B, L]",
    "empty_prompt": "[L0, D] of the data set, for guidance",
    "pseudo_class": "int [B], negative where unknown",
    "first_frame": "clean latents [B, C, 1, H, W] to go on from",
    "keyframes": "clean latents [B, C, T, H, W]; what stands at other frames is not looked at",
    "keyframe_mask": "bool [B, T], true where a frame is given",
    "keyframe_confidence": "[B, T], below 1 where a given frame may be corrected (one that another generator made)",
    "keypatches": "clean latents (or pixels) [B, C, T, H, W]; what stands at other patches is not looked at",
    "keypatch_mask": "bool [B, T, H, W], true where an element is given, whole patches of each frame",
    "actions": "[B, T, rows, names]: what each latent frame sees of the raw actions (pipelines.data.actions.aligned)",
}
"""What a generator may be told, by name. ``needs`` in ``generator.json`` lists what it cannot do without (the prompt is
one word for the first three), ``takes`` what it can be given besides."""
PROMPT = ("prompt_embeds", "prompt_mask", "empty_prompt")
CLOCKS = "of phases"
"""What the networks of a flow in several phases are told: 1 to 0 in each (:mod:`pipelines.flow.anchored`)."""
KINDS = ("flow", "refiner", "keypatch_refiner", "world_model")


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{path}: damaged ({error}); fetch or train it again.") from None
    if not isinstance(content, dict):
        raise StageError(f"{path}: describes no generator; fetch or train it again.")
    if content.get("kind", "flow") not in KINDS:
        raise StageError(f"{path}: kind {content['kind']!r}; this program knows {', '.join(KINDS)}.")
    parts = [(phase["start"], phase["end"]) for phase in content.get("phases", ())]
    if parts != [(1.0, 0.0)] * len(parts) and content.get("clocks") != CLOCKS:
        raise StageError(f"{path}: of an earlier version, whose networks were told another time; train it again.")
    return content


def existing(device: torch.device | str) -> torch.device:
    """The device of a name.

    Raises:
        StageError: there is none here.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):  # an unknown word; a kind that this build of torch lacks
        known = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise StageError(f"device {device}: not on this machine, which has {', '.join(known)}.") from None


INSTEAD = {
    "refiner": "`reel refine` and `reel generate --refine` take the checkpoint as it is",
    "keypatch_refiner": "evaluation takes the checkpoint as it is",
    "world_model": "`reel play` takes the checkpoint as it is",
}


def require_flow(folder: Path, kind: str) -> None:
    """Check that a checkpoint is a flow, where nothing else will do.

    Raises:
        StageError: it is a generator of another kind.
    """
    if kind != "flow":
        raise StageError(f"{folder}: a {kind}, and a pipeline folder holds a flow; {INSTEAD[kind]}.")


@dataclass(frozen=True)
class Generator(ABC):
    """A checkpoint that samples: what all kinds share.

    Attributes:
        folder: the checkpoint.
        facts: shape (C, T, H, W), frame rate, autoencoder and text encoder (id, digest, strides) of its training data.
        needs, takes: names of conditions, as in ``generator.json``.
    """

    folder: Path
    facts: dict[str, Any]
    needs: tuple[str, ...]
    takes: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Generator:
        """The generator in a checkpoint folder, of whatever kind, on the device; averaged weights where there are any.

        Raises:
            StageError: the folder holds no generator or a damaged one, or this machine has no such device.
        """
        content, device = read_description(folder), existing(device)
        try:
            return cls._of_kind(folder, content, device)
        except StageError:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            what = " ".join(str(error).split())[:200]
            raise StageError(f"{folder}: damaged ({type(error).__name__}: {what}); fetch or train it again.") from None

    @staticmethod
    def _of_kind(folder: Path, content: dict[str, Any], device: torch.device) -> Generator:
        kind = content.get("kind", "flow")
        if kind == "refiner":
            from pipelines.training.refining import RefinerGenerator

            return RefinerGenerator.read(folder, content, device)
        if kind == "keypatch_refiner":
            from pipelines.training.picture_refining import KeypatchGenerator

            return KeypatchGenerator.read(folder, content, device)
        if kind == "world_model":
            from pipelines.training.world_generator import WorldGenerator

            return WorldGenerator.read(folder, content, device)
        from pipelines.training.flow_generator import FlowGenerator

        return FlowGenerator.read(folder, content, device)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of its training latents."""
        channels, frames, height, width = self.facts["shape"]
        return channels, frames, height, width

    @property
    def name(self) -> str:
        """Stage and run that made the checkpoint, as its record states them."""
        path = self.folder / "checkpoint.json"
        record = read_json(path) if path.is_file() else {}
        return f"{record.get('stage', self.folder.name)} {record.get('run_id', '')}".strip()

    @property
    @abstractmethod
    def networks(self) -> list[Any]:
        """Its networks, each once."""

    @property
    def device(self) -> torch.device:
        """Where its networks live."""
        return next(iter(self.networks[0].parameters())).device

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns per token: latents must be multiples of it."""
        return self.networks[0].patch

    @property
    def num_classes(self) -> int | None:
        """Number of pseudo-classes it can be told; None where it knows the prompt only."""
        return getattr(self.networks[0], "num_classes", None)

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Forwards of its networks for one batch."""

    @property
    @abstractmethod
    def story(self) -> str:
        """How it samples, in words."""

    @property
    def history(self) -> int:
        """Latent frames whose raw actions one frame sees; 0 where it takes no actions."""
        return 0

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

    @abstractmethod
    def with_sampling(
        self, steps: int | None = None, guidance: Guidance | None = None, sampler: str | None = None
    ) -> Generator:
        """The same generator with other steps, guidance or sampler, as far as its kind has them.

        Raises:
            StageError: it cannot be sampled so.
        """

    def starting_clips(self, conditions: Mapping[str, Any]) -> Tensor | None:
        """The clips [B, C, T, H, W] that it corrects, which samples are to be compared with; None where it has none."""
        return None

    @abstractmethod
    def without_guidance(self) -> Generator:
        """The same generator without guidance."""

    @abstractmethod
    def sample(
        self, conditions: Mapping[str, Any], seeds: Sequence[int], shape: tuple[int, int, int, int] | None = None
    ) -> Tensor:
        """Latents [B, C, T, H, W] (normalised, as in the shards), one sample per seed.

        Args:
            conditions: by name, see :data:`CONDITIONS`; what the generator has no use for is passed over.
            seeds: B integers; a sample depends on its own seed and conditions, not on the batch.
            shape: (C, T, H, W); None: that of the training latents.

        Raises:
            ValueError: a condition is missing, or does not fit.
        """
