"""Which raw actions a latent frame sees, and whether two places mean the same by them. Written here and nowhere else.

Latent frame 0 covers raw frame 0, latent frame i > 0 covers raw frames stride (i - 1) + 1 to stride i; row k of the
actions leads to raw frame k (:class:`pipelines.data.contract.ActionFacts`). So the rows of a latent frame are those of
the frames that it covers, the last of them its own frame's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.data.contract import ActionFacts, ContractError


class ActionError(ValueError):
    """Actions that do not fit: says which, where, and what to do."""


def rows_of(frames: range, stride: int, history: int = 1) -> np.ndarray:
    """Row numbers [T, history * stride] that latent ``frames`` see.

    ``history`` 1: exactly those that each covers. More: also those of so many latent frames before it (published
    networks see three). Before the clip there is nothing: the first row stands there, as the only one of frame 0.
    """
    ends = stride * np.asarray(frames)
    return (ends[:, None] + np.arange(1 - history * stride, 1)).clip(min=0)


def aligned(actions: Tensor, stride: int, history: int = 1) -> Tensor:
    """Actions [B, rows, A] of whole clips as what each latent frame sees: [B, T, history * stride, A].

    Raises:
        ActionError: the number of rows is not that of a clip's frames, 1 mod ``stride``.
    """
    rows = actions.shape[1]
    if rows < 1 or (rows - 1) % stride:
        raise ActionError(f"{rows} rows of actions, but a clip has 1 mod {stride} frames and a row for each.")
    chosen = rows_of(range(1 + (rows - 1) // stride), stride, history)
    return actions[:, torch.from_numpy(chosen).to(actions.device)]


def require_same(trained: ActionFacts | None, here: ActionFacts | None, where: str) -> None:
    """Check that columns mean the same as in training: names in order, kinds and offset.

    Raises:
        ContractError: naming the first difference.
    """
    if trained is None or here is None:
        side = "the network was trained without" if trained is None else f"{where} has no"
        raise ContractError(f"{where}: {side} actions; take latents of clips that have some.")
    for what, one, other in (
        ("names", trained.names, here.names),
        ("kinds", trained.kinds, here.kinds),
        ("offset", trained.offset, here.offset),
    ):
        if one != other:
            said = "; the same keys in another order" if what == "names" and set(one) == set(other) else ""  # type: ignore[arg-type]
            raise ContractError(
                f"{where}: {what} of the actions are {other}, the network was trained on {one}{said}. Put the columns "
                "in that order, or train on these latents."
            )


def stated(facts: Mapping[str, Any]) -> ActionFacts:
    """Facts as a ``generator.json`` states them."""
    return ActionFacts.model_validate_json(json.dumps(facts))


def kinds_of(facts: ActionFacts) -> tuple[list[int], list[int]]:
    """Columns that are keys, and those that are axes or other numbers."""
    keys = [place for place, kind in enumerate(facts.kinds) if kind == "key"]
    return keys, [place for place in range(len(facts.kinds)) if place not in keys]
