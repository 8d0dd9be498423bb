"""Frozen feature maps of pictures: a published ResNet from a local folder, or our own autoencoder's encoder.

Both take pictures [B, 3, 1, H, W] in [-1, 1] and give maps [B, D, 1, h, w] by layer, as
:meth:`pipelines.models.latent_mae.LatentMae.maps` does of latents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.stage import StageError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of pixels in [0, 1], where a folder states no other."""
TIMM = (
    (r"conv1\.(\w+)", r"embedder.embedder.convolution.\1"),
    (r"bn1\.(\w+)", r"embedder.embedder.normalization.\1"),
    (r"layer(\d+)\.(\d+)\.conv(\d+)\.(\w+)", r"encoder.stages.\1-.layers.\2.layer.\3-.convolution.\4"),
    (r"layer(\d+)\.(\d+)\.bn(\d+)\.(\w+)", r"encoder.stages.\1-.layers.\2.layer.\3-.normalization.\4"),
    (r"layer(\d+)\.(\d+)\.downsample\.0\.(\w+)", r"encoder.stages.\1-.layers.\2.shortcut.convolution.\3"),
    (r"layer(\d+)\.(\d+)\.downsample\.1\.(\w+)", r"encoder.stages.\1-.layers.\2.shortcut.normalization.\3"),
)
"""Names of timm and torchvision, and those of transformers; ``n-`` is n - 1."""


class ResNetFeatures(nn.Module):
    """A ResNet of transformers with the weights of a folder: ``stem``, ``stage1`` … ``stage4``.

    Args:
        folder: ``config.json`` and ``model.safetensors`` as published on the Hugging Face hub, of transformers
            (model_type resnet) or of timm (resnet18 to resnet152).
        random: keep the architecture, not the weights.

    Raises:
        StageError: it is not there, or holds another network. Strict: a partly loaded encoder is a random feature
            space that nobody notices.
    """

    def __init__(self, folder: Path, random: bool = False) -> None:
        from transformers import ResNetConfig, ResNetModel

        super().__init__()
        config, weights = _read(folder)
        stated = {name: config[name] for name in ResNetConfig().to_dict() if name in config}
        if config.get("model_type") != "resnet":
            weights = _renamed(folder, weights)
            stated = _architecture(weights)
        self.network = ResNetModel(ResNetConfig(**stated))
        if not random:
            own = {name.removeprefix("resnet."): value for name, value in weights.items()}
            _load(self.network, {name: one for name, one in own.items() if not name.startswith("classifier")}, folder)
        mean, std = _normalisation(folder, config)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    @property
    def layers(self) -> list[str]:
        """``stem`` and the stages."""
        return ["stem", *[f"stage{number}" for number in range(1, len(self.network.encoder.stages) + 1)]]

    def maps(self, pictures: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Maps of the named layers; stages behind the last one are not run."""
        last = max(map(self.layers.index, layers))
        x = self.network.embedder(((pictures[:, :, 0] + 1) / 2 - self.mean) / self.std)
        found = {"stem": x}
        for number, stage in enumerate(self.network.encoder.stages[:last], start=1):
            x = stage(x)
            found[f"stage{number}"] = x
        return {name: found[name][:, :, None] for name in layers}


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config, load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise StageError(
            f"{folder}: no ResNet ({error}): it takes config.json and model.safetensors as transformers or timm "
            "publish them; without them use encoder: {kind: own_encoder}."
        ) from None


def _renamed(folder: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's weights under transformers' names, the classifier left out.

    Raises:
        StageError: a name is none of a plain ResNet (a deep stem, squeeze-and-excitation, another network).
    """
    found = {}
    for name, value in weights.items():
        if name.startswith("fc."):
            continue
        for pattern, other in TIMM:
            if re.fullmatch(pattern, name):
                plain = re.sub(pattern, other, name)
                found[re.sub(r"(\d+)-", lambda number: str(int(number[1]) - 1), plain)] = value
                break
        else:
            raise StageError(
                f"{folder}: {name} is no weight of a plain ResNet; resnet18, 34, 50, 101 and 152 would do."
            )
    return found


def _architecture(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Depths and widths that the weights have."""
    places = [re.match(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution", name) for name in weights]
    numbers = [tuple(int(part) for part in place.groups()) for place in places if place]
    if not numbers or "embedder.embedder.convolution.weight" not in weights:
        return {}
    stages, last = 1 + max(number[0] for number in numbers), max(number[2] for number in numbers)
    depths = [1 + max(layer for stage, layer, _ in numbers if stage == number) for number in range(stages)]
    ends = [f"encoder.stages.{number}.layers.0.layer.{last}.convolution.weight" for number in range(stages)]
    return {
        "embedding_size": len(weights["embedder.embedder.convolution.weight"]),
        "hidden_sizes": [len(weights[end]) for end in ends if end in weights],
        "depths": depths,
        "layer_type": "bottleneck" if last == 2 else "basic",
    }


def _load(network: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    weights = {name: torch.zeros((), dtype=torch.int64) for name in counters} | weights  # of no use when frozen
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise StageError(f"{folder / 'model.safetensors'}: not the weights of this ResNet: {reason}") from None


def _normalisation(folder: Path, config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """As timm's config or transformers' preprocessor states it."""
    stated = config.get("pretrained_cfg", {})
    mean, std = stated.get("mean"), stated.get("std")
    path = folder / "preprocessor_config.json"
    if mean is None and path.is_file():
        stated = json.loads(path.read_text(encoding="utf-8"))
        mean, std = stated.get("image_mean"), stated.get("image_std")
    return (tuple(mean), tuple(std)) if mean and std else IMAGENET


class OwnEncoderFeatures(nn.Module):
    """The layers of the encoder of one of our autoencoders, told a picture as a group of equal frames."""

    def __init__(self, autoencoder: StackedAutoencoder) -> None:
        super().__init__()
        encoder: Any = autoencoder.encoder
        self.stages: Any = encoder.layers
        self.patch, self.frames = encoder.patch, autoencoder.config["frames"]
        self.eval().requires_grad_(False)

    @property
    def layers(self) -> list[str]:
        """``layer0`` (the patches' embedding), ``layer1`` …"""
        return [f"layer{number}" for number in range(len(self.stages))]

    def maps(self, pictures: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Maps of the named layers; those behind the last one are not run."""
        last = max(map(self.layers.index, layers))
        group = pictures.expand(-1, -1, self.frames, -1, -1).flatten(1, 2)
        x, found = functional.pixel_unshuffle(group, self.patch), {}
        for number, layer in enumerate(self.stages[: last + 1]):
            x = layer(x)
            found[f"layer{number}"] = x[:, :, None]
        return {name: found[name] for name in layers}
