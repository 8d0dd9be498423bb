"""A temperature that is learned beside a refiner: the one at which the field's kernel tells its two sides apart best.

The loss of the drift gives a temperature no gradient: V is cut off, and divided by its own size. But in the product
form a sample's coefficients are

    V_i = P_i N_i (mean of positives - mean of negatives),    P, N the kernel's masses of the two sides,

and p_i = P_i / (P_i + N_i) is what a kernel classifier says of x_i: the chance that it is real. A temperature is as
good as that classifier, so it minimises the classifier's log loss on the generated samples, each without itself,

    loss = -mean log (1 - p_i),    d loss / d log tau = mean p_i (E_positives[d / (S tau)] - E_negatives[d / (S tau)]),

with masses per sample of their side. At an infinite temperature it is log 2; towards zero the nearest neighbour alone
decides, and one that is wrong costs without bound. Kernels of two-sample tests are chosen alike (arXiv:2002.09116).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.flow.drift import Problems, scaled_distances
from pipelines.flow.params import DriftField


def temperature_loss(problems: Problems, field: DriftField, log_temperature: Tensor) -> Tensor:
    """The log loss [L, P] of the kernel at exp(``log_temperature``); its gradient reaches the temperature only.

    A sample that has no neighbour on one of its sides is left out; a problem of such samples has loss 0.
    """
    apart = scaled_distances(problems, field)
    locations, _, group = problems.generated.shape[:3]
    negatives = group + problems.negatives.shape[2]
    out = apart.isinf()
    logits = -apart.masked_fill(out, 0.0) * torch.exp(-log_temperature.to(apart))
    share = torch.zeros_like(apart).masked_fill_(out, -torch.inf)  # log weights, of which masses are means
    if problems.weights is not None:
        share += problems.weights.detach().to(apart).log().repeat(locations, 1)[:, None]
    sides = slice(0, negatives), slice(negatives, None)
    counted = torch.stack([share[..., side].isfinite().any(-1) for side in sides]).all(0)
    share = share.masked_fill(~counted[..., None], 0.0)
    away, towards = (
        torch.logsumexp(logits[..., side] + share[..., side], -1) - torch.logsumexp(share[..., side], -1)
        for side in sides
    )
    each = functional.softplus(towards - away) * counted
    return (each.sum(1) / counted.sum(1).clamp(min=1)).unflatten(0, (locations, -1))
