"""What PSNR does not say of reconstructions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines.latents.measures import flicker, frechet, latent_usage, ssim
from pipelines.models.perceptual import ALEX, EncoderFeatures, Lpips
from pipelines.models.spade import Spade, SpadeBlock
from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.stage import StageError


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """One channel [H, W] of range 2, window by window."""
    values = []
    for row in range(x.shape[0] - 6):
        for column in range(x.shape[1] - 6):
            a, b = (one[row : row + 7, column : column + 7].ravel() for one in (x, y))
            c = np.cov(a, b)  # over n - 1
            top = (2 * a.mean() * b.mean() + 0.02**2) * (2 * c[0, 1] + 0.06**2)
            values.append(top / ((a.mean() ** 2 + b.mean() ** 2 + 0.02**2) * (c[0, 0] + c[1, 1] + 0.06**2)))
    return float(np.mean(values))


def test_ssim_is_scikit_images_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(2, 3, 2, 9, 11, generator=generator) * 2 - 1
    x = (y + 0.2 * torch.randn(y.shape, generator=generator)).clamp(-1, 1)
    for sample in range(2):
        planes = [(x[sample, c, t].numpy(), y[sample, c, t].numpy()) for c in range(3) for t in range(2)]
        assert float(ssim(x, y)[sample]) == pytest.approx(np.mean([slow_ssim(*pair) for pair in planes]), abs=1e-5)
    assert ssim(y, y).tolist() == pytest.approx([1.0, 1.0])
    with pytest.raises(ValueError, match="at least 7 x 7"):
        ssim(y[..., :6, :], y[..., :6, :])


def test_flicker_counts_changes_where_the_clip_stands_still() -> None:
    video = torch.zeros(1, 3, 4, 8, 8)
    video[:, :, :, :, 4:] = torch.arange(4).view(1, 1, 4, 1, 1) * 0.2  # the right half moves
    assert flicker(video, video) == (0.0, 3 * 3 * 8 * 4)
    trembling = video + 0.02 * torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 4, 1, 1)
    total, count = flicker(trembling, video)
    assert total / count == pytest.approx(0.04 * 127.5, rel=1e-4)
    assert flicker(video + 0.3, video)[0] == pytest.approx(0.0, abs=1e-4)  # a constant error does not flicker


def test_the_frechet_distance_of_gaussians_is_its_closed_form() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 3)
    assert frechet(x, x) == pytest.approx(0.0, abs=1e-6)
    assert frechet(x, x + torch.tensor([3.0, 0.0, 0.0])) == pytest.approx(9.0, rel=1e-4)
    assert frechet(x, 2 * x) == pytest.approx(
        float(x.double().mean(0).square().sum() + torch.cov(x.T).trace()), rel=1e-3
    )


def test_channels_that_say_the_same_count_as_one() -> None:
    torch.manual_seed(0)
    own = torch.randn(5000, 4)
    assert latent_usage(own)["effective_channels"] == pytest.approx(4.0, abs=0.05)
    assert latent_usage(own[:, :1].repeat(1, 4))["effective_channels"] == pytest.approx(1.0, abs=0.01)
    assert latent_usage(torch.cat([own, torch.zeros(5000, 2)], 1))["used_channels"] == 4


# ---- distances in features ----------------------------------------------------------------------------------------


def test_features_of_the_encoder_tell_a_picture_from_another_and_pass_gradients() -> None:
    torch.manual_seed(0)
    features = EncoderFeatures(StackedAutoencoder(4, 8, 8, 4, 2))
    video = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    other = video.flip(-1).requires_grad_(True)
    assert features(video, video).tolist() == [0.0, 0.0]
    distance = features(other, video)
    assert distance.shape == (2,) and bool((distance > 0).all())
    distance.sum().backward()
    assert other.grad is not None and float(other.grad.abs().sum()) > 0
    assert not any(parameter.requires_grad for parameter in features.parameters())


def lpips_folder(folder: Path, network: str = "alex") -> Path:
    """Random weights under the names that torchvision and LPIPS give theirs, AlexNet's sizes."""
    folder.mkdir()
    torch.manual_seed(0)
    weights, number = {}, 0
    widths = []
    for part in ALEX:
        if part is None:
            number += 1
            continue
        inputs, outputs, side, *_ = part
        weights[f"features.{number}.weight"] = torch.randn(outputs, inputs, side, side) / (inputs * side**2) ** 0.5
        weights[f"features.{number}.bias"] = torch.zeros(outputs)
        widths.append(outputs)
        number += 2
    weights |= {f"lin{level}.model.1.weight": torch.rand(1, width, 1, 1) for level, width in enumerate(widths)}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"network": network}))
    return folder


def test_lpips_reads_a_local_folder_and_is_zero_for_the_same_picture(tmp_path: Path) -> None:
    distance = Lpips(lpips_folder(tmp_path / "lpips"))
    video = torch.rand(2, 3, 2, 64, 64) * 2 - 1
    assert distance(video, video).tolist() == [0.0, 0.0]
    near, far = distance(video + 0.05 * torch.randn_like(video), video), distance(video.flip(-1), video)
    assert near.shape == (2,) and bool((near < far).all())


def test_lpips_weights_of_another_network_are_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"not the weights of LPIPS's vgg, which config\.json names"):
        Lpips(lpips_folder(tmp_path / "lpips", network="vgg"))
    with pytest.raises(StageError, match="'resnet' is not one of LPIPS's: alex, vgg"):
        Lpips(lpips_folder(tmp_path / "other", network="resnet"))
    with pytest.raises(StageError, match="no LPIPS weights"):
        Lpips(tmp_path / "nowhere")


# ---- SPADE --------------------------------------------------------------------------------------------------------


def test_spade_is_a_group_norm_that_a_map_scales_and_shifts() -> None:
    torch.manual_seed(0)
    spade, x, context = Spade(4, 3, 8), torch.randn(2, 4, 8, 8), torch.randn(2, 3, 4, 4)
    resized = torch.nn.functional.interpolate(context, (8, 8), mode="bilinear", align_corners=False)
    hidden = spade.shared(resized).relu()
    groups = x.view(2, 4, -1)
    norm = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = norm.view_as(x) * (1 + spade.gamma(hidden)) + spade.beta(hidden)
    assert torch.allclose(spade(x, context), expected, atol=1e-5)
    assert torch.equal(SpadeBlock(4, 3, 8)(x, context), x)  # the identity until it has trained
