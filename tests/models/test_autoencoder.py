"""Autoencoders: geometry, stacking, normalisation, files, and what pretrained ones state themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipelines.models.autoencoder import StackedAutoencoder, load_autoencoder
from pipelines.models.geometry import fold, latent_frames, unfold
from pipelines.models.pretrained_autoencoder import PretrainedVideoAutoencoder
from pipelines.models.stacked_autoencoder import stack, unstack
from pipelines.stage import StageError


def tiny(frames: int = 4, patch: int = 4) -> StackedAutoencoder:
    torch.manual_seed(0)
    return StackedAutoencoder(frames, patch, width=8, latent_channels=4, blocks=1).eval()


def wan() -> nn.Module:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.5, 0.0, -0.5, 0.1],
        latents_std=[2.0, 1.0, 0.5, 1.5],
    )


def image_autoencoder() -> nn.Module:
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    sizes = {"block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 4}
    return AutoencoderKL(**blocks, **sizes, scaling_factor=0.5, shift_factor=0.25)


def ltx() -> nn.Module:
    torch.manual_seed(0)
    return AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, False),
        decoder_spatio_temporal_scaling=(True, False),
        decoder_inject_noise=(False, False, False),
        downsample_type=("conv", "conv"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        patch_size=2,
        scaling_factor=0.5,
    )


@settings(deadline=None, max_examples=20)
@given(
    side=st.sampled_from((1, 2, 4, 8)), channels=st.integers(1, 3), rows=st.integers(1, 3), columns=st.integers(1, 3)
)
def test_folding_patches_is_pixel_unshuffle_and_unfolding_undoes_it(
    side: int, channels: int, rows: int, columns: int
) -> None:
    pixels = torch.rand(2, channels, rows * side, columns * side)
    patches = fold(pixels, side)
    assert torch.equal(patches, nn.functional.pixel_unshuffle(pixels, side))
    assert patches.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unfold(patches, side), pixels)


@pytest.mark.parametrize("patch", [4, 8])
def test_an_autoencoder_is_its_linear_code_and_its_corrections(patch: int) -> None:
    network, groups = tiny(patch=patch), torch.rand(3, 12, 16, 24)
    unshuffle, shuffle = nn.functional.pixel_unshuffle, nn.functional.pixel_shuffle
    codes = network.linear_in(unshuffle(groups, 8)) + network.encoder(unshuffle(groups, patch))
    made = shuffle(network.linear_out(codes), 8) + shuffle(network.decoder(codes), patch)
    torch.testing.assert_close(network.encode_groups(groups), codes)
    torch.testing.assert_close(network.decode_groups(codes), made)


@given(frames=st.sampled_from([1, 2, 4]), groups=st.integers(0, 4), batch=st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_stacking_frames_loses_nothing(frames: int, groups: int, batch: int) -> None:
    video = torch.randn(batch, 3, 1 + groups * frames, 4, 4)
    stacked = stack(video, frames)
    assert stacked.shape == (batch, 1 + groups, 3 * frames, 4, 4)
    assert torch.allclose(unstack(stacked, frames), video, atol=1e-6)


@given(groups=st.integers(0, 5), stride=st.integers(1, 8))
def test_one_and_k_strides_of_frames_give_one_and_k_latent_frames(groups: int, stride: int) -> None:
    assert latent_frames(1 + groups * stride, stride) == 1 + groups


@pytest.mark.parametrize(("num_frames", "fits"), [(16, 13), (18, 17), (0, 1)])
def test_other_numbers_of_frames_are_refused_with_one_that_fits(num_frames: int, fits: int) -> None:
    with pytest.raises(StageError, match=rf"has {num_frames} frames, .*1 mod 4; cut clips of {fits} frames"):
        latent_frames(num_frames, 4)


@pytest.mark.parametrize("patch", [1, 2, 4, 8])
@pytest.mark.parametrize("groups", [0, 1, 4])
def test_encode_and_decode_have_the_stated_geometry(patch: int, groups: int) -> None:
    autoencoder = tiny(patch=patch)
    video = torch.rand(2, 3, 1 + 4 * groups, 16, 24) * 2 - 1
    latents = autoencoder.encode(video)
    assert latents.shape == (2, 4, 1 + groups, 2, 3)
    decoded = autoencoder.decode(latents)
    assert decoded.shape == video.shape
    assert decoded.abs().max() <= 1 and not decoded.requires_grad


def test_the_first_latent_frame_depends_on_the_first_frame_alone() -> None:
    autoencoder, video = tiny(), torch.rand(1, 3, 9, 16, 16) * 2 - 1
    whole, alone = autoencoder.encode(video), autoencoder.encode(video[:, :, :1])
    assert torch.allclose(whole[:, :, :1], alone, atol=1e-5)


def test_pixels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StageError, match="20x16 pixels, but this autoencoder takes multiples of 8"):
        tiny().encode(torch.zeros(1, 3, 5, 20, 16))


def test_decoding_undoes_the_normalisation_of_encoding() -> None:
    autoencoder, video = tiny(), torch.rand(2, 3, 5, 16, 16) * 2 - 1
    plain, decoded = autoencoder.encode(video), autoencoder.decode(autoencoder.encode(video))
    mean, std = plain.mean(dim=(0, 2, 3, 4)), plain.std(dim=(0, 2, 3, 4))
    autoencoder.set_statistics(mean, std)
    normalised = autoencoder.encode(video)
    assert torch.allclose(normalised.mean(dim=(0, 2, 3, 4)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(normalised.std(dim=(0, 2, 3, 4)), torch.ones(4), atol=1e-4)
    assert torch.allclose(autoencoder.decode(normalised), decoded, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 5, 128])
def test_a_clip_decoded_in_pieces_is_the_whole_clip(groups: int) -> None:
    autoencoder = tiny(patch=8)
    latents = torch.randn(2, 4, 11, 2, 3)
    pieces = list(autoencoder.decode_pieces(latents, groups))
    whole = autoencoder.decode(latents)
    assert torch.allclose(torch.cat(pieces, dim=2), whole, atol=1e-5)
    assert whole.shape[2] == 41 and max(piece.shape[2] for piece in pieces) <= max(1, groups // 2) * 4


def test_the_largest_piece_is_the_same_for_a_clip_ten_times_as_long() -> None:
    autoencoder = tiny(patch=8)
    largest = [
        max(piece.numel() for piece in autoencoder.decode_pieces(torch.randn(1, 4, frames, 2, 2), 8))
        for frames in (21, 201)
    ]
    assert largest[0] == largest[1]


def test_a_constant_video_has_constant_latents_up_to_the_border() -> None:
    latents = tiny().encode(torch.full((1, 3, 1, 32, 32), 0.3))
    assert torch.allclose(latents, latents[..., :1, :1].expand_as(latents), atol=1e-5)


def test_a_saved_autoencoder_is_the_same_when_loaded(tmp_path: Path) -> None:
    autoencoder, video = tiny(patch=2), torch.rand(1, 3, 5, 16, 16) * 2 - 1
    autoencoder.set_statistics(torch.arange(4.0), torch.full((4,), 2.0))
    autoencoder.save_pretrained(tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert torch.equal(loaded.encode(video), autoencoder.encode(video))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(("network", "strides"), [(wan, (4, 8)), (image_autoencoder, (1, 2)), (ltx, (2, 4))])
def test_a_pretrained_autoencoder_loads_by_folder_with_its_own_normalisation(
    tmp_path: Path, network, strides: tuple[int, int]
) -> None:
    network().save_pretrained(tmp_path)
    autoencoder = load_autoencoder(tmp_path)
    assert isinstance(autoencoder, PretrainedVideoAutoencoder)
    assert (autoencoder.temporal_stride, autoencoder.spatial_stride) == strides
    video = torch.rand(2, 3, 5, 16, 16) * 2 - 1
    latents = autoencoder.encode(video)
    assert latents.shape[2:] == (1 + 4 // strides[0], 16 // strides[1], 16 // strides[1])
    assert autoencoder.decode(latents).shape == video.shape


def test_normalisations_of_the_three_kinds_are_read_right(tmp_path: Path) -> None:
    of_wan = PretrainedVideoAutoencoder(wan())
    assert of_wan.latent_mean.tolist() == pytest.approx([0.5, 0.0, -0.5, 0.1])
    assert of_wan.latent_std.tolist() == [2.0, 1.0, 0.5, 1.5]
    of_image = PretrainedVideoAutoencoder(image_autoencoder())  # (codes - shift) * scaling
    assert of_image.latent_mean.tolist() == [0.25] * 4 and of_image.latent_std.tolist() == [2.0] * 4
    assert PretrainedVideoAutoencoder(ltx()).latent_std.tolist() == [2.0] * 8


def wan_2_2() -> AutoencoderKLWan:
    """The keys of Wan 2.2's configuration (48 channels, pixel patches, residual blocks), a few thousand weights."""
    return AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=48,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
        latents_mean=[0.1 * channel for channel in range(48)],
        latents_std=[1.0 + 0.01 * channel for channel in range(48)],
    )


def wan_2_1() -> AutoencoderKLWan:
    """The keys of Wan 2.1's configuration (its own 16 means and deviations are the class's defaults)."""
    return AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


@pytest.mark.parametrize(("network", "channels", "stride"), [(wan_2_1, 16, 8), (wan_2_2, 48, 16)])
def test_wan_of_16_and_of_48_channels_is_normalised_as_its_config_says(
    tmp_path: Path, network: Callable[[], AutoencoderKLWan], channels: int, stride: int
) -> None:
    network().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    autoencoder, raw = load_autoencoder(tmp_path), AutoencoderKLWan.from_pretrained(tmp_path)
    assert (autoencoder.temporal_stride, autoencoder.spatial_stride) == (4, stride)
    video = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        codes = raw.encode(video).latent_dist.mode()
    mean, std = (torch.tensor(config[name]).view(1, channels, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    latents = autoencoder.encode(video)
    assert latents.shape == (1, channels, 2, 32 // stride, 32 // stride)
    assert torch.allclose(latents, (codes - mean) / std, atol=1e-5)
    assert autoencoder.decode(latents).shape == video.shape


def test_a_normalisation_of_other_channels_is_refused() -> None:
    network = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)  # states 16 means
    with pytest.raises(StageError, match="normalises 16 channels, but its latents have 4"):
        PretrainedVideoAutoencoder(network)


def test_what_cannot_be_loaded_is_said_in_two_lines(tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        PretrainedVideoAutoencoder.from_pretrained("nobody/no-such-autoencoder", subfolder="vae")
    first, second = str(caught.value).splitlines()
    assert first.startswith("pretrained autoencoder 'nobody/no-such-autoencoder' cannot be loaded: ")
    assert "existing folder, or a hub name" in second
    with pytest.raises(StageError, match="holds no autoencoder"):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(StageError, match="of class UNet2DModel, which is no autoencoder of the installed diffusers"):
        load_autoencoder(tmp_path)
