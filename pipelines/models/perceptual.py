"""Distances between pictures in the features of a network: LPIPS, arXiv:1801.03924, and the same with another network.

At each layer features have length 1 at every place; their squared difference is weighted per channel, summed over the
channels and averaged over places; layers are summed (LPIPS) or averaged (our encoder, whose channels weigh the same).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.stage import StageError

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""LPIPS's normalisation of pixels in [-1, 1]."""
POOL = None
ALEX = (
    (3, 64, 11, 4, 2),
    POOL,
    (64, 192, 5, 1, 2),
    POOL,
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)
"""Convolutions (in, out, side, stride, padding), each with a ReLU, and poolings, under torchvision's numbers."""
VGG = (
    (3, 64, 3, 1, 1),
    (64, 64, 3, 1, 1),
    POOL,
    (64, 128, 3, 1, 1),
    (128, 128, 3, 1, 1),
    POOL,
    (128, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
    POOL,
    (256, 512, 3, 1, 1),
    (512, 512, 3, 1, 1),
    (512, 512, 3, 1, 1),
    POOL,
    (512, 512, 3, 1, 1),
    (512, 512, 3, 1, 1),
    (512, 512, 3, 1, 1),
)
NETWORKS = {"alex": (ALEX, (1, 4, 7, 9, 11), 3), "vgg": (VGG, (3, 8, 15, 22, 29), 2)}
"""Name: layers, after which of them features are taken, side of a pooling."""


def unit(features: Tensor) -> Tensor:
    """Features [N, C, h, w] of length 1 at every place."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def frames_of(video: Tensor) -> Tensor:
    """[B, 3, F, H, W] to [B * F, 3, H, W]."""
    return video.transpose(1, 2).flatten(0, 1)


class Lpips(nn.Module):
    """LPIPS with the weights of a local folder.

    Args:
        folder: ``config.json`` with ``{"network": "alex" | "vgg"}`` and ``model.safetensors`` with torchvision's
            ``features.N.weight`` and ``.bias`` and LPIPS's ``linN.model.1.weight``.

    Raises:
        StageError: it is not there, or holds the weights of another network.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        try:
            name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["network"]
            weights = load_file(folder / "model.safetensors")
        except (OSError, ValueError, KeyError) as error:
            raise StageError(
                f"{folder}: no LPIPS weights ({error}): it takes config.json with network (alex or vgg) and "
                "model.safetensors; without them use features: {kind: own_encoder}."
            ) from None
        if name not in NETWORKS:
            raise StageError(f"{folder / 'config.json'}: network {name!r} is not one of LPIPS's: alex, vgg.")
        plan, self.taken, self.pool = NETWORKS[name]
        layers: list[nn.Module] = []
        for part in plan:
            layers += [nn.MaxPool2d(self.pool, 2)] if part is None else [nn.Conv2d(*part), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        widths = [[part for part in plan if part is not None][i][1] for i in self._convolutions(plan)]
        self.linear = nn.ParameterList([torch.zeros(1, width, 1, 1) for width in widths])
        self._load(folder, name, weights)
        self.requires_grad_(False)

    def _convolutions(self, plan: tuple) -> list[int]:
        """Which convolution the features of each taken layer come from."""
        ends, number, layer = [], -1, -1
        for part in plan:
            layer += 1 if part is None else 2
            number += part is not None
            if layer in self.taken:
                ends.append(number)
        return ends

    def _load(self, folder: Path, name: str, weights: dict[str, Tensor]) -> None:
        own = {key: value for key, value in weights.items() if key.startswith("features.")}
        own |= {
            f"linear.{number}": weights[f"lin{number}.model.1.weight"]
            for number in range(len(self.linear))
            if f"lin{number}.model.1.weight" in weights
        }
        try:
            self.load_state_dict(own)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise StageError(
                f"{folder / 'model.safetensors'}: not the weights of LPIPS's {name}, which config.json names: {reason}"
            ) from None

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Video [B, 3, F, H, W] in [-1, 1] and another: distance per sample [B], frame by frame."""
        shift, scale = (torch.tensor(one, device=target.device).view(1, 3, 1, 1) for one in (SHIFT, SCALE))
        x, y = ((frames_of(one) - shift) / scale for one in (predicted, target))
        total = x.new_zeros(len(x))
        weights = iter(self.linear)
        for number, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if number in self.taken:
                total = total + ((unit(x) - unit(y)).square() * next(weights)).sum(dim=1).mean(dim=(1, 2))
        return total.unflatten(0, (len(target), -1)).mean(dim=1)


class EncoderFeatures(nn.Module):
    """The same with the layers of the encoder of one of our autoencoders, which has seen clips like these.

    It knows what mattered for their squared error, not what matters to people; LPIPS does.
    """

    def __init__(self, autoencoder: StackedAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder.eval().requires_grad_(False)

    def layers(self, video: Tensor) -> list[Tensor]:
        """Unit features of groups of frames [B, 3, F, H, W] after every layer of the encoder."""
        encoder = self.autoencoder.encoder
        x, found = functional.pixel_unshuffle(video.flatten(1, 2), encoder.patch), []
        for layer in encoder.layers:
            x = layer(x)
            found.append(unit(x))
        return found

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Groups of frames and others: distance per sample [B]."""
        pairs = zip(self.layers(predicted), self.layers(target), strict=True)
        return torch.stack([(x - y).square().sum(dim=1).mean(dim=(1, 2)) for x, y in pairs]).mean(dim=0)
