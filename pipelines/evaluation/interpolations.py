"""What refiners start from, judged beside them: the interpolation of the keyframes that they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pipelines.evaluation.judge import Clips
from pipelines.evaluation.systems import Requests, starting_points
from pipelines.training.generator import Generator

INTERPOLATION = "interpolation"


def interpolations(
    systems: Mapping[str, Generator], requests: Requests, decode: Callable[[Tensor, str], Clips]
) -> dict[str, Clips]:
    """References: ``interpolation``, and by name of the system where refiners start from different ones."""
    found: dict[str, Clips] = {}
    for system, latents in starting_points(systems, requests).items():
        if not any(torch.equal(latents, other.latents) for other in found.values()):
            name = f"{INTERPOLATION}_of_{system}" if found else INTERPOLATION
            found[name] = replace(decode(latents, name), missing=requests.missing(systems[system]))
    return found
