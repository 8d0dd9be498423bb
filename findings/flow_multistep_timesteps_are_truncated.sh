#!/usr/bin/env bash
# diffusers 0.42.1: UniPCMultistepScheduler and DPMSolverMultistepScheduler with use_flow_sigmas=True tell the network
# another level than the one they step from: timesteps are 1000 * sigma cut to whole numbers, sigmas are not.
#
# Behaviour seen: at 50 steps and flow_shift 3, sigma * 1000 and the timestep differ by up to 1 of 1000, on average by
# half a unit; FlowMatchEulerDiscreteScheduler keeps fractions (difference 0). For a network that was trained on
# fractional timesteps (rectified flow with continuous sigma) the samples of a first-order walk then differ from Euler's
# by about a thousandth of their spread, which no smaller step removes.
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q diffusers==0.42.1 torch==2.13.0 transformers==5.23.0 numpy==2.4.6
"$place/venv/bin/python" -W ignore - <<'PY'
import diffusers
import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

print("diffusers", diffusers.__version__)
gaps = {}
for kind in (UniPCMultistepScheduler, DPMSolverMultistepScheduler):
    scheduler = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(50)
    gap = (scheduler.sigmas[:-1].double() * 1000 - scheduler.timesteps.double()).abs()
    gaps[kind.__name__] = float(gap.max())
    print(f"{kind.__name__}: timesteps {scheduler.timesteps.dtype}, |1000 sigma - timestep| mean {gap.mean():.2f}, max {gap.max():.2f}")
euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
euler.set_timesteps(sigmas=np.linspace(1, 0, 51)[:-1].tolist())
gap = float((euler.sigmas[:-1].double() * 1000 - euler.timesteps.double()).abs().max())
print(f"FlowMatchEulerDiscreteScheduler: timesteps {euler.timesteps.dtype}, max {gap:.4f}")
assert all(0.9 < value < 1.0 for value in gaps.values()), gaps
assert gap < 1e-3
print("as stated")
PY
