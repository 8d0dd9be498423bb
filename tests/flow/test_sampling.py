"""Walking phases from noise to latents."""

import pytest
import torch

from pipelines.flow import anchored
from pipelines.flow.params import Guidance, Sampling
from pipelines.flow.sampling import Phase, seeded_noise, walk

SHAPE = (2, 3, 4, 4)
PLAIN = Sampling(sampler="euler", steps=5, shift=2.0, guidance=None)
PROMPT = {"prompt_embeds": torch.zeros(2, 3, 4), "prompt_mask": torch.ones(2, 3, dtype=torch.bool)}


def test_noise_depends_on_its_seed_alone():
    together, alone = seeded_noise([3, 7], SHAPE), seeded_noise([7], SHAPE)
    assert torch.equal(together[1], alone[0])
    shared = seeded_noise([3], SHAPE, shared=True)
    assert shared.shape == (1, 2, 3, 4, 4) and torch.equal(shared, shared[:, :, :1].expand_as(shared))


@pytest.mark.parametrize("steps", [(1, 1), (3, 2), (10, 7)])
def test_the_exact_anchored_field_leads_through_the_anchor_to_the_clip(steps):
    latents = seeded_noise([11, 12], SHAPE)
    anchor = anchored.anchor(latents, 0.7, 0.0)
    noise = seeded_noise([1, 2], SHAPE, shared=True)

    def above(x, told, **_):
        assert x.shape[2] == 1, "one frame is walked, and stands for all"
        return noise[:, :, :1] - anchor

    def below(x, told, **_):
        return anchor - latents

    identity = Phase(above, PLAIN.model_copy(update={"steps": steps[0]}), 1.0, 0.2, still=True)
    motion = Phase(below, PLAIN.model_copy(update={"steps": steps[1]}), 0.2, 0.0)
    torch.testing.assert_close(walk([identity], noise, PROMPT), anchor.expand_as(latents), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(walk([identity, motion], noise, PROMPT), latents, atol=1e-5, rtol=1e-5)


def test_an_identity_phase_keeps_a_still_clip_still():
    noise = seeded_noise([1, 2], SHAPE, shared=True)
    found = walk([Phase(lambda x, told, **_: torch.randn_like(x), PLAIN, still=True)], noise, PROMPT)
    assert found.shape == noise.shape
    torch.testing.assert_close(found, found[:, :, :1].expand_as(found))


def test_phases_that_do_not_meet_are_refused():
    first, second = Phase(torch.zeros_like, PLAIN, 1.0, 0.3), Phase(torch.zeros_like, PLAIN, 0.2, 0.0)
    with pytest.raises(ValueError, match=r"ends at sigma 0\.3, but the next begins at 0\.2"):
        walk([first, second], seeded_noise([1, 2], SHAPE), PROMPT)


def test_guidance_asks_with_and_without_the_prompt_and_keeps_other_conditions():
    asked = []

    def denoiser(x, sigma, prompt_embeds, prompt_mask, pseudo_class=None, actions=None):
        asked.append((float(prompt_embeds.sum()), pseudo_class is not None, actions is not None))
        return torch.zeros_like(x)

    conditions = {**PROMPT, "pseudo_class": torch.tensor([0, 1]), "actions": torch.zeros(2, 3, 6)}
    phase = Phase(denoiser, PLAIN.model_copy(update={"steps": 1, "guidance": Guidance(scale=2.0, rescale=0.0)}))
    walk([phase], seeded_noise([1, 2], SHAPE), conditions, torch.ones(1, 4))
    assert asked == [(0.0, True, True), (8.0, False, True)]
    with pytest.raises(ValueError, match="empty_prompt"):
        walk([phase], seeded_noise([1, 2], SHAPE), conditions)


@pytest.mark.parametrize("sampler", ["euler", "heun", "midpoint", "dpm_2m"])
def test_every_sampler_is_exact_on_a_straight_phase_of_its_own(sampler):
    """Also DPM-Solver++, whose formula is of a path from noise to data: each phase is one, on its own clock."""
    latents, start = seeded_noise([1, 2], SHAPE), seeded_noise([3, 4], SHAPE)
    seen = []

    def field(x, told, **_):
        seen.append(float(told[0, 0]))
        return start - latents

    plan = PLAIN.model_copy(update={"sampler": sampler})
    found = walk([Phase(field, plan, 0.2, 0.0)], start, PROMPT)
    torch.testing.assert_close(found, latents, atol=1e-5, rtol=1e-5)
    assert seen[0] == 1.0 and min(seen) >= 0.0 and seen == sorted(seen, reverse=True)
