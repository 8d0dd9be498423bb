"""The stages, called as functions: what they leave, how they follow one another, and what they refuse."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from pipelines.flow.params import Guidance
from pipelines.generation import anchored_flow, rectified_flow
from pipelines.models.denoiser import VideoDenoiser
from pipelines.stage import StageError, digest
from pipelines.training import checkpoint
from pipelines.training.generator import Generator
from tests.generation.toy import (
    CHANNELS,
    DIM,
    FRAMES,
    SIDE,
    SMALL,
    UNIFIED,
    anchored,
    rectified,
    write_classes,
    write_gates,
    write_latents,
)

PROMPT = {
    "prompt_embeds": torch.zeros(2, 2, DIM),
    "prompt_mask": torch.ones(2, 2, dtype=torch.bool),
    "empty_prompt": torch.zeros(1, DIM),
}


class World:
    """Latents, classes and gates in a folder, and the two stages run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.latents = write_latents(folder / "latents")
        self.classes = write_classes(folder / "classes", self.latents)
        self.gates = write_gates(folder / "diagnostics")

    def places(self, name: str) -> dict[str, Path]:
        made = {"out": f"checkpoints/{name}", "metrics": f"metrics/{name}.json", "plots": f"plots/{name}"}
        return {flag: self.folder / place for flag, place in made.items()}

    def anchored(self, params, name: str, init: Path | None = None) -> Path:
        places = self.places(name)
        anchored_flow.train(params, self.latents, self.classes, self.gates, init=init, **places)
        return places["out"]


def numbers(world: World, name: str) -> dict:
    return json.loads((world.folder / f"metrics/{name}.json").read_text())


@pytest.mark.costly
def test_rectified_flow_leaves_a_checkpoint_that_samples(tmp_path):
    world = World(tmp_path)
    places = world.places("flow")
    rectified_flow.train(rectified(), world.latents, **places)
    assert {path.name for path in places["plots"].iterdir()} == {
        "samples.png",
        "loss_by_sigma.png",
        "training.csv",
        "training",
    }
    assert checkpoint.read(places["out"])["step"] == 4
    WanTransformer3DModel.from_pretrained(places["out"] / "ema")
    card = (places["out"] / "README.md").read_text()
    assert 'diffusers.WanTransformer3DModel.from_pretrained("flow/ema")' in card and str(tmp_path) not in card
    found = numbers(world, "flow")
    for name in ("validation/loss", "velocity_cos_sim", "pred_velocity_mag", "target_velocity_mag"):
        assert isinstance(found[name], float)
    generator = Generator.load(places["out"])
    one = generator.sample(PROMPT, seeds=[3, 4])
    assert one.shape == (2, CHANNELS, FRAMES, SIDE, SIDE)
    torch.testing.assert_close(generator.sample(PROMPT, seeds=[4, 3])[1], one[0])
    assert generator.with_sampling(steps=3).phases[0].sampling.steps == 3
    assert generator.num_classes is None
    with pytest.raises(StageError, match="decode with the one it was trained with"):
        generator.require_autoencoder("f" * 64, "checkpoints/autoencoder")


@pytest.mark.costly
def test_identity_stands_still_and_motion_follows_from_its_anchor(tmp_path):
    world = World(tmp_path)
    identity = world.anchored(anchored(), "identity")
    motion = world.anchored(anchored("motion"), "motion", identity)
    still, moving = Generator.load(identity), Generator.load(motion)
    assert [(phase.start, phase.end, phase.still) for phase in moving.phases] == [(1.0, 0.2, True), (0.2, 0.0, False)]
    at_junction = still.sample({**PROMPT, "pseudo_class": torch.tensor([0, -1])}, seeds=[1, 2])
    torch.testing.assert_close(at_junction, at_junction[:, :, :1].expand_as(at_junction))
    assert not torch.allclose(moving.sample(PROMPT, seeds=[1, 2]), at_junction)
    kept = (motion / "identity" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert kept == (identity / "ema" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert checkpoint.read(motion)["parent"] == {"path": identity.name, "digest": digest(identity)}
    assert "local_vs_global_ratio" in numbers(world, "identity") and "local_vs_global_ratio" in numbers(world, "motion")
    rows = [json.loads(line) for line in (motion / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["afm/current_stage"] == 2.0 and rows[0]["afm/stage_transition"] == 1.0
    assert "afm/stage_transition" not in rows[1] and "afm_loss/local_raw" in rows[0]


@pytest.mark.costly
@pytest.mark.parametrize(("tau", "verdict"), [(0.5, "pass"), (0.0, "fail")])
def test_a_formula_without_weights_is_a_baseline_that_wins_on_the_literal_path(tmp_path, capsys, tau, verdict):
    """What it explains there is no credit: its samples stand still, and a network that explains less is told so."""
    world = World(tmp_path)
    anchor = {**anchored().anchor.model_dump(), "noise_std": 0.0, "frame_noise_std": tau}
    identity = world.anchored(anchored(steps=1, anchor=anchor), "identity")
    world.anchored(anchored("motion", anchor=anchor), "motion", identity)
    found = numbers(world, "motion")
    (rival,) = [one for one in found["baselines"] if "formula" in one["reason"]]
    assert rival["threshold"] == found["afm_baseline/explained_by_formula"] and rival["verdict"] == verdict
    assert (rival["threshold"] > 0.1) == (tau == 0.0), "with noise of the frames' own it explains nothing"
    said = capsys.readouterr().out
    assert f"a formula without weights, prompt or data {rival['threshold']:.3f}" in said
    assert ("WARNING: the baseline wins" in said.split("a formula")[1]) == (verdict == "fail")


@pytest.mark.costly
def test_unified_mode_trains_and_samples_both_phases_with_one_network(tmp_path):
    world = World(tmp_path)
    folder = world.anchored(anchored(**UNIFIED), "unified")
    phases = Generator.load(folder).phases
    assert len(phases) == 2 and phases[0].denoiser is phases[1].denoiser
    world.anchored(anchored("motion"), "motion", folder)


@pytest.mark.costly
def test_stage_1_with_a_little_local_loss_ends_in_the_anchor_and_leads_on(tmp_path):
    world = World(tmp_path)
    little = {"loss_weights": {"identity": 1.0, "motion": 0.1}, "motion_gain": {"value": 1.2, "warmup_steps": 0}}
    identity = world.anchored(anchored(**little), "identity")
    (phase,) = Generator.load(identity).phases
    assert (phase.start, phase.end, phase.still) == (1.0, 0.2, True)
    motion = world.anchored(anchored("motion"), "motion", identity)
    assert len(Generator.load(motion).phases) == 2


@pytest.mark.costly
def test_a_checkpoint_whose_networks_were_told_another_time_is_refused(tmp_path):
    world = World(tmp_path)
    identity = world.anchored(anchored(steps=1), "identity")
    facts = json.loads((identity / "generator.json").read_text())
    (identity / "generator.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "clocks"}))
    with pytest.raises(StageError, match=r"generator\.json: of an earlier version.*train it again"):
        Generator.load(identity)


@pytest.mark.costly
def test_a_failed_gate_stops_the_stage_before_it_starts(tmp_path):
    world = World(tmp_path)
    write_gates(world.gates, "fail")
    with pytest.raises(StageError, match=r"gate failed: entropy_ratio is 0\.2, wanted >= 0\.5 .*Change what"):
        world.anchored(anchored(), "identity")
    assert not (tmp_path / "checkpoints").exists()
    write_gates(world.gates, "warn")
    world.anchored(anchored(steps=1), "identity")


@pytest.mark.costly
def test_a_motion_stage_needs_a_fitting_parent(tmp_path):
    world = World(tmp_path)
    with pytest.raises(StageError, match="needs --init"):
        world.anchored(anchored("motion"), "motion")
    identity = world.anchored(anchored(steps=1), "identity")
    wider = {**SMALL["denoiser"], "feed_forward": 48}
    with pytest.raises(StageError, match=r"denoiser\.feed_forward is 32 there and 48 here"):
        world.anchored(anchored("motion", denoiser=wider), "motion", identity)
    elsewhere = {"junction": 0.3, "first_frame_weight": 0.9, "noise_std": 0.05, "frame_noise_std": 0.5}
    with pytest.raises(StageError, match=r"ends at sigma 0\.2, not at this stage's anchor\.junction 0\.3"):
        world.anchored(anchored("motion", anchor=elsewhere), "motion", identity)
    other = World(tmp_path / "other")
    other.latents = write_latents(tmp_path / "other/latents2", autoencoder="c" * 64)
    with pytest.raises(StageError, match="classes of latents"):
        other.anchored(anchored("motion"), "motion", identity)
    other.classes = write_classes(tmp_path / "other/classes2", other.latents)
    with pytest.raises(StageError, match=r"trained on latents of autoencoder toy \(aaaaaaaaaaaa\).*is of toy \(cccc"):
        other.anchored(anchored("motion"), "motion", identity)


def test_latents_that_do_not_fit_are_told_before_anything_is_built(tmp_path):
    world = World(tmp_path)
    places = world.places("flow")
    with pytest.raises(StageError, match=r"axis H of the latents has 4, denoiser\.patch cuts it by 3"):
        rectified_flow.train(rectified(denoiser={**SMALL["denoiser"], "patch": [1, 3, 2]}), world.latents, **places)
    with pytest.raises(StageError, match=r"has 2 tokens, denoiser\.text_length is 1; raise it to 2"):
        rectified_flow.train(rectified(denoiser={**SMALL["denoiser"], "text_length": 1}), world.latents, **places)


@pytest.mark.costly
def test_training_continues_exactly_where_it_stopped(tmp_path):
    world = World(tmp_path)
    straight = {"shape": "constant", "warmup_steps": 0}
    values = rectified(steps=4).model_dump(mode="json")
    values["training"] |= {"schedule": straight, "save_every": 2}
    kind = type(rectified())
    rectified_flow.train(kind.model_validate(values), world.latents, **world.places("whole"))
    values["training"]["steps"] = 2
    rectified_flow.train(kind.model_validate(values), world.latents, **world.places("parts"))
    values["training"]["steps"] = 4
    rectified_flow.train(kind.model_validate(values), world.latents, **world.places("parts"))
    whole, parts = (checkpoint.read(tmp_path / "checkpoints" / name) for name in ("whole", "parts"))
    assert numbers(world, "parts")["resumes"] == 1 and whole["weights"] == parts["weights"]


@pytest.mark.costly
def test_every_validation_shows_the_same_prompts_and_leaves_training_alone(tmp_path):
    world, weights = World(tmp_path), {}
    for prompts in (0, 2):
        validation = {"clips": 4, "levels": 2, "prompts": prompts}
        values = rectified(steps=4, validation=validation).model_dump(mode="json")
        values["training"] |= {"validate_every": 2}
        name = f"with-{prompts}"
        rectified_flow.train(type(rectified()).model_validate(values), world.latents, **world.places(name))
        weights[prompts] = checkpoint.read(tmp_path / "checkpoints" / name)["weights"]
    assert weights[0] == weights[2]
    shown = tmp_path / "checkpoints/with-2/validation"
    steps = [f"step-00000{step}" for step in (2, 4)]
    assert [path.name for path in sorted(shown.iterdir())] == [
        f"{step}.{kind}" for step in steps for kind in ("mp4", "png")
    ]
    assert (tmp_path / "plots/with-2/validation.png").is_file()
    assert not (tmp_path / "checkpoints/with-0/validation").exists()


@pytest.mark.costly
def test_validation_takes_no_more_clips_at_once_than_training(tmp_path, monkeypatch):
    """What fits into memory in training must not run out of it at the first validation."""
    world, sizes = World(tmp_path), []
    forward = VideoDenoiser.forward

    def counted(self, x, *told, **conditions):
        sizes.append(len(x))
        return forward(self, x, *told, **conditions)

    monkeypatch.setattr(VideoDenoiser, "forward", counted)
    for params in (rectified(steps=2), anchored(steps=2)):
        values = params.model_dump(mode="json")
        values["training"] |= {"micro_batch": 2, "validate_every": 1}
        values["validation"]["prompts"] = 3
        given = type(params).model_validate(values)
        if isinstance(given, type(rectified())):
            rectified_flow.train(given, world.latents, **world.places("flow"))
        else:
            world.anchored(given, "identity")
    assert max(sizes) == 2 and len(sizes) > 20


@pytest.mark.costly
def test_guidance_of_a_user_touches_only_phases_that_have_some(tmp_path):
    world = World(tmp_path)
    identity = world.anchored(anchored(steps=1), "identity")
    plan = {"sampler": "euler", "steps": 2, "shift": 1.0, "guidance": None}
    motion = anchored("motion", steps=1, sampling={"identity": None, "motion": plan})
    both = Generator.load(world.anchored(motion, "motion", identity))
    strong = Guidance(scale=4.0, rescale=0.0)
    assert [phase.sampling.guidance for phase in both.with_sampling(guidance=strong).phases] == [strong, None]
    plain = both.without_guidance().with_sampling(guidance=strong)
    assert [phase.sampling.guidance for phase in plain.phases] == [strong, strong], "where no phase has any, in all"
