"""Whether drifting makes progress: numbers of a field's kernel and of the samples, which the loss does not show.

Also the draws of guidance that the authors' release makes (seed C; SEED_NOTES C.6).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.flow.drift import Problems
from pipelines.flow.drift_kernel import affinities, distances
from pipelines.flow.params import DriftField


def effective_neighbours(kernel: Tensor) -> Tensor:
    """exp(entropy) of rows of weights [..., J], renormalised to sum 1: 1 (one counts) to J; 0 for a row of zeros."""
    total = kernel.sum(-1, keepdim=True)
    share = kernel / total.clamp(min=torch.finfo(kernel.dtype).tiny)
    return torch.special.entr(share).sum(-1).exp() * (total[..., 0] > 0)


@torch.no_grad()
def kernel_numbers(
    scaled: Tensor, num_negatives: int, field: DriftField, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Of every sample and temperature, [R, K, G], from distances d / S [R, G, J], negatives first; infinite: no pair.

    ``effective_positives``, ``effective_negatives``: of the row softmax of one side, from 1 to its number (0: it is
    empty); ``mass_positive``, ``mass_negative`` and ``mass_ratio``: row sums of A; ``floor_share``: pairs held up by
    the floor, where there is one.
    """
    kernel = affinities(scaled, field, weights)
    rates = torch.tensor([-1.0 / tau for tau in field.temperatures], dtype=scaled.dtype, device=scaled.device)
    logits = scaled[:, None] * rates[:, None, None]
    positive, negative = kernel[..., num_negatives:].sum(-1), kernel[..., :num_negatives].sum(-1)
    found = {
        "effective_positives": _effective(logits[..., num_negatives:]),
        "effective_negatives": _effective(logits[..., :num_negatives]),
        "mass_positive": positive,
        "mass_negative": negative,
        "mass_ratio": positive / negative,
    }
    if field.normalisation == "both" and field.floor:
        product = torch.softmax(logits, -1) * torch.softmax(logits, -2)
        there = scaled[:, None].isfinite()
        found["floor_share"] = ((product < field.floor) & there).sum(-1) / there.sum(-1)
    return found


def _effective(logits: Tensor) -> Tensor:
    """:func:`effective_neighbours` of the softmax of logits [..., J]: of one side alone, so it cannot vanish."""
    return effective_neighbours(torch.softmax(logits, -1).nan_to_num_(nan=0.0))


@torch.no_grad()
def kernel_statistics(problems: Problems, field: DriftField) -> dict[str, float]:
    """Means of :func:`kernel_numbers` over all generated samples, per temperature: ``tau_0.05/<name>``.

    ``mass_ratio`` is the ratio of the mean masses, absent where the negatives have none.
    """
    parts = (problems.generated, problems.negatives, problems.positives)
    y = torch.cat([part.detach().float() for part in parts], dim=2).flatten(0, 1)
    group, negatives = parts[0].shape[2], parts[0].shape[2] + parts[1].shape[2]
    found = distances(y[:, :group], y)
    mean = found.mean((1, 2), keepdim=True)
    found = found / (mean.mean() if field.scale == "all" else mean).clamp(min=1e-12)
    weights = None if problems.weights is None else problems.weights.float().repeat(parts[0].shape[0], 1)[:, None]
    found[:, range(group), range(group)] = torch.inf
    each = kernel_numbers(found, negatives, field, weights)
    each.pop("mass_ratio")
    numbers = {}
    for number, tau in enumerate(field.temperatures):
        values = {name: float(value[:, number].mean()) for name, value in each.items()}
        if values["mass_negative"] > 0:
            values["mass_ratio"] = values["mass_positive"] / values["mass_negative"]
        numbers |= {f"tau_{tau:g}/{name}": value for name, value in values.items()}
    return numbers


@torch.no_grad()
def sample_statistics(problems: Problems) -> dict[str, float]:
    """How near the generated samples are to the positives, and how various.

    ``centroid_error``: distance between the means of both sides over the positives' root mean square distance from
    their mean (absent with one positive); ``spread``: mean distance between generated samples of a problem;
    ``spread_share``: that over the positives' own.
    """
    generated, positives = problems.generated.detach().float(), problems.positives.detach().float()
    numbers = {}
    apart = (generated.mean(2) - positives.mean(2)).norm(dim=-1)
    own_size = (positives - positives.mean(2, keepdim=True)).square().sum(-1).mean(2).sqrt()
    if positives.shape[2] > 1 and bool((own_size > 0).any()):
        numbers["centroid_error"] = float(apart.sum() / own_size.sum())
    if generated.shape[2] > 1:
        numbers["spread"] = float(_mean_pair_distance(generated))
        data = float(_mean_pair_distance(positives)) if positives.shape[2] > 1 else 0.0
        if data > 0:
            numbers["spread_share"] = numbers["spread"] / data
    return numbers


def _mean_pair_distance(samples: Tensor) -> Tensor:
    """Mean distance between two different samples of a problem; samples [L, P, N, D]."""
    rows = samples.flatten(0, 1)
    count = rows.shape[1]
    return distances(rows, rows).sum((1, 2)).mean() / (count * (count - 1))


# ---- guidance -----------------------------------------------------------------------------------------------------


def drawn_strength(unit: Tensor, power: float, most: float = 4.0) -> Tensor:
    """Guidance strength alpha in [1, most] with density proportional to alpha^-power, from uniform numbers."""
    if power == 1.0:
        return most**unit
    rest = 1.0 - power
    return (1.0 + unit * (most**rest - 1.0)) ** (1.0 / rest)


def unconditional_weight(alpha: Tensor, group: int, num_unconditional: int) -> Tensor:
    """Weight of each unconditional negative beside G generated ones: (alpha - 1)(G - 1) / max(1, N).

    With it the negatives are (the class's samples + (alpha - 1) unconditional data) / alpha, as guidance asks.
    """
    return (alpha - 1.0) * (group - 1) / max(1, num_unconditional)
