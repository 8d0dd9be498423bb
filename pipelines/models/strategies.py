"""What of a world model is trained: everything, the actions alone, the last blocks, or an adapter and the actions."""

from __future__ import annotations

from pipelines.models import lora
from pipelines.models.world_model import WorldModel
from pipelines.params import Lora


def train_all(model: WorldModel) -> WorldModel:
    """Every weight."""
    model.requires_grad_(True)
    return model


def train_actions(model: WorldModel) -> WorldModel:
    """The action modules alone: the transformer stays what it was."""
    model.requires_grad_(False)
    model.actions.requires_grad_(True)
    return model


def train_last(model: WorldModel, layers: int) -> WorldModel:
    """The last blocks, their action modules and the output.

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
    """A new low-rank adapter of the transformer, and the action modules.

    Raises:
        StageError: no layer of the transformer has the name of a target.
    """
    lora.add_lora(model.transformer, block)
    model.actions.requires_grad_(True)
    return model
