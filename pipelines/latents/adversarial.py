"""Stage ``autoencoder_adversarial``: an autoencoder of ours goes on from its reconstruction training, against a critic.

What people see as blur is what the squared error does not punish. A game against a discriminator, and a distance in
features, sharpen it; how much squared error that may cost is a gate. Where the encoder is frozen, latents stay what
they were, bit by bit, and only how they are shown changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pipelines import stage
from pipelines.data import validation_clips
from pipelines.data.subset import subset
from pipelines.latents import adversarial_figures, pictures
from pipelines.latents.clips import Clips
from pipelines.latents.loss_params import LpipsFeatures, Perceptual
from pipelines.latents.measures import evaluate
from pipelines.latents.networks import batches, require_posterior, trained_before, write_windows
from pipelines.latents.objectives import Autoencoding, check_losses
from pipelines.latents.params import AdversarialGates, AutoencoderAdversarialParams, DiscriminatorParams, GoingOn
from pipelines.latents.quality import MOST_HELD_OUT_CLIPS, MOST_STATISTICS_CLIPS, latent_statistics, normalise_again
from pipelines.models.autoencoder import Autoencoder, Trainable, load_autoencoder
from pipelines.models.discriminator import PatchDiscriminator
from pipelines.models.halves import Half, modules_of
from pipelines.models.perceptual import EncoderFeatures, Lpips
from pipelines.models.stacked_autoencoder import StackedAutoencoder
from pipelines.params import ParamsError
from pipelines.training import checkpoint
from pipelines.training.loop import train as run_training
from pipelines.training.run import Run

VALIDATION_CLIPS = 16
NOT_MEASURED = {
    "perceptual": "the parent's encoder is not ours, and losses.perceptual names no weights",
    "flicker": "in no held-out clip anything stands still from frame to frame (a picture is one frame)",
}
"""Why a number may be missing."""


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


def freeze(section: str, network: Trainable, parts: tuple[Half, ...]) -> None:
    """Turn off the gradients of halves.

    Raises:
        ParamsError: nothing is left to train.
    """
    if set(parts) == {"encoder", "decoder"}:
        raise ParamsError(f"{section}.freeze: nothing is left to train; one of encoder, decoder, or none: [].")
    for part in parts:
        for module in modules_of(network, part):
            module.requires_grad_(False)


def perceptual_of(section: str, block: Perceptual | None, own: EncoderFeatures | None) -> nn.Module | None:
    """The distance in features that a block names; ``own``: of the parent's encoder, where it is one of ours.

    Raises:
        ParamsError: features of the parent's encoder are asked for, and it has none.
    """
    if block is None:
        return None
    if isinstance(block.features, LpipsFeatures):
        return Lpips(Path(block.features.folder))
    if own is None:
        raise ParamsError(
            f"{section}.losses.perceptual.features: own_encoder is of an autoencoder of this project, and the parent "
            "is one of diffusers; give {kind: lpips, folder: ...}, or perceptual: null."
        )
    return own


def discriminator_of(size: DiscriminatorParams, channels: int) -> PatchDiscriminator:
    """The critic, told the mean of the latents where ``condition`` says so."""
    told = channels if size.condition == "latents" else None
    return PatchDiscriminator(size.dimensions, size.width, size.levels, told)


def gates(params: AdversarialGates, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Whether the game was worth its cost: sharper and steadier than the parent, at not too much squared error."""
    wanted = [
        ("psnr_fall", before["psnr"] - after["psnr"], params.max_psnr_fall, "dB below the autoencoder it began as"),
        ("perceptual", ratio("perceptual", before, after), params.max_perceptual, "distance in features, to before"),
        ("flicker", ratio("flicker", before, after), params.max_flicker, "changes where clips stand still, to before"),
    ]
    return at_most(wanted)


def at_most(wanted: Sequence[tuple[str, float | None, float, str]]) -> list[dict[str, Any]]:
    """Gates (name, value, threshold, reason) whose value must not be above; one without a value warns and says why."""
    gates = []
    for name, value, threshold, reason in wanted:
        gate = {"name": name, "threshold": threshold, "comparison": "<=", "reason": reason}
        if value is None:
            gates.append({**gate, "verdict": "warn", "reason": f"not measured: {NOT_MEASURED[name]}"})
        else:
            gates.append({**gate, "value": value, "verdict": "pass" if value <= threshold else "fail"})
    return gates


def ratio(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    """A number after over before; None where either is missing or it was 0."""
    return after[name] / before[name] if before.get(name) and name in after else None


@dataclass(frozen=True)
class Places:
    """Where a stage that goes on reads and writes: parent, clips to train on, others to be measured too, pictures."""

    init: Path
    clips: Clips
    also: Mapping[str, Clips]
    plots: Path


def check(section: str, params: GoingOn, places: Places, network: Trainable, frozen: tuple[Half, ...]) -> None:
    """Whether blocks, clips and the network go together, before anything starts.

    Raises:
        StageError: clips do not fit the network. ParamsError: blocks that contradict each other.
    """
    require_posterior(section, network, params.losses.kl is not None, str(places.init))
    for clips in (places.clips, *places.also.values()):
        clips.require(network.temporal_stride, network.spatial_stride)
    check_losses(section, params.losses, params.adversarial, network.channels)
    side = int(places.clips.catalog[["height", "width"]].to_numpy().min())
    if params.discriminator is not None and side < 2**params.discriminator.levels:
        raise ParamsError(
            f"{section}.discriminator.levels: {params.discriminator.levels} halvings leave nothing of clips of {side} "
            f"pixels; at most {side.bit_length() - 1}."
        )
    if params.adversarial is not None and params.adversarial.balance is not None and "decoder" in frozen:
        raise ParamsError(f"{section}.adversarial.balance: it balances gradients in the decoder, which is frozen.")


def everywhere(
    shown: Autoencoder, places: Places, run: Run, own: EncoderFeatures | None, distance: nn.Module | None, seed: int
) -> dict[str, Any]:
    """What is measured on held-out clips of those that are trained on, and under their names on the others'.

    Of more than :data:`MOST_HELD_OUT_CLIPS`, as many are drawn by the seed.
    """
    shown.eval()
    sources = {"": places.clips, **places.also}
    found = {
        name: evaluate(
            shown, clips, subset(clips.rows("validation"), MOST_HELD_OUT_CLIPS, seed), run.device, own, distance
        )
        for name, clips in sources.items()
    }
    return {**found.pop(""), **found}


def go_on(
    run: Run,
    params: GoingOn,
    places: Places,
    frozen: tuple[Half, ...],
    judge: Callable[[Mapping[str, Any], Mapping[str, Any]], list[dict[str, Any]]],
) -> None:
    """Train the autoencoder of ``places.init`` on, measure it beside what it was, and write what came of it.

    Args:
        judge: what was measured before and after to gates, over the held-out clips unless they say their ``samples``.

    Raises:
        StageError: there is no autoencoder, or clips do not fit it.
        ParamsError: blocks that contradict each other.
    """
    network, source, section = trained_before(places.init), places.clips, run.name
    if network is None:
        hand_on(source, places.init, run)
        return
    freeze(section, network, frozen)
    check(section, params, places, network, frozen)
    critic = None if params.discriminator is None else discriminator_of(params.discriminator, network.channels)
    began = load_autoencoder(places.init).to(run.device)
    own = EncoderFeatures(began) if isinstance(began, StackedAutoencoder) else None
    perceptual = perceptual_of(section, params.losses.perceptual, own)
    objective = Autoencoding(network, params.losses, params.adversarial, critic, perceptual)
    rows, seed = source.rows("train"), params.training.seed
    held_out = subset(source.rows("validation"), MOST_HELD_OUT_CLIPS, seed)
    groups = batches(network, source, rows, params.training, params.augmentation)
    some, distance = held_out[:VALIDATION_CLIPS], perceptual or own
    if distance is not None:
        distance.to(run.device)

    def validate(step: int) -> dict[str, float]:
        with run.ema_weights("autoencoder"):
            shown = pictures.over_reconstructions(network, source, some, run.device)
            if run.is_main:
                run.showed(step, pictures.write_validation(shown, source, some, run.shown, step))
            found = evaluate(network.eval(), source, some, run.device, own, distance)
            return {name: value for name, value in found.items() if isinstance(value, float)}

    before = everywhere(began, places, run, own, distance, seed)
    run_training(objective, groups, run, validate)
    with run.ema_weights("autoencoder"):
        if not run.is_main:
            return
        if "encoder" not in frozen:
            some_rows = subset(rows, MOST_STATISTICS_CLIPS, seed)
            normalise_again(network, *latent_statistics(network, source, some_rows, run.device))
        after = everywhere(network, places, run, own, distance, seed)
        found = [{"samples": len(held_out), **gate} for gate in judge(before, after)]
        adversarial_figures.draw(before, after, places.plots / "before_after.png")
        validation_clips.draw_steps(run.shown, places.plots / "validation.png")
        results = {**after, "before": before, "gates": found, "num_held_out": len(held_out)}
        run.finish({"autoencoder": network}, results, lambda folder: write_windows(folder, network))
    verdict = "WARNING: a gate failed, keep its parent" if any(gate["verdict"] == "fail" for gate in found) else "kept"
    stage.say(f"PSNR {before['psnr']:.2f} -> {after['psnr']:.2f} dB; {verdict}")


def train(params: AutoencoderAdversarialParams, clips: Path, init: Path, out: Path, metrics: Path, plots: Path) -> None:
    """Train the autoencoder of ``init`` on, and measure it beside what it was.

    Raises:
        StageError: ``init`` holds no autoencoder, or clips do not fit it.
        ParamsError: blocks that contradict each other.
    """
    run = Run.open(params, {"clips": clips}, out=out, metrics=metrics, plots=plots, parent=init)
    places = Places(init, Clips(clips), {}, plots)
    go_on(run, params, places, params.freeze, lambda before, after: gates(params.gates, before, after))
