"""The kernel of the drifting field: distances, affinities at every temperature, and what each sample adds to the field.

Rows R are problems at locations, G generated samples x_i, J samples y_j = [generated | negatives | positives].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipelines.flow.params import DriftField

LEAST_COLUMN = 1e-12
"""Floor under the softmax over x of the field without a floor of its own."""
FAR = 100.0
"""Added to the scaled distance of a sample from itself in the authors' release; also when a mean counts as far."""
SINKHORN_ITERATIONS = 20


def distances(x: Tensor, *others: Tensor) -> Tensor:
    """|x_i - y_j| [R, G, J] of x [R, G, D] and the rows of ``others`` [R, J_1, D], …, of which the first G are x again.

    By norms and one product, so that every feature is read twice and never copied; a sample's distance to itself is 0.
    """
    apart, centre = near_distances(x, *others)
    return apart if centre is None else near_distances(x - centre, *(other - centre for other in others))[0]


def near_distances(x: Tensor, *others: Tensor) -> tuple[Tensor, Tensor | None]:
    """Distances as :func:`distances`, and the mean [R, 1, D] of x where it is far from zero.

    Then norms and products have lost digits: they are to be taken again of what is left without the mean.
    """
    squares = [torch.linalg.vector_norm(other, dim=-1).square_() for other in others]
    products = [torch.bmm(x, other.mT) for other in others]
    apart, group = torch.cat(products, 2) if len(products) > 1 else products[0], x.shape[1]
    away, whole = apart[:, :, :group].sum() / group, squares[0][:, :group].sum()
    centre = x.mean(1, keepdim=True) if bool(away > FAR * (whole - away)) else None
    apart.mul_(-2.0).add_(torch.cat(squares, 1)[:, None]).add_(squares[0][:, :group, None])
    apart.clamp_(min=0.0).sqrt_().diagonal(dim1=1, dim2=2).zero_()
    return apart, centre


def affinities(scaled: Tensor, field: DriftField, weights: Tensor | None) -> Tensor:
    """A [R, K, G, J], a kernel per temperature, of distances d / S [R, G, J]: infinite where a pair takes no part.

    ``weights``: [R, 1, J].
    """
    rates = torch.tensor([-1.0 / tau for tau in field.temperatures], dtype=scaled.dtype, device=scaled.device)
    after = None if weights is None else weights[:, None]
    inside = None
    if field.weights == "inside":
        inside, after = after, None
    if field.normalisation == "both" and not field.floor:
        kernel = _both(scaled, rates, inside)
        return kernel if after is None else kernel.mul_(after)
    logits = scaled[:, None] * rates[:, None, None]
    if inside is not None:
        logits.add_(inside.log())
    match field.normalisation:
        case "none":
            kernel = logits.exp_()
        case "rows":
            kernel = _softmax(logits, 3)
        case "sinkhorn":
            kernel = _balanced(logits)
        case "both":
            kernel = torch.softmax(logits, 3).mul_(torch.softmax(logits, 2)).nan_to_num_(nan=0.0)
            kernel.clamp_(min=field.floor).sqrt_().masked_fill_(scaled[:, None].isinf(), 0.0)
    return kernel if after is None else kernel.mul_(after)


def _both(scaled: Tensor, rates: Tensor, weights: Tensor | None) -> Tensor:
    """sqrt(softmax over j x softmax over i) [R, K, G, J], the latter not below its floor.

    One exponential E serves both softmaxes: taken from the nearest j of each x, and for the other softmax once more
    from the nearest of all x. Where that leaves nothing of a whole column, E itself is nothing.
    """
    limits = torch.finfo(scaled.dtype)
    nearest = scaled.amin(2, keepdim=True).clamp_(max=limits.max)
    kernel = ((scaled - nearest)[:, None] * rates[:, None, None]).exp_()
    if weights is not None:
        kernel.mul_(weights)
    rows = kernel.sum(3, keepdim=True).clamp_(min=limits.tiny).rsqrt_()
    behind = ((nearest - nearest.amin(1, keepdim=True))[:, None] * rates[:, None, None]).exp_()
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


def coefficients(kernel: Tensor, num_negatives: int, field: DriftField) -> Tensor:
    """coef [..., J] of A [..., J], which is written over: what each y_j adds to the field at x_i; rows sum to zero."""
    negative, positive = kernel[..., :num_negatives], kernel[..., num_negatives:]
    towards, away = positive.sum(-1, keepdim=True), negative.sum(-1, keepdim=True)
    if field.correction == "ratio":
        kernel = torch.cat([_corrected(negative), _corrected(positive)], -1)
    kernel[..., :num_negatives].mul_(-towards)
    kernel[..., num_negatives:].mul_(away)
    return kernel
