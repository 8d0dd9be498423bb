"""How evenly classes are filled: counts per class, entropy, near-empty classes, Lorenz curve."""

from __future__ import annotations

import numpy as np

from pipelines.representation.spreads import Unavailable


def counts_of(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Samples per class [K], empty ones included."""
    return np.bincount(labels, minlength=num_classes)


def occupancy(counts: np.ndarray, near_empty: int) -> dict[str, float]:
    """Numbers of a histogram of classes [K] (empty classes count everywhere but in the entropy).

    ``non_empty`` and its share of K; ``mean``, ``median``, ``p10``, ``p90`` (linear interpolation);
    ``singletons_share``: of K, classes with one sample; ``near_empty_share``: with fewer than ``near_empty`` samples,
    empty ones included;
    ``entropy_nats`` H = -sum p ln p, p = counts / N; ``entropy_ratio`` = exp(H) / K, 1 when all are equally full
    (absent for one class, which is always even); ``largest_share`` = max p.

    Raises:
        Unavailable: there is no sample.
    """
    if not counts.sum():
        raise Unavailable("no samples")
    share = counts / counts.sum()
    filled = share[share > 0]
    entropy = float(-(filled * np.log(filled)).sum())
    even = {"entropy_ratio": float(np.exp(entropy) / len(counts))} if len(counts) > 1 else {}
    return {
        "num_classes": len(counts),
        "non_empty": int((counts > 0).sum()),
        "non_empty_share": float((counts > 0).mean()),
        "mean": float(counts.mean()),
        "median": float(np.median(counts)),
        "p10": float(np.percentile(counts, 10)),
        "p90": float(np.percentile(counts, 90)),
        "singletons_share": float((counts == 1).mean()),
        "near_empty_share": float((counts < near_empty).mean()),
        "entropy_nats": entropy,
        **even,
        "largest_share": float(share.max()),
    }


def occupancy_with_spreads(counts: np.ndarray, near_empty: int, repeats: int, seed: int) -> dict[str, float]:
    """:func:`occupancy` and :func:`gini`; ``_chance``, ``_chance_std``: when every sample chose its class by a fair
    die, the most even that one can expect; ``_std``: over bootstrap samples of the data (multinomial counts)."""

    def numbers(found: np.ndarray) -> dict[str, float]:
        return {**occupancy(found, near_empty), "gini": gini(found)}

    rng, own = np.random.default_rng(seed), numbers(counts)
    share = counts / counts.sum()
    fair = [numbers(draw) for draw in rng.multinomial(counts.sum(), np.full(len(counts), 1 / len(counts)), repeats)]
    again = [numbers(draw) for draw in rng.multinomial(counts.sum(), share, repeats)]
    found = dict(own)
    for name in own.keys() - {"num_classes", "mean"}:
        found[f"{name}_chance"] = float(np.mean([run[name] for run in fair]))
        found[f"{name}_chance_std"] = float(np.std([run[name] for run in fair], ddof=1))
        found[f"{name}_std"] = float(np.std([run[name] for run in again], ddof=1))
    return found


def lorenz(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lorenz curve: share of classes (smallest first) against their share of samples, both [K + 1] from 0 to 1.

    Raises:
        Unavailable: there is no sample.
    """
    if not counts.sum():
        raise Unavailable("no samples")
    ordered = np.sort(counts)
    return np.linspace(0, 1, len(counts) + 1), np.concatenate([[0.0], ordered.cumsum() / ordered.sum()])


def gini(counts: np.ndarray) -> float:
    """Twice the area between the Lorenz curve and the diagonal: 0 equal, towards 1 when one class has everything."""
    classes, samples = lorenz(counts)
    return float(1 - 2 * np.trapezoid(samples, classes))
