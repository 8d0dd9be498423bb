"""The drifting field against a plain reference, its fixed points, and its progress numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipelines.flow.drift import Problems, drift, drift_pull
from pipelines.flow.drift_kernel import FAR, affinities, affinities_by_rows, coefficients, distances
from pipelines.flow.drift_statistics import (
    drawn_strength,
    effective_neighbours,
    kernel_statistics,
    sample_statistics,
    unconditional_weight,
)
from pipelines.flow.params import DriftField

TAUS = (0.02, 0.05, 0.2)
RELEASE = DriftField(temperatures=TAUS, normalisation="both", weights="after", scale="all", floor=1e-6, correction=None)
LOG = DriftField(temperatures=TAUS, normalisation="both", weights="inside", scale="problem", floor=0.0, correction=None)
FIELDS = {
    "release": RELEASE,
    "log": LOG,
    "rows": LOG.model_copy(update={"normalisation": "rows"}),
    "none": LOG.model_copy(update={"normalisation": "none"}),
    "sinkhorn": LOG.model_copy(update={"normalisation": "sinkhorn"}),
    "corrected": RELEASE.model_copy(update={"correction": "ratio"}),
}


def problems(seed: int = 0, sizes: tuple[int, ...] = (3, 2, 4, 3, 5, 6), kind: Any = torch.float64) -> Problems:
    """Random features; sizes: locations, problems, generated, negatives, positives, width."""
    locations, count, group, negatives, positives, width = sizes
    draw = torch.Generator().manual_seed(seed)

    def features(number: int) -> Tensor:
        return torch.randn(locations, count, number, width, generator=draw, dtype=torch.float64).to(kind)

    weights = 0.5 + torch.rand(count, group + negatives + positives, generator=draw, dtype=torch.float64)
    return Problems(features(group), features(positives), features(negatives), weights.to(kind))


# ---- against a plain reference ------------------------------------------------------------------------------------


def release_by_hand(given: Problems) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one call of the authors' release, term by term, the gradient traced by autograd."""
    x = given.generated.flatten(0, 1).clone().requires_grad_()
    negatives, positives = given.negatives.flatten(0, 1), given.positives.flatten(0, 1)
    assert given.weights is not None
    weights = given.weights.repeat(len(given.generated), 1)[:, None, :]
    group, count, width = x.shape[1], x.shape[1] + negatives.shape[1], x.shape[2]
    with torch.no_grad():
        y = torch.cat([x, negatives, positives], 1)
        apart = (x[:, :, None] - y[:, None]).square().sum(-1).sqrt().clamp(min=1e-4)
        scale = (apart * weights).mean() / weights.mean()
        inputs = scale / math.sqrt(width)
        near = apart / scale
        near[:, range(group), range(group)] += FAR
        scaled, total = y / inputs, torch.zeros_like(x)
        for tau in TAUS:
            a = (torch.softmax(-near / tau, 2) * torch.softmax(-near / tau, 1)).clamp(min=1e-6).sqrt() * weights
            less, more = a[:, :, :count], a[:, :, count:]
            coef = torch.cat([-less * more.sum(2, keepdim=True), more * less.sum(2, keepdim=True)], 2)
            v = coef @ scaled - coef.sum(2, keepdim=True) * x / inputs
            total += v / v.square().mean().clamp(min=1e-8).sqrt()
        goal = x / inputs + total
    loss = (x / inputs - goal).square().mean((1, 2))
    loss.sum().backward()
    assert x.grad is not None
    return loss.detach(), x.grad


def log_by_hand(given: Problems, mode: str) -> tuple[Tensor, Tensor]:
    """The log's variant, one problem and location after another: weights inside, own scale of each problem."""
    losses, gradients = torch.zeros(given.generated.shape[:2], dtype=torch.float64), torch.zeros_like(given.generated)
    assert given.weights is not None
    where = list(range(given.generated.shape[0]))
    for p in range(given.generated.shape[1]):
        xs = [given.generated[i, p] for i in where]
        ys = [torch.cat([xs[i], given.negatives[i, p], given.positives[i, p]]) for i in where]
        apart = [(x[:, None] - y[None]).norm(dim=-1) for x, y in zip(xs, ys, strict=True)]
        scale = torch.stack(apart).mean() / math.sqrt(xs[0].shape[1])
        group, count = len(xs[0]), len(xs[0]) + given.negatives.shape[2]
        fields = []
        for x, y, d in zip(xs, ys, apart, strict=True):
            each = []
            for tau in TAUS:
                logits = -d / scale / (tau * math.sqrt(x.shape[1])) + given.weights[p].log()
                logits[range(group), range(group)] = -torch.inf
                rows, columns = torch.softmax(logits, 1), torch.softmax(logits, 0).clamp(min=1e-12)
                a = {"both": (rows * columns).sqrt(), "rows": rows, "none": logits.exp()}[mode]
                less, more = a[:, :count], a[:, count:]
                v = (more * less.sum(1, keepdim=True)) @ y[count:] - (less * more.sum(1, keepdim=True)) @ y[:count]
                each.append(v / scale)
            fields.append(torch.stack(each))
        v = torch.stack(fields)  # locations, temperatures, samples, width
        total = (v / v.square().mean((0, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)).sum(1)
        for i in where:
            losses[i, p] = total[i].square().mean()
            gradients[i, p] = -2 * total[i] / (scale * total[i].numel())
    return losses, gradients


def loss_and_gradient(given: Problems, field: DriftField, **chunk: int) -> tuple[Tensor, Tensor]:
    x = given.generated.clone().requires_grad_()
    loss = drift_pull(Problems(x, given.positives, given.negatives, given.weights, given.present), field, **chunk).loss
    loss.sum().backward()
    assert x.grad is not None
    return loss.detach(), x.grad


@pytest.mark.parametrize("chunk", [2**26, 1])
def test_the_release_is_the_release(chunk: int) -> None:
    loss, gradient = loss_and_gradient(problems(), RELEASE, chunk=chunk)
    expected, traced = release_by_hand(problems())
    torch.testing.assert_close(loss.flatten(), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient.flatten(0, 1), traced, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["both", "rows", "none"])
def test_the_logs_variant_shares_scales_inside_a_group_of_locations(mode: str) -> None:
    field = LOG.model_copy(update={"normalisation": mode})
    loss, gradient = loss_and_gradient(problems(), field)
    expected, traced = log_by_hand(problems(), mode)
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(gradient, traced, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", FIELDS)
def test_float32_is_float64_within_a_ten_thousandth(name: str) -> None:
    exact = drift(problems(3), FIELDS[name])
    rounded = drift(problems(3, kind=torch.float32), FIELDS[name])
    assert (rounded.total - exact.total).norm() < 1e-4 * exact.total.norm()


def layout(name: str, seed: int) -> Tensor:
    """Distances [2, 4, 12] over their mean, of samples that lie so."""
    draw = torch.Generator().manual_seed(seed)
    near = 1.0 + 0.1 * torch.rand(2, 4, 12, generator=draw, dtype=torch.float64)
    match name:
        case "scattered":
            near = torch.rand(2, 4, 12, generator=draw, dtype=torch.float64)
        case "one problem is wide":
            near[1] *= torch.linspace(0.2, 1.8, 4, dtype=torch.float64)[:, None]
        case "a sample lies far":
            near[:, 2] += 2.5
        case "positives lie far":
            near[:, :, 6:] += 1.2
        case "some are absent":
            near[:, :, 10:], near[0, 3] = torch.inf, torch.inf
    near[:, range(4), range(4)] = torch.inf
    return near


LAYOUTS = ("narrow", "scattered", "one problem is wide", "a sample lies far", "positives lie far", "some are absent")


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("floor", [0.0, 1e-6])
@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_the_kernel_is_two_softmaxes_wherever_samples_lie(name: str, floor: float, seed: int) -> None:
    """However few exponentials it takes: the coefficients of each side in float32, over the largest of that side."""
    near = layout(name, seed)
    logits = -near[:, None] / torch.tensor(TAUS, dtype=torch.float64)[:, None, None]
    rows, columns = (torch.softmax(logits, axis).nan_to_num(nan=0.0) for axis in (3, 2))
    product = (rows * columns).clamp(min=floor) if floor else rows * columns.clamp(min=1e-12)
    field = LOG.model_copy(update={"floor": floor})
    expected = coefficients(product.sqrt().masked_fill(near[:, None].isinf(), 0.0), 6, field)
    kernel, sums = affinities_by_rows(near.float(), field, None)
    found = coefficients(kernel, 6, field, sums).double()
    for side in (slice(0, 6), slice(6, 12)):
        largest = expected[..., side].abs().amax(-1, keepdim=True)
        assert ((found[..., side] - expected[..., side]).abs() <= 1e-4 * largest).all()


def test_many_wide_features_are_computed_like_few() -> None:
    """In pieces that fit the cache, by one exponential, against one problem and location after another."""
    given = problems(0, (30, 40, 4, 8, 8, 64), torch.float32)
    unweighted = Problems(given.generated, given.positives, given.negatives)
    field = LOG.model_copy(update={"scale": "location"})
    loss, gradient = loss_and_gradient(unweighted, field)
    for place, number in ((0, 0), (17, 5), (29, 39)):
        x, y, away = (
            part[place, number][None, None].double() for part in (given.generated, given.positives, given.negatives)
        )
        expected, traced = log_by_hand(Problems(x, y, away, torch.ones(1, 20, dtype=torch.float64)), "both")
        torch.testing.assert_close(loss[place, number].double(), expected[0, 0], rtol=1e-5, atol=0)
        worst = (gradient[place, number].double() - traced[0, 0]).norm() / traced.norm()
        assert worst < 1e-5


def test_under_bf16_autocast_the_field_is_still_float32() -> None:
    given = problems(kind=torch.float32)
    expected = drift(given, RELEASE)
    with torch.autocast("cpu", torch.bfloat16):
        found = drift(given, RELEASE)
    assert torch.equal(found.total, expected.total)
    half = Problems(given.generated.bfloat16(), given.positives.bfloat16(), given.negatives.bfloat16())
    assert drift(half, RELEASE).total.dtype == torch.float32
    assert loss_and_gradient(half, RELEASE)[1].dtype == torch.bfloat16


@pytest.mark.parametrize("name", FIELDS)
def test_what_is_absent_takes_no_part(name: str) -> None:
    """A padded problem has the field of the problem without its padding, whatever stands there."""
    whole = problems(5, (2, 1, 4, 3, 5, 6))
    assert whole.weights is not None
    less = Problems(
        whole.generated[:, :, :3], whole.positives[:, :, :4], whole.negatives[:, :, :2],
        torch.cat([whole.weights[:, :3], whole.weights[:, 4:6], whole.weights[:, 7:11]], 1),
    )  # fmt: skip
    present = torch.tensor([[1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0]], dtype=torch.bool)
    padded = Problems(whole.generated, whole.positives, whole.negatives, whole.weights, present)
    field = FIELDS[name].model_copy(update={"floor": 0.0})  # the release's floor lets masked pairs in again
    if field.normalisation == "sinkhorn":
        return  # its columns' sums depend on the padded size
    found, gradient = loss_and_gradient(padded, field)
    expected, gradient_less = loss_and_gradient(less, field)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient[:, :, :3], gradient_less)
    assert not gradient[:, :, 3].any()


# ---- fixed points and symmetries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_a_field_does_not_depend_on_where_the_origin_is(name: str, seed: int) -> None:
    one = problems(seed)
    moved = Problems(one.generated + 30, one.positives + 30, one.negatives + 30, one.weights)
    torch.testing.assert_close(drift(one, FIELDS[name]).total, drift(moved, FIELDS[name]).total, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", FIELDS)
def test_coefficients_sum_to_zero(name: str) -> None:
    one = problems()
    y = torch.cat([one.generated, one.negatives, one.positives], 2).flatten(0, 1)
    found = distances(y[:, :4], y)
    coef = coefficients(affinities(found / found.mean(), FIELDS[name], None), 7, FIELDS[name])
    assert coef.sum(-1).abs().max() < 1e-12 and coef.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["log", "rows", "none"])
def test_exchanging_positives_and_negatives_turns_the_field_round(name: str) -> None:
    """Coefficients of a kernel without self pairs: the two sides enter alike, with opposite signs."""
    x, a, b = (torch.randn(1, n, 6, dtype=torch.float64) for n in (4, 5, 5))
    found = [torch.cat(pair, 1) for pair in ((a, b), (b, a))]
    fields = []
    for y in found:
        apart = torch.cdist(x, y)
        kernel = affinities(apart / apart.mean(), FIELDS[name], None)[:, -1]
        fields.append(coefficients(kernel, 5, FIELDS[name]) @ y)
    torch.testing.assert_close(fields[0], -fields[1])


@pytest.mark.parametrize("name", FIELDS)
def test_equal_positives_and_negatives_give_no_drift(name: str) -> None:
    x, y = torch.randn(1, 4, 6, dtype=torch.float64), torch.randn(1, 5, 6, dtype=torch.float64)
    both = torch.cat([y, y], 1)
    apart = torch.cdist(x, both)
    kernel = affinities(apart / apart.mean(), FIELDS[name], None)[:, -1]
    assert (coefficients(kernel, 5, FIELDS[name]) @ both).abs().max() < 1e-12


def test_a_lone_sample_does_not_repel_itself() -> None:
    """One sample, one positive, negatives that count for nothing: the log's coefficients vanish, so does the field."""
    given = problems(0, (1, 1, 2, 0, 1, 6))
    one = Problems(given.generated, given.positives, given.negatives, None, torch.tensor([[True, False, True]]))
    assert drift(one, LOG).force.max() == 0


def test_samples_follow_the_field_to_the_data() -> None:
    """Gradient descent on the loss brings samples to a distribution two standard deviations away.

    Their spread ends above the data's, by less the more samples there are: a sample is no negative of itself.
    """
    field = RELEASE.model_copy(update={"floor": 0.0})
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(1, 1, 256, 4, generator=draw) + 2.0
    x = torch.randn(1, 1, 256, 4, generator=draw).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    given = Problems(x, data, torch.empty(1, 1, 0, 4))
    before, first = sample_statistics(given), drift(given, field)
    for _ in range(200):
        optimizer.zero_grad()
        drift_pull(given, field).loss.sum().backward()
        optimizer.step()
        schedule.step()
    after, last = sample_statistics(given), drift(given, field)
    assert before["centroid_error"] > 0.9 and after["centroid_error"] < 0.1
    assert 0.8 < after["spread_share"] < 1.5
    assert (last.force < 0.3 * first.force).all(), "the raw force shows progress"
    alone = field.model_copy(update={"temperatures": (0.05,)})
    assert drift(given, alone).loss.item() == pytest.approx(1.0, abs=1e-4), "the loss does not"


def test_the_correction_takes_the_bias_of_small_batches_away() -> None:
    """The kernel-weighted mean of 8 samples, averaged over 20,000 batches, against that of 160,000 samples."""
    draw = torch.Generator().manual_seed(0)
    y = torch.randn(20_000, 8, 1, generator=draw, dtype=torch.float64)

    def mean(samples: Tensor, correction: str | None) -> Tensor:
        kernel = torch.exp(-(samples - 1.0).abs()).mT
        field = LOG.model_copy(update={"correction": correction})
        one_sided = torch.cat([torch.ones_like(kernel[:, :, :1]), kernel], 2)  # one negative of weight 1
        coef = coefficients(one_sided, 1, field)[:, :, 1:]
        return (coef @ samples)[:, 0, 0] / coef.sum((1, 2))

    exact = mean(y.reshape(1, -1, 1), None).item()
    plain, corrected = (abs(mean(y, which).mean().item() - exact) for which in (None, "ratio"))
    assert plain > 0.01 and corrected < 0.35 * plain


def test_a_field_of_nothing_is_told() -> None:
    given = problems(0, (1, 1, 1, 2, 2, 6))
    with pytest.raises(ValueError, match="one generated sample and no negatives has no field"):
        Problems(given.generated, given.positives, given.negatives[:, :, :0])
    with pytest.raises(ValueError, match="one generated sample and one positive"):
        Problems(given.generated, given.positives[:, :, :0], given.negatives)


# ---- numbers ------------------------------------------------------------------------------------------------------


def test_equal_neighbours_all_count() -> None:
    assert effective_neighbours(torch.full((1, 64), 0.01)).item() == pytest.approx(64)
    assert effective_neighbours(torch.tensor([[1.0, 0.0, 0.0]])).item() == pytest.approx(1)


def test_kernel_numbers_are_those_of_the_field() -> None:
    numbers = kernel_statistics(problems(), RELEASE)
    for tau in ("0.02", "0.05", "0.2"):
        assert 1 <= numbers[f"tau_{tau}/effective_positives"] <= 5
        assert 1 <= numbers[f"tau_{tau}/effective_negatives"] <= 6, "its own place does not count"
        assert numbers[f"tau_{tau}/mass_positive"] > 0 and 0 <= numbers[f"tau_{tau}/floor_share"] <= 1
    assert numbers["tau_0.02/effective_positives"] < numbers["tau_0.2/effective_positives"]


@given(power=st.floats(0.0, 5.0))
@settings(deadline=None)
def test_guidance_is_drawn_between_one_and_four(power: float) -> None:
    drawn = drawn_strength(torch.linspace(0, 1, 11, dtype=torch.float64), power)
    assert drawn[0].item() == pytest.approx(1) and drawn[-1].item() == pytest.approx(4)
    assert (drawn.diff() > 0).all()


def test_guidance_has_the_stated_density() -> None:
    """Half of the draws of alpha^-3 on [1, 4] lie below (1 - 15/32)^(-1/2)."""
    assert drawn_strength(torch.tensor(0.5), 3.0).item() == pytest.approx((1 - 0.5 * 15 / 16) ** -0.5)
    assert drawn_strength(torch.tensor(0.5), 1.0).item() == pytest.approx(2.0)


def test_without_guidance_unconditional_samples_weigh_nothing() -> None:
    weights = unconditional_weight(torch.tensor([1.0, 2.0, 4.0]), 8, 16)
    torch.testing.assert_close(weights, torch.tensor([0.0, 7 / 16, 21 / 16]))
