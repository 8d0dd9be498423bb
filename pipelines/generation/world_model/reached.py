"""What a training of the world model shows while it runs, and what it leaves: numbers, pictures, checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data import validation_clips
from pipelines.data.actions import aligned
from pipelines.data.batches import collate
from pipelines.generation.latents import Latents
from pipelines.generation.world_model.held_out import FixedWindows
from pipelines.generation.world_model.measured import measure
from pipelines.generation.world_model.objective import WorldModelObjective
from pipelines.generation.world_model.pictures import draw_quarters, draw_strips, pixels
from pipelines.generation.world_model.reader import Kept
from pipelines.generation.world_model.recorded import Measured
from pipelines.models.autoencoder import Autoencoder
from pipelines.record import baseline
from pipelines.stage import write_json
from pipelines.training.run import Run


def show(run: Run, data: Latents, objective: WorldModelObjective, decoder: Autoencoder, step: int, count: int) -> None:
    """Real clips beside rollouts from their first frame and actions, with the weights as they are; the first writes."""
    if not count:
        return
    rows = data.shards.rows("validation")[-count:]  # steered clips stand last: their actions change within the clip
    batch = collate(data.shards.read_many(rows.tolist(), ("latents", "actions", "prompt")))
    latents = batch["latents"].to(run.device)
    history = objective.params.denoiser.actions.history
    held = aligned(batch["actions"].to(run.device), data.manifest.autoencoder.temporal_stride, history)
    made = objective.rolled(latents[:, :, :1], held, seeds=range(count))
    if run.is_main:
        real, rolled = pixels(decoder.decode(latents)), pixels(decoder.decode(made))
        clips = list(np.concatenate([real, rolled], axis=3))
        labels = [f"real | rolled out: {prompt}" for prompt in batch["prompt"]]
        run.showed(step, validation_clips.write(run.shown, step, clips, labels, data.manifest.frame_rate))


def description(objective: WorldModelObjective, data: Latents) -> dict[str, Any]:
    """``generator.json``: a world model, what it is told, and how it is rolled out."""
    params, facts = objective.params, data.manifest.actions
    assert facts is not None
    return {
        "kind": "world_model",
        "needs": ["first_frame", "actions"],
        "takes": [],
        "sampling": params.sampling.model_dump(mode="json"),
        "chunk": params.window.target_frames,
        "remembers": params.memory is not None,
        "history": params.denoiser.actions.history,
        "latents": {**data.facts(), "actions": facts.model_dump(mode="json")},
    }


def finish(
    run: Run,
    data: Latents,
    objective: WorldModelObjective,
    fixed: FixedWindows,
    decoder: Autoencoder,
    known: dict[str, float] | None,
    start: Path | None,
) -> None:
    """Held-out numbers of raw and averaged weights, measured rollouts, pictures, checkpoint.

    ``known``: the numbers of averaged weights, where the last step was validated. ``start``: the checkpoint that the
    training goes on from, whose reader of actions judges here too.
    """
    if not run.is_main:
        return
    network, rollouts = objective.world_model.eval(), objective.params.rollouts
    kept, reader = Kept(run.inputs["latents"].digest, start), None
    with run.computing():
        results: dict[str, Any] = {"validation/loss_raw_weights": fixed.loss(objective)}
    with run.ema_weights("world_model"), run.computing():
        numbers = known or fixed.numbers(objective)
        results |= {name if "velocity" in name else f"validation/{name}": value for name, value in numbers.items()}
        results |= {"effective_batch": run.training.batch_size}
        loss, other = results["validation/loss"], results["validation/loss_other_actions"]
        count = len(fixed.window.latents)
        results["baselines"] = [
            baseline(
                "validation/explained", results["validation/explained"], ">", 0.0, "predicting no velocity", count
            ),
            baseline("validation/loss", loss, "<", other, "the same clips told the actions of others", count),
        ]
        validation_clips.draw_steps(run.shown, run.plots / "validation.png")
        if rollouts is not None:
            measured, reader = measure(data, objective, decoder, run.device, kept)
            results |= judged(measured, results)
            draw_quarters(measured.numbers, measured.rollout, run.name, run.plots / "rollout.png")
            draw_strips(measured.ways, measured.ways_named, run.name, run.plots / "counterfactual.png")

    def describe(folder: Path) -> None:
        write_json(folder / "generator.json", description(objective, data))
        if rollouts is not None and reader is not None:
            kept.save(reader, rollouts.reader_steps, folder)

    run.finish({"world_model": network}, results, describe)


def judged(measured: Measured, results: dict[str, Any]) -> dict[str, Any]:
    """Numbers of the rollouts, and beside which each stands."""
    found: dict[str, Any] = dict(measured.numbers)
    name = "rollout/action_accuracy"
    if f"{name}_low" in found:
        text = "the same rollouts against the actions of others"
        line = baseline(f"{name}_low", found[f"{name}_low"], ">", found[f"{name}_shuffled_high"], text, measured.count)
        found["baselines"] = [*results["baselines"], line]
    if measured.unavailable:
        found["unavailable"] = dict(measured.unavailable)
    return found
