"""How far apart classes are: distances within and between, silhouette, Davies-Bouldin, Calinski-Harabasz.

Distances to all samples are measured from a sample of queries, in blocks, once for many labellings: memory is
O(block N), and each query's numbers are exact whatever the number of queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

from pipelines import stage
from pipelines.representation.spreads import LEFT_OUT, Found, Unavailable

ROUNDING = 16 * np.finfo(np.float64).eps
QUERIES, REFERENCES = 256, 8192
"""Distances held at once: 16 MiB, of which a sparse product reads whole rows (three times as fast as rows of 16)."""


def distances(values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Euclidean distances [B, b] of values [B, D] from asked [b, D], float64: d^2 = |x|^2 + |y|^2 - 2 x y, where what
    rounding leaves of equal points is 0."""
    squared, sizes, others = values @ (-2 * asked.T), (values**2).sum(1), (asked**2).sum(1)
    squared += sizes[:, None]
    squared += others
    squared[squared < ROUNDING * (sizes.max() + others.max())] = 0.0
    return np.sqrt(squared, out=squared)


def class_sums(
    h: np.ndarray, queries: np.ndarray, membership: sparse.csr_matrix
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some queries at a time: their row numbers [b], and their distances from all samples summed over the rows of
    ``membership`` [K, N]: [K, b]. A sample's distance from itself is exactly 0."""
    starts, origin = range(0, len(h), REFERENCES), np.asarray(h[:1], dtype=np.float64)  # far from 0, digits are lost
    by_column = membership.tocsc()
    parts = [by_column[:, start : start + REFERENCES].tocsr() for start in starts]
    for first in range(0, len(queries), QUERIES):
        rows = queries[first : first + QUERIES]
        asked, sums = np.asarray(h[rows], dtype=np.float64) - origin, np.zeros((len(membership.indptr) - 1, len(rows)))
        for start, part in zip(starts, parts, strict=True):
            found = distances(np.asarray(h[start : start + REFERENCES], dtype=np.float64) - origin, asked)
            own = np.flatnonzero((rows >= start) & (rows < start + REFERENCES))
            found[rows[own] - start, own] = 0.0
            sums += part @ found
        stage.report(first + len(rows), len(queries), "queries")
        yield rows, sums


@dataclass
class _Tally:
    """Sums of one labelling over the queries seen so far."""

    dense: np.ndarray  # [N] class numbers 0 to K - 1, -1 left out
    counts: np.ndarray  # [K]
    sums: np.ndarray  # distances within, between
    pairs: np.ndarray  # pairs within, between
    silhouettes: list[np.ndarray]

    def add(self, rows: np.ndarray, class_sums: np.ndarray) -> None:
        """Distances [K, b] of queries ``rows`` summed over every class."""
        own = self.dense[rows]
        class_sums, own = class_sums[:, own != LEFT_OUT], own[own != LEFT_OUT]
        if not len(own) or len(self.counts) < 2:
            return
        column = np.arange(len(own))
        within, others = class_sums[own, column], self.counts[own] - 1
        self.sums += within.sum(), class_sums.sum() - within.sum()
        self.pairs += others.sum(), len(own) * self.counts.sum() - self.counts[own].sum()
        means = class_sums / self.counts[:, None]
        means[own, column] = np.inf
        a, b = within / np.maximum(others, 1), means.min(0)
        values = (b - a) / np.maximum(np.maximum(a, b), 1e-300)
        self.silhouettes.append(np.where(others > 0, values, 0.0))


def _tally(labels: np.ndarray) -> _Tally:
    kept = labels != LEFT_OUT
    dense = np.full(len(labels), LEFT_OUT)
    dense[kept] = np.unique(labels[kept], return_inverse=True)[1]
    return _Tally(dense, np.bincount(dense[kept]), np.zeros(2), np.zeros(2), [])


def _membership(tallies: Sequence[_Tally]) -> sparse.csr_matrix:
    """0-1 matrix [sum of K, N]: which samples are in which class of which labelling."""
    rows, columns, offset = [], [], 0
    for tally in tallies:
        kept = np.flatnonzero(tally.dense != LEFT_OUT)
        rows.append(tally.dense[kept] + offset)
        columns.append(kept)
        offset += len(tally.counts)
    row, column = np.concatenate(rows), np.concatenate(columns)
    return sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=(offset, len(tallies[0].dense)))


def _numbers(h: np.ndarray, tally: _Tally) -> Found:
    if not tally.pairs.all():
        raise Unavailable("no pair of measured samples in the same class, or in different ones")
    intra, inter = tally.sums / tally.pairs
    if not np.isfinite(inter) or inter == 0:
        raise Unavailable("all samples are equal" if inter == 0 else "values that are not finite")
    kept = tally.dense != LEFT_OUT
    values = np.asarray(h)[kept] if not kept.all() else np.asarray(h)
    labels = tally.dense[kept]
    found = {
        "intra_mean": float(intra),
        "inter_mean": float(inter),
        "intra_inter_ratio": float(intra / inter),
        "silhouette": float(np.concatenate(tally.silhouettes).mean()),
    }
    sums = np.stack([np.bincount(labels, weights=column) for column in np.asarray(values, np.float64).T], axis=1)
    centres = sums / tally.counts[:, None]
    if len(np.unique(centres.round(12), axis=0)) == len(
        centres
    ):  # else two classes coincide, and their index is infinite
        found["davies_bouldin"] = float(davies_bouldin_score(values, labels))
    if intra > 0:  # else the variance within is 0, and the ratio infinite
        found["calinski_harabasz"] = float(calinski_harabasz_score(values, labels))
    return found


def separations(
    h: np.ndarray, given: Sequence[np.ndarray], queries: np.ndarray | None = None
) -> list[Found | Unavailable]:
    """Numbers of separation in the space of ``h`` [N, D], for every labelling [N] (-1: left out).

    ``intra_mean`` = mean_{i != j, y_i = y_j} |h_i - h_j|, ``inter_mean`` = mean_{y_i != y_j} |h_i - h_j|, over pairs
    of a query i and any other sample j (no self pairs); ``intra_inter_ratio``: small is good, 1 by chance.
    ``silhouette``: mean over queries of (b - a) / max(a, b), a the mean distance to the own class, b to the nearest
    other one, 0 for a class of one (Rousseeuw 1987): -1 to 1, large is good, below 0 by chance. Over all samples:
    ``davies_bouldin``: mean over classes of max_j (s_i + s_j) / d_ij, small is good (1979); ``calinski_harabasz``:
    variance between over variance within, each per degree of freedom, 1 by chance (1974).

    A labelling with fewer than two classes, or without a class of two samples, gives :class:`Unavailable`; so do equal
    samples and values that are not finite. ``davies_bouldin`` is absent where the centres of two classes coincide
    (it is infinite), ``calinski_harabasz`` where no class has any extent.
    """
    rows = np.arange(len(h)) if queries is None else queries
    if not np.isfinite(h).all():
        return [Unavailable("values that are not finite") for _ in given]
    tallies = [_tally(labels) for labels in given]
    for block, sums in class_sums(h, rows, _membership(tallies)):
        offset = 0
        for tally in tallies:
            tally.add(block, sums[offset : offset + len(tally.counts)])
            offset += len(tally.counts)
    found: list[Found | Unavailable] = []
    for tally in tallies:
        classes, count = len(tally.counts), int(tally.counts.sum())
        if not 2 <= classes < count:
            found.append(Unavailable(f"{classes} classes among {count} samples; needs 2 to N - 1"))
            continue
        try:
            found.append(_numbers(h, tally))
        except Unavailable as reason:
            found.append(reason)
    return found
