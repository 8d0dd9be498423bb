"""Stage ``autoencoder``: pixels to latents, trained from scratch or taken from a pretrained checkpoint.

The trained one minimises what the block ``losses`` says, over frame groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipelines import hub, stage
from pipelines.data import validation_clips
from pipelines.data.subset import subset
from pipelines.latents import pictures
from pipelines.latents.clips import Clips
from pipelines.latents.loss_params import LpipsFeatures, Perceptual
from pipelines.latents.networks import batches, new_network, write_windows
from pipelines.latents.objectives import Autoencoding, check_losses
from pipelines.latents.params import AutoencoderGates, AutoencoderParams, PretrainedAutoencoderParams
from pipelines.latents.quality import (
    MOST_HELD_OUT_CLIPS,
    MOST_STATISTICS_CLIPS,
    PatchPCA,
    latent_statistics,
    linear_baselines,
    normalise_again,
    patch_pca_of,
    reconstruction_quality,
)
from pipelines.models.autoencoder import Autoencoder, PretrainedVideoAutoencoder, Trainable
from pipelines.models.perceptual import Lpips
from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.params import ParamsError
from pipelines.record import baseline
from pipelines.threads import threads_for
from pipelines.training import checkpoint
from pipelines.training.loop import train as run_training
from pipelines.training.run import Run

"""Most training clips over which mean and standard deviation of the latents are taken."""
VALIDATION_CLIPS = 16
"""Held-out clips measured during the training; the result is measured on all."""


def gates(
    params: AutoencoderGates, latent_std: torch.Tensor, reached: float, num_statistics: int, num_held_out: int
) -> list[dict[str, Any]]:
    """Whether latents may be made: no collapsed channel, and reconstructions that show something."""
    least, reason = float(latent_std.min()), f"smallest of {len(latent_std)} channels, before normalisation"
    found = [
        ("latent_std", least, params.min_latent_std, reason, num_statistics),
        ("psnr", reached, params.min_psnr, "dB on held-out clips", num_held_out),
    ]
    return [
        {
            "name": name,
            "value": value,
            "threshold": threshold,
            "comparison": ">=",
            "verdict": "pass" if value >= threshold else "fail",
            "reason": reason,
            "samples": samples,
        }
        for name, value, threshold, reason, samples in found
    ]


def lpips_of(section: str, block: Perceptual | None) -> Lpips | None:
    """The distance in features that a block names.

    Raises:
        ParamsError: of the project's own encoder, which this stage is to make.
    """
    if block is None:
        return None
    if not isinstance(block.features, LpipsFeatures):
        raise ParamsError(
            f"{section}.losses.perceptual.features: own_encoder is what this stage makes; it can be used by the next "
            "one, autoencoder_adversarial. Here: {kind: lpips, folder: ...}."
        )
    return Lpips(Path(block.features.folder))


def measured(
    params: AutoencoderParams,
    autoencoder: Autoencoder,
    clips: Clips,
    linear: PatchPCA,
    device: torch.device,
    plots: Path,
) -> dict[str, Any]:
    """Numbers and pictures of a finished autoencoder beside a linear code; a trained one gets its statistics here."""
    seed = params.training.seed
    train = subset(clips.rows("train"), MOST_STATISTICS_CLIPS, seed)
    held_out = subset(clips.rows("validation"), MOST_HELD_OUT_CLIPS, seed)
    mean, std = latent_statistics(autoencoder, clips, train, device)
    if isinstance(autoencoder, Trainable):
        normalise_again(autoencoder, mean, std)
    quality = reconstruction_quality(autoencoder, clips, held_out, device)
    baselines = linear_baselines(clips, linear, held_out, (autoencoder.temporal_stride, autoencoder.spatial_stride))
    pictures.draw_reconstructions(autoencoder, clips, quality, baselines, device, plots / "reconstructions.png")
    pictures.draw_quality(quality, baselines, std, params.gates.min_latent_std, plots / "quality.png")
    linear_psnr, reason = baselines["psnr_patch_pca"], "dB of patch PCA at equal compression"
    beside = baseline("psnr", quality.psnr, ">", linear_psnr, reason, len(held_out))
    stage.say(
        f"PSNR {quality.psnr:.2f} dB on {len(held_out)} held-out clips; patch PCA {baselines['psnr_patch_pca']:.2f} dB"
        + ("" if beside["verdict"] == "pass" else "; WARNING: the linear code is better than this autoencoder")
    )
    return {
        "psnr": quality.psnr,
        "psnr_worst_clip": min(quality.per_clip.values()),
        **baselines,
        "compression": quality.compression,
        "latent": {"channels": len(std), "std_min": float(std.min()), "std_max": float(std.max())},
        "num_held_out": len(held_out),
        "gates": gates(params.gates, std, quality.psnr, len(train[:MOST_STATISTICS_CLIPS]), len(held_out)),
        "baselines": [beside],
    }


def train(params: AutoencoderParams, clips: Path, out: Path, metrics: Path, plots: Path) -> None:
    """Train an autoencoder on the clips, or take the pretrained one, and measure it on the held-out clips.

    Raises:
        StageError: clips do not fit, or the pretrained autoencoder cannot be loaded.
    """
    source = Clips(clips)
    run = Run.open(params, {"clips": clips}, out=out, metrics=metrics, plots=plots)
    if params.pretrained is not None:
        take_pretrained(params, params.pretrained, source, run)
        return
    autoencoder = new_network(run.name, params.network, params.losses.kl is not None)
    check_losses(run.name, params.losses, None, autoencoder.channels)
    strides = autoencoder.temporal_stride, autoencoder.spatial_stride
    source.require(*strides)
    training, rows = params.training, source.rows("train")
    linear = patch_pca_of(source, rows, strides, autoencoder.channels)
    if isinstance(autoencoder, StackedAutoencoder):
        components = linear.spread() if params.losses.channel_prefix is None else linear.components  # strongest first
        autoencoder.start_linear(linear.mean, components, linear.deviation)
    groups = batches(autoencoder, source, rows, training, params.augmentation)
    some = source.rows("validation")[:VALIDATION_CLIPS]
    objective = Autoencoding(autoencoder, params.losses, perceptual=lpips_of(run.name, params.losses.perceptual))

    if params.augmentation is not None and run.is_main:
        pictures.draw_augmentation(groups, min(training.batch_size, 6), plots / "augmentation.png")

    def validate(step: int) -> Mapping[str, float]:
        with run.ema_weights("autoencoder"):
            # every process computes (the network may be spread over them); the first writes
            shown = pictures.over_reconstructions(autoencoder, source, some, run.device)
            if run.is_main:
                run.showed(step, pictures.write_validation(shown, source, some, run.shown, step))
            return {"psnr": reconstruction_quality(autoencoder, source, some, run.device).psnr}

    height, width = source.catalog[["height", "width"]].to_numpy().max(0).tolist()
    with threads_for(training.micro_batch * strides[0] * height * width):
        run_training(objective, groups, run, lambda step: dict(validate(step)))
    with run.ema_weights("autoencoder"):  # where there is an average, it is the autoencoder
        results = measured(params, autoencoder.eval(), source, linear, run.device, plots) if run.is_main else {}
        if run.is_main:
            validation_clips.draw_steps(run.shown, plots / "validation.png")
        run.finish({"autoencoder": autoencoder}, results, lambda folder: write_windows(folder, autoencoder))


def take_pretrained(params: AutoencoderParams, named: PretrainedAutoencoderParams, clips: Clips, run: Run) -> None:
    """Measure a pretrained autoencoder on the clips and copy it into the checkpoint, with where it came from."""
    autoencoder = PretrainedVideoAutoencoder.from_pretrained(named.name, named.revision, named.subfolder)
    clips.require(autoencoder.temporal_stride, autoencoder.spatial_stride)
    if not run.is_main:
        return
    stage.say("fitting patch PCA at the same compression")
    strides = autoencoder.temporal_stride, autoencoder.spatial_stride
    linear = patch_pca_of(clips, clips.rows("train"), strides, autoencoder.latent_mean.shape[0])
    results = measured(params, autoencoder.to(run.device), clips, linear, run.device, run.plots)
    commit = hub.commit(named.name, named.revision, named.subfolder)
    origin = {"name": named.name, "revision": commit or named.revision, "subfolder": named.subfolder}
    with stage.whole_folder(run.out) as folder:
        autoencoder.save_pretrained(folder)
        checkpoint.write_record(folder, {**run.record(results), "pretrained": origin})
    run.conclude(results)
