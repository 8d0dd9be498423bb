"""Muon in float32 and bfloat16, and in what a run computes."""

import pytest
import torch
from torch.nn import functional as F

from pipelines.params import Muon
from pipelines.training.muon import BFloat16Muon, Float32Muon, orthogonalised
from pipelines.training.optimizers import NetworkOptimizer
from pipelines.training.precision import computes_bf16, computing, resolved

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


@pytest.mark.parametrize("shape", [(3, 24, 6), (2, 6, 24), (2, 12, 6)])
def test_iterating_on_the_gram_matrix_gives_what_iterating_on_the_matrix_gives(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrices[0, :, -1] = matrices[0, :, 0]  # a rank less
    x = matrices.double() / torch.linalg.matrix_norm(matrices.double(), keepdim=True)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    made = orthogonalised(matrices, COEFFICIENTS, 5, 1e-7)
    assert (made.double() - x).abs().max() < 1e-4


def test_a_run_in_bfloat16_orthogonalises_in_it_and_every_other_run_in_float32() -> None:
    network = torch.nn.Linear(6, 6)
    block = Muon.model_validate(
        {
            "name": "muon",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "weight_decay": 0.0,
            "others": {"name": "adamw", "learning_rate": 0.1, "betas": [0.9, 0.99], "weight_decay": 0.0},
        }
    )
    kinds = {
        precision: type(NetworkOptimizer(network, block, precision).optimizers[0])
        for precision in ("fp32", "bf16", "fp16")
    }
    assert kinds == {"fp32": Float32Muon, "bf16": BFloat16Muon, "fp16": Float32Muon}


def test_attention_under_bfloat16_is_computed_in_float32_on_a_processor() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, 8, 16, requires_grad=True) for _ in range(3))
    mask = torch.rand(8, 8) > 0.3
    mask[:, 0] = True
    with computing("bf16", torch.device("cpu")):
        made = F.scaled_dot_product_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), attn_mask=mask)
        projected = F.linear(query, torch.eye(16))
    assert made.dtype == projected.dtype == torch.bfloat16
    exact = F.scaled_dot_product_attention(
        query.bfloat16().float(), key.bfloat16().float(), value.bfloat16().float(), attn_mask=mask
    )
    assert torch.equal(made, exact.bfloat16())
    made.float().sum().backward()
    assert query.grad is not None and torch.isfinite(query.grad).all()


def test_a_norm_under_bfloat16_is_computed_in_float32_and_says_nothing() -> None:
    norm, given = torch.nn.RMSNorm(16), torch.randn(2, 5, 16).bfloat16()
    with computing("bf16", torch.device("cpu")):
        made = norm(given)
    assert torch.equal(made, norm(given.float()).bfloat16())


def test_float32_computes_as_if_nothing_were_around_it() -> None:
    given = torch.randn(1, 2, 4, 8)
    with computing("fp32", torch.device("cpu")):
        made = F.scaled_dot_product_attention(given, given, given)
    assert torch.equal(made, F.scaled_dot_product_attention(given, given, given))
