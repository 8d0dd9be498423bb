"""Refiners are found like every generator; the interpolation that they start from is judged beside them."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipelines.evaluation.score import score
from pipelines.models.denoiser import VideoDenoiser
from pipelines.models.refiner import Refiner
from pipelines.stage import digest, write_json
from pipelines.training import checkpoint
from tests.evaluation import toy


def write_refiner(folder: Path, autoencoder: Path, mode: str = "linear") -> Path:
    """The checkpoint of a refiner with random weights, given 2 of 3 frames."""
    torch.manual_seed(2)
    denoiser = VideoDenoiser.build(channels=toy.CHANNELS, text_dim=toy.DIM, heads=2, head_dim=12, layers=1,
                                   feed_forward=16, patch=(1, 2, 2), text_length=4, num_classes=4)  # fmt: skip
    torch.nn.init.normal_(denoiser.transformer.proj_out.weight, std=0.1)
    Refiner(denoiser, gated=False).save_pretrained(folder)
    facts = {"shape": [toy.CHANNELS, toy.FRAMES, toy.SIDE, toy.SIDE], "frame_rate": 8.0, "num_keyframes": 2}
    facts |= {"autoencoder": {"id": "toy", "digest": digest(autoencoder)}}
    content = {
        "kind": "refiner",
        "needs": ["keyframes"],
        "takes": ["prompt", "pseudo_class"],
        "filling": {"mode": mode, "transport": None},
        "levels": [3, 2],
        "clamp": True,
        "sampling": {"noise_std": 0.3, "alpha": 1.0, "steps": 1},
        "latents": facts,
    }
    write_json(folder / "generator.json", content)
    checkpoint.write_record(folder, toy.RECORD | {"stage": folder.name})
    return folder


def write_keypatch_refiner(folder: Path, autoencoder: Path, space: str) -> Path:
    """The checkpoint of a refiner of pictures with random weights, given a quarter of their patches."""
    torch.manual_seed(3)
    shape, patch = ([toy.CHANNELS, 1, toy.SIDE, toy.SIDE], 1) if space == "latents" else ([3, 1, 32, 32], 8)
    denoiser = VideoDenoiser.build(channels=shape[0], text_dim=toy.DIM, heads=2, head_dim=12, layers=1,
                                   feed_forward=16, patch=(1, patch, patch), text_length=4, num_classes=4)  # fmt: skip
    torch.nn.init.normal_(denoiser.transformer.proj_out.weight, std=0.1)
    Refiner(denoiser, gated=False).save_pretrained(folder)
    strides = {"temporal_stride": 4, "spatial_stride": 8}
    facts = {"shape": shape, "frame_rate": 8.0, "autoencoder": {"id": "toy", "digest": digest(autoencoder), **strides}}
    content = {
        "kind": "keypatch_refiner",
        "needs": ["keypatches"],
        "takes": ["prompt", "pseudo_class"],
        "space": space,
        "patch": patch,
        "filling": {"mode": "inverse_distance", "power": 2.0},
        "levels": [16, 4],
        "clamp": True,
        "sampling": {"noise_std": 0.3, "alpha": 1.0, "steps": 1},
        "latents": facts,
    }
    write_json(folder / "generator.json", content)
    checkpoint.write_record(folder, toy.RECORD | {"stage": folder.name})
    return folder


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = toy.world(tmp_path_factory.mktemp("refiners"))
    for name in ("anchored_flow_identity", "anchored_flow_motion", "anchored_flow_unified"):
        shutil.rmtree(paths["checkpoints"] / name)
    for name, mode in (("one", "linear"), ("other", "slerp"), ("third", "linear")):
        write_refiner(paths["checkpoints"] / name, paths["checkpoints"] / "autoencoder", mode)
    for space in ("latents", "pixels"):
        write_keypatch_refiner(
            paths["checkpoints"] / f"pictures_of_{space}", paths["checkpoints"] / "autoencoder", space
        )
    score(toy.params(), **paths)
    return paths


def test_a_refiner_stands_beside_the_interpolation_of_its_keyframes(scored: dict[str, Path]) -> None:
    found = json.loads(scored["metrics"].read_text())
    assert set(found["systems"]) == {
        "rectified_flow",
        "one",
        "other",
        "third",
        "pictures_of_latents",
        "pictures_of_pixels",
    }
    references = found["references"]
    assert {"interpolation", "interpolation_of_other"} <= set(references) and "interpolation_of_third" not in references
    for one in (found["systems"]["one"], references["interpolation"]):
        assert one["missing_error"] > 0 and one["missing_error_low"] <= one["missing_error_high"]
    assert "missing_error" not in found["systems"]["rectified_flow"]
    assert "missing_error" in found["validation"]["one"]


def test_refiners_of_pictures_are_judged_like_others_in_latents_and_in_pixels(scored: dict[str, Path]) -> None:
    found = json.loads(scored["metrics"].read_text())
    for name in ("pictures_of_latents", "pictures_of_pixels"):
        assert found["systems"][name]["missing_error"] > 0 and "psnr" in found["systems"][name]
        assert f"interpolation_of_{name}" in found["references"]
    pairs = json.loads((scored["out"] / "comparisons.json").read_text())
    assert "missing_error" in pairs["pictures_of_latents against interpolation_of_pictures_of_latents"]


def test_both_are_compared_by_the_error_of_missing_frames_and_shown(scored: dict[str, Path]) -> None:
    pairs = json.loads((scored["out"] / "comparisons.json").read_text())
    pair = pairs["one against interpolation"]["missing_error"]
    assert {"difference", "low", "high", "verdict"} <= set(pair)
    assert "missing_error" not in pairs["one against rectified_flow"]
    samples = pd.read_parquet(scored["out"] / "samples.parquet")
    assert samples.loc[samples["system"] == "interpolation", "file"].notna().any()
