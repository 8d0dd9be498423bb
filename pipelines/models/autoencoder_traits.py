"""What an autoencoder of diffusers says of itself: what it takes, how it answers, where its normalisation lies.

Read from the network, not from a table of classes: a class that diffusers adds is understood if it keeps to one of the
forms below. What no rule can see, and why it cannot be used, is :data:`REFUSED`.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.stage import StageError

REFUSED = {
    "AutoencoderKLHunyuanImageRefiner": "its pipeline lays pairs of frames over each other as channels",
    "AutoencoderKLMiniMaxH3": "it normalises pixels as ImageNet does and pads clips to blocks of frames",
    "AutoencoderKLQwenImage21": "it takes pixels with transparency, 4 channels",
    "AutoencoderRAE": "it takes pixels in [0, 1] and resizes every picture to one size",
    "ConsistencyDecoderVAE": "its decoder draws noise, so one code has many pictures",
    "VQModel": "its decoder rounds latents to a codebook, so they are no place for noise",
}
"""Classes whose form looks right and whose latents would be wrong."""
CODES = ("latent", "latents")
"""Names under which a class without a posterior answers."""


def class_of(name: str, kind: str) -> Any:
    """The class that a config names.

    Raises:
        StageError: diffusers has no autoencoder of that name, or it is one of :data:`REFUSED`.
    """
    from diffusers.models import autoencoders  # seconds of processor time, and an autoencoder of ours needs none of it

    if kind in REFUSED:
        raise StageError(f"{name}: {kind} cannot be used as an autoencoder: {REFUSED[kind]}.")
    found = getattr(autoencoders, kind, None)
    if not (inspect.isclass(found) and hasattr(found, "encode") and hasattr(found, "decode")):
        raise StageError(f"{name}: of class {kind}, which is no autoencoder of the installed diffusers.")
    return found


def unusable(network: Any, reason: str) -> StageError:
    """What to tell of a network that cannot serve as an autoencoder."""
    return StageError(
        f"{type(network).__name__} in this config cannot be used as an autoencoder: {reason.rstrip('.')}."
    )


def takes_clips(network: Any) -> bool:
    """Whether frames are encoded together; otherwise each frame is a picture for itself."""
    return any(isinstance(layer, nn.Conv3d) for layer in getattr(network, "encoder", network).modules())


def stated_strides(network: Any) -> tuple[int, int]:
    """(frames, pixels) per latent element as the class or its config says; where neither does, 8 (pictures: 1) and 16.

    Only the size of a trial: the strides are what the trial gives.
    """

    def stated(names: tuple[str, ...], usual: int) -> int:
        found = [network.config.get(name) or vars(network).get(name) for name in names]
        return int(next(filter(None, found), usual))

    frames = ("scale_factor_temporal", "temporal_compression_ratio", "temporal_compress_times")
    return stated(frames, 8) if takes_clips(network) else 1, stated(
        ("scale_factor_spatial", "spatial_compression_ratio"), 16
    )


def posterior(network: Any, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """The codes of clips [B, 3, T, H, W] or of pictures [B, 3, H, W]: the posterior's mode, and its log variance.

    The second is None where the network answers with plain latents, or without a variance.

    Raises:
        StageError: the answer holds no latents.
    """
    answer = network.encode(pixels)
    if hasattr(answer, "latent_dist"):
        return answer.latent_dist.mode(), getattr(answer.latent_dist, "logvar", None)
    for name in CODES:
        if isinstance(getattr(answer, name, None), Tensor):
            return getattr(answer, name), None
    raise unusable(network, "it answers without latents")


def decode(network: Any, codes: Tensor, num_frames: int) -> Tensor:
    """Pixels of codes, in the layout of :func:`posterior`, with what the decoder asks for besides.

    ``num_frames``: per clip, for decoders of pictures that look at their neighbours. The step of a decoder that
    removes noise is 0, as in its pipeline; noise that a decoder injects is the same on every call.
    """
    extra: dict[str, Any] = {}
    if "num_frames" in inspect.signature(network.decode).parameters:
        extra["num_frames"] = num_frames
    if network.config.get("timestep_conditioning"):
        extra["temb"] = torch.zeros(len(codes), device=codes.device, dtype=codes.dtype)
    with _same_noise(network, codes):
        answer = network.decode(codes, **extra)
    return answer if isinstance(answer, Tensor) else answer.sample


@contextlib.contextmanager
def _same_noise(network: Any, codes: Tensor) -> Any:
    injects = network.config.get("decoder_inject_noise")
    if not (any(injects) if isinstance(injects, list | tuple) else injects):
        yield
        return
    with torch.random.fork_rng([codes.device] if codes.is_cuda else []):
        torch.manual_seed(0)
        yield


def fold(network: Any) -> int:
    """Side of the squares of latent pixels that become channels before the normalisation: Flux 2's 2, others' 1."""
    return int(network.config["patch_size"][0]) if _batch_norm(network) is not None else 1


def normalisation(network: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the codes per channel [C], or per channel and latent frame [C, F].

    ``latents_mean``/``latents_std`` (config, or buffers), ``shift_factor`` and ``scaling_factor`` combine to
    (codes - mean) * scaling / std, as the decoding of the pipelines undoes it. Flux 2 keeps them in a batch norm:
    std = sqrt(running_var + eps). What is stated nowhere is 0 and 1. (CogVideoX's ``invert_scale_latents`` is about
    the picture that its pipeline is given, not about the clip.)

    Raises:
        StageError: the config states another number of channels than the latents have.
    """
    norm = _batch_norm(network)
    if norm is not None:
        variance = norm.running_var + network.config["batch_norm_eps"]
        return norm.running_mean.clone().float(), variance.sqrt().float()
    shift, scale = (network.config.get(name) or usual for name, usual in (("shift_factor", 0.0), ("scaling_factor", 1)))
    mean = _stated(network, "latents_mean", channels, shift)
    return mean, _stated(network, "latents_std", channels, 1.0) / scale


def state_normalisation(network: Any, mean: Tensor, std: Tensor) -> bool:
    """Make :func:`normalisation` give these, [C] each; False where the network has no place for them.

    Where there is one number for all channels, it is what makes their mean square 1.
    """
    norm = _batch_norm(network)
    scale = network.config.get("scaling_factor") or 1.0
    buffers = dict(network.named_buffers())
    if norm is not None:
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(std.square() - network.config["batch_norm_eps"])
    elif network.config.get("latents_mean") is not None:
        if len(network.config["latents_mean"]) != len(mean):
            return False  # Cosmos states each of its latent frames
        network.register_to_config(latents_mean=mean.tolist(), latents_std=(std * scale).tolist())
    elif "latents_mean" in buffers:
        buffers["latents_mean"].copy_(mean)
        buffers["latents_std"].copy_(std * scale)
    elif network.config.get("scaling_factor") is not None:
        shift = float(mean.mean()) if "shift_factor" in network.config else 0.0
        size = float((std.square() + (mean - shift).square()).mean().sqrt())
        stated = {"shift_factor": shift} if "shift_factor" in network.config else {}
        network.register_to_config(scaling_factor=1.0 / size, **stated)
    else:
        return False
    return True


def _stated(network: Any, name: str, channels: int, usual: float) -> Tensor:
    found = network.config.get(name)
    found = dict(network.named_buffers()).get(name) if found is None else found
    values = torch.as_tensor([usual] * channels if found is None else found).float()
    if type(network).__name__ == "AutoencoderKLCosmos":  # for each channel one number per latent frame
        frames = math.ceil(values.numel() / channels)
        values = values.view(channels, frames) if values.numel() == channels * frames > channels else values
    if len(values) != channels:
        raise StageError(
            f"{type(network).__name__}: its config normalises {len(values)} channels, but its latents have {channels}."
        )
    return values


def _batch_norm(network: Any) -> Any:
    norm = getattr(network, "bn", None)
    return norm if isinstance(norm, nn.BatchNorm2d) else None
