"""LoRA of a diffusers transformer: no effect at first, exact to load and to merge, clear where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from pipelines.models.lora import add_lora, linear_names, load_lora, lora_state, merge_lora, save_lora
from pipelines.params import Lora
from pipelines.stage import StageError
from tests.models.tiny_pretrained import wan

LORA = Lora(rank=2, alpha=4.0, targets=("to_q", "to_out.0"))


def transformer(width: int = 8) -> WanTransformer3DModel:
    return wan(text_dim=6, attention_head_dim=width // 2, freq_dim=8, ffn_dim=16)


def output(network: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 4, 1, 4, 4, generator=generator), torch.randn(1, 3, 6, generator=generator)
    with torch.no_grad():
        return network(x, torch.tensor([500.0]), text, return_dict=False)[0]


def trained(network: WanTransformer3DModel) -> WanTransformer3DModel:
    """An adapter that does something."""
    torch.manual_seed(2)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    return network


def test_a_new_adapter_changes_nothing_and_is_all_that_trains() -> None:
    expected = output(transformer())
    network = add_lora(transformer(), LORA)
    assert torch.equal(output(network), expected)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert names and all("lora_" in name for name in names)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters() if parameter.requires_grad)


def test_an_adapter_of_a_half_precision_base_is_trained_in_float32() -> None:
    network = add_lora(transformer().to(torch.bfloat16), LORA)
    assert {tensor.dtype for tensor in lora_state(network).values()} == {torch.float32}


def test_a_saved_adapter_loads_to_the_same_output_scale_included(tmp_path: Path) -> None:
    network = trained(add_lora(transformer(), LORA))
    save_lora(network, tmp_path)
    again = load_lora(transformer(), tmp_path)
    assert torch.equal(output(again), output(network))
    for name, tensor in lora_state(network).items():
        assert torch.equal(tensor, lora_state(again)[name]), name


def test_merging_gives_an_ordinary_model_with_the_same_output() -> None:
    network = trained(add_lora(transformer(), LORA))
    expected = output(network)
    merged = merge_lora(network)
    torch.testing.assert_close(output(merged), expected, rtol=1e-4, atol=1e-5)
    assert set(merged.state_dict()) == set(transformer().state_dict())


def test_a_target_that_no_layer_has_is_told_with_those_there_are() -> None:
    with pytest.raises(StageError, match=r"called to_quer; known: .*to_q,"):
        add_lora(transformer(), Lora(rank=2, alpha=2.0, targets=("to_q", "to_quer")))
    assert "to_out.0" in linear_names(transformer())


def test_an_adapter_of_another_network_is_refused(tmp_path: Path) -> None:
    save_lora(trained(add_lora(transformer(), LORA)), tmp_path)
    with pytest.raises(StageError, match="has width 16 here, not 8"):
        load_lora(transformer(16), tmp_path)
    with pytest.raises(StageError, match="no such file"):
        load_lora(transformer(), tmp_path / "elsewhere")


def test_a_network_without_adapters_is_refused() -> None:
    with pytest.raises(StageError, match="is no diffusers model"):
        add_lora(nn.Linear(2, 2), LORA)
    network = add_lora(transformer(), LORA)
    with pytest.raises(StageError, match="already carries an adapter"):
        add_lora(network, LORA)


def test_an_adapter_of_a_bf16_base_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    """peft would round it to the base's type: 8 bits of each trained value."""
    network = trained(add_lora(transformer().to(torch.bfloat16), LORA))
    save_lora(network, tmp_path)
    before, after = lora_state(network), lora_state(load_lora(transformer().to(torch.bfloat16), tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(value, value.bfloat16().float()) for value in after.values())
