#!/usr/bin/env bash
# diffusers 0.42.1: add_noise of a new UniPC, DPM-Solver or DEIS scheduler gives timestep 0 the most noise and 999 none.
#
# Its levels rise and its timesteps fall until set_timesteps has put both in one order, and the level is looked up by the
# timestep's place. A training loop that draws timesteps and never calls set_timesteps, which DDPM, DDIM, Euler and Heun do
# not need, tells the network the opposite of what it sees, without an error. With use_flow_sigmas=True (Wan's UniPC) the
# levels, up to 157, are those of a diffusion, too, mixed as a flow does, (1 - sigma) * clip + sigma * noise: the clip has
# a negative weight. set_timesteps(1000) first is the cure. SASolverScheduler's order is right, but its add_noise hears
# of flow sigmas never, so that video-to-video begins nearly without the video. Seen, weights of (clip, noise):
#                           timestep 0      500            999
#   DDPM                    (1.00, 0.01)    (0.28, 0.96)   (0.01, 1.00)
#   UniPC, DPM, DEIS        (0.01, 1.00)    (0.28, 0.96)   (1.00, 0.01)
#   with use_flow_sigmas    (-156, 157)     (-2.42, 3.42)  (0.99, 0.01)
#   SASolver for a flow, after set_timesteps, where sigma is 0.75: (0.06, 1.00) instead of (0.25, 0.75)
# Exits non-zero when this changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q diffusers==0.42.1 torch==2.13.0 transformers==5.23.0 numpy==2.4.6 scipy==1.17.1
"$place/venv/bin/python" -W ignore - <<'PY'
import diffusers
import torch
from diffusers import (
    DDPMScheduler, DEISMultistepScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, SASolverScheduler,
    UniPCMultistepScheduler,
)

print("diffusers", diffusers.__version__)
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
clip, none = torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)


def weights(scheduler, timestep):
    """Of the clip and of the noise."""
    at = torch.as_tensor(timestep).reshape(1)
    return scheduler.add_noise(clip, none, at).item(), scheduler.add_noise(none, clip, at).item()


def told(name, pairs):
    print(f"{name}:", ", ".join(f"({one:.2f}, {other:.2f})" for one, other in pairs))
    return pairs


for kind in (DDPMScheduler, EulerDiscreteScheduler):
    noise = [weight for _, weight in told(kind.__name__, [weights(kind(), timestep) for timestep in (0, 500, 999)])]
    assert noise[0] < 0.02 and noise == sorted(noise)
for kind in (UniPCMultistepScheduler, DPMSolverMultistepScheduler, DEISMultistepScheduler):
    new = told(kind.__name__, [weights(kind(), timestep) for timestep in (0, 500, 999)])
    assert new[0][1] > 0.99 and new[0][0] < 0.01 and new[2][1] < 0.02 and new[2][0] > 0.99, "backwards"
    new = told(f"{kind.__name__}, flow", [weights(kind(**FLOW), timestep) for timestep in (0, 500, 999)])
    assert new[0][0] < -100 and new[0][1] > 100 and new[1][0] < -2
    for settings in ({}, FLOW):
        scheduler = kind(**settings)
        scheduler.set_timesteps(900)
        noise = [weight for _, weight in (weights(scheduler, scheduler.timesteps[place]) for place in (5, 450, 895))]
        assert noise == sorted(noise, reverse=True) and 0.98 < noise[0] < 1.01, "right after set_timesteps"
scheduler = SASolverScheduler(**FLOW)
scheduler.set_timesteps(500)
place = int((scheduler.sigmas - 0.75).abs().argmin())
[(of_clip, of_noise)] = told(
    f"SASolverScheduler, flow, sigma {scheduler.sigmas[place]:.2f}", [weights(scheduler, scheduler.timesteps[place])]
)
assert of_clip < 0.07 and of_noise > 0.99
print("as stated")
PY
