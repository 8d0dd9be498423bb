"""Stages world_model and world_model_autoregressive: an action-conditioned world model (seed E, done right)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipelines import stage
from pipelines.data.actions import aligned, kinds_of, require_same
from pipelines.data.actions import stated as stated_actions
from pipelines.data.contract import require_autoencoder
from pipelines.generation.latents import Latents, token_counter
from pipelines.generation.world_model.held_out import FixedWindows
from pipelines.generation.world_model.objective import Chunked, WorldModelObjective, lengths
from pipelines.generation.world_model.params import AdaptedBlocks, LastLayers, WorldModelParams
from pipelines.generation.world_model.reached import finish, show
from pipelines.models import strategies
from pipelines.models.autoencoder import load_autoencoder
from pipelines.models.denoiser import POSITION_CHANNELS, averaged
from pipelines.models.world_model import Inputs, WorldModel
from pipelines.stage import StageError
from pipelines.training import checkpoint
from pipelines.training.generator import read_description
from pipelines.training.loop import train as run_training
from pipelines.training.run import Run

FEW_CLIPS = 8
"""A smaller batch is warned of: seed E's documents train with one clip a step and see nothing follow the actions."""


def train(
    params: WorldModelParams,
    latents: Path,
    autoencoder: Path,
    out: Path,
    metrics: Path,
    plots: Path,
    init: Path | None = None,
) -> None:
    """Train a world model on windows of the clips, roll it out from held-out first frames, and judge the rollouts.

    ``init``: the checkpoint of a world model to start from.

    Raises:
        StageError: the latents have no actions, are shorter than a window or cut by the patch; or the start is another
            network, of other latents or of other actions.
    """
    data = checked(latents, params)
    require_autoencoder(data.manifest, autoencoder)
    run = Run.open(params, {"latents": latents}, out=out, metrics=metrics, plots=plots, parent=init)
    if params.training.batch_size < FEW_CLIPS:
        stage.say(f"batch_size {params.training.batch_size}: below {FEW_CLIPS} clips a step actions are hardly learnt")
    model = trained_part(network(params, data, init), params)
    decoder = load_autoencoder(autoencoder).to(run.device)
    stride = data.manifest.autoencoder.temporal_stride
    objective = WorldModelObjective(model, params, stride, token_counter(model.patch))
    held_out = held_out_window(data, params, params.validation.clips, run)
    fixed = FixedWindows.of(held_out, params.validation.levels)
    validated: dict[int, dict[str, float]] = {}

    def validate(step: int) -> dict[str, float]:
        with run.ema_weights("world_model"):
            show(run, data, objective, decoder, step, params.validation.shown)
            validated[step] = fixed.numbers(objective)
        return validated[step]

    run_training(objective, data.batches(objective.reads, params.training), run, validate)
    finish(run, data, objective, fixed, decoder, validated.get(run.step), init)


def checked(latents: Path, params: WorldModelParams) -> Latents:
    """The latents, checked against what the stage needs before anything is built.

    Raises:
        StageError: naming what does not fit.
    """
    data = Latents(latents)
    data.manifest.require(WorldModelObjective.reads, "world_model")
    data.manifest.require_one_shape("latents", "world_model")
    _, frames, *sides = data.shape
    if frames < params.window.frames:
        raise StageError(
            f"{latents}: clips of {frames} latent frames, shorter than a window of {params.window.context_frames} + "
            f"{params.window.target_frames}; lower window.context_frames or cut longer clips."
        )
    for axis, size, side in zip("HW", sides, params.denoiser.patch[1:], strict=True):
        if size % side:
            raise StageError(f"{latents}: axis {axis} of the latents has {size}, denoiser.patch cuts it by {side}.")
    return data


def inputs_of(params: WorldModelParams, data: Latents) -> Inputs:
    """What a network of these parameters takes of these latents."""
    facts = data.manifest.actions
    assert facts is not None
    keys, axes = kinds_of(facts)
    sizes = params.denoiser.actions
    return Inputs(
        latents=data.shape[0],
        mask=1,
        positions=POSITION_CHANNELS,
        first_frame=params.denoiser.first_frame,
        keys=tuple(keys),
        axes=tuple(axes),
        rows=sizes.history * data.manifest.autoencoder.temporal_stride,
        action={name: getattr(sizes, name) for name in ("hidden", "inner", "heads", "rotary")},
        sink=params.memory.sink if params.memory else 0,
        window=params.memory.window if params.memory else 1,
        draft=params.denoiser.draft and params.denoiser.draft.model_dump(exclude={"weight"}),
    )


def network(params: WorldModelParams, data: Latents, init: Path | None) -> WorldModel:
    """A new network, or the averaged weights of the one in ``init`` with this stage's memory.

    Raises:
        StageError: the start is another network, of other latents or other actions.
    """
    inputs = inputs_of(params, data)
    if init is None:
        sizes = params.denoiser.model_dump(exclude={"first_frame", "actions", "draft"})
        return WorldModel.build(inputs, **sizes)
    record, facts = checkpoint.read(init), read_description(init)
    if facts["kind"] != "world_model":
        raise StageError(f"{init}: a generator of kind {facts['kind']}; this stage starts from a world_model.")
    stated, wanted = record["params"]["denoiser"], params.denoiser.model_dump(mode="json")
    for name, value in wanted.items():
        if stated.get(name) != value:
            raise StageError(
                f"{init}: denoiser.{name} is {stated.get(name)} there and {value} here; make both sections equal."
            )
    here, there = data.manifest.autoencoder, facts["latents"]["autoencoder"]
    if there["digest"] != here.digest:
        raise StageError(
            f"{init}: trained on latents of autoencoder {there['id']} ({there['digest'][:12]}), but {data.folder} is "
            f"of {here.id} ({here.digest[:12]}). Train the earlier stage again."
        )
    require_same(stated_actions(facts["latents"]["actions"]), data.manifest.actions, str(data.folder))
    model = WorldModel.from_pretrained(averaged(init))
    model.inputs = inputs
    return model.train()


def trained_part(model: WorldModel, params: WorldModelParams) -> WorldModel:
    """The same network with what is not trained frozen.

    Raises:
        StageError: it has fewer blocks than are to be trained, or no layer of an adapter's target.
    """
    try:
        match params.trained:
            case LastLayers():
                return strategies.train_last(model, params.trained.last_layers)
            case AdaptedBlocks():
                return strategies.train_adapter(model, params.trained.lora)
            case "action_only":
                return strategies.train_actions(model)
            case _:
                return strategies.train_all(model)
    except ValueError as error:
        raise StageError(f"trained: {error}") from None


def held_out_window(data: Latents, params: WorldModelParams, count: int, run: Run) -> Chunked:
    """The first window of the first held-out clips."""
    batch = held_out_clips(data, count, run.device)
    frames, context = params.window.frames, params.window.context_frames
    held = aligned(batch["actions"], data.manifest.autoencoder.temporal_stride, params.denoiser.actions.history)
    chunks = lengths(context, params.window.target_frames)
    return Chunked(batch["latents"][:, :, :frames], held[:, :frames], context, chunks)


def held_out_clips(data: Latents, count: int, device: torch.device) -> dict[str, Any]:
    """Latents and actions of the first ``count`` validation clips.

    Raises:
        StageError: there is none.
    """
    from pipelines.data.batches import collate

    rows = data.shards.rows("validation")[:count]
    if not len(rows):
        raise StageError(f"{data.folder}: split validation is empty; raise raw_video.splits.validation.")
    batch = collate(data.shards.read_many(rows.tolist(), ("latents", "actions", "prompt")))
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
