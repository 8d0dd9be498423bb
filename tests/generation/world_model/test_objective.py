"""The loss: what it depends on, which sigma is told, and what the blocks change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.data.contract import ACTIONS
from pipelines.flow import sigmas
from pipelines.flow.rollout import Roll
from pipelines.generation.latents import token_counter
from pipelines.generation.world_model.excursions import excursions, inverse
from pipelines.generation.world_model.held_out import other_actions
from pipelines.generation.world_model.objective import Chunked, WorldModelObjective, earlier_share, lengths
from pipelines.generation.world_model.params import Curriculum, WorldModelParams
from pipelines.models.denoiser import POSITION_CHANNELS
from pipelines.models.world_model import Inputs, WorldModel
from tests.generation.world_model.toy import CHANNELS, clip, params


def objective(name: str = "world_model_autoregressive", **changes: Any) -> WorldModelObjective:
    """With a network in which nothing is zero any more."""
    values: WorldModelParams = params(name, **changes)
    sizes, memory = values.denoiser.actions, values.memory
    reach = (memory.sink, memory.window) if memory else (0, 1)
    action = {key: getattr(sizes, key) for key in ("hidden", "inner", "heads", "rotary")}
    inputs = Inputs(
        CHANNELS, 1, POSITION_CHANNELS, "patches", (0, 1, 2, 3), (4, 5), 4, action, *reach, {"width": 8, "blocks": 1}
    )
    torch.manual_seed(0)
    model = WorldModel.build(inputs, **values.denoiser.model_dump(exclude={"first_frame", "actions", "draft"}))
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.3 if value.ndim > 1 else 0.1)
    return WorldModelObjective(model, values, 4, token_counter(model.patch))


def batch(count: int = 4) -> dict[str, Any]:
    clips = [clip(number) for number in range(count)]
    latents = torch.from_numpy(np.stack([one for one, _ in clips])).float()
    return {"latents": latents, "actions": torch.from_numpy(np.stack([held for _, held in clips]))}


def fixed(wanted: WorldModelObjective, count: int = 4) -> tuple[Chunked, torch.Tensor, torch.Tensor]:
    """A window, levels and noise of each sample's own."""
    given = batch(count)
    given["actions"] = torch.rand(given["actions"].shape, generator=torch.Generator().manual_seed(7)).round()
    window = wanted._window(given)
    noise = torch.stack(
        [torch.randn(window.latents[0].shape, generator=torch.Generator().manual_seed(n)) for n in range(count)]
    )
    return window, torch.linspace(0.2, 0.9, count)[:, None], noise


@pytest.mark.parametrize("part", ["pixels", "context", "actions", "others' actions"])
def test_the_loss_depends_on_pixels_context_and_actions(part: str) -> None:
    """Seed E trained on random tensors: no loss of it changed with any of these but the actions."""
    wanted = objective()
    window, level, noise = fixed(wanted)
    before = wanted.loss_at(window, level, noise).loss
    latents = window.latents.clone()
    if part == "pixels":
        latents[:, :, window.context :] = 0
    elif part == "context":
        latents[:, :, : window.context] = 0
    changed = replace(window, latents=latents)
    if part == "actions":
        changed = replace(window, actions=torch.zeros_like(window.actions))
    elif part == "others' actions":
        changed = other_actions(window)
    assert not torch.isclose(before, wanted.loss_at(changed, level, noise).loss, rtol=1e-5).any()


def test_a_batch_of_four_is_four_batches_of_one_noise_included() -> None:
    wanted = objective()
    window, level, noise = fixed(wanted)
    whole = wanted.loss_at(window, level, noise).loss
    for n in range(4):
        one = Chunked(window.latents[n : n + 1], window.actions[n : n + 1], window.context, window.chunks)
        assert torch.allclose(whole[n : n + 1], wanted.loss_at(one, level[n : n + 1], noise[n : n + 1]).loss, rtol=1e-4)


def test_the_error_of_the_draft_is_part_of_the_loss_and_the_velocity_s_stays_what_is_judged() -> None:
    light, heavy = (objective(own_errors=None, curriculum=None) for _ in range(2))
    sizes = heavy.params.denoiser.model_dump()
    heavy.params = params("world_model_autoregressive", own_errors=None, curriculum=None, denoiser=heavier(sizes))
    outputs = []
    for wanted in (light, heavy):
        torch.manual_seed(3)
        outputs.append(wanted.losses(batch(), 0)["world_model"])
    one, other = outputs
    drafted = float(one.metrics["draft"])
    assert drafted > 0 and float(other.metrics["draft"]) == drafted
    assert float((other.loss - one.loss).detach().mean()) == pytest.approx(2 * drafted, rel=1e-4)
    window, level, noise = fixed(light)
    assert torch.equal(light.loss_at(window, level, noise).loss, heavy.loss_at(window, level, noise).loss)


def heavier(denoiser: dict[str, Any]) -> dict[str, Any]:
    """The same sizes with a draft whose error weighs 3."""
    return {**denoiser, "patch": list(denoiser["patch"]), "draft": {**denoiser["draft"], "weight": 3.0}}


class Listening(torch.nn.Module):
    """A network that remembers what it was told, and answers with the point that it was given."""

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, first: int = 0, **told: Any) -> torch.Tensor:
        self.x, self.sigma, self.told = x, sigma, told
        return x[:, :, first:]


@pytest.mark.parametrize("most", [None, 0.2])
def test_the_sigma_that_is_told_is_the_sigma_that_was_used(most: float | None) -> None:
    """In every frame: the point minus the clean latents is sigma times (noise minus latents)."""
    wanted = objective(context_noise={"most": most} if most else None, own_errors=None, curriculum=None)
    wanted.world_model = Listening()  # type: ignore[assignment]
    given = {**batch(), "latents": torch.zeros(4, CHANNELS, 5, 12, 12)}
    torch.manual_seed(1)
    output = wanted.losses(given, 0)["world_model"]
    heard: Listening = wanted.world_model  # type: ignore[assignment]
    spread = heard.x.std((1, 3, 4))  # of unit noise: sigma, up to sampling
    assert torch.allclose(spread, heard.sigma, rtol=0.25, atol=1e-6)
    assert output.sigma is not None and torch.equal(output.sigma, heard.sigma[:, 3:]) and output.sigma.shape == (4, 2)
    assert output.per_frame is not None and output.per_frame.shape == (4, 2)
    assert torch.allclose(output.per_frame.mean(1), output.loss)
    assert bool((heard.sigma[:, :3] == 0).all()) == (most is None) and float(heard.sigma[:, :3].max()) <= (most or 0)


def test_the_published_schedule_is_the_draw_with_shift_five() -> None:
    """golden flow_match_scheduler.npz: 1000, 997.98, ..., 48.1 of 100 steps; few steps 1000, 908.84, 713.98."""
    table = 1000 * sigmas.table(100, 5.0)
    assert torch.allclose(table[[0, 1, 99]], torch.tensor([1000.0, 997.98, 48.08]), atol=0.02)
    few = 1000 * sigmas.shifted(torch.tensor([1000, 666, 333]) / 1000, 5.0)
    assert torch.allclose(few, torch.tensor([1000, 908.84, 713.98]), atol=0.01)


def test_a_window_is_one_frame_and_whole_chunks() -> None:
    assert lengths(1, 2) == (1, 2) and lengths(3, 2) == (1, 2, 2) and lengths(7, 3) == (1, 3, 3, 3)


def test_the_curriculum_falls_and_stays() -> None:
    curriculum = Curriculum(first=0.3, last=0.0, until=0.5)
    assert [round(earlier_share(curriculum, step, 100), 3) for step in (0, 25, 50, 99)] == [0.3, 0.15, 0.0, 0.0]
    assert earlier_share(None, 0, 100) == 0.0


def test_an_earlier_chunk_as_the_target_is_the_start_of_the_window() -> None:
    wanted = objective(curriculum={"first": 1.0, "last": 1.0, "until": 1.0}, own_errors=None)
    wanted.world_model = Listening()  # type: ignore[assignment]
    wanted.losses(batch(), 0)
    heard: Listening = wanted.world_model  # type: ignore[assignment]
    assert heard.told["chunks"] == (1, 2) and heard.x.shape[2] == 3 and heard.told["given"].sum(1).tolist() == [1] * 4


OWN = {"share": 1.0, "every": 2, "after": 1, "capacity": 6}


def test_own_errors_are_what_a_rollout_makes_wrong_and_are_added_to_the_context() -> None:
    wanted = objective(own_errors=OWN, curriculum=None)
    given = batch()
    wanted.losses(given, 0)
    assert wanted.errors is None, "before `after` nothing is stored"
    wanted.losses(given, 1)
    assert wanted.errors is not None and wanted.errors.shape == (4, CHANNELS, 2, 4, 4)
    wanted.losses(given, 2)
    assert len(wanted.errors) == 4, "every second update"
    wanted.losses(given, 3)
    assert len(wanted.errors) == 6, "the capacity"
    window = wanted._window(given)
    context, sigma = wanted._past(window)
    added = (context - window.latents[:, :, :3])[:, :, 1:]
    distance = (added[:, None] - wanted.errors[None]).abs().amax((2, 3, 4, 5)).min(1).values
    assert float(distance.max()) < 1e-5 and torch.equal(context[:, :, 0], window.latents[:, :, 0]) and not sigma.any()


def test_targets_whose_errors_are_kept_are_made_after_a_past_that_holds_kept_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted, pasts = objective(own_errors={**OWN, "share": 1.0, "every": 1, "after": 0}, curriculum=None), []

    def again(self: Roll, past: torch.Tensor, actions: torch.Tensor, noise: torch.Tensor, lengths: object) -> object:
        pasts.append(past)
        assert actions.shape[1] == past.shape[2] + noise.shape[2] == 5 and lengths == (1, 2)
        return torch.full_like(noise, 7.0)

    monkeypatch.setattr(Roll, "again", again)
    window = wanted._window(batch())
    wanted._store(window)
    true = window.latents[:, :, 3:]
    assert torch.allclose(wanted.errors, 7.0 - true)  # type: ignore[arg-type]
    wanted._store(window)
    assert torch.equal(pasts[0], window.latents[:, :, :3])
    errors = (pasts[1] - pasts[0])[:, :, 1:]
    apart = (errors[:, None] - (7.0 - true)[None]).abs().amax((2, 3, 4, 5)).min(1).values
    assert float(apart.max()) < 1e-5 and torch.equal(pasts[1][:, :, 0], pasts[0][:, :, 0])


def test_stored_errors_are_part_of_the_state() -> None:
    wanted = objective(own_errors=OWN)
    wanted.losses(batch(), 1)
    other = objective(own_errors=OWN)
    other.load_state_dict(wanted.state_dict())
    assert other.errors is not None and torch.equal(other.errors, wanted.errors)  # type: ignore[arg-type]
    other.load_state_dict({})
    assert other.errors is None


# ---- params -------------------------------------------------------------------------------------------------------


GUIDED = {"sampler": "euler", "steps": 2, "shift": 1.0, "guidance": {"scale": 2.0, "rescale": 0.0}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": {"context_frames": 2, "target_frames": 2}}, "must be one frame and whole chunks"),
        ({"memory": None}, "window.context_frames is 1, not 3"),
        ({"sampling": GUIDED}, "no prompt"),
        ({"window": {"context_frames": 1, "target_frames": 2}}, "needs a context of more than the first frame"),
    ],
)  # fmt: skip
def test_blocks_that_do_not_fit_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        params("world_model_autoregressive", **changes)


# ---- excursions ---------------------------------------------------------------------------------------------------


def test_an_excursion_comes_back() -> None:
    held = excursions(ACTIONS, 81, leg=8, seed=2)
    assert held.shape == (81, 6)
    ways = np.array([[0, -1], [-1, 0], [0, 1], [1, 0]])
    for start in range(1, 81, 16):
        moved = held[start : start + 16, :4] @ ways
        assert np.allclose(moved.sum(0), 0) and np.allclose(held[start : start + 16, 4:].sum(0), 0, atol=1e-6)
    assert len({tuple(row) for row in held[:, :4].tolist()}) > 2


def test_the_way_back_of_a_way_back_is_the_way() -> None:
    rows = np.random.default_rng(0).random((5, 6)).astype(np.float32)
    rows[:, :4] = rows[:, :4].round()
    assert np.array_equal(inverse(inverse(rows, ACTIONS), ACTIONS), rows)
    with pytest.raises(ValueError, match="not each has an opposite"):
        inverse(rows, ACTIONS.model_copy(update={"names": ("W", "jump", "S", "D", "mouse_dx", "mouse_dy")}))
