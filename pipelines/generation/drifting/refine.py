"""Stage ``drifting_refiner``: clips from a few keyframes, filled in and corrected in one step (seed C).

Nested keyframes and their interpolation are the forward process. The refiner is trained first by the squared error,
then by drifting in the feature space of the frozen latent MAE, with the error decaying beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.data import validation_clips
from pipelines.data.catalog import TRAIN
from pipelines.data.groups import Groups, Size
from pipelines.flow import keyframes
from pipelines.generation.classes import gate, read_classes
from pipelines.generation.drifting import draws, measuring
from pipelines.generation.drifting.features import FeatureSpaces
from pipelines.generation.drifting.finishing import Shown, final_numbers, finish, sampling
from pipelines.generation.drifting.measuring import HeldOut
from pipelines.generation.drifting.objective import DriftingRefiner
from pipelines.generation.drifting.params import DriftingRefinerParams, KeypatchRefinerParams
from pipelines.generation.latents import Latents
from pipelines.generation.params import DenoiserParams
from pipelines.generation.trained import new_denoiser
from pipelines.models.latent_mae import LatentMae
from pipelines.models.refiner import Refiner
from pipelines.stage import StageError, digest, say
from pipelines.training import checkpoint
from pipelines.training.loop import train as run_training
from pipelines.training.run import Run


def new_refiner(params: DriftingRefinerParams | KeypatchRefinerParams, data: Latents, num_classes: int) -> Refiner:
    """The refiner of the params for these latents: residual 0."""
    block = params.refiner
    longer = block.model_copy(update={"text_length": block.text_length + 1})  # the strength of guidance
    kernel = None
    if isinstance(params, DriftingRefinerParams) and params.filling.learned is not None:
        kernel = params.filling.learned.kernel
    learned = None if params.drift is None else params.drift.learned_temperature
    start = None if learned is None else learned.start
    return Refiner(new_denoiser(longer, data, num_classes), not isinstance(block, DenoiserParams), kernel, start)


def load_encoder(folder: Path, channels: int, random: int | None) -> LatentMae:
    """The checkpoint's latent MAE; one of the same size with random weights of the seed ``random``, if one is given.

    Raises:
        StageError: the checkpoint is damaged, or of other channels.
    """
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
    if random is not None:
        with torch.random.fork_rng():
            torch.manual_seed(random)
            encoder = LatentMae(channels, encoder.config["architecture"])
    return encoder


def load_features(params: DriftingRefinerParams, folder: Path, channels: int) -> FeatureSpaces | None:
    """The spaces of the drift, in the checkpoint's latent MAE or in one of the same size with random weights.

    Raises:
        StageError: as :func:`load_encoder`, or it lacks a layer.
    """
    if params.drift is None:
        return None
    random = params.training.seed if params.drift.features.encoder == "random" else None
    return FeatureSpaces(params.drift.features, load_encoder(folder, channels, random))


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


def batches(params: DriftingRefinerParams | KeypatchRefinerParams, data: Latents, classes: Mapping[str, int]) -> Groups:
    """Clips in units of a class where the drift has problems of one, by themselves without a drift."""
    training, drift = params.training, params.drift
    size, balance, begin = Size(1, 0, 0), 0.0, 0
    if drift is not None:
        group = drift.group
        size, balance, begin = Size(group.clips, group.positives, group.unconditional), group.balance, drift.begin
        if begin >= training.steps:
            say(f"drift.begin {begin} is not below training.steps {training.steps}: it is regression alone")
    fields = ("latents", "prompt_embeds")
    return Groups(data.shards, TRAIN, fields, training.batch_size, training.seed, classes, size, balance, begin)


def description(params: DriftingRefinerParams, data: Latents) -> dict[str, Any]:
    """``generator.json``: what the refiner needs, how clips are filled in and how it is asked."""
    how, frames = params.keyframes, data.shape[1]
    counts = keyframes.counts(frames, how.least, how.levels, how.growth)
    given = draws.sparsest(draws.masks([0], frames, how), how.selection)
    fixed = {} if given is None else {"keyframes": given}
    return {
        "kind": "refiner",
        "needs": ["keyframes"],
        "takes": ["prompt", "pseudo_class", "keyframe_confidence"],
        "filling": params.filling.model_dump(mode="json"),
        "levels": counts,
        "clamp": params.clamp_keyframes,
        "sampling": sampling(params, how.levels),
        "latents": {**data.facts(), "num_keyframes": counts[-1], **fixed},
    }


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
        draws.masks([0], shape[1], params.keyframes)
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

    def draw(made: Tensor) -> None:
        shown.draw(made, run.plots / "samples.png")
        validation_clips.draw_steps(run.shown, run.plots / "validation.png")

    run_training(objective, batches(params, data, classes), run, validate)
    measure = partial(final_numbers, params, data, held, features=features)
    finish(run, held, refiner, params.gates, measure, draw, description(params, data))
