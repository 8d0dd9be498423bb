"""Which arithmetic ``precision: auto`` means on this machine."""

from __future__ import annotations

import os

import torch


def chosen_device() -> torch.device:
    """The device that accelerate will choose, known before it is set up (which needs the precision)."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return torch.device("cuda" if torch.cuda.is_available() and not on_cpu else "cpu")


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16.

    Without them PyTorch emulates: on a processor with AVX2 only, 1 GFLOP/s against 66 in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "avx10_2"))
    return False


def resolved(precision: str, device: torch.device) -> str:
    """``precision`` of the parameters as it is computed: ``auto`` is bf16 where the device has it, else fp32."""
    if precision == "auto":
        return "bf16" if computes_bf16(device) else "fp32"
    return precision
