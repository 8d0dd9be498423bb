"""Stage ``drifting_refiner``: clips from a few keyframes, filled in and corrected in one step (seed C).

Nested keyframes and their interpolation are the forward process. The refiner is trained first by the squared error,
then by drifting in the feature space of the frozen latent MAE, with the error decaying beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.data import validation_clips
from pipelines.data.catalog import TRAIN
from pipelines.data.contract import require_autoencoder
from pipelines.data.groups import Groups, Size
from pipelines.flow import keyframes
from pipelines.generation.classes import gate, read_classes
from pipelines.generation.drifting import measuring, pictures
from pipelines.generation.drifting.features import FeatureSpaces
from pipelines.generation.drifting.measuring import HeldOut, Independent
from pipelines.generation.drifting.objective import DriftingRefiner
from pipelines.generation.drifting.params import DriftingRefinerParams, RefinerGates
from pipelines.generation.latents import Latents
from pipelines.generation.params import DenoiserParams
from pipelines.generation.trained import new_denoiser
from pipelines.models.autoencoder import load_autoencoder
from pipelines.models.latent_mae import LatentMae
from pipelines.models.refiner import Refiner
from pipelines.stage import StageError, digest, say, write_json
from pipelines.training import checkpoint
from pipelines.training.loop import train as run_training
from pipelines.training.run import Run


def new_refiner(params: DriftingRefinerParams, data: Latents, num_classes: int) -> Refiner:
    """The refiner of the params for these latents: residual 0."""
    block = params.refiner
    longer = block.model_copy(update={"text_length": block.text_length + 1})  # the strength of guidance
    return Refiner(new_denoiser(longer, data, num_classes), gated=not isinstance(block, DenoiserParams))


def load_features(params: DriftingRefinerParams, folder: Path, channels: int) -> FeatureSpaces | None:
    """The spaces of the drift, in the checkpoint's latent MAE or in one of the same size with random weights.

    Raises:
        StageError: the checkpoint is damaged, of other channels, or lacks a layer.
    """
    if params.drift is None:
        return None
    checkpoint.read(folder)
    try:
        encoder = LatentMae.from_pretrained(folder / "ema" if (folder / "ema").is_dir() else folder)
    except (OSError, ValueError) as error:
        raise StageError(f"{folder}: no latent MAE ({error}).") from None
    if encoder.config["channels"] != channels:
        raise StageError(
            f"{folder}: an encoder of {encoder.config['channels']} channels, but these latents have {channels}; run "
            "latent_mae again."
        )
    if params.drift.features.encoder == "random":
        with torch.random.fork_rng():
            torch.manual_seed(params.training.seed)
            encoder = LatentMae(channels, encoder.config["architecture"])
    return FeatureSpaces(params.drift.features, encoder)


def require_latents_of(encoder: Path, latents: Path) -> None:
    """Check that a latent MAE was trained on these latents.

    Raises:
        StageError: on others.
    """
    read = checkpoint.read(encoder)["inputs"].get("latents")
    if read is not None and read["digest"] != digest(latents):
        raise StageError(
            f"{encoder}: trained on latents {read['digest'][:12]}, but {latents} is {digest(latents)[:12]}; run "
            "latent_mae again."
        )


def batches(params: DriftingRefinerParams, data: Latents, classes: Mapping[str, int]) -> Groups:
    """Clips in units of a class where the drift has problems of one, by themselves without a drift."""
    training, drift = params.training, params.drift
    size, balance, begin = Size(1, 0, 0), 0.0, 0
    if drift is not None:
        group = drift.group
        size, balance, begin = Size(group.clips, group.positives, group.unconditional), group.balance, drift.begin
    fields = ("latents", "prompt_embeds")
    return Groups(data.shards, TRAIN, fields, training.batch_size, training.seed, classes, size, balance, begin)


def description(params: DriftingRefinerParams, data: Latents) -> dict[str, Any]:
    """``generator.json``: what the refiner needs, how clips are filled in and how it is asked."""
    how, frames = params.keyframes, data.shape[1]
    counts = keyframes.counts(frames, how.least, how.levels, how.growth)
    return {
        "kind": "refiner",
        "needs": ["keyframes"],
        "takes": ["prompt", "pseudo_class", "keyframe_confidence"],
        "filling": params.filling.model_dump(mode="json"),
        "levels": counts,
        "clamp": params.clamp_keyframes,
        "sampling": {
            "noise_std": params.noise_std * params.sampling.noise_scale,
            "alpha": params.sampling.alpha,
            "steps": 1 if params.regression.target == "clean" else how.levels,
        },
        "latents": {**data.facts(), "num_keyframes": counts[-1]},
    }


def gates(params: RefinerGates, numbers: Mapping[str, float]) -> list[dict[str, Any]]:
    """Verdicts: gain, spread, raw force and effective neighbours. Without gain the refiner fails; the rest warns."""
    share, positives = measuring.mean_of(numbers, "force_share"), measuring.mean_of(numbers, "effective_positives")
    judged = [
        (
            "gain",
            numbers["gain_low"],
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


def train(
    params: DriftingRefinerParams,
    latents: Path,
    latent_mae: Path,
    pseudo_classes: Path,
    diagnostics: Path,
    out: Path,
    metrics: Path,
    plots: Path,
    autoencoder: Path | None = None,
) -> None:
    """Train a one-step refiner of interpolated keyframes in the feature space of ``latent_mae``.

    ``autoencoder`` decodes the clips that are shown; without it none are.

    Raises:
        StageError: a gate of the diagnostics failed, the encoder is not of these latents, keyframes do not fit the
            clips, or classes are too small for the problems.
    """
    gate(diagnostics)
    classes, num_classes = read_classes(pseudo_classes, latents)
    data = Latents(latents, classes)
    data.require(DriftingRefiner.reads, "drifting_refiner", params.refiner)
    for shape in data.shapes:
        keyframes.counts(shape[1], params.keyframes.least, params.keyframes.levels, params.keyframes.growth)
    require_latents_of(latent_mae, latents)
    inputs = {
        "latents": latents,
        "latent_mae": latent_mae,
        "pseudo_classes": pseudo_classes,
        "diagnostics": diagnostics,
    }
    run = Run.open(params, inputs, out=out, metrics=metrics, plots=plots)
    refiner, features = new_refiner(params, data, num_classes), load_features(params, latent_mae, data.shape[0])
    objective = DriftingRefiner(refiner, params, data.empty_prompt.to(run.device), features)
    held = HeldOut.of(data.held_out(params.validation.clips, run.device), params)
    shown = Shown(run, data, held, params.validation.shown, autoencoder)

    def validate(step: int) -> dict[str, float]:
        with run.ema_weights("refiner"):
            made = held.refine(refiner)
            shown.at_step(step, made[0, : held.clips])
            return measuring.errors(held, made)

    run_training(objective, batches(params, data, classes), run, validate)
    finish(run, params, data, held, refiner, features, shown)


def finish(
    run: Run,
    params: DriftingRefinerParams,
    data: Latents,
    held: HeldOut,
    refiner: Refiner,
    features: FeatureSpaces | None,
    shown: Shown,
) -> None:
    """Held-out numbers with intervals, gates, pictures, checkpoint."""
    if not run.is_main:
        return
    with run.ema_weights("refiner"):
        refiner.eval()
        made = held.refine(refiner)
        numbers = final_numbers(params, data, held, made, features)
        shown.draw(made[0], run.plots / "samples.png")
        validation_clips.draw_steps(run.shown, run.plots / "validation.png")
    pictures.draw_errors(numbers, held.numbers, run.name, run.plots / "missing_error.png")
    judged = gates(params.gates, numbers)
    for one in judged:
        if one["verdict"] != "pass":
            say(
                f"{one['name']} is {one['value']:.3g}, wanted {one['comparison']} {one['threshold']:g}: {one['reason']}"
            )
    results = {name if "/" in name else f"validation/{name}": value for name, value in numbers.items()}

    def describe(folder: Path) -> None:
        write_json(folder / "generator.json", description(params, data))

    run.finish({"refiner": refiner}, {**results, "gates": judged}, describe)


def final_numbers(
    params: DriftingRefinerParams, data: Latents, held: HeldOut, made: Tensor, features: FeatureSpaces | None
) -> dict[str, float]:
    """Errors, gain, motion ratio, distances in the independent space, and the field's numbers."""
    resamples, first = params.validation.resamples, slice(0, held.clips)
    numbers = measuring.errors(held, made) | measuring.gain(held, made, resamples)
    space = Independent.of(data.evenly(TRAIN, measuring.REFERENCE, made.device))
    compared = {"": made[0, first], "_interpolation": held.filled[first], "_real": held.latents[first]}
    for name, clips in compared.items():
        numbers |= measuring.named(f"distance{name}", space.distance(clips, resamples))
        if name != "_real":
            numbers |= measuring.named(f"motion_ratio{name}", measuring.motion(held, clips, resamples))
    if features is not None and params.drift is not None:
        numbers |= measuring.field_numbers(features, params.drift.field, held, made[0, first], held.filled[first])
    return numbers
