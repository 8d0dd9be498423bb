"""Pretrained transformers of diffusers, by hub name or folder: found, checked against the latents, loaded, known."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines import hub
from pipelines.models.backbones import BACKBONES, InputLayout
from pipelines.stage import StageError

QUANTISED = ("int8", "nf4")
STATED_BY = "config.json"
SAME_STATISTICS = 1e-3
"""Most by which a mean or standard deviation of a latent channel may differ between two configs of one autoencoder."""


@dataclass(frozen=True)
class Origin:
    """Where a pretrained network comes from, and how its weights are held in memory.

    Attributes:
        name: a folder, or a name on the model hub.
        revision, subfolder: None where there is none.
        weights: ``fp32``, ``bf16``, or quantised ``int8`` or ``nf4`` (needs bitsandbytes).
    """

    name: str
    revision: str | None
    subfolder: str | None
    weights: str

    def __str__(self) -> str:
        return "/".join(filter(None, [self.name, self.subfolder])) + (f"@{self.revision}" if self.revision else "")

    @property
    def _where(self) -> dict[str, Any]:
        return {"revision": self.revision, "subfolder": self.subfolder or ""}

    def config(self) -> dict[str, Any]:
        """Its ``config.json``, without loading weights.

        Raises:
            StageError: it cannot be found or read.
        """
        return read_config(self.name, self.revision, self.subfolder)

    def layout(self) -> InputLayout:
        """What its config says of its inputs.

        Raises:
            StageError: it cannot be found, or is of a class that is not understood.
        """
        config = self.config()
        try:
            return InputLayout.of(config, config.get("_class_name", "none"))
        except (StageError, KeyError) as error:
            raise StageError(f"pretrained denoiser {self}: {error}") from None

    def load(self) -> Any:
        """The network with its weights, in evaluation mode.

        Raises:
            StageError: it cannot be loaded, or its quantisation is not installed here.
        """
        kind = self.layout().kind
        network_class = getattr(importlib.import_module(f"diffusers.models.transformers.{BACKBONES[kind]}"), kind)
        options = {**self._where, **_options(self.weights)}
        try:
            with _quiet():
                return network_class.from_pretrained(self.name, **options)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise hub.unreadable("denoiser", self.name, self.revision, self.subfolder, error) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """diffusers passes the hub an argument that it no longer takes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks")
        yield


def read_config(name: str, revision: str | None, subfolder: str | None) -> dict[str, Any]:
    """``config.json`` of a diffusers model.

    Raises:
        StageError: it cannot be found or read.
    """
    from diffusers.configuration_utils import ConfigMixin

    class AnyModel(ConfigMixin):
        config_name = STATED_BY

    try:
        with _quiet():
            found: Any = AnyModel.load_config(name, revision=revision, subfolder=subfolder or "")
    except (OSError, ValueError) as error:
        raise hub.unreadable("denoiser", name, revision, subfolder, error) from None
    return dict(found)


def _options(weights: str) -> dict[str, Any]:
    if weights not in QUANTISED:
        return {"torch_dtype": {"fp32": torch.float32, "bf16": torch.bfloat16}[weights]}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise StageError(
            f"denoiser.pretrained.weights {weights}: bitsandbytes is not installed; "
            "`pip install 'reelgraph[eight-bit]'`, or hold the weights in bf16."
        )
    from diffusers import BitsAndBytesConfig

    eight: dict[str, Any] = {"load_in_8bit": True}
    four: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": torch.bfloat16,
    }
    config = BitsAndBytesConfig(**(eight if weights == "int8" else four))
    return {"quantization_config": config, "torch_dtype": torch.bfloat16}


# ---- identity -----------------------------------------------------------------------------------------------------


def identity(network: nn.Module) -> dict[str, str | None]:
    """Hashes of a few values of every weight, as bf16: the same however the weights are held, others for other weights.

    ``matrices`` is None for a quantised network, whose matrices are not those of the file. An adapter does not count.
    """
    parts = {"vectors": hashlib.sha256(), "matrices": hashlib.sha256()}
    for name, parameter in sorted(network.named_parameters()):
        if ".lora_" not in name and parameter.is_floating_point():
            values = parameter.detach().flatten()[:16].to("cpu", torch.bfloat16).view(torch.int16)
            part = parts["matrices" if parameter.ndim == 2 else "vectors"]
            part.update(name.replace(".base_layer", "").encode() + values.numpy().tobytes())
    whole = all(parameter.is_floating_point() for parameter in network.parameters())
    return {"vectors": parts["vectors"].hexdigest(), "matrices": parts["matrices"].hexdigest() if whole else None}


def require_same(origin: Origin, recorded: Mapping[str, str | None], network: nn.Module, folder: Path) -> None:
    """Check that what was found under a name is what an adapter was trained on.

    Raises:
        StageError: it is another network.
    """
    for part, found in identity(network).items():
        expected = recorded[part]
        if found is not None and expected is not None and found != expected:
            raise StageError(
                f"{folder}: a LoRA for another base: trained on {origin} with weights {expected[:12]}, but what is "
                f"found there now is {found[:12]}. Restore that base, or name its revision."
            )


# ---- does it fit the latents? -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """What the shards' manifest states of what a denoiser will be given."""

    folder: Path
    channels: int
    text_dim: int
    autoencoder: str
    latent_mean: Sequence[Any]
    latent_std: Sequence[Any]


def check_fits(origin: Origin, layout: InputLayout, given: Given) -> None:
    """Check channels, text width and, where the checkpoint's folder also holds an autoencoder, that it is the same.

    Raises:
        StageError: naming both sides and what to do.
    """
    if layout.wants_image or layout.in_channels != layout.out_channels:
        raise StageError(
            f"{origin}: an image-to-video network of its own kind (it takes {layout.in_channels} channels and gives "
            f"{layout.out_channels}{', and the embedding of an image' if layout.wants_image else ''}), which the "
            "shards cannot feed. Take a text-to-video network, such as Wan-AI/Wan2.2-TI2V-5B-Diffusers; "
            "first_frame_share trains it to start from a given frame."
        )
    if layout.out_channels != given.channels:
        raise StageError(
            f"{origin}: made for latents of {layout.out_channels} channels, but {given.folder} holds {given.channels}, "
            f"of autoencoder {given.autoencoder}. Encode the clips with the autoencoder it was trained with."
        )
    if layout.text_dim != given.text_dim:
        raise StageError(
            f"{origin}: takes prompt tokens of width {layout.text_dim}, but {given.folder} holds {given.text_dim}. "
            "Encode the prompts with the text encoder it was trained with (latent_shards.text)."
        )
    _check_autoencoder(origin, given)


def _check_autoencoder(origin: Origin, given: Given) -> None:
    """Networks of equal channels can be of different autoencoders: compare the normalisation, where it can be read."""
    if origin.subfolder is None:
        return
    try:
        config = read_config(origin.name, origin.revision, "vae")
    except StageError:
        return
    for what, here in (("latents_mean", given.latent_mean), ("latents_std", given.latent_std)):
        there = config.get(what)
        if there is None:
            continue
        scale = float(config.get("scaling_factor") or 1.0) if what == "latents_std" else 1.0
        if len(there) != len(here) or any(
            abs(one / scale - other) > SAME_STATISTICS for one, other in zip(there, here, strict=True)
        ):
            raise StageError(
                f"{given.folder}: latents of autoencoder {given.autoencoder}, whose {what} are not those of the "
                f"autoencoder that {origin.name} was trained with. Encode the clips with {origin.name}/vae."
            )
