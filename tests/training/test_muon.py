"""Muon in float32, and what `precision: auto` means."""

import pytest
import torch

from pipelines.training.muon import Float32Muon, orthogonalised
from pipelines.training.precision import computes_bf16, resolved

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 12, 5), (2, 5, 12)])
def test_orthogonalised_matrices_have_singular_values_near_one_and_the_same_directions(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonalised(matrices, COEFFICIENTS, 5, 1e-7)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.3 and values.max() < 1.3
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    core = u.mT @ made @ vh.mT
    off = core - torch.diag_embed(torch.diagonal(core, dim1=1, dim2=2))
    assert off.abs().max() < 1e-4


def test_the_iteration_of_torch_and_ours_differ_by_bfloat16_only() -> None:
    torch.manual_seed(0)
    start = [torch.randn(6, 10), torch.randn(10, 6), torch.randn(6, 10)]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    one = Float32Muon(ours, lr=0.1, momentum=0.9, weight_decay=0.1)
    two = torch.optim.Muon(theirs, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        one.step()
        two.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        moved = (b - before).norm()
        assert (a - b).norm() < 0.02 * moved
        assert torch.equal(one.state[a]["momentum_buffer"], two.state[b]["momentum_buffer"])


def test_automatic_precision_is_what_the_device_computes_in() -> None:
    device = torch.device("cpu")
    assert resolved("auto", device) == ("bf16" if computes_bf16(device) else "fp32")
    assert resolved("fp32", device) == "fp32" and resolved("bf16", device) == "bf16"
    assert resolved("auto", torch.device("meta")) == "fp32"
