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

from pipelines.flow.drift_kernel import FAR, LEAST_COLUMN, affinities, coefficients, near_distances
from pipelines.flow.params import DriftField

CHUNK = 2**26
"""Numbers of one intermediate [rows, K G, D] held at once: 256 MiB in float32."""
CACHED = 2**20
"""Numbers of features of locations that share no scale, computed one after another: what a processor's cache holds."""
LEAST_DISTANCE, LEAST_SCALE, LEAST_FORCE = 1e-4, 1e-3, 1e-8
"""Floors of the authors' release under distances, scales and mean squared fields."""


@dataclass(frozen=True)
class Problems:
    """Features and weights of P problems at L locations.

    Attributes:
        generated, positives, negatives: [L, P, G, D], [L, P, M, D], [L, P, N, D]; N may be 0.
        weights: [P, G + N + M] of generated, negatives, positives; None: all 1.
        present: bool [P, G + N + M]; what is absent takes no part. None: all are there.
    """

    generated: Tensor
    positives: Tensor
    negatives: Tensor
    weights: Tensor | None = None
    present: Tensor | None = None

    def __post_init__(self) -> None:
        group = self.generated.shape[2]
        if not group or not self.positives.shape[2]:
            raise ValueError("a drifting problem needs at least one generated sample and one positive.")
        if group + self.negatives.shape[2] < 2:
            raise ValueError(
                "a drifting problem with one generated sample and no negatives has no field: give it 2 samples or more."
            )


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


class _Rows:
    """Problems and locations as R = L P rows of one batched product; features are views of what was given."""

    def __init__(self, problems: Problems) -> None:
        kind = torch.promote_types(problems.generated.dtype, torch.float32)
        given = (problems.generated, problems.negatives, problems.positives)
        self.parts = tuple(part.detach().to(kind).flatten(0, 1) for part in given)
        self.locations, self.problems, self.group, self.width = problems.generated.shape
        self.num_negatives = self.group + problems.negatives.shape[2]
        self.weights = self._per_row(problems.weights, kind)
        there = self._per_row(problems.present, torch.bool)
        self.rows_there = None if there is None else there[:, 0, : self.group]
        self.absent = None
        if there is not None and self.rows_there is not None:
            self.absent = ~(there & self.rows_there[:, :, None])

    def _per_row(self, values: Tensor | None, kind: torch.dtype) -> Tensor | None:
        return None if values is None else values.detach().to(kind).repeat(self.locations, 1)[:, None, :]

    @property
    def x(self) -> Tensor:
        return self.parts[0]

    def distances(self) -> Tensor:
        """|x_i - y_j| [R, G, J]; samples that lie far from zero are moved there, where the field is the same."""
        found, centre = near_distances(self.x, *self.parts)
        if centre is None:
            return found
        self.parts = tuple(part - centre for part in self.parts)
        return near_distances(self.x, *self.parts)[0]

    def moved(self, coefs: Tensor, piece: slice) -> Tensor:
        """coefs [r, K G, J] times the samples of those rows: [r, K G, D]."""
        sizes = [part.shape[1] for part in self.parts]
        own, *others = coefs.split(sizes, 2)
        total = torch.bmm(own, self.parts[0][piece])
        for one, part in zip(others, self.parts[1:], strict=True):
            total.baddbmm_(one, part[piece])
        return total

    def pooled(self, sums: Tensor, counts: Tensor, field: DriftField) -> Tensor:
        """Sums over counts, both [..., R], over all rows, over a problem's locations or for each row; as [..., R]."""
        if field.scale == "location":
            return sums / counts
        if field.scale == "all":
            return (sums.sum(-1, keepdim=True) / counts.sum(-1, keepdim=True)).expand_as(sums)
        each = [part.unflatten(-1, (self.locations, -1)).sum(-2) for part in (sums, counts)]
        return (each[0] / each[1]).repeat(*([1] * (sums.dim() - 1)), self.locations)

    def mean_distance(self, found: Tensor, field: DriftField) -> Tensor:
        """S [R]: the mean of all distances, those of a sample to itself too; weighted where weights come after."""
        if self.absent is None and (self.weights is None or field.weights == "inside"):
            sums = found.sum((1, 2))
            return self.pooled(sums, torch.full_like(sums, float(found[0].numel())), field)
        counted = torch.ones_like(found)
        if self.weights is not None and field.weights == "after":
            counted.mul_(self.weights)
        if self.absent is not None:
            counted.masked_fill_(self.absent, 0.0)
        return self.pooled((found * counted).sum((1, 2)), counted.sum((1, 2)), field)

    def size(self, field: Tensor) -> Tensor:
        """Sum of squares of V [R, K, G, D] over G and D: [K, R]."""
        if self.rows_there is None:
            return torch.linalg.vector_norm(field, dim=(2, 3)).square_().mT
        squares = torch.linalg.vector_norm(field, dim=3).square_() * self.rows_there[:, None, :]
        return squares.sum(-1).mT

    def counts(self) -> Tensor:
        """Numbers of field values of each row, [R]."""
        if self.rows_there is None:
            return self.x.new_full((len(self.x),), float(self.group * self.width))
        return self.rows_there.sum(1) * self.width


@torch.no_grad()
def drift(problems: Problems, field: DriftField, chunk: int = CHUNK) -> Drift:
    """The field of every problem; intermediates never hold more than ``chunk`` numbers.

    Raises:
        ValueError: a problem has one generated sample and no negatives, or no positive.
    """
    with torch.autocast(problems.generated.device.type, enabled=False):
        found = [_drift(_Rows(part), field, chunk) for part in _near(problems, field)]
    if len(found) == 1:
        return found[0]
    total, scale, loss = (torch.cat([getattr(part, name) for part in found]) for name in ("total", "scale", "loss"))
    return Drift(total, scale, torch.cat([part.force for part in found], 1), loss)


def _near(problems: Problems, field: DriftField) -> list[Problems]:
    """The problems at few locations at a time on a processor, where no scale is pooled over them.

    Each sample is read three times (norm, distance, field), which is faster while it lies in the cache.
    """
    parts = (problems.generated, problems.positives, problems.negatives)
    locations = len(problems.generated)
    step = max(1, CACHED * locations // max(1, sum(part.numel() for part in parts)))
    if field.scale != "location" or problems.generated.device.type != "cpu" or step >= locations:
        return [problems]
    pieces = zip(*(part.split(step) for part in parts), strict=True)
    return [Problems(x, y, away, problems.weights, problems.present) for x, y, away in pieces]


def _scaled(rows: _Rows, field: DriftField) -> tuple[Tensor, Tensor]:
    """d / S [R, G, J], far or infinite where a pair takes no part, and s [R]."""
    floors = bool(field.floor)
    found = rows.distances()
    if floors:
        found.clamp_(min=LEAST_DISTANCE)
    mean = rows.mean_distance(found, field)
    scale = mean / math.sqrt(rows.width)
    scale, mean = (part.clamp(min=LEAST_SCALE) for part in (scale, mean)) if floors else (scale, mean)
    found.div_(mean[:, None, None])
    own = found.diagonal(dim1=1, dim2=2)
    own.add_(FAR) if floors else own.fill_(torch.inf)
    if rows.absent is not None:
        found.masked_fill_(rows.absent, torch.inf)
    return found, scale


@torch.no_grad()
def scaled_distances(problems: Problems, field: DriftField) -> Tensor:
    """d / S of all problems as the field's kernel takes them, [R, G, J] with R = L P; infinite: no pair."""
    with torch.autocast(problems.generated.device.type, enabled=False):
        found, _ = _scaled(_Rows(problems), field.model_copy(update={"floor": 0.0}))
    return found


def _drift(rows: _Rows, field: DriftField, chunk: int) -> Drift:
    floors = bool(field.floor)
    found, scale = _scaled(rows, field)

    def part(piece: slice) -> Tensor:
        """s V_tau of some rows, [r, K, G, D]."""
        weights = None if rows.weights is None else rows.weights[piece]
        coefs = coefficients(affinities(found[piece], field, weights), rows.num_negatives, field)
        return rows.moved(coefs.flatten(1, 2), piece).unflatten(1, (-1, rows.group))

    step = max(1, chunk // (len(field.temperatures) * rows.group * max(rows.width, found.shape[2])))
    pieces = [slice(start, start + step) for start in range(0, len(found), step)]
    kept = [part(pieces[0])] if len(pieces) == 1 else []
    sizes = torch.cat([rows.size(values) for values in (kept or map(part, pieces))], dim=1)
    counts = rows.counts()
    power = rows.pooled(sizes / scale.square(), counts.expand_as(sizes), field)  # mean squared field, [K, R]
    force = power.clamp(min=LEAST_FORCE if floors else LEAST_COLUMN**2).sqrt()
    shares = (force * scale).reciprocal().mT.contiguous()[:, None]  # if not contiguous, the product goes row by row
    added = [
        torch.bmm(shares[piece], values.flatten(2))
        for piece, values in zip(pieces, kept or map(part, pieces), strict=True)
    ]
    total = (added[0] if kept else torch.cat(added)).view(len(rows.x), rows.group, rows.width)
    if rows.rows_there is not None:
        total *= rows.rows_there[:, :, None]
    loss = torch.linalg.vector_norm(total, dim=(1, 2)).square_() / counts
    shape = (rows.locations, rows.problems)
    return Drift(total.unflatten(0, shape), scale.view(shape), power.sqrt().unflatten(1, shape), loss.view(shape))


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
            count = problems.present[:, :group].sum(1)[None, :, None, None]
        pull = -2.0 / generated.shape[3] / (found.scale[:, :, None, None] * count)
        ctx.save_for_backward(found.total.mul_(pull))
        ctx.kind = generated.dtype
        ctx.mark_non_differentiable(found.force, found.scale)
        return found.loss, found.force, found.scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (direction,) = ctx.saved_tensors
        return (gradients[0][:, :, None, None] * direction).to(ctx.kind), None, None, None


def drift_pull(problems: Problems, field: DriftField, chunk: int = CHUNK) -> Pull:
    """The loss of the generated samples; the gradient reaches them only, and pulls each along its V.

    Raises:
        ValueError: as :func:`drift`.
    """
    return Pull(*_Loss.apply(problems.generated, problems, field, chunk))  # type: ignore[misc]
