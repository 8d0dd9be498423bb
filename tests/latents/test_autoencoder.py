"""The stage autoencoder: trained or taken, measured on held-out clips, honest about both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from PIL import Image

from pipelines.latents import autoencoder
from pipelines.latents.autoencoder import train
from pipelines.latents.clips import Clips, FrameGroups, as_frames, as_video
from pipelines.latents.objectives import Autoencoding
from pipelines.latents.params import AutoencoderParams, PretrainedAutoencoderParams
from pipelines.latents.quality import (
    fit_patch_pca,
    latent_statistics,
    linear_baselines,
    patch_pca_of,
    patches,
    psnr,
    reconstruction_quality,
)
from pipelines.models.autoencoder import StackedAutoencoder, load_autoencoder
from pipelines.stage import StageError
from pipelines.training import checkpoint
from tests.latents.toy import NUM_FRAMES, SIDE, autoencoder_params, losses, write_clips


def run(folder: Path, params: AutoencoderParams) -> tuple[Path, dict]:
    """Run the stage on clips in the folder; the checkpoint and its metrics."""
    clips = folder / "clips" if (folder / "clips").exists() else write_clips(folder / "clips")
    out, metrics = folder / "checkpoints/autoencoder", folder / "metrics/autoencoder.json"
    out.parent.mkdir(exist_ok=True)
    train(params, clips, out, metrics, folder / "plots")
    return out, json.loads(metrics.read_text())


@pytest.mark.costly
def test_a_trained_autoencoder_leaves_checkpoint_numbers_and_pictures(tmp_path: Path) -> None:
    out, metrics = run(tmp_path, autoencoder_params(steps=60))
    assert metrics["psnr"] > metrics["psnr_mean_colour"] + 1
    assert metrics["psnr_patch_pca"] > metrics["psnr_mean_colour"]
    assert metrics["compression"] == 3 * 5 * 16 * 16 / (4 * 2 * 2 * 2)
    assert [gate["verdict"] for gate in metrics["gates"]] == ["pass", "pass"]
    record = checkpoint.read(out)
    assert "pipelines.models.autoencoder.load_autoencoder(" in (out / "README.md").read_text()
    assert [path.name for path in sorted((out / "validation").glob("*.mp4"))]
    assert {"model.safetensors"} <= set(record["weights"])
    for name in ("reconstructions.png", "quality.png", "training/training_overview.png"):
        with Image.open(tmp_path / "plots" / name) as picture:
            assert picture.width >= 900 and len(np.unique(np.asarray(picture))) > 50
    clips = Clips(tmp_path / "clips")
    mean, std = latent_statistics(load_autoencoder(out), clips, clips.rows("train"), torch.device("cpu"))
    assert torch.allclose(mean, torch.zeros(4), atol=1e-3) and torch.allclose(std, torch.ones(4), atol=1e-3)


def test_a_large_held_out_split_is_measured_on_a_bounded_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoder, "MOST_HELD_OUT_CLIPS", 1)
    monkeypatch.setattr(autoencoder, "MOST_STATISTICS_CLIPS", 3)
    asked: list[int] = []
    read = Clips.videos

    def counted(clips: Clips, rows: list[int], size: int) -> object:
        asked.append(len(rows))
        return read(clips, rows, size)

    network = StackedAutoencoder(4, 8, 8, 4, 1)
    clips = Clips(write_clips(tmp_path / "clips"))
    linear = autoencoder.patch_pca_of(clips, clips.rows("train"), (4, 8), 4)
    monkeypatch.setattr(Clips, "videos", counted)
    found = autoencoder.measured(autoencoder_params(), network, clips, linear, torch.device("cpu"), tmp_path)
    assert found["num_held_out"] == 1 < len(clips.rows("validation")) and set(asked) <= {1, 2, 3}


def test_a_pretrained_autoencoder_is_taken_as_it_is_and_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    means, stds = [0.0] * 4, [0.5] * 4
    AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=means, latents_std=stds
    ).save_pretrained(tmp_path / "vae")
    named = PretrainedAutoencoderParams(name=str(tmp_path / "vae"), revision=None, subfolder=None)
    out, metrics = run(tmp_path, autoencoder_params(pretrained=named))
    record = checkpoint.read(out)
    assert record["pretrained"] == {"name": str(tmp_path / "vae"), "revision": None, "subfolder": None}
    assert record["step"] == 0 and record["results"]["psnr"] == metrics["psnr"]
    assert {"psnr", "psnr_patch_pca", "psnr_mean_colour", "compression", "gates"} <= metrics.keys()
    video = as_video(Clips(tmp_path / "clips").frames(0))[None]
    original = AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    with torch.no_grad():
        expected = original.encode(video).latent_dist.mode() / 0.5
    assert torch.equal(load_autoencoder(out).encode(video), expected)


def test_a_pretrained_name_that_is_nowhere_stops_before_anything_is_written(tmp_path: Path) -> None:
    named = PretrainedAutoencoderParams(name="nobody/nothing", revision=None, subfolder="vae")
    with pytest.raises(StageError, match=r"'nobody/nothing' cannot be loaded"):
        run(tmp_path, autoencoder_params(pretrained=named))
    assert not (tmp_path / "checkpoints/autoencoder").exists()


def test_clips_that_do_not_fit_are_named_before_training(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", width=12)
    with pytest.raises(StageError, match="clip clip-0 is 16x12 pixels, but this autoencoder takes multiples of 8"):
        run(tmp_path, autoencoder_params())


def test_a_set_without_held_out_clips_is_refused(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", split="train")
    with pytest.raises(StageError, match="no clips in split validation"):
        run(tmp_path, autoencoder_params())


def test_a_file_that_is_not_what_the_catalog_says_is_named(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips")
    (tmp_path / "clips/clips/clip-0.mp4").write_bytes(b"not a video")
    with pytest.raises(StageError, match=r"clip-0\.mp4: clip clip-0: .*; run raw_video again"):
        Clips(tmp_path / "clips").frames(0)


# ---- batches ------------------------------------------------------------------------------------------------------


def test_frame_groups_are_a_function_of_the_step(tmp_path: Path) -> None:
    clips = Clips(write_clips(tmp_path / "clips"))
    first, second = (FrameGroups(clips, clips.rows("train"), 4, batch_size=4, seed=3) for _ in range(2))
    first.read(0, 0, 4)
    whole = first.read(7, 0, 4)["video"]
    parts = torch.cat([second.read(7, start, start + 2)["video"] for start in (0, 2)])
    assert whole.shape == (4, 3, 4, SIDE, SIDE) and torch.equal(whole, parts)
    assert first.keys(7) == second.keys(7)
    assert set(key for step in range(3) for key in first.keys(step)) <= {clips.key(row) for row in clips.rows("train")}


def test_frame_groups_hold_the_repeated_first_frame_and_the_later_ones(tmp_path: Path) -> None:
    clips = Clips(write_clips(tmp_path / "clips"))
    groups = FrameGroups(clips, clips.rows("train"), 4, batch_size=16, seed=0)
    frames = {clips.key(row): as_video(clips.frames(row)) for row in clips.rows("train")}
    kinds = set()
    for key, group in zip(groups.keys(0), groups.read(0, 0, 16)["video"], strict=True):
        repeated = torch.equal(group, frames[key][:, :1].expand(-1, 4, -1, -1))
        assert repeated or torch.equal(group, frames[key][:, 1:NUM_FRAMES])
        kinds.add(repeated)
    assert kinds == {True, False}


def test_pixels_survive_the_way_to_video_and_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    video = as_video(pixels)
    assert video.shape == (3, 1, 16, 16) and video.min() == -1 and video.max() == 1
    assert np.array_equal(as_frames(video), pixels)


# ---- numbers ------------------------------------------------------------------------------------------------------


def test_the_loss_is_per_sample_and_reaches_only_the_autoencoder() -> None:
    objective = Autoencoding(StackedAutoencoder(4, 4, width=8, latent_channels=4, blocks=1), losses())
    video = torch.rand(3, 3, 4, 16, 16) * 2 - 1
    output = objective.losses({"video": video}, 0, "autoencoder")["autoencoder"]
    assert output.loss.shape == (3,) and output.loss.requires_grad
    assert float(output.metrics["train/psnr"]) == pytest.approx(psnr(float(output.loss.detach().mean())), abs=1e-4)


def test_psnr_of_known_errors() -> None:
    assert psnr(4.0) == 0.0
    assert psnr(0.04) == pytest.approx(20.0)
    assert np.isfinite(psnr(0.0))


def test_patch_components_are_the_best_linear_code() -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 3) @ torch.randn(3, 12) + 5

    def error(components: int) -> float:
        fitted = fit_patch_pca([rows], components)
        assert torch.allclose(fitted.components.T @ fitted.components, torch.eye(components), atol=1e-5)
        centred = rows - fitted.mean
        return float((centred - centred @ fitted.components @ fitted.components.T).square().mean())

    assert error(3) < 1e-8
    spectrum = torch.linalg.svdvals(rows - rows.mean(0))
    assert error(2) == pytest.approx(float(spectrum[2] ** 2 / rows.numel()), rel=1e-3)
    assert torch.allclose(fit_patch_pca([rows], 3).deviations, spectrum[:3] / len(rows) ** 0.5, rtol=1e-3)


def test_training_starts_at_patch_pca_which_is_measured_on_the_same_pixels(tmp_path: Path) -> None:
    clips = Clips(write_clips(tmp_path / "clips"))
    rows, held_out = clips.rows("train"), clips.rows("validation")
    network = StackedAutoencoder(4, 8, width=8, latent_channels=6, blocks=1).eval()
    linear = patch_pca_of(clips, rows, (4, 8), 6)
    network.start_linear(linear.mean, linear.spread(), linear.deviation)
    ours = reconstruction_quality(network, clips, held_out, torch.device("cpu"))
    assert ours.psnr == pytest.approx(linear_baselines(clips, linear, held_out, (4, 8))["psnr_patch_pca"], abs=1e-3)
    _, std = latent_statistics(network, clips, rows, torch.device("cpu"))
    assert 0.5 < float(std.square().mean()) < 2.0


@pytest.mark.parametrize("is_spread", [True, False])
def test_the_code_that_training_starts_at_keeps_distances_but_for_one_factor(is_spread: bool) -> None:
    """So an error of the latents is one of the pixels, and a weak component is no louder than it was."""
    torch.manual_seed(0)
    weights = torch.randn(4096, 4) * torch.tensor([9.0, 3.0, 1.0, 0.3])
    rows = weights @ torch.linalg.qr(torch.randn(768, 4)).Q.T
    linear = fit_patch_pca([rows], 4)
    groups = torch.nn.functional.pixel_shuffle(rows[:, :, None, None], 8)
    network = StackedAutoencoder(4, 8, width=8, latent_channels=4, blocks=1).eval()
    network.start_linear(linear.mean, linear.spread() if is_spread else linear.components, linear.deviation)
    with torch.no_grad():
        codes = network.encode_groups(groups).flatten(1)
        assert torch.allclose(network.decode_groups(codes[:, :, None, None]), groups, atol=1e-3)
    ratio = torch.pdist(codes[:50]) / torch.pdist(weights[:50])
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-3)
    assert float(codes.square().mean()) == pytest.approx(1.0, rel=1e-3)
    loudest = codes.std(0)[0] / codes.std(0)[-1]
    assert 0.5 < loudest < 2.0 if is_spread else loudest > 20.0


def test_patches_have_the_reach_of_a_latent_pixel() -> None:
    video = torch.randn(2, 3, 5, 16, 16)
    rows = patches(video, frames=4, side=8)
    assert rows.shape == (2 * 2 * 2 * 2, 3 * 4 * 8 * 8)
    assert torch.equal(rows[0].view(3, 4, 8, 8)[:, 0], video[0, :, 0, :8, :8])


@pytest.mark.parametrize("patch", [4, 8])
def test_what_is_decoded_is_the_linear_code_and_the_correction(patch: int) -> None:
    """Whether both are folded alike, and so unfolded once, or not."""
    network = StackedAutoencoder(frames=2, patch=patch, width=8, latent_channels=4, blocks=1)
    codes, decoder = torch.randn(3, 4, 2, 2), network.decoder
    linear = torch.nn.functional.pixel_shuffle(network.linear_out(codes), 8)
    correction = torch.nn.functional.pixel_shuffle(decoder.out(decoder.layers(decoder.enter(codes))), patch)
    assert torch.equal(network.decode_groups(codes), linear + correction)
