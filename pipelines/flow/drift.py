"""The drifting field: where samples move so that their distribution becomes that of the data, in one evaluation.

A *problem* has G generated samples x_i, M positives and N further negatives in some feature space of width D; the
generated samples are negatives of one another. With y = [generated | negatives | positives] and d_ij = |x_i - y_j|,

    A_ij    = kernel(d_ij / (S tau))                 S the mean distance, each x_i without itself
    coef    = [-A_neg * rowsum(A_pos) | A_pos * rowsum(A_neg)]          every row sums to zero
    V_tau   = coef @ y / (S / sqrt(D))               zero where positives and negatives are distributed alike
    V       = sum over tau of V_tau / rms(V_tau)
    loss    = mean V^2 = mean |x/s - stop(x/s + V)|^2,  s = S / sqrt(D)

so d loss / dx = -2 V / (G D s), which is written down here instead of being traced through the field. ``loss`` is near
the number of temperatures squared whatever happens: progress shows in ``force`` (:class:`Drift`) and in
:func:`statistics`.

Source: "Generative modeling via drifting" (the authors' release, March 2026, is the default of the parameters); seed C.
Features are [L, P, G, D]: L locations of one feature, P problems. Float32 or better under any autocast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.flow.drift_kernel import (
    FAR,
    LEAST_COLUMN,
    affinities_by_rows,
    coefficients,
    distances_near,
)
from pipelines.flow.drift_rows import Problems, Rows
from pipelines.flow.params import DriftField

CHUNK = 2**26
"""Numbers of one intermediate [rows, K G, D] held at once: 256 MiB in float32."""
CACHED = 3 * 2**19
"""Numbers of features of locations that share no scale, computed one after another: what a processor's cache holds."""
LEAST_DISTANCE, LEAST_SCALE, LEAST_FORCE = 1e-4, 1e-3, 1e-8
"""Floors of the authors' release under distances, scales and mean squared fields."""


@dataclass(frozen=True)
class Drift:
    """A field and what it was divided by.

    Attributes:
        total: V, [L, P, G, D].
        scale: s = S / sqrt(D), [L, P] (equal for those over which it is pooled).
        force: rms(V_tau) before it is divided out, [K, L, P]: what shrinks when samples come near the data.
        loss: [L, P].
    """

    total: Tensor
    scale: Tensor
    force: Tensor
    loss: Tensor


# ---- the field ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def drift(problems: Problems, field: DriftField, chunk: int = CHUNK) -> Drift:
    """The field of every problem; intermediates never hold more than ``chunk`` numbers.

    Raises:
        ValueError: a problem has one generated sample and no negatives, or no positive.
    """
    with torch.autocast(problems.generated.device.type, enabled=False):
        rows = Rows(problems)
        found = [_drift(rows.cut(piece), field, chunk) for piece in _near(rows, field)]
        total, scale, power = (
            _joined(parts, axis) for parts, axis in zip(zip(*found, strict=True), (0, 0, 1), strict=True)
        )
        loss = torch.linalg.vector_norm(total, dim=(1, 2)).square_() / rows.counts()
    shape = (rows.locations, rows.problems)
    force = power.sqrt().view(-1, *shape)
    return Drift(total.view(*shape, rows.group, rows.width), scale.view(shape), force, loss.view(shape))


def _joined(parts: tuple[Tensor, ...] | list[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def _near(rows: Rows, field: DriftField) -> list[slice]:
    """Few rows at a time on a processor, where no scale is pooled over them; all of them elsewhere.

    Each sample is read three times (norm, distance, field), which is faster while it lies in the cache.
    """
    whole, step = len(rows.parts[0]), len(rows.parts[0])
    if field.scale == "location" and rows.parts[0].device.type == "cpu":
        count = -(-sum(part.numel() for part in rows.parts) // CACHED)
        step = -(-whole // count)
    return [slice(start, start + step) for start in range(0, whole, step)]


def _scaled(rows: Rows, field: DriftField) -> tuple[Tensor, Tensor, Tensor]:
    """d / S [R, G, J], far or infinite where a pair takes no part, s [R], and the largest d / S between two samples."""
    floors = bool(field.floor)
    found = distances_near(rows.parts[0], rows.gram, *rows.parts[1:])
    if floors:
        found.clamp_(min=LEAST_DISTANCE)
    mean = rows.mean_distance(found, field)
    scale = mean / math.sqrt(rows.width)
    scale, mean = (part.clamp(min=LEAST_SCALE) for part in (scale, mean)) if floors else (scale, mean)
    farthest = found.div_(mean[:, None, None]).amax((1, 2))
    own = found.diagonal(dim1=1, dim2=2)
    own.add_(FAR) if floors else own.fill_(torch.inf)
    if rows.absent is not None:
        found.masked_fill_(rows.absent, torch.inf)
    return found, scale, farthest


@torch.no_grad()
def scaled_distances(problems: Problems, field: DriftField) -> Tensor:
    """d / S of all problems as the field's kernel takes them, [R, G, J] with R = L P; infinite: no pair."""
    with torch.autocast(problems.generated.device.type, enabled=False):
        rows = Rows(problems)
        found, _, _ = _scaled(rows.cut(slice(None)), field.model_copy(update={"floor": 0.0}))
    return found


def _drift(rows: Rows, field: DriftField, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """V [R, G, D], s [R] and the mean squares of every V_tau [K, R]."""
    found, scale, farthest = _scaled(rows, field)

    def part(piece: slice) -> Tensor:
        """s V_tau of some rows, [r, K, G, D]."""
        weights = None if rows.weights is None else rows.weights[piece]
        kernel, sums = affinities_by_rows(found[piece], field, weights, farthest[piece])
        coefs = coefficients(kernel, rows.num_negatives, field, sums)
        return rows.moved(coefs.flatten(1, 2), piece).view(len(coefs), -1, rows.group, rows.width)

    step = max(1, chunk // (len(field.temperatures) * rows.group * max(rows.width, found.shape[2])))
    pieces = [slice(start, start + step) for start in range(0, len(found), step)]
    kept = [part(pieces[0])] if len(pieces) == 1 else []
    sizes = _joined([rows.size(values) for values in (kept or map(part, pieces))], 1)
    power = rows.pooled(sizes / scale.square(), rows.counts(), field)
    force = power.clamp(min=LEAST_FORCE if field.floor else LEAST_COLUMN**2).sqrt_()
    shares = force.mul_(scale).reciprocal_().mT.contiguous()[:, None]  # not contiguous, the product goes row by row
    added = [
        torch.bmm(shares[piece], values.flatten(2))
        for piece, values in zip(pieces, kept or map(part, pieces), strict=True)
    ]
    total = _joined(added, 0).view(len(found), rows.group, rows.width)
    if rows.rows_there is not None:
        total *= rows.rows_there[:, :, None]
    return total, scale, power


@dataclass(frozen=True)
class Pull:
    """A loss [L, P] with its gradient, and what shows progress where the loss does not.

    Attributes:
        force, scale: as in :class:`Drift`; without gradient.
    """

    loss: Tensor
    force: Tensor
    scale: Tensor


class _Loss(torch.autograd.Function):
    """The loss [L, P] and its gradient in closed form."""

    @staticmethod
    def forward(
        ctx: Any, generated: Tensor, problems: Problems, field: DriftField, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = drift(problems, field, chunk)
        group = generated.shape[2]
        if problems.present is None:
            count: Tensor | int = group
        else:
            count = problems.present[:, :group].sum(1)
        ctx.save_for_backward(found.total, -2.0 / generated.shape[3] / (found.scale * count))
        ctx.kind = generated.dtype
        ctx.mark_non_differentiable(found.force, found.scale)
        return found.loss, found.force, found.scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        total, pull = ctx.saved_tensors
        return ((gradients[0] * pull)[:, :, None, None] * total).to(ctx.kind), None, None, None


def drift_pull(problems: Problems, field: DriftField, chunk: int = CHUNK) -> Pull:
    """The loss of the generated samples; the gradient reaches them only, and pulls each along its V.

    Raises:
        ValueError: as :func:`drift`.
    """
    return Pull(*_Loss.apply(problems.generated, problems, field, chunk))  # type: ignore[misc]
