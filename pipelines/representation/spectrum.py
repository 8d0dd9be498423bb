"""Effective rank and spectrum of features: did the space collapse?"""

from __future__ import annotations

import numpy as np

from pipelines.representation.spreads import Labellings, Unavailable, over_runs

RANKME_FLOOR = 1e-7


def standardised(features: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and standard deviation 1; constant columns become 0."""
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    deviation = centred.std(0)
    return centred / np.where(deviation > 1e-12 * max(float(deviation.max()), 1e-300), deviation, np.inf)


def singular_values(features: np.ndarray) -> np.ndarray:
    """Singular values of centred features [N, D], largest first.

    Raises:
        Unavailable: values that are not finite.
    """
    if not features.size:
        raise Unavailable("no samples, or no features")
    if not np.isfinite(features).all():
        raise Unavailable("values that are not finite")
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    return np.linalg.svd(centred, compute_uv=False)


def rankme(features: np.ndarray) -> float:
    """RankMe of centred features: exp(-sum p ln p), p = s / sum(s) + 1e-7, s singular values (arXiv:2210.02885, eq. 2).

    Between 1 (one direction) and min(N, D). The paper does not centre; a common offset is no dimension, so this does.
    """
    values = singular_values(features)
    if values.sum() == 0:
        return 1.0
    share = values / values.sum() + RANKME_FLOOR
    return float(np.exp(-(share * np.log(share)).sum()))


def explained(features: np.ndarray) -> np.ndarray:
    """Share of the variance per principal direction, largest first."""
    variances = singular_values(features) ** 2
    return variances / max(variances.sum(), 1e-300)


def participation(features: np.ndarray) -> float:
    """Participation ratio (sum v)^2 / sum v^2 of the variances v along principal directions; of equal samples 1, the
    least there is, as :func:`rankme`."""
    share = explained(features)
    return float(share.sum() ** 2 / (share**2).sum()) if share.any() else 1.0


def rank_numbers(values: np.ndarray, halves: Labellings, seed: int) -> dict[str, float]:
    """``rankme``, ``participation`` with ``_std``; ``rankme_noise``: of Gaussian noise of that shape, the most that so
    many samples can show; ``rankme_share`` = (rankme - 1) / (noise - 1): 0 collapsed, 1 as noise; absent for a column
    alone and for fewer than three samples, which cannot collapse further.

    Raises:
        Unavailable: values that are not finite.
    """

    def numbers(some: np.ndarray) -> dict[str, float]:
        return {"rankme": rankme(some), "participation": participation(some)}

    own = numbers(values)
    spread = over_runs(own, [numbers(values[rows]) for rows in halves.kept()], "_std")
    noise = rankme(np.random.default_rng(seed).standard_normal(values.shape))
    found = {**own, **{name: value * halves.jackknife for name, value in spread.items()}, "rankme_noise": noise}
    if min(values.shape[1], len(values) - 1) > 1:
        found["rankme_share"] = (own["rankme"] - 1) / (noise - 1)
    return found
