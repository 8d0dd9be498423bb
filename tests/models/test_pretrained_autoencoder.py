"""Autoencoders of diffusers: each class from a folder, its strides, and latents as its own pipeline has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import autoencoders
from diffusers.pipelines.flux2.pipeline_flux2 import Flux2Pipeline
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from torch import Tensor

from pipelines.data.contract import AutoencoderFacts
from pipelines.latents.folder import numbers
from pipelines.models.autoencoder import StackedAutoencoder, load_autoencoder, require_lone_first_frame
from pipelines.models.pretrained_autoencoder import PretrainedVideoAutoencoder
from pipelines.stage import StageError
from tests.models.tiny_autoencoders import tiny

# ---- latents to codes, as the pipelines of diffusers write it before they decode ----


def by_scale(network: Any, latents: Tensor) -> Tensor:
    return 1 / network.config.scaling_factor * latents


def by_scale_and_shift(network: Any, latents: Tensor) -> Tensor:
    return latents / network.config.scaling_factor + network.config.shift_factor


def by_mean_and_std(network: Any, latents: Tensor) -> Tensor:
    mean = torch.tensor(network.config.latents_mean).view(1, latents.shape[1], -1, 1, 1)[:, :, : latents.shape[2]]
    std = torch.tensor(network.config.latents_std).view(1, latents.shape[1], -1, 1, 1)[:, :, : latents.shape[2]]
    return latents * std / network.config.get("scaling_factor", 1.0) + mean


def by_buffers(network: Any, latents: Tensor) -> Tensor:
    scale = network.config.scaling_factor
    return LTXPipeline._denormalize_latents(latents, network.latents_mean, network.latents_std, scale)


def by_batch_norm(network: Any, latents: Tensor) -> Tensor:
    std = (network.bn.running_var.view(1, -1, 1, 1) + network.config.batch_norm_eps).sqrt()
    return Flux2Pipeline._unpatchify_latents(latents * std + network.bn.running_mean.view(1, -1, 1, 1))


def as_they_are(network: Any, latents: Tensor) -> Tensor:
    return latents


Undo = Callable[[Any, Tensor], Tensor]
PICTURES: dict[str, tuple[int, Undo]] = {  # stride; latents to codes
    "AsymmetricAutoencoderKL": (2, by_scale),
    "AutoencoderDC": (2, by_scale),
    "AutoencoderKL": (2, by_scale_and_shift),
    "AutoencoderKLFlux2": (16, by_batch_norm),
    "AutoencoderKLHunyuanImage": (4, by_scale),
    "AutoencoderKLKVAE": (2, as_they_are),
    "AutoencoderKLTemporalDecoder": (2, by_scale),
    "AutoencoderTiny": (4, by_scale),
}
CLIPS: dict[str, tuple[int, int, Undo]] = {  # strides over frames and pixels; latents to codes
    "AutoencoderKLCogVideoX": (4, 8, by_scale),
    "AutoencoderKLCosmos": (8, 8, by_mean_and_std),
    "AutoencoderKLHunyuanVideo": (4, 8, by_scale),
    "AutoencoderKLHunyuanVideo15": (4, 16, by_scale),
    "AutoencoderKLKVAEVideo": (4, 4, as_they_are),
    "AutoencoderKLLTXVideo": (8, 32, by_buffers),
    "AutoencoderKLLTX2Video": (8, 32, by_buffers),
    "AutoencoderKLMagvit": (4, 8, by_scale),
    "AutoencoderKLMochi": (6, 8, by_mean_and_std),
    "AutoencoderKLQwenImage": (4, 8, by_mean_and_std),
    "AutoencoderKLWan": (4, 8, by_mean_and_std),
    "Kandinsky6SRVAE": (4, 8, by_scale),
}


def loaded(kind: str, folder: Path) -> tuple[PretrainedVideoAutoencoder, Any]:
    """Ours from the folder that diffusers saved, and diffusers' own."""
    tiny(kind).save_pretrained(folder)
    ours = load_autoencoder(folder)
    assert isinstance(ours, PretrainedVideoAutoencoder)
    return ours, getattr(autoencoders, kind).from_pretrained(folder).eval()


def clip(clips: int, frames: int, height: int, width: int) -> Tensor:
    return torch.rand(clips, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("kind", CLIPS)
@torch.no_grad()
def test_an_autoencoder_of_clips_gives_the_latents_of_its_own_pipeline(kind: str, tmp_path: Path) -> None:
    temporal, spatial, undo = CLIPS[kind]
    ours, network = loaded(kind, tmp_path)
    assert (ours.temporal_stride, ours.spatial_stride) == (temporal, spatial)
    video = clip(1, 1 + 2 * temporal, 2 * spatial, 3 * spatial)
    latents = ours.encode(video)
    assert latents.shape == (1, len(ours.latent_mean), 3, 2, 3)
    assert torch.allclose(undo(network, latents), network.encode(video).latent_dist.mode(), atol=1e-5)
    decoded = ours.decode(latents)
    assert decoded.shape == video.shape
    if kind != "AutoencoderKLLTXVideo":  # whose decoder draws noise; ours draws the same each time
        assert torch.allclose(decoded, network.decode(undo(network, latents)).sample.clamp(-1, 1), atol=1e-5)
    before = torch.random.get_rng_state()
    assert torch.equal(ours.encode(video), latents) and torch.equal(ours.decode(latents), decoded)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("kind", PICTURES)
@torch.no_grad()
def test_an_autoencoder_of_pictures_gives_each_frame_the_latents_of_its_own_pipeline(kind: str, tmp_path: Path) -> None:
    stride, undo = PICTURES[kind]
    ours, network = loaded(kind, tmp_path)
    assert (ours.temporal_stride, ours.spatial_stride) == (1, stride)
    video = clip(2, 3, 2 * stride, 3 * stride)
    latents = ours.encode(video)
    assert latents.shape == (2, len(ours.latent_mean), 3, 2, 3)
    answer = network.encode(video[1].transpose(0, 1))
    codes = answer.latent_dist.mode() if hasattr(answer, "latent_dist") else answer[0]
    pictures = latents[1].transpose(0, 1)
    assert torch.allclose(undo(network, pictures), codes, atol=1e-5)
    extra = {"num_frames": 3} if kind == "AutoencoderKLTemporalDecoder" else {}
    decoded = network.decode(undo(network, pictures), **extra).sample.clamp(-1, 1)
    assert torch.allclose(ours.decode(latents)[1], decoded.transpose(0, 1), atol=1e-5)
    assert torch.equal(ours.encode(video), latents) and torch.equal(ours.decode(latents), ours.decode(latents))


def test_a_clip_does_not_depend_on_the_others_of_its_batch(tmp_path: Path) -> None:
    ours, _ = loaded("AutoencoderKLHunyuanVideo15", tmp_path)  # its attention cannot take two
    video = clip(2, 5, 32, 32)
    assert torch.allclose(ours.encode(video)[1:], ours.encode(video[1:]), atol=1e-5)


def test_frames_that_do_not_come_back_are_refused_with_a_number_that_fits(tmp_path: Path) -> None:
    ours, _ = loaded("AutoencoderKLCogVideoX", tmp_path)
    with pytest.raises(StageError, match=r"13 frames, which AutoencoderKLCogVideoX does not give back; .* of 9 frames"):
        ours.encode(clip(1, 13, 16, 16))
    with pytest.raises(StageError, match="does not give back; cut clips of 9 frames"):
        ours.encode(clip(1, 5, 16, 16))
    with pytest.raises(StageError, match="takes 1 mod 4; cut clips of 5"):
        ours.encode(clip(1, 8, 16, 16))


def test_statistics_per_latent_frame_are_those_of_the_first_frames(tmp_path: Path) -> None:
    ours, _ = loaded("AutoencoderKLCosmos", tmp_path)
    assert ours.latent_mean.tolist()[1] == pytest.approx([0.4, 0.5, 0.6, 0.7])
    stated: Any = {"latent_mean": numbers(ours.latent_mean), "latent_std": numbers(ours.latent_std)}
    facts = AutoencoderFacts(id="cosmos", digest="0", temporal_stride=8, spatial_stride=8, **stated)
    assert AutoencoderFacts.model_validate_json(facts.model_dump_json()) == facts and len(facts.latent_mean) == 4
    with pytest.raises(StageError, match=r"normalises 4 latent frames.*this clip has 5. Cut clips of 25 frames"):
        ours.encode(clip(1, 33, 16, 16))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("AutoencoderKLAllegro", "Encoding without tiling has not been implemented"),
        ("AutoencoderVidTok", "clips of 9x32x32 became 2x4x4 latents, and these 5x32x32"),
    ],
)
def test_one_that_does_not_give_its_clip_back_is_refused(kind: str, reason: str, tmp_path: Path) -> None:
    tiny(kind).save_pretrained(tmp_path)
    with pytest.raises(StageError, match=f"^{kind} in this config cannot be used as an autoencoder: .*{reason}"):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("VQModel", "rounds latents to a codebook"),
        ("ConsistencyDecoderVAE", "its decoder draws noise"),
        ("AutoencoderKLQwenImage21", "4 channels"),
        ("UNet2DModel", "is no autoencoder of the installed diffusers"),
    ],
)
def test_a_class_that_cannot_be_used_is_named_with_the_reason(kind: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(StageError, match=f"{kind}.* {reason}"):
        load_autoencoder(tmp_path)


# ---- does the first latent frame stand for the first frame alone? ----


@pytest.mark.parametrize("kind", ["AutoencoderKLWan", "AutoencoderKLLTXVideo", "AutoencoderKLMochi", "AutoencoderKL"])
def test_a_first_frame_that_stands_alone_can_be_given_as_a_picture(kind: str) -> None:
    require_lone_first_frame(PretrainedVideoAutoencoder(tiny(kind)), "--image")


def test_our_own_first_frame_stands_alone() -> None:
    torch.manual_seed(0)
    ours = StackedAutoencoder(frames=4, patch=2, width=8, latent_channels=4, blocks=1)
    require_lone_first_frame(ours, "--image")


@pytest.mark.parametrize("kind", ["AutoencoderKLHunyuanVideo", "AutoencoderKLCogVideoX", "AutoencoderKLKVAEVideo"])
def test_a_first_frame_that_hears_of_the_clip_is_refused(kind: str) -> None:
    """Their group norms take the mean and variance over time: a picture's latents begin no clip."""
    with pytest.raises(StageError, match=f"--image: in {kind} the first latent frame hears of the frames after it"):
        require_lone_first_frame(PretrainedVideoAutoencoder(tiny(kind)), "--image")
