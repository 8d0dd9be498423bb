"""The project's own computing of diffusers' Wan transformer says what diffusers' says, and learns the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pipelines.models import fused, wan
from pipelines.models.backbones import InputLayout
from pipelines.training.precision import computing
from tests.models.learning import difference, told
from tests.models.tiny_pretrained import wan as tiny_wan

LEVELS = {"a clip": (3, 1), "a frame": (3, 4), "a place": (3, 4, 4, 6)}


@pytest.fixture
def transformer() -> WanTransformer3DModel:
    made = tiny_wan(6, text_dim=10, patch_size=(2, 2, 2), out_channels=4, ffn_dim=40, freq_dim=256)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0, 0.3)
    return made


def both(
    transformer: WanTransformer3DModel, shape: tuple[int, ...]
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The velocity by diffusers, and by :mod:`pipelines.models.wan`, of a batch with levels of this shape."""
    torch.manual_seed(1)
    x, text, sigma = torch.randn(3, 6, 4, 4, 6), torch.randn(3, 5, 10), torch.rand(shape)
    layout = InputLayout.of(transformer.config, "WanTransformer3DModel")
    return (
        lambda: transformer(x, layout.timestep(sigma, x), text, return_dict=False)[0],
        lambda: wan.velocity(transformer, x, layout.levels(sigma), text),
    )


@pytest.mark.parametrize("shape", LEVELS.values(), ids=LEVELS)
def test_in_float32_velocity_and_every_gradient_are_those_of_diffusers(
    transformer: WanTransformer3DModel, shape: tuple[int, ...]
) -> None:
    theirs, ours = both(transformer, shape)
    for found, wanted in zip(told(transformer, ours, "fp32"), told(transformer, theirs, "fp32"), strict=True):
        assert difference(found, wanted) < 1e-5


@pytest.mark.parametrize("shape", LEVELS.values(), ids=LEVELS)
def test_in_bfloat16_it_is_no_further_from_float32_than_diffusers_is(
    transformer: WanTransformer3DModel, shape: tuple[int, ...]
) -> None:
    theirs, ours = both(transformer, shape)
    exact = told(transformer, theirs, "fp32")
    for found, rounded, wanted in zip(
        told(transformer, ours, "bf16"), told(transformer, theirs, "bf16"), exact, strict=True
    ):
        assert difference(found, wanted) < 1.2 * difference(rounded, wanted)


def test_float32_adapters_and_checkpointed_blocks_are_left_to_diffusers(
    transformer: WanTransformer3DModel,
) -> None:
    x = torch.randn(1, 6, 4, 4, 6)
    assert not wan.fits(transformer, x)
    with computing("bf16", x.device):
        assert wan.fits(transformer, x)
        assert not wan.fits(transformer, x.to("meta"))
    with computing("fp16", x.device):
        assert not wan.fits(transformer, x)
    with computing("bf16", x.device):
        transformer.enable_gradient_checkpointing()
        assert not wan.fits(transformer, x)
        transformer.disable_gradient_checkpointing()
        transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
        assert not wan.fits(transformer, x)


def test_gelu_is_that_of_torch_with_its_slope() -> None:
    x = torch.linspace(-30.0, 30.0, 2001, dtype=torch.float64).float().requires_grad_()
    (slope,) = torch.autograd.grad(fused.gelu(x).sum(), x)
    (wanted,) = torch.autograd.grad(functional.gelu(x, approximate="tanh").sum(), x)
    torch.testing.assert_close(fused.gelu(x), functional.gelu(x, approximate="tanh"), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(slope, wanted, atol=2e-6, rtol=1e-5)


def test_heads_and_attention_have_the_gradients_of_their_plain_formulas() -> None:
    torch.manual_seed(2)
    x, weight = torch.randn(2, 4, 36, requires_grad=True), (torch.rand(2, 12) + 0.5).requires_grad_()
    turn, given = torch.polar(torch.ones(4, 3), torch.rand(4, 3)), torch.randn(4, 4, 6)

    def plainly() -> Tensor:
        query, key, value = x.unflatten(-1, (3, 12)).unbind(2)
        normed = [functional.rms_norm(part, (12,), one, 1e-6) for part, one in zip((query, key), weight, strict=True)]
        turned = [
            torch.view_as_real(torch.view_as_complex(part.unflatten(-1, (2, 3, 2))) * turn[:, None]).flatten(-2)
            for part in normed
        ]
        asked, told, said = (part.transpose(1, 2).flatten(0, 1) for part in (*turned, value.unflatten(-1, (2, 6))))
        return torch.softmax(asked @ told.mT, -1) @ said

    found = fused._Attention.apply(*fused.heads_first(x, weight, 1e-6, turn, 2), None)
    torch.testing.assert_close(found, plainly())
    torch.testing.assert_close(
        torch.autograd.grad(found, (x, weight), given), torch.autograd.grad(plainly(), (x, weight), given)
    )


def test_attention_in_bfloat16_is_that_of_torch_up_to_rounding() -> None:
    torch.manual_seed(3)
    query, key, value = (torch.randn(6, places, 8).bfloat16() for places in (7, 5, 5))
    found = fused.attended(query, key, value, 3).float()
    wide = [part.float()[None] for part in (query, key, value)]
    wanted = functional.scaled_dot_product_attention(*wide, scale=1.0)[0]
    wanted = wanted.unflatten(0, (2, 3)).transpose(1, 2).flatten(2)
    assert difference(found, wanted) < 0.01


class _Asked(TorchFunctionMode):
    """Notes which functions of torch are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "kind"), [("meta", torch.bfloat16), ("cpu", torch.float16)])
def test_another_device_or_type_has_the_fused_attention_of_torch(device: str, kind: torch.dtype) -> None:
    part = torch.randn(4, 5, 8).to(device, kind)
    with _Asked() as asked:
        made = fused.attended(part, part, part, 2)
        fused.gelu(part)
    assert made.dtype == kind and made.shape == (2, 5, 16)
    assert "scaled_dot_product_attention" in asked.names and "bmm" not in asked.names
    assert ("gelu" in asked.names) == (device == "meta")
    assert ("float" in asked.names) == (device == "cpu"), "only a processor gains by float32"
