"""Both objectives are what they say; tests/training/test_objective_contract.py holds them to the contract."""

import pytest
import torch

from pipelines.flow import path
from pipelines.generation.anchored_flow import AnchoredFlow, motion_ratio
from pipelines.generation.rectified_flow import RectifiedFlow
from pipelines.models.denoiser import VideoDenoiser
from tests.generation import toy
from tests.generation.toy import CLASSES, DIM, UNIFIED, anchored, batch, rectified

EMPTY = torch.zeros(1, DIM)


def denoiser(num_classes: int | None = None) -> VideoDenoiser:
    network = toy.denoiser(num_classes)
    torch.nn.init.normal_(network.transformer.proj_out.weight, std=0.2)
    return network


def straight(**changes) -> RectifiedFlow:
    params = rectified(**changes)
    return RectifiedFlow(denoiser(), params.draw, params.prompt_dropout, EMPTY, tokens=lambda _: 12)


def through_anchor(stage: str = "identity", is_start: bool = False, **changes) -> AnchoredFlow:
    return AnchoredFlow(denoiser(CLASSES), anchored(stage, **changes), EMPTY, tokens=lambda _: 12, is_start=is_start)


def unified(**changes) -> AnchoredFlow:
    return through_anchor(**{**UNIFIED, **changes})


MAKE = {
    "rectified": straight,
    "identity": through_anchor,
    "motion": lambda: through_anchor("motion"),
    "unified": unified,
}


def loss(objective, given=None, step: int = 0, seed: int = 5) -> torch.Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return objective.losses(given or batch(), step)["denoiser"].loss


def test_rectified_flow_does_not_look_at_the_class():
    given = batch()
    assert torch.equal(loss(straight(), {**given, "pseudo_class": given["pseudo_class"] + 1}), loss(straight(), given))


def test_motion_gain_is_effective_and_warms_up():
    gain = {"value": 2.0, "warmup_steps": 10}
    objective = through_anchor("motion", motion_gain=gain)
    assert [objective.motion_gain(step) for step in (0, 5, 10, 99)] == [1.0, 1.5, 2.0, 2.0]
    assert (loss(objective, step=10) > loss(objective, step=0)).all()
    assert through_anchor("motion", motion_gain={**gain, "warmup_steps": 0}).motion_gain(0) == 2.0
    assert through_anchor().motion_gain(99) == 1.0, "above the junction frames do not differ"


def test_the_identity_stage_computes_one_frame_and_each_phase_is_told_its_own_clock():
    asked = []
    for stage in ("identity", "motion"):
        objective = through_anchor(stage)
        network = objective.denoiser

        def spy(x, told, network=network, **conditions):
            asked.append((x.shape[2], float(told.min()), float(told.max())))
            return network(x, told, **conditions)

        objective.denoiser = spy
        loss(objective)
    (frames, low, high), (all_frames, least, most) = asked
    assert frames == 1 and all_frames == batch()["latents"].shape[2]
    assert low < 0.3 and most > 0.7 and min(low, least) >= 0.0 and max(high, most) <= 1.0


def test_equal_weights_are_equal_parts_of_the_loss():
    """Velocities on the phases' own clocks are of one size; in dx/dsigma those below would be four times as long."""
    objective = unified(motion_gain={"value": 1.0, "warmup_steps": 0})
    objective.denoiser = lambda x, told, **_: torch.zeros_like(x)
    torch.manual_seed(0)
    given = batch(96)
    given["latents"] = torch.randn_like(given["latents"])
    monitors = objective.losses(given, 0)["denoiser"].monitors
    assert 0.4 < float(monitors["afm_loss/local_raw"] / monitors["afm_loss/global_raw"]) < 2.5


def test_the_guides_little_local_loss_in_stage_1_is_one_line():
    """``local: 0.1``: levels below the junction are drawn too, and samples still end in the anchor."""
    stage = anchored(loss_weights={"identity": 1.0, "motion": 0.1}, motion_gain={"value": 1.2, "warmup_steps": 0})
    assert stage.stage == 1 and stage.levels == (0.0, 1.0)
    objective = AnchoredFlow(denoiser(CLASSES), stage, EMPTY, tokens=lambda _: 12)
    monitors = objective.losses(batch(48), 0)["denoiser"].monitors
    assert {"afm_loss/local_raw", "afm_loss/global_raw"} <= set(monitors) and float(monitors["afm/current_stage"]) == 1
    alone = AnchoredFlow(objective.denoiser, anchored(), EMPTY, tokens=lambda _: 12)
    assert "afm_loss/local_raw" not in alone.losses(batch(48), 0)["denoiser"].monitors


def test_with_gain_one_the_loss_is_the_squared_error():
    objective = unified(motion_gain={"value": 1.0, "warmup_steps": 0})
    torch.manual_seed(5)
    output = objective.losses(batch(), 0)["denoiser"]
    raw = [float(output.monitors[f"afm_loss/{name}"]) for name in ("local_raw", "global_raw")]
    local = output.sigma < 0.2
    assert float(output.loss[local].detach().mean()) == pytest.approx(raw[0], rel=1e-5)
    assert float(output.loss[~local].detach().mean()) == pytest.approx(raw[1], rel=1e-5)


def test_seed_names_are_logged_and_absent_where_undefined():
    identity = through_anchor().losses(batch(), 3)["denoiser"].monitors
    motion = through_anchor("motion", is_start=True).losses(batch(), 0)["denoiser"].monitors
    assert (float(identity["afm/current_stage"]), float(motion["afm/current_stage"])) == (1.0, 2.0)
    assert "afm_loss/local_raw" not in identity and "afm_loss/global_raw" not in motion
    assert float(identity["afm/progress_to_transition"]) == 1.0 and "afm/progress_to_transition" not in motion
    assert "afm/stage_transition" not in identity and float(motion["afm/stage_transition"]) == 1.0
    assert [float(motion[f"afm/t_range_{end}"]) for end in ("min", "max")] == pytest.approx([0.0, 0.2])
    assert float(motion["afm/samples_in_range"]) == 1.0
    for name in ("velocity_cos_sim", "pred_velocity_mag", "target_velocity_mag", "afm_loss/active_loss"):
        assert name in identity
    assert anchored(**UNIFIED).stage == 0


def test_motion_ratio_of_true_frozen_and_halved_velocities():
    target = torch.randn(3, 2, 4, 2, 2)
    shared = target.mean(2, keepdim=True)
    assert motion_ratio(target, target, "ratio")["ratio"] == pytest.approx(1.0)
    assert motion_ratio(shared.expand_as(target), target, "ratio")["ratio"] == pytest.approx(0.0, abs=1e-10)
    half = shared + 0.5 * (target - shared)
    assert motion_ratio(half, target, "ratio")["ratio"] == pytest.approx(0.25, rel=1e-4)
    assert motion_ratio(torch.zeros_like(target), target, "ratio") == {}


@pytest.mark.parametrize("name", ["rectified", "motion"])
def test_one_batch_is_learnt(name):
    objective, given = MAKE[name](), batch()
    optimizer = torch.optim.AdamW(objective.denoiser.parameters(), lr=1e-2)
    before = [float(loss(objective, given, seed=seed).mean()) for seed in range(4)]
    for step in range(70):
        torch.manual_seed(1000 + step)
        optimizer.zero_grad()
        objective.losses(given, step)["denoiser"].loss.mean().backward()
        optimizer.step()
    after = [float(loss(objective, given, seed=seed).mean()) for seed in range(4)]
    assert sum(after) < 0.6 * sum(before)


def test_per_sample_losses_do_not_mix_samples():
    objective, given = straight(prompt_dropout=0.0), batch()
    before = loss(objective, given)
    latents = given["latents"].clone()
    latents[0] += 1
    after = loss(objective, {**given, "latents": latents})
    assert torch.equal(before[1:], after[1:]) and before[0] != after[0]
    assert path.per_sample(torch.ones(2, 3)).tolist() == [1.0, 1.0]
