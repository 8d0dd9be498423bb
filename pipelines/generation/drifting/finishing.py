"""What refiners do at the end: verdicts, pictures, checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.data import validation_clips
from pipelines.data.catalog import TRAIN
from pipelines.data.contract import require_autoencoder
from pipelines.generation.drifting import measuring, pictures
from pipelines.generation.drifting.features import FeatureSpaces
from pipelines.generation.drifting.intervals import named
from pipelines.generation.drifting.measuring import HeldOut, Independent
from pipelines.generation.drifting.params import DriftingRefinerParams, KeypatchRefinerParams, RefinerGates
from pipelines.generation.latents import Latents
from pipelines.models.autoencoder import load_autoencoder
from pipelines.models.refiner import Refiner
from pipelines.stage import StageError, say, write_json
from pipelines.training.run import Run


def gates(params: RefinerGates, numbers: Mapping[str, float]) -> list[dict[str, Any]]:
    """Verdicts: gain, spread, raw force and effective neighbours. Without gain the refiner fails; the rest warns."""
    share, positives = measuring.mean_of(numbers, "force_share"), measuring.mean_of(numbers, "effective_positives")
    judged = [
        (
            "gain",
            numbers.get("gain_low"),
            ">=",
            params.min_gain,
            "fail",
            "lower end: error of the interpolation taken away",
        ),
        (
            "spread",
            numbers.get("spread_share"),
            ">=",
            params.min_spread,
            "warn",
            "below it deterministic: regression does",
        ),
        (
            "force",
            share,
            "<=",
            params.max_force_share,
            "warn",
            "raw force on refined clips over that on the interpolation",
        ),
        (
            "effective_positives",
            positives,
            ">=",
            params.min_effective_positives,
            "warn",
            "neighbours that the kernel sees",
        ),
    ]
    found = []
    for name, value, comparison, threshold, worse, reason in judged:
        if value is None:
            continue
        good = value >= threshold if comparison == ">=" else value <= threshold
        verdict = "pass" if good else worse
        gate = {"name": name, "value": value, "threshold": threshold, "comparison": comparison, "reason": reason}
        found.append({**gate, "verdict": verdict})
    return found


def sampling(params: DriftingRefinerParams | KeypatchRefinerParams, levels: int) -> dict[str, Any]:
    """How a refiner of so many levels is asked, for ``generator.json``."""
    return {
        "noise_std": params.noise_std * params.sampling.noise_scale,
        "alpha": params.sampling.alpha,
        "steps": 1 if params.regression.target == "clean" else levels,
    }


def final_numbers(
    params: DriftingRefinerParams | KeypatchRefinerParams,
    data: Latents,
    held: HeldOut,
    made: Tensor,
    features: FeatureSpaces | None,
) -> dict[str, float]:
    """Errors, gain, motion ratio (of clips), distances in a space that no loss looks at, and the field's numbers.

    What these clips do not define is told, and left out.
    """
    resamples, first = params.validation.resamples, slice(0, held.clips)
    numbers = measuring.errors(held, made)
    with _told_if_undefined("gain"):
        numbers |= measuring.gain(held, made, resamples)
    space = Independent.of(data.evenly(TRAIN, measuring.REFERENCE, made.device))
    compared = {"": made[0, first], "_interpolation": held.filled[first], "_real": held.latents[first]}
    are_clips = held.latents.shape[2] > 1
    for name, clips in compared.items():
        with _told_if_undefined(f"distance{name}"):
            numbers |= named(f"distance{name}", space.distance(clips, resamples))
        if name != "_real" and are_clips:
            with _told_if_undefined(f"motion_ratio{name}"):
                numbers |= named(f"motion_ratio{name}", measuring.motion(held, clips, resamples))
    if features is not None and params.drift is not None:
        numbers |= measuring.field_numbers(features, params.drift.field, held, made[0, first], held.filled[first])
    return numbers


@contextlib.contextmanager
def _told_if_undefined(name: str) -> Iterator[None]:
    """A number that these clips do not define is left out."""
    try:
        yield
    except StageError:
        raise
    except ValueError as error:
        say(f"{name} is left out: {error}.")


class Shown:
    """The first held-out clips of the sparsest level, decoded where an autoencoder is given.

    Raises:
        StageError: it is not the autoencoder of these latents.
    """

    def __init__(self, run: Run, data: Latents, held: HeldOut, count: int, autoencoder: Path | None) -> None:
        self.run, self.data, self.held, self.count = run, data, held, min(count, held.clips)
        self.decoder: Any = None
        if autoencoder is not None and count:
            require_autoencoder(data.manifest, autoencoder)
            self.decoder = load_autoencoder(autoencoder).to(run.device)

    def frames(self, latents: Tensor) -> np.ndarray:
        """Decoded clips uint8 [B, T, H, W, 3]."""
        with torch.no_grad():
            video = self.decoder.decode(latents[: self.count].to(self.run.device)).float().cpu().clamp(-1, 1)
        return ((video + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()

    def pictures(self, latents: Tensor) -> np.ndarray:
        """Pictures [B, C, 1, H, W] as uint8 [B, H, W, 3]: decoded, or as they are where they are pixels."""
        if self.decoder is not None:
            return self.frames(latents)[:, 0]
        pixels = ((latents[: self.count, :, 0].float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
        return pixels.permute(0, 2, 3, 1).numpy()

    def at_step(self, step: int, made: Tensor) -> None:
        """Write the clips of this validation."""
        if self.decoder is None or not self.run.is_main:
            return
        rate, prompts = self.data.manifest.frame_rate, self.held.prompts[: self.count]
        clips = list(self.frames(made))
        self.run.showed(step, validation_clips.write(self.run.shown, step, clips, prompts, rate))

    def draw(self, made: Tensor, path: Path) -> None:
        """True, interpolated and refined clips, a frame for every latent one."""
        if self.decoder is None:
            return
        parts = zip(pictures.ROWS, (self.held.latents, self.held.filled, made), strict=True)
        clips = {name: self.frames(latents) for name, latents in parts}
        every = np.linspace(0, len(clips["true"][0]) - 1, self.held.mask.shape[1]).round().astype(int)
        shown = {name: frames[:, every] for name, frames in clips.items()}
        given = self.held.mask[: self.count].cpu().numpy()
        pictures.draw_clips(shown, given, self.held.prompts[: self.count], self.run.name, path)


def finish(
    run: Run,
    held: HeldOut,
    refiner: Refiner,
    judged: RefinerGates,
    measure: Callable[[Tensor], dict[str, float]],
    draw: Callable[[Tensor], None],
    described: Mapping[str, Any],
) -> None:
    """Held-out numbers with intervals, gates, pictures, checkpoint; ``described``: ``generator.json``."""
    if not run.is_main:
        return
    with run.ema_weights("refiner"), torch.no_grad():
        refiner.eval()
        with run.computing():
            made = held.refine(refiner)
        numbers = measure(made)
        if refiner.log_temperature is not None:
            numbers["drift/learned_temperature"] = float(refiner.log_temperature.exp())
        draw(made[0])
    pictures.draw_errors(numbers, held.numbers, held.kind, run.name, run.plots / "missing_error.png")
    found = [{**gate, "samples": held.clips} for gate in gates(judged, numbers)]
    for one in found:
        if one["verdict"] != "pass":
            say(
                f"{one['name']} is {one['value']:.3g}, wanted {one['comparison']} {one['threshold']:g}: {one['reason']}"
            )
    results = {name if "/" in name else f"validation/{name}": value for name, value in numbers.items()}

    def describe(folder: Path) -> None:
        write_json(folder / "generator.json", described)

    run.finish({"refiner": refiner}, {**results, "gates": found}, describe)
