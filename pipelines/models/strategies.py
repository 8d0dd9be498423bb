"""What of a world model is trained: all, what hears actions, the last blocks, or an adapter and what hears actions."""

from __future__ import annotations

from pipelines.models import lora
from pipelines.models.world_model import WorldModel
from pipelines.params import Lora


def train_all(model: WorldModel) -> WorldModel:
    """Every weight."""
    model.requires_grad_(True)
    return model


def train_actions(model: WorldModel) -> WorldModel:
    """The action modules and the draft alone: the transformer stays what it was."""
    model.requires_grad_(False)
    return _hearing(model)


def _hearing(model: WorldModel) -> WorldModel:
    """With all that hears actions trained."""
    model.actions.requires_grad_(True)
    if model.draft is not None:
        model.draft.requires_grad_(True)
    return model


def train_last(model: WorldModel, layers: int) -> WorldModel:
    """The last blocks, their action modules and the output; a draft stays what it was.

    Raises:
        ValueError: the network has fewer blocks.
    """
    blocks = model.transformer.blocks
    if layers > len(blocks):
        raise ValueError(f"last_layers {layers}: this network has {len(blocks)} blocks.")
    model.requires_grad_(False)
    for part in (*blocks[-layers:], *model.actions[-layers:], model.transformer.proj_out):
        part.requires_grad_(True)
    model.transformer.scale_shift_table.requires_grad_(True)
    return model


def train_adapter(model: WorldModel, block: Lora) -> WorldModel:
    """A new low-rank adapter of the transformer, the action modules and the draft.

    Raises:
        StageError: no layer of the transformer has the name of a target.
    """
    lora.add_lora(model.transformer, block)
    return _hearing(model)
