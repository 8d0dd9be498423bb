"""The checkpoint that a stage starts from, checked against what the stage is about to train."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.flow.params import Sampling
from pipelines.flow.sampling import Phase
from pipelines.generation.latents import Latents
from pipelines.generation.params import AnchoredFlowParams, Denoiser, DenoiserParams
from pipelines.models.denoiser import VideoDenoiser, averaged
from pipelines.stage import StageError
from pipelines.training import checkpoint
from pipelines.written import read_json


@dataclass(frozen=True)
class Parent:
    """A checkpoint of anchored flow.

    Attributes:
        folder: of the checkpoint.
        root: folder of the network that goes on being trained.
        identity: the phase above the junction, walked by the parent's network; None where the stage has its own.
    """

    folder: Path
    root: Path
    identity: Phase | None

    @classmethod
    def read(cls, init: Path | None, params: AnchoredFlowParams, data: Latents, num_classes: int) -> Parent | None:
        """The parent in ``init``, or None without one.

        Raises:
            StageError: a motion stage without a parent, or one of another architecture, latents or junction.
        """
        if init is None:
            if params.has_identity:
                return None
            raise StageError(
                "loss_weights.identity is 0 (the motion stage): it needs --init, a checkpoint of the identity stage, "
                "to get to the junction."
            )
        record = checkpoint.read(init)
        facts = _generator(init)
        _require_equal(init, "denoiser", record["params"].get("denoiser"), params.denoiser.model_dump(mode="json"))
        _require_latents(init, facts["latents"], data)
        first = facts["phases"][0]
        if first["end"] != params.anchor.junction or not first["still"]:
            raise StageError(
                f"{init}: its way from noise ends at sigma {first['end']}, not at this stage's anchor.junction "
                f"{params.anchor.junction}; give both stages the same junction."
            )
        classes = json.loads((_network(init, first["network"]) / "conditioning.json").read_text(encoding="utf-8"))
        _require_equal(init, "number of pseudo-classes", classes["num_classes"], num_classes)
        identity = None
        if not params.has_identity:
            network = VideoDenoiser.from_pretrained(averaged(_network(init, first["network"]))).eval()
            sampling = Sampling.model_validate(first["sampling"])
            identity = Phase(network, sampling, first["start"], first["end"], still=True)
        return cls(init, _network(init, facts["phases"][-1]["network"]), identity)

    def denoiser(self) -> VideoDenoiser:
        """The parent's network as the start of this stage: its averaged weights where there are any."""
        return VideoDenoiser.from_pretrained(averaged(self.root)).train()

    def identity_network(self, device: torch.device) -> VideoDenoiser:
        """The network of the phase above the junction, frozen."""
        assert self.identity is not None
        network = self.identity.denoiser
        assert isinstance(network, VideoDenoiser)
        return network.to(device).requires_grad_(False)


def flow_of(init: Path, denoiser: Denoiser, data: Latents) -> VideoDenoiser:
    """The network of a flow, to go on from: its averaged weights where there are any. Clips may have another size.

    Raises:
        StageError: it is no flow of one phase, of another architecture, or of other latents or prompts.
    """
    if not isinstance(denoiser, DenoiserParams):
        raise StageError(f"{init}: --init goes on with a network of ours; a pretrained one is named by denoiser alone.")
    record, facts = checkpoint.read(init), _generator(init)
    if len(facts.get("phases", ())) != 1:
        raise StageError(f"{init}: no flow of one phase, as rectified_flow makes it; start from one that is.")
    _require_equal(init, "denoiser", record["params"].get("denoiser"), denoiser.model_dump(mode="json"))
    _require_origin(init, facts["latents"], data)
    return VideoDenoiser.from_pretrained(averaged(_network(init, facts["phases"][0]["network"]))).train()


def _network(checkpoint_folder: Path, name: str) -> Path:
    return checkpoint_folder / name if name else checkpoint_folder


def _generator(folder: Path) -> dict[str, Any]:
    path = folder / "generator.json"
    if not path.is_file():
        raise StageError(f"{path}: no such file, so {folder} is no checkpoint of a flow; start from one that is.")
    return read_json(path)


def _require_equal(init: Path, what: str, found: Any, wanted: Any) -> None:
    if found == wanted:
        return
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in wanted:
            _require_equal(init, f"{what}.{key}", found.get(key), wanted[key])
    raise StageError(
        f"{init}: {what} is {found} there and {wanted} here. A stage starts from a checkpoint of the same architecture "
        "and data: make both params sections equal, or train the earlier stage again."
    )


def _require_latents(init: Path, facts: dict[str, Any], data: Latents) -> None:
    _require_origin(init, facts, data)
    _require_equal(init, "shape of the latents", facts["shape"], data.facts()["shape"])


def _require_origin(init: Path, facts: dict[str, Any], data: Latents) -> None:
    """That autoencoder and text encoder are the same."""
    here = data.facts()
    for name in ("autoencoder", "text_encoder"):
        if facts[name]["digest"] != here[name]["digest"]:
            raise StageError(
                f"{init}: trained on latents of {name} {facts[name]['id']} ({facts[name]['digest'][:12]}), but "
                f"{data.folder} is of {here[name]['id']} ({here[name]['digest'][:12]}). Train the earlier stage again."
            )
