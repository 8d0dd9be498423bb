"""What refiners start from, judged beside them: the interpolation of the keyframes that they are given."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipelines.evaluation.judge import Made
from pipelines.evaluation.systems import Requests, starting_points
from pipelines.training.generator import Generator

INTERPOLATION = "interpolation"


def interpolations(systems: Mapping[str, Generator], requests: Requests) -> dict[str, Made]:
    """References: ``interpolation``, and by name of the system where refiners start from different ones."""
    found: dict[str, Made] = {}
    for system, latents in starting_points(systems, requests).items():
        if not any(torch.equal(latents, other.latents) for other in found.values()):
            name = f"{INTERPOLATION}_of_{system}" if found else INTERPOLATION
            found[name] = Made(latents, requests.missing(systems[system]))
    return found
