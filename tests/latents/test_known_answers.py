"""Numbers of autoencoders on clips and codes whose answer is worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from pipelines.latents.adversarial import ratio
from pipelines.latents.clips import Clips
from pipelines.latents.denoiser_probe import normalised
from pipelines.latents.losses import low_pass
from pipelines.latents.measures import evaluate
from pipelines.latents.quality import (
    fit_patch_pca,
    hartley,
    latent_statistics,
    linear_baselines,
    psnr,
    reconstruction_quality,
)
from tests.latents.toy import write_clips

CPU = torch.device("cpu")


class Brighter:
    """Codes are the pixels; decoded, everything is off by so much, the first frame by twice that."""

    temporal_stride = spatial_stride = 1
    off = 0.1

    def encode(self, video: Tensor) -> Tensor:
        return video

    def decode(self, latents: Tensor) -> Tensor:
        error = torch.full_like(latents, self.off)
        error[:, :, 0] *= 2
        return latents + error


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return Clips(write_clips(tmp_path_factory.mktemp("known") / "clips", range(4)))


def test_psnr_is_of_a_range_of_two() -> None:
    assert psnr(0.01) == pytest.approx(10 * math.log10(4 / 0.01)) and psnr(4.0) == 0.0


def test_reconstructions_are_scored_over_all_pixels_and_frame_by_frame(clips: Clips) -> None:
    """Five frames: squares 4, 1, 1, 1, 1 times 0.01, whose mean is 0.016."""
    coder, rows = Brighter(), [0, 1, 2]
    found = evaluate(coder, clips, rows, CPU, None, None)  # type: ignore[arg-type]
    assert found["psnr"] == pytest.approx(10 * math.log10(4 / 0.016), abs=1e-3)
    each = [10 * math.log10(4 / square) for square in (0.04, 0.01, 0.01, 0.01, 0.01)]
    assert found["psnr_per_frame"] == pytest.approx(each, abs=1e-3)
    video = torch.cat([video for _, video in clips.videos(rows, 3)])
    changes = video.diff(dim=2)
    still = (changes.abs() < 2 / 127.5).all(1, keepdim=True).expand_as(changes)
    changes[:, :, 0] -= 0.1  # the error changes once; where nothing stands still, nothing flickers
    assert found["flicker"] == pytest.approx(127.5 * float(changes[still].abs().mean()), rel=1e-4)
    quality = reconstruction_quality(coder, clips, rows, CPU)  # type: ignore[arg-type]
    assert quality.psnr == pytest.approx(found["psnr"], abs=1e-3) and quality.compression == 1.0
    assert list(quality.per_clip.values()) == pytest.approx([quality.psnr] * 3, abs=1e-3)


def test_statistics_of_latents_are_those_of_all_their_numbers(clips: Clips) -> None:
    video = torch.cat([video for _, video in clips.videos([0, 1], 2)])
    mean, std = latent_statistics(Brighter(), clips, [0, 1], CPU, batch_size=1)  # type: ignore[arg-type]
    torch.testing.assert_close(mean, video.mean((0, 2, 3, 4)))
    torch.testing.assert_close(std, video.transpose(0, 1).flatten(1).std(1, unbiased=False))


def test_the_mean_colour_leaves_the_variance_and_all_components_leave_nothing(clips: Clips) -> None:
    video = torch.cat([video for _, video in clips.videos([0, 1, 2], 3)])
    pixels = video.movedim(1, -1).flatten(0, -2)
    found = linear_baselines(clips, fit_patch_pca([pixels], 3), [0, 1, 2], (1, 1))
    assert found["psnr_mean_colour"] == pytest.approx(psnr(float(pixels.var(0, unbiased=False).mean())), abs=1e-3)
    assert found["psnr_patch_pca"] > 90
    one = fit_patch_pca([pixels], 1)
    centred = pixels - pixels.mean(0)
    left = torch.linalg.svdvals(centred)[1:].square().sum() / centred.numel()
    assert linear_baselines(clips, one, [0, 1, 2], (1, 1))["psnr_patch_pca"] == pytest.approx(
        psnr(float(left)), abs=0.1
    )


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_the_hartley_matrix_is_orthogonal_and_symmetric(size: int) -> None:
    matrix = hartley(size)
    torch.testing.assert_close(matrix @ matrix, torch.eye(size), atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix, matrix.T)
    torch.testing.assert_close(matrix[0], torch.full((size,), size**-0.5))


def test_latents_are_normalised_per_channel_by_the_training_clips() -> None:
    train = torch.tensor([[0.0, 2.0], [10.0, 30.0]]).T.reshape(2, 2, 1, 1, 1)
    held_out = torch.tensor([1.0, 40.0]).reshape(1, 2, 1, 1, 1)
    ours, theirs = normalised(train, held_out)
    assert ours.flatten().tolist() == pytest.approx([-(0.5**0.5), -(0.5**0.5), 0.5**0.5, 0.5**0.5])
    assert theirs.flatten().tolist() == pytest.approx([0.0, 20 / 200**0.5])


def test_a_ratio_is_after_over_before_and_absent_where_before_was_nothing(tmp_path: Path) -> None:
    assert ratio("x", {"x": 4.0}, {"x": 1.0}) == 0.25 and ratio("x", {"x": 4.0}, {"x": 0.0}) == 0.0
    assert ratio("x", {"x": 0.0}, {"x": 1.0}) is None and ratio("x", {}, {"x": 1.0}) is None


def test_the_low_pass_is_scipys_uniform_filter_over_nothing() -> None:
    video = torch.rand(2, 3, 2, 7, 9, generator=torch.Generator().manual_seed(0))
    sizes: Any = (1, 1, 1, 3, 3)
    theirs = uniform_filter(video.numpy(), size=sizes, mode="constant")
    np.testing.assert_allclose(low_pass(video), theirs, atol=1e-6)
