"""Stage ``autoencoder_decoder``: the decoder of an autoencoder goes on alone, on clips larger than the latents' own.

The encoder is frozen, so latents of every size stay what they were, bit by bit. What is learned is to show more pixels
from them; whether that costs anything at the size that generators are trained at is measured beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.latents.adversarial import Places, at_most, go_on, ratio
from pipelines.latents.clips import Clips
from pipelines.latents.params import AutoencoderDecoderParams, DecoderGates
from pipelines.training.run import Run

OWN_SIZE = "own_size"
"""Under this name stand the numbers on clips of the size that latents are made of."""


def gates(
    params: DecoderGates, before: Mapping[str, Any], after: Mapping[str, Any], num_own_size: int
) -> list[dict[str, Any]]:
    """Whether large clips gained, and the ``num_own_size`` clips of the latents' own size lost no more than allowed."""
    gain = after["psnr"] - before["psnr"]
    gained = {
        "name": "psnr_gain",
        "value": gain,
        "threshold": params.min_psnr_gain,
        "comparison": ">=",
        "verdict": "pass" if gain >= params.min_psnr_gain else "fail",
        "reason": "dB above the autoencoder it began as, on large clips",
    }
    fall = before[OWN_SIZE]["psnr"] - after[OWN_SIZE]["psnr"]
    wanted = [
        ("perceptual", ratio("perceptual", before, after), params.max_perceptual, "distance in features, to before"),
        ("flicker", ratio("flicker", before, after), params.max_flicker, "changes where clips stand still, to before"),
    ]
    [lost] = at_most([("psnr_fall", fall, params.max_psnr_fall, "dB lost on clips of the latents' own size")])
    return [gained, *at_most(wanted), {**lost, "samples": num_own_size}]


def train(
    params: AutoencoderDecoderParams, clips: Path, large: Path, init: Path, out: Path, metrics: Path, plots: Path
) -> None:
    """Train the decoder of the autoencoder of ``init`` on the clips ``large``, and measure it on both.

    Raises:
        StageError: ``init`` holds no autoencoder, or clips do not fit it.
        ParamsError: blocks that contradict each other.
    """
    run = Run.open(params, {"clips": clips, "large": large}, out=out, metrics=metrics, plots=plots, parent=init)
    own_size = Clips(clips)
    places, count = Places(init, Clips(large), {OWN_SIZE: own_size}, plots), len(own_size.rows("validation"))
    go_on(run, params, places, ("encoder",), lambda before, after: gates(params.gates, before, after, count))
