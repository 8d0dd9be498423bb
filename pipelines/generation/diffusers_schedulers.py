"""How a pipeline of diffusers walks what a checkpoint states: the nearest sampling, and the scheduler that does it."""

from __future__ import annotations

import math
from typing import Any

from pipelines.flow.params import Sampling

LTX = "LTXVideoTransformer3DModel"


def walked(stated: Sampling, kind: str) -> Sampling:
    """What a pipeline of diffusers can walk that is nearest to ``stated``, at equal cost.

    No scheduler that the pipelines take makes our two evaluations a step (Heun, midpoint): DPM-Solver++(2M), of the
    same order, makes twice the steps instead. Wan's pipeline has no rescaled guidance.
    """
    values = stated.model_dump()
    if stated.sampler in ("heun", "midpoint"):
        values |= {"sampler": "dpm_2m", "steps": 2 * stated.steps}
    if stated.guidance is not None and kind != LTX:
        values["guidance"] |= {"rescale": 0.0}
    return Sampling.model_validate(values)


def scheduler(kind: str, sampling: Sampling) -> Any:
    """A scheduler whose own table, in the pipeline of this transformer, is that of ``sampling``.

    LTX-Video's pipeline hands its scheduler even levels and, for Euler, asks for a shift by resolution; both ends of
    that line are set to our shift. Wan's hands it a number of steps only, with which FlowMatchEuler shifts twice.
    UniPC (arXiv:2302.04867) without its corrector is Euler's method at order 1 and DPM-Solver++(2M) at order 2. It
    tells the network whole timesteps, 1000 sigma cut off; for Wan its levels end at 0.001 instead of 0.
    """
    if kind == LTX and sampling.sampler == "euler":
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        shift = math.log(sampling.shift)
        return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=shift, max_shift=shift)
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    return UniPCMultistepScheduler(
        solver_order=1 if sampling.sampler == "euler" else 2,
        disable_corrector=list(range(sampling.steps)),
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=sampling.shift,
    )
