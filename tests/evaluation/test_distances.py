"""Distances and intervals: unbiased, honest about what they cannot see, and not to be won by copying."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipelines.evaluation.distances import COPIED, Kernels, Training, polynomial, spread_ratios
from pipelines.evaluation.resampling import Estimate, Resamples, all_compared, compared
from pipelines.evaluation.video_metrics import MotionRatio, frechet_distance, local_vs_global_ratio

DIMS = 32


def gaussian(seed: int, count: int = 96, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, DIMS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ones(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.float64)


def distance(x: Tensor, y: Tensor) -> float:
    return Kernels.of(x, y).distance(ones(len(x)), ones(len(y)))


# ---- the kernel distance ------------------------------------------------------------------------------------------


def test_several_samples_of_a_prompt_do_not_move_the_distance_of_real_clips() -> None:
    """Drawn again, a real clip is itself: 0 on average stays 0, and pairs of a prompt are left out."""
    x, y = gaussian(3, 40), gaussian(4, 60)
    once = Kernels.of(x, y).distance(ones(40), ones(60))
    assert Kernels.of(x.repeat(2, 1), y, copies=2).distance(ones(80), ones(60)) == pytest.approx(once, abs=1e-9)
    assert Kernels.of(x.repeat(2, 1), y).distance(ones(80), ones(60)) > once + 0.01  # what it would be with them
    weights = torch.arange(40).double() % 3
    again = Kernels.of(x.repeat(3, 1), y, copies=3).distance(weights.repeat(3), ones(60))
    assert again == pytest.approx(Kernels.of(x, y).distance(weights, ones(60)), abs=1e-9)


def test_between_equal_distributions_the_mean_is_zero_and_frechets_is_not() -> None:
    """Where 96 clips in 32 directions have a Fréchet distance of 2.4 or more."""
    kernel = torch.tensor([distance(gaussian(2 * n), gaussian(2 * n + 1)) for n in range(200)])
    assert kernel.mean().abs() < 2.5 * kernel.std() / 200**0.5
    assert (kernel < 0).float().mean() > 0.3
    assert min(frechet_distance(gaussian(2 * n), gaussian(2 * n + 1), 0.02) for n in range(20)) > 2.0


def test_it_does_not_depend_on_how_many_clips_there_are() -> None:
    shifted = [
        torch.tensor([distance(gaussian(n, c) + 0.5, gaussian(999 + n, c)) for n in range(30)]) for c in (48, 192)
    ]
    assert shifted[0].mean().item() == pytest.approx(shifted[1].mean().item(), rel=0.1)


def test_counted_samples_are_repeated_samples_that_are_no_pairs_of_their_own() -> None:
    x, y = gaussian(0, 6), gaussian(1, 7)
    counts = torch.tensor([2.0, 0, 1, 1, 0, 2], dtype=torch.float64)
    rows = [0, 0, 2, 3, 5, 5]
    kernel = Kernels.of(x, y)
    pairs = [(i, j) for a, i in enumerate(rows) for b, j in enumerate(rows) if i != j]
    own = sum(float(kernel.own[i, j]) for i, j in pairs) / len(pairs)
    across = float(kernel.cross[rows].mean())
    mean = float(kernel.reference.sum() - kernel.reference.trace()) / (7 * 6)
    assert kernel.distance(counts, ones(7)) == pytest.approx(own + mean - 2 * across)


@pytest.mark.parametrize("scale", [0.93, 1.0])
def test_a_narrow_generator_is_seen_by_its_spread(scale: float) -> None:
    """7 % too narrow, 96 clips: the interval of the spread leaves 1 out, where the Fréchet distance sees nothing."""
    real, made = gaussian(0, 96), gaussian(1, 96, scale)
    resamples = Resamples.of(96, 1, 200, 0)
    found = resamples.estimate(lambda weights: spread_ratios(made, real, weights))
    assert (found.high < 1.0) == (scale < 1.0)
    assert found.low < scale < found.high
    assert frechet_distance(made, gaussian(2), 0.02) < frechet_distance(real, gaussian(2), 0.02) + 0.5


def test_features_without_a_distance_are_told() -> None:
    broken = gaussian(0, 4)
    broken[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        Kernels.of(broken, gaussian(1, 4))
    with pytest.raises(ValueError, match="two samples a side"):
        Kernels.of(gaussian(0, 1), gaussian(1, 4))
    with pytest.raises(ValueError, match="real clips are all alike"):
        spread_ratios(gaussian(0, 4), torch.ones(4, DIMS, dtype=torch.float64), ones(4)[None])


def test_samples_that_are_all_alike_score_badly_not_well() -> None:
    still = gaussian(0, 1).expand(96, -1)
    assert distance(still, gaussian(1)) > 10 * abs(distance(gaussian(2), gaussian(1)))
    assert float(spread_ratios(still, gaussian(1), ones(96)[None])) < 1e-9


# ---- copying ------------------------------------------------------------------------------------------------------


def test_copies_of_training_clips_are_found_though_their_distance_is_that_of_real_clips() -> None:
    train, held_out, reference = gaussian(0, 400), gaussian(1, 96), gaussian(2, 96)
    copies = train[:96] + 0.01 * gaussian(3, 96)
    training = Training.of(train, held_out)
    assert not training.copies(held_out).any() and not training.copies(gaussian(4, 96)).any()
    assert training.copies(copies).all()
    assert distance(copies, reference) < distance(held_out, reference) + 0.3, "the distance alone would let them win"
    assert training.copies(train[:96]).all(), "the clips themselves too"
    assert training.nearest(train[:96]).max() < 1e-9 < 0.2 * training.nearest(held_out).mean()
    assert training.nearest(copies).mean() < 0.05 * training.nearest(held_out).mean()


def test_clips_that_lie_where_training_clips_are_dense_are_no_copies() -> None:
    """Samples with a third of the spread are nearer to training clips than real ones are, and copies of none."""
    train, held_out = gaussian(0, 400), gaussian(1, 96)
    narrow = gaussian(5, 96, 0.33)
    absolute = [torch.cdist(clips, train).amin(1) for clips in (narrow, held_out)]
    assert absolute[0].max() < absolute[1].quantile(0.2)
    resamples = Resamples.of(96, 1, 200, 0)
    assert resamples.mean(Training.of(train, held_out).copies(narrow)).high < COPIED


def test_a_clip_that_is_in_the_training_set_twice_can_still_be_copied() -> None:
    train = torch.cat([gaussian(0, 50), gaussian(0, 50)[:1]])
    training = Training.of(train, gaussian(1, 96))
    assert training.copies(train[:1]).all() and not training.copies(gaussian(7, 1) + 5).any()


# ---- resampling ---------------------------------------------------------------------------------------------------


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        draw = torch.Generator().manual_seed(seed)
        values = torch.randn(60, generator=draw, dtype=torch.float64) + 1.0
        found = Resamples.of(60, 1, 200, seed).mean(values)
        hits += found.low < 1.0 < found.high
    assert 0.88 < hits / 200 < 0.99


def test_copies_of_a_prompt_are_drawn_together() -> None:
    counts = Resamples.of(5, 3, 10, 0).counts
    assert counts.shape == (10, 15) and torch.equal(counts[:, :5], counts[:, 10:])
    assert (counts.sum(1) == 15).all()


def test_all_resamples_at_once_are_each_by_itself_on_the_clips_that_it_draws() -> None:
    """Against the plain means over drawn clips; the last resample draws one prompt alone, which defines nothing."""
    x, y = gaussian(0, 12), gaussian(1, 8) + 0.3
    counts = torch.cat([Resamples.of(6, 2, 5, 0).counts, 6.0 * torch.eye(6, dtype=torch.float64)[:1].repeat(1, 2)])
    beside = Resamples.of(8, 1, 6, 1).counts
    found = Kernels.of(x, y, copies=2).distances(counts, beside)
    ratios, moving = spread_ratios(x, 2.0 * x, counts), MotionRatio.of(*(clips(seed) for seed in (0, 1)))(counts)
    assert found[-1].isnan()
    for row, (own, other) in enumerate(zip(counts[:-1].long(), beside[:-1].long(), strict=True)):
        drawn = torch.arange(12).repeat_interleave(own)
        prompts = drawn % 6
        pairs = polynomial(x[drawn], x[drawn])[prompts[:, None] != prompts[None]]
        drawn_beside = torch.arange(8).repeat_interleave(other)
        far = polynomial(y[drawn_beside], y[drawn_beside])[drawn_beside[:, None] != drawn_beside[None]]
        across = polynomial(x[drawn], y[drawn_beside]).mean()
        assert float(found[row]) == pytest.approx(float(pairs.mean() + far.mean() - 2 * across), rel=1e-9)
        assert float(ratios[row]) == pytest.approx(0.5, rel=1e-9)
        assert float(moving[row]) == pytest.approx(local_vs_global_ratio(clips(0)[drawn], clips(1)[drawn]), rel=1e-9)


def clips(seed: int) -> Tensor:
    return torch.randn(12, 2, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sides_with_different_numbers_of_resamples_are_refused() -> None:
    kernels = Kernels.of(gaussian(0, 6), gaussian(1, 8))
    with pytest.raises(ValueError, match="equally many resamples"):
        Resamples.of(6, 1, 5, 0).estimate_beside(Resamples.of(8, 1, 4, 0), kernels.distances)


def test_a_small_difference_on_equal_prompts_is_seen_and_none_is_noise() -> None:
    """Two systems that share what is hard about a prompt: each interval is wide, that of the difference narrow."""
    draw = torch.Generator().manual_seed(0)
    hard = torch.randn(96, generator=draw, dtype=torch.float64)
    resamples = Resamples.of(96, 1, 400, 0)
    one, other = resamples.mean(hard + 0.05), resamples.mean(hard + 0.01 * torch.randn(96, generator=draw))
    assert one.low < other.value < one.high, "the intervals overlap"
    assert compared(one, other, "higher")["verdict"] == "better"
    assert compared(other, one, "higher")["verdict"] == "worse"
    assert compared(one, other, "lower")["verdict"] == "worse"
    assert compared(one, one, "higher")["verdict"] == "within noise"
    for better in ("higher", "lower", "near 1"):  # rounding is no difference, in however many resamples
        rounded = Estimate(one.value * (1 + 1e-7), one.draws * (1 + 1e-7))
        assert compared(rounded, one, better)["verdict"] == "within noise"
        assert compared(one, rounded, better)["verdict"] == "within noise"


def test_near_one_counts_from_both_sides() -> None:
    draws = torch.linspace(-0.01, 0.01, 50, dtype=torch.float64)
    high, low, right = (Estimate(value, value + draws) for value in (1.5, 0.6, 1.0))
    assert compared(right, high, "near 1")["verdict"] == "better"
    assert compared(low, high, "near 1")["verdict"] == "worse"
    noisy = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.05
    real = Estimate(1.0, torch.ones(400, dtype=torch.float64))
    for value, verdict in ((1.01, "within noise"), (0.99, "within noise"), (0.7, "worse"), (1.4, "worse")):
        found = compared(Estimate(value, value + noisy), real, "near 1")
        assert found["verdict"] == verdict and found["low"] < found["difference"] < found["high"]
    pairs = all_compared({"a": {"ratio": right}, "b": {"ratio": low}, "c": {}}, {"ratio": "near 1"})
    assert pairs["a against b"]["ratio"]["verdict"] == "better" and pairs["a against c"] == {}
