"""Which arithmetic ``precision`` means on this machine, and the loss scale that fp16 needs."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


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


class _Entered(threading.local):
    """How often a function mode is entered in this thread, as PyTorch keeps its own for each."""

    times = 0


class FasterInFloat32(TorchFunctionMode):
    """Inside, scaled dot-product attention and RMS norms are computed in float32 and given back in their input's type.

    On processors PyTorch's fused attention is written for float32: in bfloat16 its backward pass took six times as
    long (torch 2.13.0, 80 tokens of 4 heads of 32), half of a whole training step. Its RMS norm of bfloat16 with
    float32 weights is slower too, and warns at every run.
    """

    functions = (F.scaled_dot_product_attention, F.rms_norm, torch.rms_norm)
    entered = _Entered()

    def __enter__(self) -> Self:
        self.entered.times += 1
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        self.entered.times -= 1
        super().__exit__(*raised)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Those in float32, every other function as it is."""
        kwargs = kwargs or {}
        if func not in self.functions:
            return func(*args, **kwargs)
        kind = (args[0] if args else kwargs.get("query", kwargs.get("input"))).dtype
        with torch.autocast("cpu", enabled=False):
            wide = [_widened(value) for value in args]
            return func(*wide, **{name: _widened(value) for name, value in kwargs.items()}).to(kind)


def again() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts of a block whose inside is computed again in the backward pass: now, and then.

    PyTorch keeps autocast for it, but no function mode: without this it would compute what it kept in another type.
    """
    return contextlib.nullcontext(), FasterInFloat32() if FasterInFloat32.entered.times else contextlib.nullcontext()


def _widened(value: Any) -> Any:
    """A floating tensor in float32; masks of booleans, flags and numbers as they are."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextlib.contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Forward passes inside are computed in ``precision``: fp32, fp16 or bf16; on every device as is fastest there."""
    if precision == "fp32":
        yield
        return
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    some = FasterInFloat32() if device.type == "cpu" else contextlib.nullcontext()
    with torch.autocast(device.type, kind), some:
        yield


LEAST_SCALE = 2.0**-10
"""Below this loss scale a gradient that overflows is no matter of fp16's range: it is broken."""


class LossScale:
    """fp16's dynamic loss scale (torch's GradScaler, arXiv:1710.03740): doubled after 2000 good updates, halved when a
    gradient overflows, and that update skipped. In every other precision it does nothing.

    Ours rather than accelerate's, because the loop steps its own optimizers and accelerate's exists on GPUs only.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.skipped = 0

    @property
    def enabled(self) -> bool:
        """Whether gradients are scaled."""
        return self.scaler.is_enabled()

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to go backward from."""
        return self.scaler.scale(loss)

    def unscale(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Divide the gradients of these optimizers by the scale."""
        if self.enabled:
            for optimizer in optimizers:
                self.scaler.unscale_(optimizer)

    @property
    def can_fall(self) -> bool:
        """Whether a gradient that is not finite may be a matter of the scale."""
        return self.enabled and self.scaler.get_scale() > LEAST_SCALE

    def adjust(self, skipped: bool) -> None:
        """After an update, or one that was skipped."""
        if self.enabled:
            self.scaler.update()
            self.skipped += skipped

    def numbers(self) -> dict[str, float]:
        """For the log."""
        if not self.enabled:
            return {}
        return {"precision/loss_scale": self.scaler.get_scale(), "precision/skipped_steps": float(self.skipped)}

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"scaler": self.scaler.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]
