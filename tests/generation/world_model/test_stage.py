"""The two stages, called as functions: what they leave, how one follows the other, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from pipelines.data.contract import ACTIONS, ContractError
from pipelines.data.shards import Shards
from pipelines.generation import generate
from pipelines.stage import StageError
from pipelines.training import checkpoint
from pipelines.training.generator import Generator, found
from tests.generation.world_model.toy import CHANNELS, Toy, params, write_latents


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    made = Toy(tmp_path_factory.mktemp("world"))
    base = made.train(params(), "world_model")
    own = {"share": 0.5, "every": 1, "after": 0, "capacity": 16}
    made.train(params("world_model_autoregressive", own_errors=own), "world_model_autoregressive", init=base)
    return made


def test_a_stage_leaves_checkpoint_numbers_and_pictures(toy: Toy) -> None:
    for name in ("world_model", "world_model_autoregressive"):
        folder = toy.folder / "checkpoints" / name
        assert checkpoint.read(folder)["step"] == 3
        WanTransformer3DModel.from_pretrained(folder / "ema")
        shown = {path.name for path in (toy.folder / f"plots/{name}").iterdir()}
        assert shown >= {"rollout.png", "counterfactual.png", "validation.png", "training.csv"}
        numbers = json.loads((toy.folder / f"metrics/{name}.json").read_text())
        names = ["validation/loss", "validation/loss_other_actions", "rollout/action_accuracy/q4", "rollout/seam_ratio"]
        names += ["rollout/action_accuracy_low", "reader/agreement/factor_color", "rollout/counterfactual_accuracy"]
        names += ["rollout/feature_distance/q4", "rollout/error/frame_16", "rollout/error_frozen/frame_16"]
        names += ["rollout/action_accuracy/q1_low", "rollout/identity_agreement/q1_high", "rollout/seam_ratio/q2"]
        names += ["rollout/return_distance/q2_high", "rollout/return_distance_still", "rollout/error/frame_16_low"]
        names += ["rollout/return_distance_low", "throughput/frames_per_second/q4"]
        for one in [*names, "reader/action_accuracy", "rollout/return_distance"]:
            assert isinstance(numbers[one], float), one
        rows = (toy.folder / f"plots/{name}/training.csv").read_text().splitlines()[0].split(",")
        assert {"sigma/context", "sigma/target"} <= set(rows) and any(one.startswith("loss_by_sigma/") for one in rows)
    assert checkpoint.read(toy.folder / "checkpoints/world_model_autoregressive")["parent"]["path"]


def test_its_generator_is_found_and_rolls_out_from_conditions_by_name(toy: Toy) -> None:
    folders = found(toy.folder / "checkpoints")
    assert set(folders) == {"world_model", "world_model_autoregressive"}
    generator = Generator.load(folders["world_model_autoregressive"])
    assert generator.needs == ("first_frame", "actions") and generator.history == 1 and generator.num_classes is None
    first, actions = torch.randn(2, CHANNELS, 1, 4, 4), torch.rand(2, 6, 4, 6).round()
    made = generator.sample({"first_frame": first, "actions": actions}, seeds=[1, 2])
    assert made.shape == (2, CHANNELS, 6, 4, 4) and torch.equal(made[:, :, :1], first)
    alone = generator.sample({"first_frame": first[1:], "actions": actions[1:]}, seeds=[2])
    assert torch.allclose(made[1:], alone, atol=1e-5)
    assert generator.with_sampling(steps=5).rolling.sampling.steps == 5  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="absent: actions"):
        generator.sample({"first_frame": first}, seeds=[1, 2])
    with pytest.raises(ValueError, match="actions reach 6"):
        generator.sample({"first_frame": first, "actions": actions}, [1, 2], (CHANNELS, 9, 4, 4))


def test_evaluation_hands_it_first_frames_and_aligned_actions(toy: Toy) -> None:
    from pipelines.evaluation.systems import Requests, load_systems
    from pipelines.evaluation.systems import generate as sampled

    shards = Shards(toy.latents)
    systems = load_systems(toy.folder / "checkpoints", shards, None, torch.device("cpu"))
    rows = shards.rows("test")[:3].tolist()
    requests = Requests.of(shards, rows, torch.zeros(3, dtype=torch.long), (0,))
    for name, system in systems.items():
        assert sampled(name, system, requests, 2, "fp32").shape == (3, CHANNELS, 5, 4, 4)


def test_reel_generate_says_which_command_it_is_for(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--checkpoint", str(toy.folder / "checkpoints/world_model"), "--prompt", "a thing", "--out"]
    assert generate.main([*words, str(toy.folder / "a.mp4")]) == 2
    assert "is told first_frame and actions, not a prompt" in capsys.readouterr().err


@pytest.mark.costly
def test_the_same_run_ends_with_the_same_weights(toy: Toy) -> None:
    """Stored errors, draws and windows included; and measuring at the end changes nothing."""
    own = {"share": 0.5, "every": 1, "after": 0, "capacity": 16}
    base = toy.folder / "checkpoints/world_model"
    values = params("world_model_autoregressive", own_errors=own, rollouts=None)
    again = toy.train(values, "again", init=base)
    whole = toy.folder / "checkpoints/world_model_autoregressive"
    weights = {name: value for name, value in checkpoint.weights(whole).items() if name.startswith("ema/")}
    assert weights == {name: value for name, value in checkpoint.weights(again).items() if name.startswith("ema/")}


# ---- what does not fit --------------------------------------------------------------------------------------------


def test_latents_without_actions_are_refused(tmp_path: Path, toy: Toy) -> None:
    bare = write_latents(tmp_path / "bare", toy.autoencoder, actions=None)
    with pytest.raises(ContractError, match=r"no field actions, which world_model reads"):
        toy.train(params(), "none", latents=bare)


def test_a_window_longer_than_the_clips_is_refused(toy: Toy) -> None:
    window = {"context_frames": 5, "target_frames": 2}
    with pytest.raises(StageError, match=r"clips of 5 latent frames, shorter than a window of 5 \+ 2"):
        toy.train(params("world_model_autoregressive", window=window), "none")


def test_a_start_of_another_size_or_of_other_actions_is_refused(tmp_path: Path, toy: Toy) -> None:
    base = toy.folder / "checkpoints/world_model"
    values = params("world_model_autoregressive")
    wider = values.denoiser.model_copy(update={"layers": 2})
    with pytest.raises(StageError, match=r"denoiser.layers is 1 there and 2 here"):
        toy.train(values.model_copy(update={"denoiser": wider}), "none", init=base)
    names = ("W", "S", "A", "D", "mouse_dx", "mouse_dy")
    other = write_latents(tmp_path / "other", toy.autoencoder, actions=ACTIONS.model_copy(update={"names": names}))
    with pytest.raises(ContractError, match="the same keys in another order"):
        toy.train(values, "none", init=base, latents=other)


def test_latents_of_another_autoencoder_are_refused(tmp_path: Path, toy: Toy) -> None:
    other = tmp_path / "other"
    Toy(other)
    latents = write_latents(tmp_path / "latents", toy.latents)  # its digest is no autoencoder's
    with pytest.raises(ContractError, match="made by autoencoder toy"):
        toy.train(params(), "none", latents=latents)


@pytest.mark.costly
def test_a_small_batch_is_warned_of(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    values = params(rollouts=None)
    small = values.training.model_copy(update={"batch_size": 4, "micro_batch": 4, "steps": 1})
    toy.train(values.model_copy(update={"training": small}), "small")
    assert "batch_size 4: below 8 clips a step" in "".join(capsys.readouterr())
