"""Low-rank adaptation (arXiv:2106.09685) of a diffusers transformer, by peft: W + (alpha / rank) B A, A and B trained.

The base weights are frozen; the adapter starts at zero and is float32 whatever the base is stored in. It is saved as
diffusers saves a pipeline's LoRA, so that ``pipe.load_lora_weights(folder)`` takes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.params import Lora
from pipelines.stage import StageError

FILE = "pytorch_lora_weights.safetensors"
"""Name and, with :data:`PREFIX` and :data:`METADATA`, format of a LoRA file of diffusers' pipelines."""
PREFIX = "transformer"
METADATA = "lora_adapter_metadata"
ADAPTER = "default"

Network = TypeVar("Network", bound=nn.Module)


def linear_names(network: nn.Module) -> list[str]:
    """What ``targets`` may name: last parts of names of linear layers (``to_out.0`` with its number)."""
    found = set()
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and ".lora_" not in name:
            parts = name.split(".")
            found.add(".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1])
    return sorted(found)


def add_lora(network: Network, lora: Lora) -> Network:
    """The same network, frozen, with a new adapter (no effect yet) on every target; drawn from torch's generator.

    Raises:
        StageError: the network is no diffusers model, already has an adapter, or has no layer of a target's name.
    """
    if not hasattr(network, "add_adapter"):
        raise StageError(f"lora: {type(network).__name__} is no diffusers model; train it whole (lora: null).")
    if has_lora(network):
        raise StageError("lora: this network already carries an adapter; merge or load it instead of adding another.")
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    absent = [target for target in lora.targets if not any(f".{name}".endswith(f".{target}") for name in names)]
    if absent:
        known = ", ".join(linear_names(network))
        raise StageError(
            f"lora.targets: no linear layer of this network is called {', '.join(absent)}; known: {known}."
        )

    from peft import LoraConfig  # one second, and only where an adapter is asked for

    network.requires_grad_(False)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))  # type: ignore[arg-type]
    network.add_adapter(config, ADAPTER)  # type: ignore[operator]
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return network


def has_lora(network: nn.Module) -> bool:
    """Whether the network carries an adapter."""
    return ADAPTER in getattr(network, "peft_config", {})


def lora_state(network: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by name (``blocks.0.attn1.to_q.lora_A.weight`` …), detached.

    Raises:
        StageError: the network has no adapter.
    """
    if not has_lora(network):
        raise StageError("this network has no LoRA adapter.")
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(network, adapter_name=ADAPTER)
    return {name: tensor.detach() for name, tensor in state.items()}


def save_lora(network: nn.Module, folder: Path) -> Path:
    """Write the adapter alone into the folder, in diffusers' format; returns the file."""
    state = lora_state(network)
    config: dict[str, Any] = network.peft_config[ADAPTER].to_dict()  # type: ignore[index, union-attr]
    plain = {f"{PREFIX}.{key}": sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{PREFIX}.{name}": tensor.cpu().contiguous() for name, tensor in state.items()}
    # One entry only: safetensors writes several in an order that differs between runs, and so would the digest.
    save_file(tensors, folder / FILE, {METADATA: json.dumps(plain, sort_keys=True)})
    return folder / FILE


def load_lora(network: Network, folder: Path) -> Network:
    """The same network with the adapter of a folder that :func:`save_lora`, or diffusers, wrote, bit for bit.

    peft gives a new adapter the type of the base, and fills in the file's values rounded to it.

    Raises:
        StageError: no such file, or an adapter of another network: a layer is missing or has another shape.
    """
    path = folder / FILE
    if not path.is_file():
        raise StageError(f"{path}: no such file; a LoRA checkpoint has one.")
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    with safe_open(path, "pt") as stream:
        shapes = {name: stream.get_slice(name).get_shape() for name in stream.keys()}  # noqa: SIM118
    for name, shape in shapes.items():
        layer_name, _, part = name.removeprefix(f"{PREFIX}.").rpartition(".lora_")
        layer = layers.get(layer_name)
        if layer is None:
            raise StageError(f"{path}: made for another network: this one has no linear layer {layer_name}.")
        wide = (shape[1], layer.in_features) if part.startswith("A") else (shape[0], layer.out_features)
        if wide[0] != wide[1]:
            raise StageError(f"{path}: made for another network: {layer_name} has width {wide[1]} here, not {wide[0]}.")
    network.load_lora_adapter(path.parent, weight_name=FILE, prefix=PREFIX, adapter_name=ADAPTER)  # type: ignore[operator]
    stored = load_file(path)
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            found = stored[f"{PREFIX}.{name.replace(f'.{ADAPTER}.', '.')}"]
            parameter.data = found.to(parameter.device, torch.float32)
    return network


def merge_lora(network: Network) -> Network:
    """The same network with the adapter added to its weights and removed: an ordinary model again."""
    lora_state(network)
    network.fuse_lora()  # type: ignore[operator]
    network.unload_lora()  # type: ignore[operator]
    network._hf_peft_config_loaded = False  # type: ignore[assignment]
    return network


def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """Weights of a network with its adapter added in, W + (alpha / rank) B A, under the names it has without one."""
    layers: dict[str, Any] = dict(network.named_modules())
    found = {}
    for name, value in network.state_dict().items():
        if ".lora_" in name:
            continue
        adapted = name.endswith(".base_layer.weight")
        delta = layers[name.removesuffix(".base_layer.weight")].get_delta_weight(ADAPTER) if adapted else 0.0
        found[name.replace(".base_layer", "")] = value + delta
    return found


def whole(network: Any) -> Any:
    """A network of diffusers as it is without an adapter, or another with its adapter added in."""
    if not has_lora(network):
        return network
    made = type(network).from_config(network.config)
    made.load_state_dict(merged_state(network))
    return made
