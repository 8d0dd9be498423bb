"""What classes are worth on held-out queries, and what a null codebook is worth: the gates stand on the difference.

A codebook of anything, noise too, has neighbours of equal class in the space it was made in. Two comparisons cannot be
passed that way:

- a *null codebook*, fitted as the one under study, on Gaussian noise of the mean and covariance of h: what a space of
  that shape gives without any classes in it;
- *one half retrieves, the other judges*: neighbours by the text columns of h, classes by its visual columns alone, and
  the reverse. Held-out pairs were in no fit, so where captions and clips have nothing in common this is chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipelines.representation import quantiser, retrieval
from pipelines.representation.agreement import ari_of, contingency
from pipelines.representation.passes import Codebook, Samples
from pipelines.representation.spreads import Numbers, Unavailable

Fit = Callable[[Samples, int], Codebook]
"""Samples and the number of a further seed (0: the first) to a codebook of the kind under study."""


def noise_like(h: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Gaussian noise [len(rows), D], float32, of the mean and covariance of ``h[rows]``."""
    values = np.asarray(h[rows], dtype=np.float64)
    mean = values.mean(0)
    variances, directions = np.linalg.eigh((values - mean).T @ (values - mean) / len(values))
    drawn = np.random.default_rng(seed).standard_normal(values.shape) * np.sqrt(np.maximum(variances, 0))
    return (drawn @ directions.T + mean).astype(np.float32)


def half_labels(codebook: Codebook, h: np.ndarray, columns: slice) -> np.ndarray:
    """Classes [N] by some columns of h alone: the nearest centre in them."""
    return quantiser.assign(Codebook(codebook.centroids[:, columns], 0.0), h[:, columns]).labels


def consistency(
    h: np.ndarray, labels: np.ndarray, queries: np.ndarray, among: np.ndarray, tops: Sequence[int], seed: int
) -> dict[str, float]:
    """:func:`retrieval.consistency` of the rows ``queries`` with their neighbours among the rows ``among``.

    Raises:
        Unavailable: there are too few of them, or values that are not finite.
    """
    near = retrieval.neighbours(h, max(tops), queries, among, seed)[0]
    return retrieval.consistency(near, labels, queries, tops, among)


def crossed(
    codebook: Codebook, h: np.ndarray, text_width: int, queries: np.ndarray, among: np.ndarray, tops: Sequence[int]
) -> Numbers:
    """``text_to_keyframes_top{k}``: the k train samples whose texts are nearest to the query's: share with the class
    that the query's keyframes alone give it; ``keyframes_to_text_top{k}``: the reverse. ``_chance``, ``_std`` and
    ``_excess`` = less chance."""
    if not 0 < text_width < h.shape[1]:
        half = "text" if text_width == 0 else "keyframes"
        reason = f"h has no {half}, so nothing can judge what the other half retrieves"
        return Numbers(unavailable={"held_out/text_to_keyframes": reason, "held_out/keyframes_to_text": reason})
    if not np.isfinite(h[np.concatenate([queries, among])]).all():
        reason = "values that are not finite"
        return Numbers(unavailable={"held_out/text_to_keyframes": reason, "held_out/keyframes_to_text": reason})
    halves = {"text": slice(0, text_width), "keyframes": slice(text_width, None)}
    numbers = Numbers()
    for first, second in (("text", "keyframes"), ("keyframes", "text")):
        name = f"{first}_to_{second}"
        labels = half_labels(codebook, h, halves[second])
        try:
            found = consistency(h[:, halves[first]], labels, queries, among, tops, 0)
        except Unavailable as reason:
            numbers.unavailable[f"held_out/{name}"] = str(reason)
            continue
        for k in tops:
            numbers.values |= {f"{name}_top{k}{suffix}": found[f"top{k}{suffix}"] for suffix in ("", "_std", "_chance")}
            numbers.values[f"{name}_top{k}_excess"] = found[f"top{k}"] - found[f"top{k}_chance"]
    return numbers


def against_null(
    h: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    among: np.ndarray,
    num_classes: int,
    fit: Fit,
    tops: Sequence[int],
    seeds: int,
) -> Numbers:
    """``top{k}`` of held-out queries among train samples in h, ``top{k}_null`` of a null codebook with as many samples,
    ``top{k}_excess`` their difference with its standard error ``_std``; ``stability_null``: mean adjusted Rand index of
    null codebooks over ``seeds`` further seeds."""
    if len(np.unique(labels[among])) < 2:
        return Numbers(unavailable={"held_out": "all train samples are of one class"})
    try:
        own = consistency(h, labels, queries, among, tops, 0)
        noise = noise_like(h, np.concatenate([among, queries]), 0)
        train, asked = np.arange(len(among)), np.arange(len(among), len(noise))
        runs = [
            quantiser.assign(fit(Samples(noise, train), number), noise).labels
            for number in range(seeds + 1)
            if len(train) >= num_classes
        ]
        if not runs:
            raise Unavailable(f"{len(train)} train samples, {num_classes} classes")
        null = consistency(noise, runs[0], asked, train, tops, 0)
        values = {"stability_null": float(np.mean([ari_of(contingency(runs[0], other)) for other in runs[1:]]))}
    except Unavailable as reason:
        return Numbers(unavailable={"held_out": str(reason)})
    for k in tops:
        error = float(np.hypot(own[f"top{k}_std"], null[f"top{k}_std"]))
        values |= {f"top{k}": own[f"top{k}"], f"top{k}_std": own[f"top{k}_std"], f"top{k}_null": null[f"top{k}"]}
        values |= {f"top{k}_excess": own[f"top{k}"] - null[f"top{k}"], f"top{k}_excess_std": error}
    return Numbers(values)
