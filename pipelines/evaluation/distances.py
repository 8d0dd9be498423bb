"""Distances between sets of clips in a feature space that do not flatter: unbiased, with weights for resampling.

The Fréchet distance of N samples in D directions has a floor that grows with D and falls with N: at 96 clips and 32
directions two samples of one Gaussian score 2.4 to 3.5. The kernel distance has no such floor: its mean is 0 between
equal distributions, so it can be negative, and its interval says what N samples can tell.

Features are [N, D] in float64, weights [N]: how often a sample is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

COPIED = 0.05
"""Share of real held-out clips that lie nearer to a training clip than :attr:`Training.near`: the level of chance."""


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (x . y / D + 1)^3 [N, M], the kernel of KID (arXiv:1801.01401)."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


@dataclass(frozen=True)
class Kernels:
    """Kernel values of a set with itself [N, N] (its diagonal is not used), with the reference [N, M], and of that."""

    own: Tensor
    cross: Tensor
    reference: Tensor

    @classmethod
    def of(cls, features: Tensor, reference: Tensor) -> Kernels:
        """Of features [N, D] and reference features [M, D].

        Raises:
            ValueError: fewer than two samples on a side, or a feature that is not finite.
        """
        if len(features) < 2 or len(reference) < 2:
            raise ValueError(f"a kernel distance needs two samples a side, got {len(features)} and {len(reference)}")
        if not (torch.isfinite(features).all() and torch.isfinite(reference).all()):
            raise ValueError("features that are not finite have no distance")
        return cls(polynomial(features, features), polynomial(features, reference), polynomial(reference, reference))

    def distance(self, weights: Tensor, reference_weights: Tensor) -> float:
        """The unbiased estimate of MMD^2: mean k within each side without self pairs, less twice that across."""
        own, other = _without_self(self.own, weights), _without_self(self.reference, reference_weights)
        across = weights @ self.cross @ reference_weights / (weights.sum() * reference_weights.sum())
        return float(own + other - 2.0 * across)


def _without_self(kernel: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of k over pairs of different samples."""
    pairs = weights @ kernel @ weights - (weights.square() * kernel.diagonal()).sum()
    return pairs / (weights.sum().square() - weights.square().sum())


def spread_ratio(features: Tensor, real: Tensor, weights: Tensor) -> float:
    """Standard deviation of features over all directions, over that of real clips: 1 as various, 0 all alike.

    Raises:
        ValueError: the real clips do not differ at all.
    """
    sizes = [_variance(each, weights) for each in (features, real)]
    if not sizes[1] > 0:
        raise ValueError("the real clips are all alike")
    return float((sizes[0] / sizes[1]).sqrt())


def _variance(features: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    mean = weights @ features / total
    return (weights @ (features - mean).square()).sum() / total


# ---- copying ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """The training clips' features [M, D], and how near to one of them a real held-out clip rarely is."""

    features: Tensor
    near: float

    @classmethod
    def of(cls, features: Tensor, held_out: Tensor) -> Training:
        """``near``: the distance that :data:`COPIED` of the held-out clips' nearest training clips lie within."""
        return cls(features, float(torch.quantile(nearest(held_out, features), COPIED)))

    def copies(self, features: Tensor) -> Tensor:
        """Which samples [N] are nearer to a training clip than that: :data:`COPIED` of them by chance."""
        return nearest(features, self.features) < self.near


def nearest(features: Tensor, others: Tensor) -> Tensor:
    """Distance [N] of each sample to the nearest of others [M, D]."""
    return torch.cdist(features, others, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
