"""Stage ``autoencoder_adversarial``: an autoencoder of ours goes on from its reconstruction training, against a critic.

What people see as blur is what the squared error does not punish. A game against a discriminator, and a distance in
features, sharpen it; how much squared error that may cost is a gate. Where the encoder is frozen, latents stay what
they were, bit by bit, and only how they are shown changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines import stage
from pipelines.data import validation_clips
from pipelines.latents import adversarial_figures, pictures
from pipelines.latents.clips import Clips, FrameGroups
from pipelines.latents.loss_params import LpipsFeatures, Perceptual
from pipelines.latents.measures import evaluate
from pipelines.latents.objectives import Autoencoding, check_losses
from pipelines.latents.params import AdversarialGates, AutoencoderAdversarialParams, DiscriminatorParams
from pipelines.latents.quality import latent_statistics
from pipelines.models.autoencoder import load_autoencoder
from pipelines.models.discriminator import PatchDiscriminator
from pipelines.models.perceptual import EncoderFeatures, Lpips
from pipelines.models.stacked_autoencoder import KIND, StackedAutoencoder
from pipelines.params import ParamsError
from pipelines.training import checkpoint
from pipelines.training.loop import train as run_training
from pipelines.training.run import Run

PARTS = {"encoder": ("linear_in", "encoder"), "decoder": ("linear_out", "decoder")}
"""What ``freeze`` may name, and which modules that is."""
MOST_STATISTICS_CLIPS = 2048
VALIDATION_CLIPS = 16


def is_ours(folder: Path) -> bool:
    """Whether the autoencoder of a checkpoint is one that this project trains.

    Raises:
        StageError: no checkpoint.
    """
    checkpoint.read(folder)
    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name") == KIND


def hand_on(clips: Clips, init: Path, run: Run) -> None:
    """A pretrained autoencoder is measured and goes on as it is, so that what follows finds it here too."""
    autoencoder = load_autoencoder(init).to(run.device)
    clips.require(autoencoder.temporal_stride, autoencoder.spatial_stride)
    if not run.is_main:
        return
    results = evaluate(autoencoder, clips, clips.rows("validation"), run.device, None, None)
    with stage.whole_folder(run.out) as folder:
        autoencoder.save_pretrained(folder)
        checkpoint.write_record(folder, {**run.record(results), "pretrained": checkpoint.read(init).get("pretrained")})
    run.conclude(results)
    stage.say(f"{init} is a pretrained autoencoder, which is taken as it is: nothing was trained")


def freeze(section: str, network: nn.Module, parts: tuple[str, ...]) -> None:
    """Turn off the gradients of parts.

    Raises:
        ParamsError: a part that there is not, or nothing left to train.
    """
    strange = sorted(set(parts) - set(PARTS))
    if strange or set(parts) == set(PARTS):
        what = f"{', '.join(strange)} is no part" if strange else "nothing is left to train"
        raise ParamsError(f"{section}.freeze: {what}; one of {', '.join(PARTS)}, or none: [].")
    for part in parts:
        for name in PARTS[part]:
            network.get_submodule(name).requires_grad_(False)


def perceptual_of(block: Perceptual | None, parent: Path) -> nn.Module | None:
    """The distance in features that a block names."""
    if block is None:
        return None
    if isinstance(block.features, LpipsFeatures):
        return Lpips(Path(block.features.folder))
    return EncoderFeatures(StackedAutoencoder.from_pretrained(parent))


def discriminator_of(size: DiscriminatorParams, channels: int) -> PatchDiscriminator:
    """The critic, told the mean of the latents where ``condition`` says so."""
    told = channels if size.condition == "latents" else None
    return PatchDiscriminator(size.dimensions, size.width, size.levels, told)


def gates(params: AdversarialGates, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Whether the game was worth its cost: sharper and steadier than the parent, at not too much squared error."""
    wanted = [
        ("psnr_fall", before["psnr"] - after["psnr"], params.max_psnr_fall, "dB below the autoencoder it began as"),
        ("perceptual", _ratio("perceptual", before, after), params.max_perceptual, "distance in features, to before"),
        ("flicker", _ratio("flicker", before, after), params.max_flicker, "changes where clips stand still, to before"),
    ]
    return [
        {
            "name": name,
            "value": value,
            "threshold": threshold,
            "comparison": "<=",
            "verdict": "pass" if value <= threshold else "fail",
            "reason": reason,
        }
        for name, value, threshold, reason in wanted
        if value is not None
    ]


def _ratio(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    return after[name] / before[name] if before.get(name) and name in after else None


def train(params: AutoencoderAdversarialParams, clips: Path, init: Path, out: Path, metrics: Path, plots: Path) -> None:
    """Train the autoencoder of ``init`` on, and measure it beside what it was.

    Raises:
        StageError: ``init`` holds no autoencoder, or clips do not fit it.
        ParamsError: blocks that contradict each other.
    """
    source = Clips(clips)
    run = Run.open(params, {"clips": clips}, out=out, metrics=metrics, plots=plots, parent=init)
    if not is_ours(init):
        hand_on(source, init, run)
        return
    network = StackedAutoencoder.from_pretrained(init)
    if params.losses.kl is not None and not network.config["posterior"]:
        raise ParamsError(f"{run.name}.losses.kl: {init} was trained without a KL term, so it has no posterior.")
    source.require(network.temporal_stride, network.spatial_stride)
    check_losses(run.name, params.losses, params.adversarial, network.channels)
    freeze(run.name, network, params.freeze)
    if params.adversarial is not None and params.adversarial.balance is not None and "decoder" in params.freeze:
        raise ParamsError(f"{run.name}.adversarial.balance: it balances gradients in the decoder, which is frozen.")
    critic = None if params.discriminator is None else discriminator_of(params.discriminator, network.channels)
    objective = Autoencoding(
        network, params.losses, params.adversarial, critic, perceptual_of(params.losses.perceptual, init)
    )
    training, rows, held_out = params.training, source.rows("train"), source.rows("validation")
    groups = FrameGroups(source, rows, network.frames, training.batch_size, training.seed, params.augmentation)
    some = held_out[:VALIDATION_CLIPS]
    features = EncoderFeatures(StackedAutoencoder.from_pretrained(init)).to(run.device)

    def look(rows: list[int]) -> dict[str, Any]:
        return evaluate(network.eval(), source, rows, run.device, features, objective.perceptual or features)

    def validate(step: int) -> dict[str, float]:
        with run.ema_weights("autoencoder"):
            shown = pictures.over_reconstructions(network, source, some, run.device)
            if run.is_main:
                run.showed(step, pictures.write_validation(shown, source, some, run.shown, step))
            return {name: value for name, value in look(some).items() if isinstance(value, float)}

    if objective.perceptual is not None:
        objective.perceptual.to(run.device)
    began = StackedAutoencoder.from_pretrained(init).eval().to(run.device)
    before = evaluate(began, source, held_out, run.device, features, objective.perceptual or features)
    run_training(objective, groups, run, validate)
    networks: dict[str, Any] = {"autoencoder": network}
    with run.ema_weights("autoencoder"):
        if not run.is_main:
            return
        if "encoder" not in params.freeze:
            mean, std = latent_statistics(network, source, rows[:MOST_STATISTICS_CLIPS], run.device)
            normalise_again(network, mean, std)
        after = look(held_out)
        found = gates(params.gates, before, after)
        adversarial_figures.draw(before, after, plots / "before_after.png")
        validation_clips.draw_steps(run.shown, plots / "validation.png")
        run.finish(networks, {**after, "before": before, "gates": found, "num_held_out": len(held_out)})
    verdict = "kept" if all(gate["verdict"] == "pass" for gate in found) else "WARNING: a gate failed, keep its parent"
    stage.say(f"PSNR {before['psnr']:.2f} -> {after['psnr']:.2f} dB; {verdict}")


def normalise_again(network: StackedAutoencoder, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Statistics of codes from those of latents that the old statistics normalised."""
    network.set_statistics(mean * network.latent_std.cpu() + network.latent_mean.cpu(), std * network.latent_std.cpu())
