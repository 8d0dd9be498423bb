"""The learned temperature: its gradient is what is written, and descent finds what tells sides apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipelines.flow.drift import Problems, drift, drift_pull, scaled_distances
from pipelines.flow.drift_temperature import temperature_loss
from pipelines.flow.params import DriftField

FIELD = DriftField(
    temperatures=(0.05,), normalisation="both", weights="after", scale="problem", floor=1e-6, correction=None
)


def apart(shift: float, count: int = 48, width: int = 8, seed: int = 0) -> Problems:
    """Samples ``shift`` standard deviations from the data."""
    draw = torch.Generator().manual_seed(seed)
    real, made = (torch.randn(1, 1, count, width, generator=draw, dtype=torch.float64) for _ in range(2))
    return Problems(made + shift / width**0.5, real, made[:, :, :0])


def loss_at(problems: Problems, temperature: float) -> Tensor:
    return temperature_loss(problems, FIELD, torch.tensor([math.log(temperature)], dtype=torch.float64)).sum()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_is_the_difference_of_mean_distances(seed: int) -> None:
    """d loss / d log tau = mean p (E_positives[d / (S tau)] - E_negatives[d / (S tau)]), each sample without itself."""
    given, tau = apart(1.0, 12, seed=seed), 0.3
    logs = torch.tensor([math.log(tau)], dtype=torch.float64, requires_grad=True)
    temperature_loss(given, FIELD, logs).sum().backward()
    far = scaled_distances(given, FIELD)[0] / tau
    kernel, group = torch.exp(-far), 12
    negative, positive = kernel[:, :group], kernel[:, group:]
    p = positive.mean(1) / (positive.mean(1) + negative.sum(1) / (group - 1))
    near = (negative / negative.sum(1, keepdim=True) * far[:, :group].nan_to_num(posinf=0.0)).sum(1)
    away = (positive / positive.sum(1, keepdim=True) * far[:, group:]).sum(1)
    assert logs.grad is not None
    torch.testing.assert_close(logs.grad[0], (p * (away - near)).mean())


def test_at_an_infinite_temperature_nothing_is_told_apart() -> None:
    assert float(loss_at(apart(2.0), 1e9)) == pytest.approx(math.log(2), abs=1e-6)


def test_descent_finds_the_temperature_that_tells_most() -> None:
    """Between too cold, where single neighbours decide, and too hot; colder where sides are far apart."""
    found = {}
    for shift in (1.0, 3.0):
        given = apart(shift)
        logs = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([logs], lr=0.1)
        for _ in range(150):
            optimizer.zero_grad()
            temperature_loss(given, FIELD, logs).sum().backward()
            optimizer.step()
        found[shift] = float(logs.detach().exp())
        best = float(loss_at(given, found[shift]))
        assert best < math.log(2) and all(best < float(loss_at(given, found[shift] * by)) for by in (0.5, 0.8, 1.25, 2))
    assert 0.005 < found[3.0] < found[1.0] < 5


def test_it_joins_the_field_as_one_more_temperature() -> None:
    given = apart(1.0)
    three = [FIELD.model_copy(update={"temperatures": (0.05, tau)}) for tau in (0.1, 1.0)]
    losses = [float(drift_pull(given, field).loss.sum()) for field in three]
    assert losses[0] != losses[1]
    assert not torch.equal(drift(given, three[0]).total, drift(given, three[1]).total)


def test_absent_and_lone_samples_have_a_finite_gradient() -> None:
    """Absent ones take no part, and a sample that is alone on its side is left out."""
    given = apart(1.0, 4)
    present = torch.tensor([[True, True, True, False, True, True, True, False]])
    padded = Problems(given.generated, given.positives, given.negatives, None, present)
    less = Problems(given.generated[:, :, :3], given.positives[:, :, :3], given.negatives)
    torch.testing.assert_close(loss_at(padded, 0.4), loss_at(less, 0.4))
    alone = Problems(
        given.generated, given.positives, given.negatives, None, torch.tensor([[True, *[False] * 3, *[True] * 4]])
    )
    weighed = Problems(
        given.generated, given.positives, given.positives, torch.tensor([[1.0] * 4 + [0.0] * 4 + [1.0] * 4])
    )
    for one, expected in ((alone, 0.0), (padded, float(loss_at(less, 0.4))), (weighed, float(loss_at(given, 0.4)))):
        logs = torch.tensor([math.log(0.4)], dtype=torch.float64, requires_grad=True)
        loss = temperature_loss(one, FIELD, logs).sum()
        loss.backward()
        assert logs.grad is not None and logs.grad.isfinite().all()
        assert float(loss.detach()) == pytest.approx(expected)
