"""The kernel of the drifting field: distances, affinities at every temperature, and what each sample adds to the field.

Rows R are problems at locations, G generated samples x_i, J samples y_j = [generated | negatives | positives].
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from pipelines.flow.params import DriftField

LEAST_COLUMN = 1e-12
"""Floor under the softmax over x of the field without a floor of its own."""
FAR = 100.0
"""Added to the scaled distance of a sample from itself in the authors' release; also when a mean counts as far."""
REACH = 80.0
"""Logarithm of what an exponential may fall by and still be a normal number of float32, with some room."""
SINKHORN_ITERATIONS = 20


def distances(x: Tensor, *others: Tensor) -> Tensor:
    """|x_i - y_j| [R, G, J] of x [R, G, D] and the rows of ``others`` [R, J_1, D], …, of which the first G are x again.

    By norms and one product, so that every feature is read twice and never copied; a sample's distance to itself is 0.
    """
    gram, group = torch.bmm(x, x.mT), x.shape[1]
    if is_far(gram):
        centre = x.mean(1, keepdim=True)
        x, others = x - centre, tuple(part - centre for part in others)
        gram = torch.bmm(x, x.mT)
    return distances_near(x, gram, others[0][:, group:], *others[1:])


def is_far(gram: Tensor) -> bool:
    """Whether x, whose products among themselves are ``gram`` [R, G, G], lie so far from zero that digits are lost.

    Distances are then to be taken of what is left without their mean.
    """
    away, whole = gram.sum() / gram.shape[1], gram.diagonal(dim1=1, dim2=2).sum()
    return bool(away > FAR * (whole - away))


def distances_near(x: Tensor, gram: Tensor, *others: Tensor) -> Tensor:
    """|x_i - y_j| [R, G, G + J_1 + …] of x near zero, of products ``gram``, to itself and to ``others``."""
    own = gram.diagonal(dim1=1, dim2=2)
    products = [torch.add(own[:, None], gram, alpha=-2.0)]
    for part in others:
        squares = torch.linalg.vector_norm(part, dim=-1).square_()
        products.append(torch.baddbmm(squares[:, None], x, part.mT, alpha=-2.0))
    apart = torch.cat(products, 2).add_(own[:, :, None]).clamp_(min=0.0).sqrt_()
    apart.diagonal(dim1=1, dim2=2).zero_()
    return apart


@lru_cache(maxsize=64)
def _rates(temperatures: tuple[float, ...], kind: torch.dtype, device: torch.device) -> Tensor:
    """1 / tau, [K, 1, 1]."""
    return torch.tensor([1.0 / tau for tau in temperatures], dtype=kind, device=device)[:, None, None]


def affinities(scaled: Tensor, field: DriftField, weights: Tensor | None) -> Tensor:
    """A [R, K, G, J], a kernel per temperature, of distances d / S [R, G, J]: infinite where a pair takes no part.

    ``weights``: [R, 1, J].
    """
    kernel, sums = affinities_by_rows(scaled, field, weights)
    return kernel if sums is None else kernel.mul_(sums.rsqrt())


def affinities_by_rows(
    scaled: Tensor, field: DriftField, weights: Tensor | None, farthest: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """:func:`affinities` A = B / sqrt(sums) as B [R, K, G, J] and ``sums`` [R, K, G, 1]; None where A = B.

    It saves a pass over all: :func:`coefficients` takes both. ``farthest``: the largest finite distance of each problem
    [R], where it is known.
    """
    rates = _rates(field.temperatures, scaled.dtype, scaled.device)
    after = None if weights is None else weights[:, None]
    inside = None
    if field.weights == "inside":
        inside, after = after, None
    if field.normalisation == "both":
        if inside is None:
            return _at_once(scaled, rates, field, after, farthest)
        return _one_by_one(scaled, rates, field.floor, inside), None
    logits = scaled[:, None] * -rates
    if inside is not None:
        logits.add_(inside.log())
    match field.normalisation:
        case "none":
            kernel = logits.exp_()
        case "rows":
            kernel = _softmax(logits, 3)
        case "sinkhorn":
            kernel = _balanced(logits)
    return kernel if after is None else kernel.mul_(after), None


def _at_once(
    scaled: Tensor, rates: Tensor, field: DriftField, after: Tensor | None, farthest: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """sqrt(softmax over j x softmax over i) by one exponential E: B = E / sqrt(its columns' sums), and its rows' sums.

    E is taken from the nearest pair of a problem. Problems where that does not do are computed :func:`_one_by_one`.
    """
    nearest, other = _nearest(scaled, field, farthest)
    number = int(other.count_nonzero())
    if 2 * number > len(scaled):
        kernel = _one_by_one(scaled, rates, field.floor, None)
        return kernel if after is None else kernel.mul_(after), None
    kernel = ((nearest[:, None, None] - scaled)[:, None] * rates).exp_()
    tiny = torch.finfo(kernel.dtype).tiny
    rows, columns = (kernel.sum(axis, keepdim=True).clamp_(min=tiny) for axis in (3, 2))
    kernel.mul_(columns.rsqrt_())
    if field.floor:
        kernel.mul_(rows.rsqrt_()).clamp_(min=math.sqrt(field.floor))
        if bool(scaled.amax().isinf()):
            kernel.masked_fill_(scaled[:, None].isinf(), 0.0)
    if number:
        kernel[other], rows[other] = _one_by_one(scaled[other], rates, field.floor, None), 1.0
    if after is not None:
        kernel.mul_(after)
    return kernel, None if field.floor else rows


def _nearest(scaled: Tensor, field: DriftField, farthest: Tensor | None) -> tuple[Tensor, Tensor]:
    """The least distance of a problem [R], and where one exponential from there may not serve both softmaxes [R].

    That is where one that counts could vanish or, without a floor under the product, a column softmax be below its own.
    """
    coldest, limits = min(field.temperatures), torch.finfo(scaled.dtype)
    if field.floor:  # what vanishes is below the floor, but of a row that as a whole lies too far
        rows = scaled.amin(2)
        nearest = rows.amin(1).clamp_(max=limits.max)
        behind = rows.nan_to_num_(posinf=-torch.inf).amax(1) - nearest
        return nearest, behind > coldest * (REACH + math.log(field.floor))
    if farthest is None:
        farthest = scaled.nan_to_num(posinf=-torch.inf).amax((1, 2))
    nearest = scaled.amin((1, 2)).clamp_(max=limits.max)
    wide, most = farthest - nearest, coldest * math.log(1.0 / (LEAST_COLUMN * scaled.shape[1]))
    other = wide > min(most, coldest * REACH)
    some = other.nonzero()[:, 0]
    if len(some):  # a column may be narrow where the problem is wide
        these = scaled[some]
        columns = (these.nan_to_num(posinf=-torch.inf).amax(1) - these.amin(1)).amax(1)
        other[some] = (columns > most).logical_or_(wide[some] > coldest * REACH)
    return nearest, other


def _one_by_one(scaled: Tensor, rates: Tensor, floor: float, weights: Tensor | None) -> Tensor:
    """sqrt(softmax over j x softmax over i) wherever samples lie."""
    return _floored(scaled, rates, floor, weights) if floor else _both(scaled, rates, weights)


def _floored(scaled: Tensor, rates: Tensor, floor: float, weights: Tensor | None) -> Tensor:
    """sqrt of softmax over j x softmax over i, the product not below ``floor``; nothing where a pair takes no part."""
    logits = scaled[:, None] * -rates
    if weights is not None:
        logits.add_(weights.log())
    kernel = torch.softmax(logits, 3).mul_(torch.softmax(logits, 2)).nan_to_num_(nan=0.0)
    return kernel.clamp_(min=floor).sqrt_().masked_fill_(scaled[:, None].isinf(), 0.0)


def _both(scaled: Tensor, rates: Tensor, weights: Tensor | None) -> Tensor:
    """sqrt(softmax over j x softmax over i) [R, K, G, J], the latter not below its floor.

    One exponential E serves both softmaxes: taken from the nearest j of each x, and for the other softmax once more
    from the nearest of all x. Where that leaves nothing of a whole column, E itself is nothing.
    """
    limits = torch.finfo(scaled.dtype)
    nearest = scaled.amin(2, keepdim=True).clamp_(max=limits.max)
    kernel = ((nearest - scaled)[:, None] * rates).exp_()
    if weights is not None:
        kernel.mul_(weights)
    rows = kernel.sum(3, keepdim=True).clamp_(min=limits.tiny).rsqrt_()
    behind = ((nearest.amin(1, keepdim=True) - nearest)[:, None] * rates).exp_()
    columns = kernel * behind
    columns.mul_(columns.sum(2, keepdim=True).clamp_(min=limits.tiny).reciprocal_()).clamp_(min=LEAST_COLUMN)
    return kernel.mul_(columns).sqrt_().mul_(rows)


def _softmax(logits: Tensor, dim: int) -> Tensor:
    """Softmax; a line where nothing takes part is 0."""
    return torch.softmax(logits, dim).nan_to_num_(nan=0.0)


def _balanced(logits: Tensor) -> Tensor:
    """Sinkhorn's normalisation: every row sums to 1 and every column to G / J (arXiv:2603.12366)."""
    share = math.log(logits.shape[2] / logits.shape[3])
    least = torch.finfo(logits.dtype).min
    for _ in range(SINKHORN_ITERATIONS):
        logits = logits - torch.logsumexp(logits, 2, keepdim=True).clamp(min=least) + share
        logits = logits - torch.logsumexp(logits, 3, keepdim=True).clamp(min=least)
    return logits.exp()


def _corrected(kernel: Tensor) -> Tensor:
    """Weights p of a self-normalised mean become p + p^2 - p sum p^2: its bias of order 1 / n is taken away.

    The delta method's leading term, from the batch itself (arXiv:2604.27239 corrects the same bias).
    """
    total = kernel.sum(-1, keepdim=True).clamp(min=torch.finfo(kernel.dtype).tiny)
    share = kernel / total
    return total * (share + share.square() - share * share.square().sum(-1, keepdim=True))


def coefficients(kernel: Tensor, num_negatives: int, field: DriftField, sums: Tensor | None = None) -> Tensor:
    """coef [..., J] of A [..., J], which is written over: what each y_j adds to the field at x_i; rows sum to zero.

    ``sums``: A is ``kernel`` over their roots (:func:`affinities_by_rows`).
    """
    negative, positive = kernel[..., :num_negatives], kernel[..., num_negatives:]
    towards, away = positive.sum(-1, keepdim=True).neg_(), negative.sum(-1, keepdim=True)
    if sums is not None:
        towards.div_(sums)
        away.div_(sums)
    if field.correction == "ratio":
        kernel = torch.cat([_corrected(negative), _corrected(positive)], -1)
        negative, positive = kernel[..., :num_negatives], kernel[..., num_negatives:]
    negative.mul_(towards)
    positive.mul_(away)
    return kernel
