"""Stage ``latent_mae``: train a masked autoencoder on latents, the frozen feature space of classes and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines import stage
from pipelines.data import validation_clips
from pipelines.data.batches import Batches
from pipelines.data.contract import Manifest
from pipelines.data.shards import Shards
from pipelines.models.latent_mae import LatentMae, draw_mask
from pipelines.record import baseline
from pipelines.representation import mae_figures, spectrum
from pipelines.representation.agreement import factor_labels, probe
from pipelines.representation.extraction import check_names, concatenated, extract, raw_vectors
from pipelines.representation.params import KnownFactors, LatentMaeParams, Mask
from pipelines.training.loop import train as run_loop
from pipelines.training.objective import Batch, LossOutput
from pipelines.training.run import Run

MEASURED_SAMPLES = 256
PROBE_SAMPLES = 4096
FORWARD = 64
SHOWN_CLIPS = 4
"""Held-out clips that each validation shows."""


def masked_error(latents: Tensor, predicted: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error [B] over the hidden latents: sum of hidden (predicted - latents)^2 / (hidden places * C).

    Args:
        latents, predicted: [B, C, T, H, W]. hidden: bool [B, 1, T, H, W].
    """
    error = (predicted - latents).square() * hidden
    return error.flatten(1).sum(1) / (hidden.flatten(1).sum(1) * latents.shape[1])


def copied_mean(latents: Tensor, hidden: Tensor) -> Tensor:
    """The baseline: every hidden place gets its clip's mean over visible places, per channel: [B, C, 1, 1, 1]."""
    visible = ~hidden
    return (latents * visible).sum((2, 3, 4), keepdim=True) / visible.sum((2, 3, 4), keepdim=True)


class MaskedReconstruction:
    """Predict hidden latents from visible ones; the loss counts hidden places only (arXiv:2111.06377)."""

    trained: tuple[str, ...] = ("mae",)
    reads: tuple[str, ...] = ("latents",)

    def __init__(self, mae: LatentMae, mask: Mask) -> None:
        self.mae, self.mask = mae, mask
        self.patch = mae.backbone.patch
        self._grid, self._hidden = mae.grid, mae.hidden

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        """The masked error of one batch under a fresh mask."""
        latents = batch["latents"]
        mask = draw_mask(len(latents), self._grid(latents.shape), self.mask.ratio, self.mask.shape).to(latents.device)
        predicted = self.mae(latents, mask)
        return {"mae": LossOutput(masked_error(latents, predicted.float(), self._hidden(mask)))}


@torch.no_grad()
def reconstruction_errors(mae: LatentMae, mask: Mask, latents: Tensor) -> dict[str, float]:
    """Errors on held-out latents [N, C, T, H, W], masks drawn by the current torch generator.

    ``masked_error``; ``unmasked_error``: the same prediction where latents were visible (never trained on);
    ``copy_mean_error``: of :func:`copied_mean`; ``masked_error_share`` = masked / copied mean: below 1 is learned;
    absent where the mean is exact, as of latents of one value each.
    """
    sums = torch.zeros(3, device=latents.device)
    for part in latents.split(FORWARD):
        shown = draw_mask(len(part), mae.grid(part.shape), mask.ratio, mask.shape).to(part.device)
        hidden = mae.hidden(shown)
        predicted = mae(part, shown)
        copied = copied_mean(part, hidden).expand_as(part)
        errors = [masked_error(part, predicted, hidden), masked_error(part, predicted, ~hidden)]
        sums += torch.stack([error.sum() for error in [*errors, masked_error(part, copied, hidden)]])
    masked, unmasked, copied = (sums / len(latents)).tolist()
    found = {"masked_error": masked, "unmasked_error": unmasked, "copy_mean_error": copied}
    return {**found, "masked_error_share": masked / copied} if copied > 0 else found


@torch.no_grad()
def show(
    run: Run, step: int, mask: Mask, mae: LatentMae, latents: Tensor, prompts: Sequence[str], manifest: Manifest
) -> None:
    """Clips of a validation: held-out latents, what is visible of them, and what the network fills in.

    Every process computes (the network may be spread over them); the first writes.
    """
    hidden_patches = draw_mask(len(latents), mae.grid(latents.shape), mask.ratio, mask.shape).to(run.device)
    predicted = mae(latents.to(run.device), hidden_patches).float().cpu()
    if run.is_main:
        hidden = mae.hidden(hidden_patches).cpu()
        clips = [mae_figures.masked_clip(*parts) for parts in zip(latents, predicted, hidden, strict=True)]
        rate = manifest.frame_rate / manifest.autoencoder.temporal_stride
        run.showed(step, validation_clips.write(run.shown, step, clips, prompts, rate))


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """Up to ``most`` rows, evenly spread."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]


def probes(params: LatentMaeParams, shards: Shards, mae: LatentMae, untrained: LatentMae) -> dict[str, Any]:
    """Linear probes of the trained encoder, the same encoder with random weights, and raw latents, per known factor."""
    train = _some(shards.rows("train"), PROBE_SAMPLES)
    held_out = _some(shards.rows("validation"), PROBE_SAMPLES)
    rows = np.concatenate([train, held_out])
    is_train = np.arange(len(rows)) < len(train)
    factors = factor_labels(shards.index.iloc[rows].reset_index(drop=True), KnownFactors(identity=(), motion=()))
    names = params.probe.features
    spaces = {
        "features": concatenated(extract(shards, rows, mae, names, FORWARD), names),
        "random_encoder": concatenated(extract(shards, rows, untrained, names, FORWARD), names),
        "raw_latents": raw_vectors(shards, rows),
    }
    return {name: probe(values, factors, is_train, params.probe.ridge) for name, values in spaces.items()}


def collapse(params: LatentMaeParams, shards: Shards, mae: LatentMae) -> tuple[dict[str, float], np.ndarray]:
    """RankMe and participation ratio of one feature over held-out clips beside raw latents, and its spectrum."""
    rows = _some(shards.rows("validation"), PROBE_SAMPLES)
    values = extract(shards, rows, mae, (params.spectrum_feature,), FORWARD)[params.spectrum_feature]
    noise = np.random.default_rng(0).standard_normal(values.shape)
    numbers = {
        "rankme": spectrum.rankme(values),
        "rankme_most": float(min(values.shape)),
        "rankme_noise": spectrum.rankme(noise),
        "participation": spectrum.participation(values),
    }
    return numbers, spectrum.explained(values)


def _pictures(params: LatentMaeParams, shards: Shards, mae: LatentMae, results: dict[str, Any], plots: Path) -> None:
    rows = _some(shards.rows("validation"), 3)
    latents = torch.from_numpy(shards.load(rows, "latents").astype(np.float32))
    with torch.no_grad():
        mask = draw_mask(len(latents), mae.grid(latents.shape), params.mask.ratio, params.mask.shape)
        predicted = mae(latents, mask)
    prompts: Sequence[str] = shards.index["prompt"].iloc[rows].tolist()
    mae_figures.draw_reconstructions(latents, predicted, mae.hidden(mask), prompts, results, plots / "masked.png")
    if results["probes"]["features"]:
        mae_figures.draw_probes(results["probes"], plots / "probes.png")


def measure(params: LatentMaeParams, shards: Shards, mae: LatentMae, plots: Path) -> dict[str, Any]:
    """Everything the stage reports about a trained encoder, and its pictures."""
    latents = torch.from_numpy(
        shards.load(_some(shards.rows("validation"), MEASURED_SAMPLES), "latents").astype(np.float32)
    )
    torch.manual_seed(params.training.seed)
    untrained = LatentMae(latents.shape[1], params.architecture.model_dump(mode="json")).eval()
    results: dict[str, Any] = reconstruction_errors(mae, params.mask, latents)
    unavailable = {}
    if "masked_error_share" in results:
        share, reason = results["masked_error_share"], "copying the mean of what is visible"
        results["baselines"] = [baseline("masked_error_share", share, "<", 1.0, reason, len(latents))]
    else:
        unavailable["masked_error_share"] = "the mean of what is visible is exact: every clip's latents are all alike"
    results["probes"] = probes(params, shards, mae, untrained)
    if not results["probes"]["features"]:
        unavailable["probes"] = "the data has no known factors (columns factor_*) that vary"
    results |= {"unavailable": unavailable} if unavailable else {}
    numbers, shares = collapse(params, shards, mae)
    raw = spectrum.explained(raw_vectors(shards, _some(shards.rows("validation"), PROBE_SAMPLES)))
    mae_figures.draw_spectrum(shares, raw, params.spectrum_feature, numbers, plots / "spectrum.png")
    results |= numbers
    _pictures(params, shards, mae, results, plots)
    return results


def _check(params: LatentMaeParams, shards: Shards, mae: LatentMae) -> None:
    shape = shards.manifest.fields["latents"].shape
    try:
        mae.grid(tuple(length or 1 for length in shape))
    except ValueError as error:
        raise stage.StageError(f"latent_mae.architecture.patch: {error}") from None
    names = [*params.probe.features, params.spectrum_feature]
    check_names(mae, shape, names, "latent_mae.probe.features, latent_mae.spectrum_feature")


def train(params: LatentMaeParams, latents: Path, out: Path, metrics: Path, plots: Path) -> None:
    """Train on the train split of a latents folder; measure on held_out; write checkpoint, metrics and pictures.

    Raises:
        stage.StageError: the latents do not fit the architecture, or a feature named in params does not exist.
    """
    shards = Shards(latents)
    shards.manifest.require(MaskedReconstruction.reads, "latent_mae")
    shards.manifest.require_one_shape("latents", "latent_mae")
    run = Run.open(params, {"latents": latents}, out=out, metrics=metrics, plots=plots)
    channels = shards.manifest.fields["latents"].shape[0]
    assert channels is not None
    mae = LatentMae(channels, params.architecture.model_dump(mode="json"))
    _check(params, shards, mae)
    training = params.training
    batches = Batches(shards, "train", MaskedReconstruction.reads, training.batch_size, training.seed)
    rows = _some(shards.rows("validation"), MEASURED_SAMPLES)
    held_out = torch.from_numpy(shards.load(rows, "latents").astype(np.float32))
    objective = MaskedReconstruction(mae, params.mask)
    prompts = shards.index["prompt"].iloc[rows].tolist()

    def validate(step: int) -> dict[str, float]:
        errors = reconstruction_errors(mae, params.mask, held_out.to(run.device))
        show(run, step, params.mask, mae, held_out[:SHOWN_CLIPS], prompts[:SHOWN_CLIPS], shards.manifest)
        return {"loss": errors["masked_error"], "masked_error_share": errors["masked_error_share"]}

    run_loop(objective, batches, run, validate)
    results: dict[str, Any] = {}
    if run.is_main:
        with run.ema_weights("mae"):
            mae.eval().cpu()
            results = measure(params, shards, mae, plots)
            validation_clips.draw_steps(run.shown, plots / "validation.png")
    run.finish({"mae": mae}, results)
