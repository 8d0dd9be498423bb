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

from pipelines.flow.params import DriftField

CHUNK = 2**26
"""Numbers of one intermediate [rows, K G, D] held at once: 256 MiB in float32."""
LEAST_DISTANCE, LEAST_SCALE, LEAST_FORCE = 1e-4, 1e-3, 1e-8
"""Floors of the authors' release under distances, scales and mean squared fields."""
LEAST_COLUMN = 1e-12
"""Floor under the softmax over x of the field without a floor of its own."""
FAR = 100.0
"""Added to the scaled distance of a sample from itself."""
SINKHORN_ITERATIONS = 20


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
        scale: s = S / sqrt(D) of each problem, [P] (equal for all where it is pooled).
        force: rms(V_tau) before it is divided out, [K, P]: what shrinks when samples come near the data.
        loss: [L, P].
    """

    total: Tensor
    scale: Tensor
    force: Tensor
    loss: Tensor


# ---- the kernel ---------------------------------------------------------------------------------------------------


def distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j| [R, G, J] of x [R, G, D] and y [R, J, D], whose first G rows are x: those pairs are exactly 0.

    By norms and one product, after the common mean is taken away: differences of large numbers lose digits.
    """
    centre = y.mean(1, keepdim=True)
    x, y = x - centre, y - centre
    squares = torch.baddbmm(y.square().sum(-1)[:, None, :], x, y.mT, alpha=-2.0) + x.square().sum(-1)[:, :, None]
    found = squares.clamp_(min=0.0).sqrt_()
    own = torch.arange(x.shape[1], device=x.device)
    found[:, own, own] = 0.0
    return found


def affinities(scaled: Tensor, tau: float, field: DriftField, weights: Tensor | None, absent: Tensor) -> Tensor:
    """A [R, G, J] of distances d / S [R, G, J]; weights [R, 1, J]; ``absent`` (bool) takes no part."""
    logits = scaled * (-1.0 / tau)
    if weights is not None and field.weights == "inside":
        logits = logits + weights.log()
        absent = absent | (weights <= 0)
    logits = logits.masked_fill(absent, -torch.inf)
    match field.normalisation:
        case "none":
            kernel = logits.exp()
        case "rows":
            kernel = _softmax(logits, 2)
        case "sinkhorn":
            kernel = _balanced(logits)
        case "both":
            rows, columns = _softmax(logits, 2), _softmax(logits, 1)
            if field.floor:
                kernel = rows.mul_(columns).clamp_(min=field.floor).sqrt_()
            else:
                kernel = rows.mul_(columns.clamp_(min=LEAST_COLUMN)).sqrt_()
    kernel = kernel.masked_fill_(absent, 0.0)
    return kernel * weights if weights is not None and field.weights == "after" else kernel


def _softmax(logits: Tensor, dim: int) -> Tensor:
    """Softmax in place of a copy; a line that is absent altogether is 0."""
    most = logits.amax(dim, keepdim=True).clamp_(min=torch.finfo(logits.dtype).min)
    found = (logits - most).exp_()
    return found.div_(found.sum(dim, keepdim=True).clamp_(min=torch.finfo(logits.dtype).tiny))


def _balanced(logits: Tensor) -> Tensor:
    """Sinkhorn's normalisation: every row sums to 1 and every column to G / J (arXiv:2603.12366)."""
    share = math.log(logits.shape[1] / logits.shape[2])
    least = torch.finfo(logits.dtype).min
    for _ in range(SINKHORN_ITERATIONS):
        logits = logits - torch.logsumexp(logits, 1, keepdim=True).clamp(min=least) + share
        logits = logits - torch.logsumexp(logits, 2, keepdim=True).clamp(min=least)
    return logits.exp()


def _corrected(kernel: Tensor) -> Tensor:
    """Weights p of a self-normalised mean become p + p^2 - p sum p^2: its bias of order 1 / n is taken away.

    The delta method's leading term, from the batch itself (arXiv:2604.27239 corrects the same bias).
    """
    total = kernel.sum(2, keepdim=True).clamp(min=torch.finfo(kernel.dtype).tiny)
    share = kernel / total
    return total * (share + share.square() - share * share.square().sum(2, keepdim=True))


def coefficients(kernel: Tensor, num_negatives: int, field: DriftField) -> Tensor:
    """coef [R, G, J] of A: what each y_j adds to the field at x_i. Every row sums to zero."""
    negative, positive = kernel[:, :, :num_negatives], kernel[:, :, num_negatives:]
    towards, away = positive.sum(2, keepdim=True), negative.sum(2, keepdim=True)
    if field.correction == "ratio":
        negative, positive = _corrected(negative), _corrected(positive)
    return torch.cat([-negative * towards, positive * away], dim=2)


# ---- the field ----------------------------------------------------------------------------------------------------


class _Rows:
    """Problems and locations as R = L P rows of one batched product."""

    def __init__(self, problems: Problems) -> None:
        parts = (problems.generated, problems.negatives, problems.positives)
        kind = torch.promote_types(problems.generated.dtype, torch.float32)
        self.locations, self.problems, self.group, self.width = problems.generated.shape
        self.y = torch.cat([part.detach().to(kind) for part in parts], dim=2).flatten(0, 1)
        self.num_negatives = self.group + problems.negatives.shape[2]
        self.weights = self._per_row(problems.weights, kind)
        there = self._per_row(problems.present, torch.bool)
        self.rows_there = None if there is None else there[:, 0, : self.group]
        self.absent = torch.zeros(1, 1, 1, dtype=torch.bool, device=self.y.device)
        if there is not None and self.rows_there is not None:
            self.absent = ~(there & self.rows_there[:, :, None])

    def _per_row(self, values: Tensor | None, kind: torch.dtype) -> Tensor | None:
        return None if values is None else values.detach().to(kind).repeat(self.locations, 1)[:, None, :]

    @property
    def x(self) -> Tensor:
        return self.y[:, : self.group]

    def pooled(self, sums: Tensor, counts: Tensor, field: DriftField) -> Tensor:
        """Sums over counts, both [..., R], over all rows or over a problem's locations; as [..., R]."""
        if field.scale == "all":
            return (sums.sum(-1, keepdim=True) / counts.sum(-1, keepdim=True)).expand_as(sums)
        each = [part.unflatten(-1, (self.locations, -1)).sum(-2) for part in (sums, counts)]
        return (each[0] / each[1]).repeat(*([1] * (sums.dim() - 1)), self.locations)

    def mean_distance(self, found: Tensor, field: DriftField) -> Tensor:
        """S [R]: the mean of all distances, those of a sample to itself too; weighted where weights come after."""
        counted = torch.ones_like(found)
        if self.weights is not None and field.weights == "after":
            counted = counted * self.weights
        counted = counted.masked_fill(self.absent, 0.0)
        return self.pooled((found * counted).sum((1, 2)), counted.sum((1, 2)), field)

    def size(self, field: Tensor) -> Tensor:
        """Sum of squares of V [R, K, G, D] over G and D: [K, R]."""
        squares = field.square().sum(-1)
        if self.rows_there is not None:
            squares = squares * self.rows_there[:, None, :]
        return squares.sum(-1).mT

    def counts(self) -> Tensor:
        """Numbers of field values of each row, [R]."""
        if self.rows_there is None:
            return torch.full((len(self.y),), float(self.group * self.width), dtype=self.y.dtype, device=self.y.device)
        return self.rows_there.sum(1) * self.width


@torch.no_grad()
def drift(problems: Problems, field: DriftField, chunk: int = CHUNK) -> Drift:
    """The field of every problem; intermediates never hold more than ``chunk`` numbers.

    Raises:
        ValueError: a problem has one generated sample and no negatives, or no positive.
    """
    with torch.autocast(problems.generated.device.type, enabled=False):
        return _drift(_Rows(problems), field, chunk)


def _drift(rows: _Rows, field: DriftField, chunk: int) -> Drift:
    floors = bool(field.floor)
    found = distances(rows.x, rows.y)
    if floors:
        found.clamp_(min=LEAST_DISTANCE)
    mean = rows.mean_distance(found, field)
    scale = mean / math.sqrt(rows.width)
    scale, mean = (part.clamp(min=LEAST_SCALE) for part in (scale, mean)) if floors else (scale, mean)
    found.div_(mean[:, None, None])
    own = torch.arange(rows.group, device=found.device)
    absent = rows.absent.expand_as(found)
    if floors:
        found[:, own, own] += FAR
    else:
        absent = absent.clone()
        absent[:, own, own] = True
    taus = field.temperatures

    def part(piece: slice) -> Tensor:
        """V_tau of some rows, [r, K, G, D]."""
        weights = None if rows.weights is None else rows.weights[piece]
        kernels = [affinities(found[piece], tau, field, weights, absent[piece]) for tau in taus]
        coefs = torch.stack([coefficients(kernel, rows.num_negatives, field) for kernel in kernels], dim=1)
        y = (rows.y[piece] - rows.y[piece].mean(1, keepdim=True)) / scale[piece, None, None]
        return torch.bmm(coefs.flatten(1, 2), y).unflatten(1, (len(taus), rows.group))

    step = max(1, chunk // (len(taus) * rows.group * max(rows.width, found.shape[2])))
    pieces = [slice(start, start + step) for start in range(0, len(found), step)]
    kept = [part(pieces[0])] if len(pieces) == 1 else []
    sizes = torch.cat([rows.size(values) for values in (kept or map(part, pieces))], dim=1)
    counts = rows.counts()
    power = rows.pooled(sizes, counts.expand_as(sizes), field)  # mean squared field, [K, R]
    force = power.clamp(min=LEAST_FORCE if floors else LEAST_COLUMN**2).sqrt()
    total = torch.empty_like(rows.x)
    for number, piece in enumerate(pieces):
        values = kept[number] if kept else part(piece)
        total[piece] = torch.einsum("rkgd,kr->rgd", values, force[:, piece].reciprocal())
    if rows.rows_there is not None:
        total *= rows.rows_there[:, :, None]
    loss = total.square().sum((1, 2)) / counts
    shape = (rows.locations, rows.problems)
    return Drift(total.unflatten(0, shape), scale.unflatten(0, shape)[0], power.sqrt()[:, : shape[1]], loss.view(shape))


class _Loss(torch.autograd.Function):
    """The loss [L, P] and its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, generated: Tensor, problems: Problems, field: DriftField, chunk: int) -> Tensor:
        found = drift(problems, field, chunk)
        group = generated.shape[2]
        if problems.present is None:
            count: Tensor | int = group
        else:
            count = problems.present[:, :group].sum(1)[None, :, None, None]
        ctx.save_for_backward(
            found.total.mul_(-2.0 / generated.shape[3]).div_(found.scale[None, :, None, None] * count)
        )
        ctx.kind = generated.dtype
        return found.loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (direction,) = ctx.saved_tensors
        return (gradients[0][:, :, None, None] * direction).to(ctx.kind), None, None, None


def drift_loss(problems: Problems, field: DriftField, chunk: int = CHUNK) -> Tensor:
    """Loss [L, P] of the generated samples; the gradient reaches them only, and pulls each along its V.

    Raises:
        ValueError: as :func:`drift`.
    """
    found = _Loss.apply(problems.generated, problems, field, chunk)
    assert isinstance(found, Tensor)
    return found
