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

from pipelines.evaluation.video_metrics import require_finite

RARE, HALF = 0.05, 0.5
"""A copy is nearer to a training clip than half of what all but 5 % of the real held-out clips keep as distance."""
COPIED = 0.05
"""Share of copies above which, with its interval, a set of clips is said to copy; of real clips there are none."""
ROUNDING = 1e-12
"""Of a mean square in float64, what a variance that is taken from it may owe to rounding."""


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (x . y / D + 1)^3 [N, M], the kernel of KID (arXiv:1801.01401)."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


@dataclass(frozen=True)
class Kernels:
    """Kernel values of a set with itself [N, N] (its diagonal is not used), with the reference [N, M], and of that.

    ``copies``: samples per prompt in the set, all prompts of the first copy first. Samples of one prompt are alike (of
    a real clip they are the clip again), so that their pairs say nothing of the distribution and are left out.
    """

    own: Tensor
    cross: Tensor
    reference: Tensor
    copies: int = 1

    @classmethod
    def of(cls, features: Tensor, reference: Tensor, copies: int = 1) -> Kernels:
        """Of features [N, D] and reference features [M, D].

        Raises:
            ValueError: no features, fewer than two prompts or references, or a feature that is not finite.
        """
        prompts = len(features) // copies
        if prompts < 2 or len(reference) < 2 or features.shape[1] == 0:
            raise ValueError(
                f"a kernel distance needs two samples a side, and a feature, got {prompts} and {len(reference)}"
            )
        require_finite(features, reference)
        own, cross = polynomial(features, features), polynomial(features, reference)
        return cls(own, cross, polynomial(reference, reference), copies)

    def distance(self, weights: Tensor, reference_weights: Tensor) -> float:
        """The unbiased estimate of MMD^2: mean k within each side over pairs of different prompts, less twice that
        across. KID of all samples, where torchmetrics takes the mean over random subsets of equal size."""
        return float(self.distances(weights[None], reference_weights[None]))

    def distances(self, weights: Tensor, reference_weights: Tensor) -> Tensor:
        """:meth:`distance` [R] of as many weightings [R, N] and [R, M]; NaN where one of them has no pairs."""
        own = _without_self(self.own, weights, self.copies)
        other = _without_self(self.reference, reference_weights)
        both = weights.sum(1) * reference_weights.sum(1)
        return own + other - 2.0 * ((weights @ self.cross) * reference_weights).sum(1) / both


def _without_self(kernel: Tensor, weights: Tensor, copies: int = 1) -> Tensor:
    """Weighted means [R] of k over pairs of samples of different prompts; ``copies`` as in :class:`Kernels`."""
    count = weights.shape[1]
    prompt = torch.arange(count) % (count // copies)
    counted = (prompt[:, None] != prompt[None]).to(kernel)
    of_pairs, pairs = (((weights @ part) * weights).sum(1) for part in (kernel * counted, counted))
    return of_pairs / pairs


def spread_ratios(features: Tensor, real: Tensor, weights: Tensor) -> Tensor:
    """Standard deviation of features over all directions, over that of real clips: 1 as various, 0 all alike.

    Of weightings [R, N] as many, [R]; NaN where the real clips that count are all alike.

    Raises:
        ValueError: they are in every one, or values are not finite.
    """
    require_finite(features, real)
    ours, theirs = (_variance(each, weights) for each in (features, real))
    if not bool((theirs > 0).any()):
        raise ValueError("the real clips are all alike")
    return torch.where(theirs > 0, ours / theirs, torch.nan).sqrt()


def _variance(features: Tensor, weights: Tensor) -> Tensor:
    """Weighted variances summed over all directions, [R]; what is rounding alone is none."""
    total = weights.sum(1)
    away = features - features[:1]  # exactly nothing where all are alike
    squares = weights @ away.square().sum(1) / total
    found = squares - (weights @ away / total[:, None]).square().sum(1)
    return torch.where(found > ROUNDING * squares, found, 0.0)


# ---- copying ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """The training clips' features [M, D], how far each is from the others, and how near a real clip rarely comes.

    Nearness is measured against what is usual around the training clip: its distance to the nearest other one. Clips
    that lie where training clips are dense (that stand still, say) come somewhat nearer than real ones, copies much.
    """

    features: Tensor
    apart: Tensor
    near: float

    @classmethod
    def of(cls, features: Tensor, held_out: Tensor) -> Training:
        """``near``: half of the relative distance that :data:`RARE` of the held-out clips lie within.

        Raises:
            ValueError: fewer than two training clips, all alike, no held-out ones, or values that are not finite.
        """
        if len(features) < 2 or len(held_out) == 0 or bool((features == features[0]).all()):
            raise ValueError("copies are told by how training clips differ; there are none that do, or none held out")
        require_finite(features, held_out)
        among = distances_between(features, features)
        among.fill_diagonal_(torch.inf)
        found = cls(features, among.amin(1), 0.0)
        return cls(features, found.apart, HALF * float(torch.quantile(found.relative(held_out), RARE)))

    def nearest(self, features: Tensor) -> Tensor:
        """Distance [N] to the nearest training clip.

        Raises:
            ValueError: values that are not finite.
        """
        require_finite(features)
        return distances_between(features, self.features).amin(1)

    def relative(self, features: Tensor) -> Tensor:
        """Distance [N] to the nearest training clip, over that clip's distance to its own nearest.

        Raises:
            ValueError: values that are not finite.
        """
        require_finite(features)
        nearest, which = distances_between(features, self.features).min(1)
        return nearest / self.apart[which].clamp_min(1e-12)

    def copies(self, features: Tensor) -> Tensor:
        """Which samples [N] are nearer to a training clip than that: of real held-out clips hardly one."""
        return self.relative(features) < self.near


def distances_between(features: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances [N, M], without the loss of digits of a matrix product."""
    return torch.cdist(features, others, compute_mode="donot_use_mm_for_euclid_dist")
