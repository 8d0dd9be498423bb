"""Guidance, its rescaling, and dropout per sample."""

import torch

from pipelines.flow import guidance


def test_scale_one_is_the_conditional_velocity_and_zero_the_unconditional():
    with_prompt, without = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 2, 2, 2)
    torch.testing.assert_close(guidance.guided(with_prompt, without, 1.0), with_prompt)
    torch.testing.assert_close(guidance.guided(with_prompt, without, 0.0), without)
    torch.testing.assert_close(guidance.guided(with_prompt, without, 2.0), 2 * with_prompt - without)


def test_full_rescale_gives_the_conditional_spread_per_sample():
    with_prompt, without = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 2, 2, 2)
    found = guidance.guided(with_prompt, without, 4.0, rescale=1.0)
    torch.testing.assert_close(found.flatten(1).std(1), with_prompt.flatten(1).std(1))
    plain = guidance.guided(with_prompt, without, 4.0)
    half = guidance.guided(with_prompt, without, 4.0, rescale=0.5)
    torch.testing.assert_close(half, 0.5 * (plain + found))


def test_dropped_prompts_become_the_empty_prompt_and_the_others_stay():
    embeds, mask = torch.randn(3, 5, 4), torch.arange(5) < torch.tensor([[5], [3], [4]])
    empty = torch.randn(1, 4)
    drop = torch.tensor([False, True, False])
    found, found_mask = guidance.drop_prompts(embeds, mask, empty, drop)
    assert torch.equal(found[[0, 2]], embeds[[0, 2]]) and torch.equal(found_mask[[0, 2]], mask[[0, 2]])
    assert torch.equal(found[1, 0], empty[0]) and not found[1, 1:].any()
    assert found_mask[1].tolist() == [True, False, False, False, False]


def test_dropout_is_per_sample_and_has_its_probability():
    torch.manual_seed(0)
    share = guidance.dropped(20_000, 0.1).float().mean()
    assert abs(float(share) - 0.1) < 0.01
    assert not guidance.dropped(100, 0.0).any() and guidance.dropped(100, 1.0).all()


def test_a_longer_empty_prompt_is_cut():
    embeds, mask = guidance.padded(torch.ones(4, 2), 3)
    assert embeds.shape == (3, 2) and mask.all()
