"""The stage autoencoder_decoder: larger clips gain, and no latent changes by a bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.latents import decoder
from pipelines.latents.autoencoder import train as train_autoencoder
from pipelines.latents.params import AutoencoderDecoderParams, DecoderGates
from pipelines.models.autoencoder import load_autoencoder
from pipelines.stage import StageError
from pipelines.training import checkpoint
from tests.latents.toy import SIDE, autoencoder_params, losses, write_clips

GATES = {"min_psnr_gain": 0.0, "max_perceptual": 99.0, "max_flicker": 99.0, "max_psnr_fall": 99.0}


def params(**changes: Any) -> AutoencoderDecoderParams:
    """Twelve updates of the squared error, nothing else."""
    training = autoencoder_params(steps=12).training.model_dump(mode="json")
    values = {"losses": losses().model_dump(mode="json"), "adversarial": None, "discriminator": None}
    return AutoencoderDecoderParams.model_validate(
        values | {"augmentation": None, "gates": GATES, "training": training} | changes
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two sizes and an autoencoder of the smaller."""
    place = tmp_path_factory.mktemp("decoder")
    write_clips(place / "clips")
    write_clips(place / "large", side=2 * SIDE)
    train_autoencoder(
        autoencoder_params(steps=2), place / "clips", place / "autoencoder", place / "m.json", place / "plots"
    )
    return place


def run(place: Path, out: Path, section: AutoencoderDecoderParams, large: str = "large") -> dict[str, Any]:
    decoder.train(
        section,
        place / "clips",
        place / large,
        place / "autoencoder",
        out / "out",
        out / "metrics.json",
        out / "plots",
    )
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.costly
def test_large_clips_gain_and_latents_of_every_size_stay_equal_to_the_bit(place: Path, tmp_path: Path) -> None:
    metrics = run(place, tmp_path, params())
    assert metrics["psnr"] > metrics["before"]["psnr"]
    assert metrics["own_size"]["psnr"] != metrics["before"]["own_size"]["psnr"]
    before, after = load_autoencoder(place / "autoencoder"), load_autoencoder(tmp_path / "out")
    for side in (SIDE, 2 * SIDE):
        video = torch.rand(1, 3, 5, side, side, generator=torch.Generator().manual_seed(side)) * 2 - 1
        assert torch.equal(before.encode(video), after.encode(video))
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed and all(name.startswith(("decoder", "linear_out")) for name in changed)
    record = checkpoint.read(tmp_path / "out")
    assert set(record["inputs"]) == {"clips", "large"} and record["parent"]["path"].endswith("autoencoder")
    assert (tmp_path / "plots/before_after.png").is_file()


def test_gates_are_of_both_sizes() -> None:
    limits = DecoderGates(min_psnr_gain=0.5, max_perceptual=1.0, max_flicker=1.0, max_psnr_fall=1.0)
    before = {"psnr": 30.0, "perceptual": 0.2, "flicker": 1.0, "own_size": {"psnr": 33.0}}
    after = {"psnr": 30.4, "perceptual": 0.1, "flicker": 1.5, "own_size": {"psnr": 31.5}}
    found = decoder.gates(limits, before, after, num_own_size=3)
    assert {gate["name"]: gate["samples"] for gate in found if "samples" in gate} == {"psnr_fall": 3}
    verdicts = {gate["name"]: (gate["verdict"], gate["value"]) for gate in found}
    assert verdicts["psnr_gain"] == ("fail", pytest.approx(0.4))
    assert verdicts["perceptual"] == ("pass", pytest.approx(0.5))
    assert verdicts["flicker"] == ("fail", pytest.approx(1.5))
    assert verdicts["psnr_fall"] == ("fail", pytest.approx(1.5))


def test_large_clips_that_the_autoencoder_does_not_take_are_refused_by_name(place: Path, tmp_path: Path) -> None:
    write_clips(place / "odd", range(4), side=20)
    with pytest.raises(StageError, match=r"odd: clip clip-0 is 20x20 pixels, .* multiples of 8"):
        run(place, tmp_path, params(), "odd")
