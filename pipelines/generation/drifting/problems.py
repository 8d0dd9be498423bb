"""Drifting problems of one micro-batch: per clip and place, per class, one for all; and their mixture.

The field of a problem pulls its generated samples towards its positives and apart from one another:

    clip           B problems: the G samples of a clip; positives are the clip and views of it
    pseudo_class   U problems: all samples of a unit (clips of one class); positives are those and others of the class
    pooled         1 problem: all samples of the micro-batch; positives are all its real clips

Problems of a clip look at places of frames that are missing in *that* clip, the others at places common to all.
Unconditional clips are negatives of weight (alpha - 1)(G - 1) / N (guidance). What the first two add to the objective
does not depend on how a batch is cut, as long as units stay whole and ``field.scale`` is not ``all``; ``pooled`` does,
and ``all`` does: their problem, or scale, is of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.flow.drift import Problems, drift_pull
from pipelines.flow.drift_statistics import unconditional_weight
from pipelines.flow.drift_temperature import temperature_loss
from pipelines.flow.params import DriftField
from pipelines.generation.drifting.features import Space, Vectors, at, missing_places, picked
from pipelines.generation.drifting.params import Mixture


@dataclass(frozen=True)
class Beside:
    """Real clips of a micro-batch of B clips in U units, and where problems look.

    Attributes:
        views: vectors of each clip and its views, B (1 + V) clips.
        positives, unconditional: vectors of U P and U N clips; empty where none are drawn.
        present: bool [U, P], which positives there are.
        alpha: guidance strength [U].
        mask: given frames [B, T].
        scores: uniform numbers [B, N] that choose each clip's places, by space with a grid.
        common: places [L] that all clips are looked at, by space with a grid.
    """

    views: Vectors
    positives: Vectors
    unconditional: Vectors
    present: Tensor
    alpha: Tensor
    mask: Tensor
    scores: Mapping[str, Tensor]
    common: Mapping[str, Tensor]


def _units(vectors: Tensor | None, units: int, like: Tensor) -> Tensor:
    """Vectors [U n, N, D] as [U, n, N, D]; [U, 0, N, D] where there are none."""
    if vectors is None:
        return like.new_zeros(units, 0, *like.shape[1:])
    return vectors.unflatten(0, (units, -1))


def _places(space: Space, beside: Beside, own: bool) -> Tensor:
    """[B, L] places of missing frames of each clip, or [1, L] common ones."""
    if space.grid is None:
        return torch.zeros(len(beside.mask) if own else 1, 1, dtype=torch.long, device=beside.mask.device)
    if not own:
        return beside.common[space.name][None]
    allowed = missing_places(beside.mask, space.grid)
    return picked(beside.scores[space.name], allowed, space.locations)


def _weights(alpha: Tensor, group: int, negatives: int, positives: int) -> Tensor | None:
    """[P, G + N + M] of problems with strength ``alpha`` [P]; None where nothing is unconditional."""
    if not negatives:
        return None
    ones = torch.ones(len(alpha), 1, device=alpha.device)
    away = unconditional_weight(alpha, group, negatives)[:, None].expand(-1, negatives)
    return torch.cat([ones.expand(-1, group), away, ones.expand(-1, positives)], 1)


def of_clips(space: Space, generated: Tensor, beside: Beside) -> Problems:
    """B problems at places of each clip's missing frames; generated [B G, N, D]."""
    clips, units = len(beside.mask), len(beside.alpha)
    places = _places(space, beside, own=True)
    x = at(generated.unflatten(0, (clips, -1)), places)
    y = at(beside.views[space.name].unflatten(0, (clips, -1)), places)
    others = _units(beside.unconditional.get(space.name), units, beside.views[space.name])
    away = at(others.repeat_interleave(clips // units, 0), places)
    alpha = beside.alpha.repeat_interleave(clips // units)
    return Problems(x, y, away, _weights(alpha, x.shape[2], away.shape[2], y.shape[2]))


def of_units(space: Space, generated: Tensor, beside: Beside, units: int) -> Problems:
    """U problems of a class each, or (``units`` 1) one of all; generated [B G, N, D]."""
    of_class = units > 1 or len(beside.alpha) == 1
    places = _places(space, beside, own=False).expand(units, -1)
    views = beside.views[space.name]
    each = len(views) // len(beside.mask)
    own = views.unflatten(0, (units, -1, each))[:, :, 0]
    more = _units(beside.positives.get(space.name), units, views)
    away = _units(beside.unconditional.get(space.name), units, views)
    x = at(generated.unflatten(0, (units, -1)), places)
    y, others = at(torch.cat([own, more], 1), places), at(away, places)
    alpha = beside.alpha if of_class else beside.alpha.mean(0, keepdim=True)
    absent = ~beside.present.reshape(units, -1)
    present = None
    if bool(absent.any()):
        there = torch.ones(units, x.shape[2] + others.shape[2] + own.shape[1], dtype=torch.bool, device=absent.device)
        present = torch.cat([there, ~absent], 1)
    return Problems(x, y, others, _weights(alpha, x.shape[2], others.shape[2], y.shape[2]), present)


def _problems(kind: str, space: Space, generated: Tensor, beside: Beside) -> Problems:
    if kind == "clip":
        return of_clips(space, generated, beside)
    return of_units(space, generated, beside, 1 if kind == "pooled" else len(beside.alpha))


def _alike(spaces: Sequence[Space], generated: Vectors, field: DriftField) -> list[list[Space]]:
    """Spaces of equal width and as many places, whose problems can be computed at once where none share a scale."""
    found: dict[object, list[Space]] = {}
    for space in spaces:
        alone = field.scale == "all"
        shape = (generated[space.name].shape[-1], 1 if space.grid is None else space.locations)
        found.setdefault(space.name if alone else shape, []).append(space)
    return list(found.values())


def _together(problems: Sequence[Problems]) -> Problems:
    """Problems of several spaces, of one shape and equal weights, as one set; those of the first space first."""
    first, count = problems[0], len(problems)
    if count == 1:
        return first
    x, y, away = (
        torch.cat([getattr(one, name) for one in problems], 1) for name in ("generated", "positives", "negatives")
    )
    weights, present = (None if part is None else part.repeat(count, 1) for part in (first.weights, first.present))
    return Problems(x, y, away, weights, present)


@dataclass(frozen=True)
class Mixed:
    """The drift of a micro-batch: loss per clip [B], and numbers that show progress."""

    loss: Tensor
    monitors: dict[str, Tensor]


def mixed(
    spaces: Sequence[Space],
    generated: Vectors,
    beside: Beside,
    mixture: Mixture,
    field: DriftField,
    log_temperature: Tensor | None = None,
) -> Mixed:
    """The mixture of all problems in all spaces; weights of problems are shares of their sum.

    ``log_temperature``: of one more temperature, whose own loss is added; its gradient reaches nothing else.
    """
    fixed = field
    if log_temperature is not None:
        field = field.model_copy(update={"temperatures": (*field.temperatures, float(log_temperature.detach().exp()))})
    clips = len(beside.mask)
    kinds = {"clip": mixture.clip, "pseudo_class": mixture.pseudo_class, "pooled": mixture.pooled}
    whole = sum(kinds.values())
    loss = beside.alpha.new_zeros(clips)
    monitors: dict[str, Tensor] = {}
    for kind, weight in kinds.items():
        if not weight:
            continue
        for group in _alike(spaces, generated, field):
            problems = _together([_problems(kind, space, generated[space.name], beside) for space in group])
            pull = drift_pull(problems, field)
            per_problem = pull.loss.mean(0)
            if log_temperature is not None:
                per_problem = per_problem + temperature_loss(problems, fixed, log_temperature).mean(0)
            parts = (per_problem, pull.force, pull.scale)
            for space, own, force, scale in zip(group, *(part.chunk(len(group), -1) for part in parts), strict=True):
                loss = loss + weight / whole * space.weight * own.repeat_interleave(clips // len(own))
                name = f"drift/{kind}/{space.name.replace('/', '_')}"
                monitors |= _numbers(name, force, scale, fixed)
                if log_temperature is not None:
                    monitors[f"{name}/tau_learned/drift_norm_mean"] = force[-1].mean()
    if log_temperature is not None:
        monitors["drift/learned_temperature"] = log_temperature.detach().exp().squeeze()
    return Mixed(loss, monitors)


def _numbers(name: str, force: Tensor, scale: Tensor, field: DriftField) -> dict[str, Tensor]:
    """The raw force per temperature (rms of V in mean distances, before it is divided out) and the mean distance."""
    found = {f"{name}/feature_scale": scale.mean()}
    for tau, size in zip(field.temperatures, force, strict=False):  # a learned one comes last
        found[f"{name}/tau_{tau:g}/drift_norm_mean"] = size.mean()
    return found
