#!/usr/bin/env bash
# torch 2.13.0 on processors: GELU's tanh approximation takes several times as long as the exact GELU with erf.
#
# gelu(approximate="tanh") exists because erf was the dear one. In PyTorch's processor kernels it is the other way round:
# the exact function is fast, the approximation waits for tanh. Seen, one thread, 2 million elements, milliseconds forward
# and backward: AVX-512 0.5 and 1.0 exact, 2.4 and 2.7 approximate; AVX2 0.6 and 1.4, 5.2 and 5.5 (ATEN_CPU_CAPABILITY);
# bfloat16 alike. The feed-forward layers of diffusers' video transformers (Wan, LTX-Video: "gelu-approximate") pay it, some
# 8 % of a small one's training step. The same function by the logistic one, x / (1 + exp(-2u)) for tanh(u), does not.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$place/venv/bin/python" -W ignore - <<'PY'
import time

import torch
from torch.nn.functional import gelu

print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability())
torch.set_num_threads(1)


def best(call):
    found = []
    for _ in range(20):
        began = time.thread_time()
        call()
        found.append(time.thread_time() - began)
    return min(found)


def logistic(x):
    u = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
    return x * torch.sigmoid(2 * u)


for kind in (torch.float32, torch.bfloat16):
    x = torch.randn(4096, 512).to(kind).requires_grad_()
    given = torch.ones_like(x)
    took = {}
    for how in ("none", "tanh"):
        made = gelu(x, approximate=how)
        forward = best(lambda: gelu(x, approximate=how))
        backward = best(lambda: torch.autograd.grad(made, x, given, retain_graph=True))
        took[how] = forward, backward
        print(f"{kind}, approximate={how!r}: forward {1e3 * forward:.2f} ms, backward {1e3 * backward:.2f} ms")
    assert took["tanh"][0] > 2 * took["none"][0] and took["tanh"][1] > 1.3 * took["none"][1], took
x = torch.linspace(-8, 8, 4001)
assert (logistic(x) - gelu(x, approximate="tanh")).abs().max() < 2e-6
print("as stated")
PY
