"""Stage ``keypatch_refiner``, the image pivot: a picture from a few of its patches, corrected in one step (seed C).

Pictures are single frames of the clips, as latents or as pixels; one-frame clips and folders of images are clips like
others (:mod:`pipelines.generation.drifting.still`). What is done with them is what the video refiner does: nested sets
of what is given, filled in (by distance or harmonically), squared error or energy score, then drifting, here in the
features of the latent MAE, of the project's own encoder, or of a published ResNet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.data.contract import require_autoencoder
from pipelines.flow import keyframes, patches
from pipelines.flow.filling import alike, level_share
from pipelines.generation.classes import gate, read_classes
from pipelines.generation.drifting import draws, measuring, pictures
from pipelines.generation.drifting.features import Encoder, FeatureSpaces
from pipelines.generation.drifting.finishing import Shown, final_numbers, finish, sampling
from pipelines.generation.drifting.measuring import HeldOut
from pipelines.generation.drifting.objective import DriftingRefiner, Start
from pipelines.generation.drifting.params import KeypatchRefinerParams, ResNetFolder
from pipelines.generation.drifting.refine import batches, load_encoder, new_refiner, require_latents_of
from pipelines.generation.drifting.still import Pictures
from pipelines.generation.latents import Latents
from pipelines.models.autoencoder import load_autoencoder
from pipelines.models.picture_features import OwnEncoderFeatures, ResNetFeatures
from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.stage import StageError
from pipelines.training import checkpoint
from pipelines.training.loop import train as run_training
from pipelines.training.run import Run


def schedule(params: KeypatchRefinerParams, height: int, width: int) -> tuple[list[int], tuple[int, int]]:
    """Numbers of given patches K_0 … K_L, and rows and columns of patches.

    Raises:
        StageError: patches do not fit the pictures, or the numbers do not fall strictly.
    """
    how = params.keypatches
    grid = patches.grid_of(height, width, how.patch)
    return keyframes.counts(grid[0] * grid[1], how.least, how.levels, how.growth, "keypatches"), grid


def nested(params: KeypatchRefinerParams, pictures: Tensor, seeds: Sequence[int]) -> Tensor:
    """Masks [B, L + 1, 1, H, W] of given elements, a function of each seed."""
    _, grid = schedule(params, *pictures.shape[3:])
    chosen = draws.patch_masks(seeds, grid, params.keypatches)
    return patches.elements(chosen, grid, params.keypatches.patch).to(pictures.device)


class KeypatchRefiner(DriftingRefiner):
    """:class:`DriftingRefiner` of pictures [B, C, 1, H, W] from some of their patches."""

    params: KeypatchRefinerParams

    def start(self, latents: Tensor, seeds: list[int]) -> Start:
        """A level, its patches, the picture filled in from them; a function of each seed."""
        params = self.params
        masks = nested(params, latents, seeds)
        level = draws.levels(seeds, params.keypatches.levels).to(latents.device)
        mask, finer = keyframes.at_level(masks, level), keyframes.at_level(masks, level - 1)
        counts, _ = schedule(params, *latents.shape[3:])
        told = alike(level_share(mask, counts), mask) * (~mask).to(latents)
        fill = partial(patches.fill, patch=params.keypatches.patch, how=params.filling)
        target = latents if params.regression.target == "clean" else fill(latents, finer)
        kept = mask if params.clamp_keypatches else None
        return Start(fill(latents, mask), told, mask, kept, level, target)

    def always_given(self, latents: Tensor) -> Tensor:
        """Patches that a selection gives at every level; at random none."""
        if self.params.keypatches.selection == "random":
            return torch.zeros(1, *latents.shape[2:], dtype=torch.bool)
        return nested(self.params, latents, [0]).all(1)


def held_out(batch: Mapping[str, Any], params: KeypatchRefinerParams) -> HeldOut:
    """The first validation pictures at levels L … 1."""
    pictures, how = batch["latents"], params.keypatches
    counts, _ = schedule(params, *pictures.shape[3:])
    masks = nested(params, pictures, measuring.seeds_of(batch))
    filler = partial(patches.fill, patch=how.patch, how=params.filling)
    return HeldOut.at_levels(batch, masks, counts, filler, params, params.clamp_keypatches, "keypatches")


def load_features(params: KeypatchRefinerParams, latent_mae: Path, autoencoder: Path, channels: int) -> FeatureSpaces:
    """The spaces of the drift in the encoder that the params name.

    Raises:
        StageError: it is not there, of another space, damaged, or lacks a layer.
    """
    assert params.drift is not None
    chosen, features = params.encoder, params.drift.features
    random = params.training.seed if features.encoder == "random" else None
    if chosen.kind == "latent_mae":
        return FeatureSpaces(features, load_encoder(latent_mae, channels, random))
    with torch.random.fork_rng():
        torch.manual_seed(params.training.seed)
        return FeatureSpaces(features, _picture_encoder(chosen, autoencoder, random is not None))


def _picture_encoder(chosen: Any, autoencoder: Path, random: bool) -> Encoder:
    if isinstance(chosen, ResNetFolder):
        return ResNetFeatures(Path(chosen.folder), random)
    checkpoint.read(autoencoder)
    network = load_autoencoder(autoencoder)
    if not isinstance(network, StackedAutoencoder):
        raise StageError(
            f"{autoencoder}: a pretrained autoencoder, whose layers are not looked at; set keypatch_refiner.encoder to "
            "{kind: resnet, folder: weights/resnet}, or space to latents."
        )
    return OwnEncoderFeatures(StackedAutoencoder(**network.config) if random else network)


def description(params: KeypatchRefinerParams, data: Latents) -> dict[str, Any]:
    """``generator.json``: what the refiner needs, how pictures are filled in and how it is asked."""
    counts, grid = schedule(params, *data.shape[2:])
    how = params.keypatches
    given = draws.sparsest(draws.patch_masks([0], grid, how), how.selection)
    return {
        "kind": "keypatch_refiner",
        "needs": ["keypatches"],
        "takes": ["prompt", "pseudo_class"],
        "space": params.space,
        "patch": how.patch,
        "filling": params.filling.model_dump(mode="json"),
        "levels": counts,
        "clamp": params.clamp_keypatches,
        "sampling": sampling(params, how.levels),
        "latents": {**data.facts(), **({} if given is None else {"keypatches": given})},
    }


def train(
    params: KeypatchRefinerParams,
    latents: Path,
    clips: Path,
    autoencoder: Path,
    latent_mae: Path,
    pseudo_classes: Path,
    diagnostics: Path,
    out: Path,
    metrics: Path,
    plots: Path,
) -> None:
    """Train a one-step refiner of pictures of which some patches are given.

    ``clips`` are read where the pictures are pixels. ``autoencoder`` decodes latents that are shown, and is the encoder
    ``own_encoder``.

    Raises:
        StageError: a gate of the diagnostics failed, an encoder is not of these latents, patches do not fit.
    """
    gate(diagnostics)
    classes, num_classes = read_classes(pseudo_classes, latents)
    data = Latents(latents, classes, Pictures(latents, clips if params.space == "pixels" else None))
    data.require(KeypatchRefiner.reads, "keypatch_refiner", params.refiner)
    for shape in data.shapes:
        draws.patch_masks([0], schedule(params, *shape[2:])[1], params.keypatches)
    inputs = {"latents": latents, "pseudo_classes": pseudo_classes, "diagnostics": diagnostics}
    inputs |= {"autoencoder": autoencoder, "latent_mae": latent_mae, "clips": clips}
    if isinstance(params.encoder, ResNetFolder):
        inputs["encoder"] = Path(params.encoder.folder)
    if params.encoder.kind == "latent_mae":
        require_latents_of(latent_mae, latents)
    if params.encoder.kind == "own_encoder":
        require_autoencoder(data.manifest, autoencoder)
    features = load_features(params, latent_mae, autoencoder, data.shape[0]) if params.drift else None
    run = Run.open(params, inputs, out=out, metrics=metrics, plots=plots)
    refiner = new_refiner(params, data, num_classes)
    objective = KeypatchRefiner(refiner, params, data.empty_prompt.to(run.device), features)
    held = held_out(data.held_out(params.validation.clips, run.device), params)
    shown = Shown(run, data, held, params.validation.shown, autoencoder if params.space == "latents" else None)

    def validate(step: int) -> dict[str, float]:
        with run.ema_weights("refiner"):
            return measuring.errors(held, held.refine(refiner))

    def draw(made: Tensor) -> None:
        if not shown.count:
            return
        drawn = {
            "true": held.latents,
            "given": held.latents * held.mask[:, None],
            "filled in": held.filled,
            "refined": made,
        }
        seen = {name: shown.pictures(one) for name, one in drawn.items()}
        pictures.draw_pictures(seen, run.name, run.plots / "samples.png")

    run_training(objective, batches(params, data, classes), run, validate)
    measure = partial(final_numbers, params, data, held, features=features)
    finish(run, held, refiner, params.gates, measure, draw, description(params, data))
