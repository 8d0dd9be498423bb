"""The stage drifting_refiner, called as a function: what it leaves, how it resumes, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.generation.drifting import refine
from pipelines.generation.drifting.params import DriftingRefinerParams
from pipelines.models.lora import FILE as ADAPTER
from pipelines.models.refiner import Refiner
from pipelines.params import ParamsError
from pipelines.stage import StageError
from pipelines.training import checkpoint
from pipelines.training.generator import Generator
from pipelines.training.refining import RefinerGenerator
from tests.generation.toy import (
    CHANNELS,
    DIM,
    FRAMES,
    SIDE,
    refining,
    write_classes,
    write_encoder,
    write_gates,
    write_latents,
)
from tests.models.tiny_pretrained import block, ltx, save, wan


class World:
    """Latents, classes, gates and an encoder in a folder, and the stage run in it."""

    def __init__(self, folder: Path, count: int = 24) -> None:
        self.folder = folder
        self.latents = write_latents(folder / "latents", count)
        self.classes = write_classes(folder / "classes", self.latents, count)
        self.gates = write_gates(folder / "diagnostics")
        self.encoder = write_encoder(folder / "latent_mae", self.latents)

    def train(self, params: DriftingRefinerParams, name: str = "refiner") -> Path:
        out = self.folder / "checkpoints" / name
        places = {"metrics": self.folder / f"metrics/{name}.json", "plots": self.folder / f"plots/{name}"}
        refine.train(params, self.latents, self.encoder, self.classes, self.gates, out=out, **places)
        return out

    def numbers(self, name: str = "refiner") -> dict:
        return json.loads((self.folder / f"metrics/{name}.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("refiner"))
    world.train(refining())
    return world


def told(count: int = 2) -> dict[str, torch.Tensor]:
    clips = torch.randn(count, CHANNELS, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([[True, False, True]]).expand(count, -1)
    return {"keyframes": clips, "keyframe_mask": mask, "empty_prompt": torch.zeros(1, DIM)}


def test_it_leaves_a_generator_that_keeps_its_keyframes(trained: World) -> None:
    generator = Generator.load(trained.folder / "checkpoints/refiner")
    assert isinstance(generator, RefinerGenerator) and generator.needs == ("keyframes",) and generator.levels == (3, 2)
    given = told()
    made = generator.sample(given, [1, 2])
    assert made.shape == (2, CHANNELS, FRAMES, SIDE, SIDE)
    assert torch.equal(made[:, :, [0, 2]], given["keyframes"][:, :, [0, 2]])
    torch.testing.assert_close(
        generator.sample({**given, "keyframes": given["keyframes"].flip(0)}, [2, 1]).flip(0), made
    )
    assert not torch.equal(generator.sample(given, [5, 6])[:, :, 1], made[:, :, 1])
    hidden = given["keyframes"].clone()
    hidden[:, :, 1] = 9.0
    assert torch.equal(generator.sample({**given, "keyframes": hidden}, [1, 2]), made), "a missing frame was looked at"
    unsure = {**given, "keyframe_confidence": torch.full((2, FRAMES), 0.5)}
    assert not torch.equal(generator.sample(unsure, [1, 2])[:, :, 0], made[:, :, 0])
    with pytest.raises(ValueError, match="a refiner starts from keyframes; conditions lack keyframes"):
        generator.sample({"empty_prompt": torch.zeros(1, DIM)}, [1])
    with pytest.raises(ValueError, match=r"with a mask \[2, 2\]"):
        generator.sample({**given, "keyframe_mask": given["keyframe_mask"][:, :2]}, [1, 2])


def test_progress_stands_beside_the_loss(trained: World) -> None:
    rows = [
        json.loads(line) for line in (trained.folder / "checkpoints/refiner/metrics.jsonl").read_text().splitlines()
    ]
    before, after = rows[1], rows[3]
    assert "loss/drift" not in before and before["train/regression_weight"] == 1.0
    for name in ("loss/drift", "drift/clip/maps_block1_k2/tau_0.05/drift_norm_mean", "interp/mse_missing"):
        assert name in after
    assert after["train/regression_weight"] < 1.0
    found = trained.numbers()
    for name in ("gain", "gain_low", "motion_ratio_interpolation", "distance_real", "spread_share", "missing_error"):
        assert isinstance(found[f"validation/{name}"], float)
    assert {"gain", "spread", "force", "effective_positives"} == {gate["name"] for gate in found["gates"]}
    for name in ("effective_positives", "mass_ratio", "force", "force_share"):
        assert f"drift/latents_input_k2/tau_0.2/{name}" in found
    assert found["drift/maps_block1_k1/centroid_error"] >= 0.0


@pytest.mark.costly
def test_training_continues_exactly_where_it_stopped(tmp_path: Path) -> None:
    """Stopped in the midst of drifting: the second process has kept no features of clips that the first had seen."""
    world, constant = World(tmp_path), {"shape": "constant", "warmup_steps": 0}
    straight = {"schedule": constant, "save_every": 3, "validate_every": 3}
    world.train(refining(8, training=straight), "whole")
    world.train(refining(5, training=straight), "parts")
    world.train(refining(8, training=straight), "parts")
    whole, parts = (checkpoint.read(tmp_path / "checkpoints" / name) for name in ("whole", "parts"))
    assert world.numbers("parts")["resumes"] == 1 and whole["weights"] == parts["weights"]


@pytest.mark.costly
def test_a_learned_temperature_moves_is_told_and_continues_exactly(tmp_path: Path) -> None:
    world, drift = World(tmp_path), {"begin": 1, "learned_temperature": {"start": 1.0}}
    straight = {"schedule": {"shape": "constant", "warmup_steps": 0}, "save_every": 2, "validate_every": 2}
    for name, stops in (("whole", (4,)), ("parts", (2, 4))):
        for stop in stops:
            world.train(refining(stop, drift=drift, training=straight), name)
    found = world.numbers("whole")["drift/learned_temperature"]
    assert found != 1.0 and found == pytest.approx(1.0, abs=0.2)
    own = Refiner.from_pretrained(tmp_path / "checkpoints/whole/ema").log_temperature
    assert own is not None and float(own.detach().exp()) == pytest.approx(found)
    whole, parts = (checkpoint.read(tmp_path / "checkpoints" / name)["weights"] for name in ("whole", "parts"))
    assert world.numbers("parts")["resumes"] == 1 and whole == parts


@pytest.mark.costly
def test_it_learns_to_bend_what_interpolation_leaves_straight(tmp_path: Path) -> None:
    """Clips of the toy world move: the mean of the ends is wrong in the middle, in a way that the class tells."""
    world = World(tmp_path)
    fast = {"name": "adamw", "learning_rate": 1e-2, "betas": [0.9, 0.99], "weight_decay": 0.0}
    world.train(refining(60, training={"optimizer": fast, "ema": None}, drift={"begin": 40}, class_dropout=0.0))
    found = world.numbers()
    assert found["validation/gain_low"] > 0.3
    assert {gate["name"]: gate["verdict"] for gate in found["gates"]}["gain"] == "pass"


@pytest.mark.costly
@pytest.mark.parametrize("target", ["clean", "adj"])
def test_regression_alone_is_a_refiner_too(tmp_path: Path, target: str) -> None:
    world = World(tmp_path)
    values = refining(2).model_dump(mode="json")
    values["drift"], values["regression"]["target"] = None, target
    out = world.train(DriftingRefinerParams.model_validate(values))
    generator = Generator.load(out)
    assert generator.evaluations == 1 and generator.sample(told(), [1, 2]).isfinite().all()
    assert not any(name.startswith("drift/") for name in world.numbers())


def test_a_drift_that_never_begins_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    world.train(refining(2, drift={"begin": 2}))
    assert "drift.begin 2 is not below training.steps 2: it is regression alone" in "".join(capsys.readouterr())


@pytest.mark.costly
@pytest.mark.parametrize("made", [wan, ltx])
def test_an_adapter_of_a_pretrained_video_transformer_is_a_refiner(tmp_path: Path, made: Callable[[], Any]) -> None:
    """Regression, then drifting; it begins as the interpolation, learns beside a base that stays, and is read again."""
    world, base = World(tmp_path), save(tmp_path / "base", made())
    before = (base / "transformer/diffusion_pytorch_model.safetensors").read_bytes()
    out = world.train(refining(4, refiner=block(base)))
    assert (base / "transformer/diffusion_pytorch_model.safetensors").read_bytes() == before
    assert (out / ADAPTER).is_file() and not list(out.rglob("diffusion*"))
    generator, given = Generator.load(out), told()
    assert isinstance(generator, RefinerGenerator) and generator.refiner.gate is not None
    assert generator.refiner.gate.abs().max() > 0, "it did not learn"
    refined = generator.sample(given, [1, 2])
    assert torch.equal(refined[:, :, [0, 2]], given["keyframes"][:, :, [0, 2]])
    assert not torch.equal(refined[:, :, 1], generator.starting_clips(given)[:, :, 1])
    assert world.numbers()["validation/spread_share"] > 0


@pytest.mark.costly
def test_a_learned_filling_is_trained_with_the_refiner_and_starts_its_clips(tmp_path: Path) -> None:
    world = World(tmp_path)
    learned = {"mode": "learned", "transport": None, "learned": {"kernel": 3}}
    generator = Generator.load(world.train(refining(4, filling=learned)))
    assert isinstance(generator, RefinerGenerator) and generator.refiner.filling is not None
    weight = generator.refiner.filling.weight
    assert not torch.equal(weight, torch.tensor([[0.0, 1.0, 0.0]] * CHANNELS)), "it did not learn"
    start = generator.starting_clips(told())
    ends = told()["keyframes"][:, :, [0, 2]]
    assert torch.equal(start[:, :, [0, 2]], ends) and not torch.allclose(start[:, :, 1], ends.mean(2))
    values = refining(filling=learned).model_dump(mode="json")
    values["regression"]["target"] = "adj"
    with pytest.raises(ValueError, match=r"learned goes with regression\.target: clean"):
        DriftingRefinerParams.model_validate(values)


def test_what_does_not_fit_is_told_before_anything_is_built(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(StageError, match=r"keyframes: 3 levels from 2 of 3 .*levels from 1 to 1 would do"):
        world.train(refining(keyframes={**refining().keyframes.model_dump(), "levels": 3}))
    with pytest.raises(ParamsError, match="micro_batch 3 would cut a unit of 2 samples"):
        world.train(refining(training={"batch_size": 6, "micro_batch": 3}))
    with pytest.raises(StageError, match=r"do not fill a problem of 20 clips of a class.*lower drift\.group"):
        group = {"clips": 20, "positives": 1, "unconditional": 2, "balance": 0.0}
        world.train(refining(drift={"group": group}, training={"batch_size": 20, "micro_batch": 20}))
    for problems, needs in (("clip", "per clip with 1 sample"), ("pseudo_class", "per class of 1 clip with 1 sample")):
        alone = {"problems": {"clip": 0.0, "pseudo_class": 0.0, "pooled": 0.0, problems: 1.0}, "samples": 1}
        none = {"clips": 1, "positives": 1, "unconditional": 0, "balance": 0.0}
        with pytest.raises(ValueError, match=needs):
            refining(drift={**alone, "group": none, "guidance": None})
    features = refining().drift.features.model_dump(mode="json")  # type: ignore[union-attr]
    with pytest.raises(StageError, match=r"names the layer 'block7'; this encoder has block0, block1"):
        world.train(refining(drift={"features": {**features, "maps": {**features["maps"], "layers": ["block7"]}}}))
    world.encoder = write_encoder(tmp_path / "narrow", world.latents, channels=2)
    with pytest.raises(StageError, match="an encoder of 2 channels, but these latents have 4"):
        world.train(refining())
    world.encoder = write_encoder(tmp_path / "elsewhere", write_latents(tmp_path / "other", 8))
    with pytest.raises(StageError, match=r"trained on latents [0-9a-f]{12}, but .*run latent_mae again"):
        world.train(refining())
