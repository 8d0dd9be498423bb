"""The losses of an autoencoder against their formulas and finite differences."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipelines.latents import losses
from pipelines.latents.loss_params import WarmUp
from pipelines.latents.objectives import grown


def pictures(seed: int = 0, size: int = 16) -> tuple[Tensor, Tensor]:
    """A reconstruction and its picture, one frame each."""
    generator = torch.Generator().manual_seed(seed)
    target = (torch.randn(2, 3, 1, size, size, generator=generator) * 0.4).clamp(-1, 1)
    return (target * 0.8 + 0.1 * torch.randn(target.shape, generator=generator)).clamp(-1, 1), target


def box(image: np.ndarray) -> np.ndarray:
    """Mean over 3 x 3 with zeros outside, pixel by pixel."""
    padded = np.pad(image, 1)
    return np.array(
        [[padded[r : r + 3, c : c + 3].mean() for c in range(image.shape[1])] for r in range(image.shape[0])]
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("l1", lambda d: np.abs(d)),
        ("mse", lambda d: d**2),
        ("smooth_l1", lambda d: np.where(np.abs(d) < 0.01, d**2 / 0.02, np.abs(d) - 0.005)),
        ("charbonnier", lambda d: np.sqrt(d**2 + 1e-4)),
    ],
)
def test_distances_are_their_formulas(kind: losses.Distance, expected) -> None:
    predicted, target = pictures()
    found = losses.distance(predicted, target, kind, 0.01).numpy()
    assert np.allclose(found, expected((predicted - target).numpy()), atol=1e-6)


@pytest.mark.parametrize("high", [0.5, 1.0])
def test_the_frequency_loss_splits_by_a_mean_over_nine_pixels(high: float) -> None:
    predicted, target = pictures(size=8)
    found = losses.frequency(predicted, target, high)
    for sample in range(2):
        p, t = predicted[sample, :, 0].numpy(), target[sample, :, 0].numpy()
        low_p, low_t = (np.stack([box(channel) for channel in one]) for one in (p, t))
        expected = np.abs(low_p - low_t).mean() + high * np.abs((p - low_p) - (t - low_t)).mean()
        assert float(found[sample]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("free", [0.0, 0.25])
def test_kl_is_its_formula_summed_or_per_dimension(free: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 3, 4, 6, 5, generator=generator).unbind(0)
    element = -0.5 * (1 + logvar - mean**2 - logvar.exp())
    expected = element.clamp_min(free).flatten(1)
    assert torch.allclose(losses.kl(mean, logvar, free, False), expected.sum(1), rtol=1e-5)
    assert torch.allclose(losses.kl(mean, logvar, free, True), expected.mean(1), rtol=1e-5)
    ratio = losses.kl(mean, logvar, free, False) / losses.kl(mean, logvar, free, True)
    assert torch.allclose(ratio, torch.full((3,), 120.0), rtol=1e-5)  # 4 x 6 x 5 dimensions


def test_kl_per_dimension_is_the_same_at_two_resolutions() -> None:
    mean, logvar = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    wide = [torch.cat([one, one], dim=3) for one in (mean, logvar)]
    assert torch.allclose(losses.kl(mean, logvar, 0.0, True), losses.kl(*wide, 0.0, True), rtol=1e-5)
    assert torch.allclose(2 * losses.kl(mean, logvar, 0.0, False), losses.kl(*wide, 0.0, False), rtol=1e-5)


def test_free_bits_pull_nothing_below_them() -> None:
    mean = torch.tensor([[0.1, 2.0]], requires_grad=True)
    losses.kl(mean, torch.zeros(1, 2), 0.25, True).sum().backward()
    assert mean.grad is not None and mean.grad[0, 0] == 0 and mean.grad[0, 1] > 0


def test_contrast_is_a_quarter_of_what_the_guide_writes() -> None:
    predicted, target = pictures()
    p, t = predicted.numpy(), target.numpy()
    channels = sum((p[:, c].std(ddof=1) / t[:, c].std(ddof=1) - 1) ** 2 for c in range(3))
    samples = np.mean([(p[b].std(ddof=1) - t[b].std(ddof=1)) ** 2 for b in range(2)])
    assert float(losses.contrast(predicted, target).mean()) == pytest.approx((channels + samples) / 4, rel=1e-4)


def test_color_statistics_compare_means_and_deviations_of_each_channel() -> None:
    predicted, target = pictures()
    p, t = predicted.numpy(), target.numpy()
    expected = np.mean(
        [(p[:, c].mean() - t[:, c].mean()) ** 2 + (p[:, c].std(ddof=1) - t[:, c].std(ddof=1)) ** 2 for c in range(3)]
    )
    assert float(losses.color_statistics(predicted, target)[0]) == pytest.approx(float(expected), rel=1e-4)


def test_the_histogram_is_that_of_hard_bins_within_a_bin_and_has_a_gradient() -> None:
    predicted, target = pictures(size=32)

    def hard(channel: np.ndarray) -> np.ndarray:
        counts, _ = np.histogram(channel, bins=64, range=(-1, 1))
        return np.cumsum(counts / counts.sum())

    p, t = predicted.numpy(), target.numpy()
    expected = np.mean([np.abs(hard(p[:, c]) - hard(t[:, c])).mean() for c in range(3)])
    moved = predicted.clone().requires_grad_(True)
    found = losses.histogram(moved, target, 64)[0]
    assert float(found.detach()) == pytest.approx(float(expected), rel=0.03)
    found.backward()
    assert moved.grad is not None and float(moved.grad.abs().sum()) > 0
    assert float(losses.histogram(target, target.flip(-1), 64)[0]) == pytest.approx(0.0, abs=1e-6)


@given(seed=st.integers(0, 2**16), bins=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_a_value_is_below_an_edge_to_the_share_of_its_box_that_is(seed: int, bins: int) -> None:
    values = torch.randn(2, 50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values[0, :3] = torch.tensor([-1.0, 1.0, 1e9])  # on the first and last edge, and far outside
    width = 2 / bins
    edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64)[1:]
    shares = ((edges[:, None, None] - values) / width + 0.5).clamp(0, 1)
    torch.testing.assert_close(losses.cumulative(values, bins), shares.mean(dim=2).T)


def test_a_histogram_of_what_is_no_number_is_none() -> None:
    broken = torch.full((1, 3, 1, 4, 4), math.nan)
    assert math.isnan(float(losses.histogram(broken, torch.zeros_like(broken), 8)[0]))


DIFFERENTIABLE = {
    "frequency": lambda p, t: losses.frequency(p, t, 0.5),
    "contrast": losses.contrast,
    "color": losses.color_statistics,
    "histogram": lambda p, t: losses.histogram(p, t, 16),
    "charbonnier": lambda p, t: losses.per_sample(losses.distance(p, t, "charbonnier", 0.1)),
    "temporal": losses.temporal,
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(2, 3, 2, 4, 4, generator=generator, dtype=torch.float64) * 1.6 - 0.8
    predicted = (target + 0.1 * torch.randn(target.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    loss = lambda p: DIFFERENTIABLE[name](p, target).sum()  # noqa: E731
    (gradient,) = torch.autograd.grad(loss(predicted), predicted)
    direction = torch.randn(target.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        step = 1e-6
        change = (loss(predicted + step * direction) - loss(predicted - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(change), rel=1e-3, abs=1e-7)


def test_the_temporal_loss_sees_flicker_and_not_a_constant_error() -> None:
    video = torch.rand(1, 3, 4, 8, 8)
    assert float(losses.temporal(video + 0.2, video)[0]) == pytest.approx(0.0, abs=1e-6)
    flickering = video + 0.2 * torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 4, 1, 1)
    assert float(losses.temporal(flickering, video)[0]) == pytest.approx(0.4, rel=1e-4)


# ---- masks of latents ---------------------------------------------------------------------------------------------


@given(least=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_only_a_prefix_of_the_channels_is_kept(least: int, seed: int) -> None:
    torch.manual_seed(seed)
    kept = losses.keep_prefix(torch.ones(16, 6, 2, 2), 1.0, least)[:, :, 0, 0]
    counts = kept.sum(dim=1).int().tolist()
    assert all(least <= count <= 6 for count in counts)
    assert all(row.tolist() == [1.0] * count + [0.0] * (6 - count) for row, count in zip(kept, counts, strict=True))


def test_a_share_of_the_samples_is_masked_in_a_share_of_their_places() -> None:
    torch.manual_seed(0)
    masked = losses.hide_places(torch.ones(400, 3, 8, 8), 0.5, 0.25)
    assert torch.equal(masked[:, 0], masked[:, 2])  # all channels of a place
    touched = (masked == 0).any(dim=3).any(dim=2).any(dim=1)
    assert 0.4 < float(touched.float().mean()) < 0.6
    assert 0.2 < float((masked[touched] == 0).float().mean()) < 0.3
    assert torch.equal(losses.hide_places(torch.ones(4, 3, 8, 8), 0.0, 0.5), torch.ones(4, 3, 8, 8))


# ---- warm-up ------------------------------------------------------------------------------------------------------


def test_the_guides_warm_up_is_half_a_cosine() -> None:
    warmup = WarmUp(shape="cosine", start=0, steps=5000)
    for step in (0, 1, 1250, 2500, 4999, 5000, 9000):
        assert grown(warmup, step) == pytest.approx(0.5 * (1 - math.cos(math.pi * min(step / 5000, 1))))


@given(shape=st.sampled_from(["linear", "cosine", "sigmoid", "exponential"]), start=st.integers(0, 9))
def test_every_warm_up_waits_then_rises_to_its_value(shape: str, start: int) -> None:
    warmup = WarmUp.model_validate({"shape": shape, "start": start, "steps": 20})
    values = [grown(warmup, step) for step in range(start + 40)]
    assert values[:start] == [0.0] * start
    assert all(b >= a for a, b in pairwise(values))
    assert values[-1] == pytest.approx(1.0, abs=0.003)


def test_a_jump_is_at_its_value_at_once() -> None:
    warmup = WarmUp(shape="jump", start=3, steps=0)
    assert [grown(warmup, step) for step in (0, 2, 3, 4)] == [0.0, 0.0, 1.0, 1.0]
    assert grown(None, 0) == 1.0
