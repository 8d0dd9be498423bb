"""Augmentation: a function of (seed, step, place), within its ranges, and nothing at all where it is null."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.latents.augmentation import DrawnChange, changed, cropped, drawn
from pipelines.latents.clips import Clips, FrameGroups, as_video
from pipelines.latents.objectives import Autoencoding
from pipelines.latents.params import Augmentation
from pipelines.latents.pictures import draw_augmentation
from pipelines.models.autoencoder import StackedAutoencoder
from pipelines.training.loop import train as run_training
from pipelines.training.run import Run
from tests.latents.toy import NUM_FRAMES, SIDE, autoencoder_params, losses, write_clips

BLOCKS = {
    "temporal_crop": {"max_start": 2},
    "spatial_crop": {"min_share": 0.5},
    "color_jitter": {"brightness": 0.2, "contrast": 0.3, "saturation": 0.4},
}


def params(*names: str) -> Augmentation:
    """The named blocks, the others null; all of them where none is named."""
    return Augmentation.model_validate({name: BLOCKS[name] if name in (names or BLOCKS) else None for name in BLOCKS})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return Clips(write_clips(tmp_path_factory.mktemp("augmentation") / "clips"))


def groups(clips: Clips, augmentation: Augmentation | None, seed: int = 0) -> FrameGroups:
    return FrameGroups(clips, clips.rows("train"), 4, batch_size=8, seed=seed, augmentation=augmentation)


@given(seed=st.integers(0, 9), step=st.integers(0, 999), place=st.integers(0, 63), spare=st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_every_draw_lies_in_its_range(seed: int, step: int, place: int, spare: int) -> None:
    change = drawn(params(), (seed, step, place), spare)
    assert change == drawn(params(), (seed, step, place), spare)
    assert 0 <= change.start <= min(2, spare)
    top, left, height, width = change.box
    assert 0.5 <= height == width <= 1 and 0 <= top <= 1 - height and 0 <= left <= 1 - width
    for factor, most in ((change.brightness, 0.2), (change.contrast, 0.3), (change.saturation, 0.4)):
        assert abs(factor - 1) <= most + 1e-12


def test_draws_reach_both_ends_and_differ_by_place() -> None:
    changes = [drawn(params(), (0, step, place), 4) for step in range(20) for place in range(20)]
    assert {change.start for change in changes} == {0, 1, 2}
    assert len({change.brightness for change in changes}) == 400
    shares = [change.box[2] for change in changes]
    assert min(shares) < 0.52 and max(shares) > 0.98
    assert drawn(params("color_jitter"), (0, 0, 0), 4).brightness == changes[0].brightness  # blocks do not interfere


def test_each_block_changes_pixels_and_null_blocks_none(clips: Clips) -> None:
    plain = groups(clips, None).read(0, 0, 8)["video"]
    assert torch.equal(groups(clips, params("none")).read(0, 0, 8)["video"], plain)
    for name in BLOCKS:
        found = groups(clips, params(name)).read(0, 0, 8)["video"]
        assert found.shape == plain.shape and not torch.equal(found, plain), name
        assert found.min() >= -1 and found.max() <= 1


def test_a_sample_does_not_depend_on_who_reads_it_or_when(clips: Clips) -> None:
    used, fresh = groups(clips, params()), groups(clips, params())
    for step in range(5):
        used.read(step, 0, 8)
    whole = used.read(5, 0, 8)["video"]
    assert torch.equal(whole, torch.cat([fresh.read(5, start, start + 2)["video"] for start in (0, 2, 4, 6)]))
    assert not torch.equal(whole, groups(clips, params(), seed=1).read(5, 0, 8)["video"])


def test_a_temporal_crop_shows_real_frames_in_a_row(clips: Clips) -> None:
    source = groups(clips, params("temporal_crop"))
    starts = set()
    for step in range(6):
        for key, group in zip(source.keys(step), source.read(step, 0, 8)["video"], strict=True):
            frames = as_video(clips.frames(clips.catalog.index[clips.catalog["key"] == key][0]))
            shown = [
                start
                for start in range(NUM_FRAMES)
                if torch.equal(group, frames[:, start : start + 1].expand(-1, 4, -1, -1))
                or torch.equal(group, frames[:, start : start + 4])
            ]
            assert shown
            starts.add(shown[0])
    assert starts == {0, 1, 2}


def test_a_crop_shows_the_part_and_colours_do_what_they_say() -> None:
    ramp = torch.linspace(-1, 1, 32).expand(3, 2, 32, 32)
    right = cropped(ramp, (0.0, 0.5, 0.5, 0.5))
    assert right.shape == ramp.shape and right[..., 0].mean() > 0 and cropped(ramp, DrawnChange.box) is ramp
    assert torch.allclose(changed(ramp, DrawnChange(brightness=0.5)), (ramp + 1) / 2 - 1, atol=1e-6)
    grey = changed(torch.rand(3, 2, 8, 8) * 2 - 1, DrawnChange(saturation=0.0))
    assert torch.allclose(grey, grey[:1].expand_as(grey), atol=1e-6)
    flat = changed(ramp, DrawnChange(contrast=0.0))
    assert torch.allclose(flat, ramp.mean().expand_as(flat), atol=1e-5)


def test_the_picture_shows_samples_before_and_after(tmp_path: Path, clips: Clips) -> None:
    plain, *variants = groups(clips, params()).variants(0, 3)
    assert torch.equal(plain, groups(clips, None).read(0, 0, 1)["video"][0])
    assert torch.equal(variants[0], groups(clips, params()).read(0, 0, 1)["video"][0])
    assert not any(torch.equal(plain, variant) for variant in variants)
    draw_augmentation(groups(clips, params()), 2, tmp_path / "augmentation.png")
    with Image.open(tmp_path / "augmentation.png") as picture:
        assert picture.width >= 900 and len(np.unique(np.asarray(picture))) > 50


def test_augmented_training_continues_exactly_where_it_stopped(tmp_path: Path, clips: Clips) -> None:
    every = {"save_every": 2, "validate_every": 9}

    def trained(name: str, steps: int) -> dict[str, torch.Tensor]:
        section = autoencoder_params(augmentation=params())
        section = section.model_copy(update={"training": section.training.model_copy(update={**every, "steps": steps})})
        places = {flag: tmp_path / name / flag for flag in ("out", "metrics", "plots")}
        run = Run.open(section, {}, **places)
        network = StackedAutoencoder(4, 4, width=8, latent_channels=4, blocks=1)
        source = FrameGroups(clips, clips.rows("train"), 4, 4, section.training.seed, section.augmentation)
        run_training(Autoencoding(network, losses()), source, run)
        assert run.resumes == (name == "parts" and steps == 4)
        return network.state_dict()

    whole = trained("whole", 4)
    trained("parts", 2)
    for name, tensor in trained("parts", 4).items():
        assert torch.equal(tensor, whole[name]), name


def test_clips_of_two_sizes_train_in_batches_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = Clips(write_clips(tmp_path / "clips"))
    widths = np.where(np.arange(len(clips.catalog)) % 2 == 0, 2 * SIDE, SIDE)
    clips.catalog["width"] = widths
    monkeypatch.setattr(clips, "frames", lambda row: np.zeros((NUM_FRAMES, SIDE, widths[row], 3), np.uint8))
    source, named = groups(clips, params()), clips.catalog.set_index("key")["width"]
    shown = set()
    for step in range(6):
        [width] = {int(named[key]) for key in source.keys(step)}
        assert source.read(step, 0, 8)["video"].shape == (8, 3, 4, SIDE, width)
        shown.add(width)
    assert shown == {SIDE, 2 * SIDE}
