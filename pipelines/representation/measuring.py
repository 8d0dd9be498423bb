"""The blocks of the diagnostics report: what each measures, over which samples, and how it is spread.

Classes, embedding and factors are known for all samples; ``max_samples`` of them, drawn evenly, are the *queries* of
whatever needs distances to all others (separation, retrieval) or the encoder's features (agreement of neighbours,
collapse, probes). A query's numbers are exact, so what sampling costs is their standard error, which is in ``_std``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from pipelines import stage
from pipelines.data.shards import Shards
from pipelines.representation import codebook, kernel, quantiser, retrieval, spectrum
from pipelines.representation.agreement import agreements, ari_of, contingency, factor_labels, missing_factors, probe
from pipelines.representation.extraction import (
    check_names,
    concatenated,
    extract,
    load_encoder,
    prompt_vectors,
    raw_vectors,
)
from pipelines.representation.occupancy import counts_of, occupancy_with_spreads
from pipelines.representation.params import DiagnosticsParams, Quantiser
from pipelines.representation.passes import Samples
from pipelines.representation.ranks import Ranks
from pipelines.representation.separation import separations
from pipelines.representation.spreads import Labellings, Numbers, Unavailable, gathered, labellings, over_runs

PER_CLASS = 64
"""Train samples per class that codebooks of other seeds are fitted on, where there are more than ``max_samples``."""


@dataclass(frozen=True)
class Near:
    """Neighbours of the queries: row numbers and distances [Q, k], or why there are none."""

    indices: np.ndarray
    distances: np.ndarray
    reason: str | None


@dataclass(frozen=True)
class Measured:
    """What the blocks read. ``labels``, ``h``, ``factors``, ``is_train`` are of all N samples; ``queries`` [Q] are row
    numbers; features and prompts are of the rows ``pool`` (queries and their neighbours, sorted)."""

    index: pd.DataFrame
    is_train: np.ndarray
    labels: np.ndarray
    h: np.ndarray
    factors: dict[str, np.ndarray]
    queries: np.ndarray
    near: Near
    pool: np.ndarray
    features: dict[str, np.ndarray]
    prompts: np.ndarray

    def in_pool(self, rows: np.ndarray) -> np.ndarray:
        """Where rows (all of them in the pool) stand in it."""
        return np.searchsorted(self.pool, rows)


def neighbours_of(h: np.ndarray, queries: np.ndarray, most: int) -> Near:
    """Neighbours of queries among all samples."""
    try:
        return Near(*retrieval.neighbours(h, most, queries), None)
    except Unavailable as reason:
        return Near(np.empty((len(queries), 0), int), np.empty((len(queries), 0)), str(reason))


def sample(params: DiagnosticsParams, shards: Shards, latent_mae: Path, stored: codebook.Stored) -> Measured:
    """Choose the queries, find their neighbours and encode both.

    Raises:
        stage.StageError: fewer than 8 samples, an unknown feature, values that are not finite.
    """
    if len(shards) < 8:
        raise stage.StageError(f"{shards.folder}: {len(shards)} samples; diagnostics need at least 8.")
    encoder = load_encoder(latent_mae)
    names = list(dict.fromkeys([*params.probe.features, params.rankme_feature]))
    check_names(encoder, shards.manifest.fields["latents"].shape, names, "diagnostics.probe.features, rankme_feature")
    queries = np.sort(np.random.default_rng(params.seed).permutation(len(shards))[: params.max_samples])
    near = neighbours_of(stored.h, queries, max(params.neighbours))
    pool = np.union1d(queries, near.indices)
    return Measured(
        shards.index,
        np.asarray(shards.index["split"] == "train"),
        stored.assignments["pseudo_class"].to_numpy(),
        stored.h,
        factor_labels(shards.index, params.known_factors),
        queries,
        near,
        pool,
        extract(shards, pool, encoder, names, params.batch_size),
        prompt_vectors(shards, pool),
    )


def other_seeds(params: DiagnosticsParams, data: Measured, stored: codebook.Stored) -> list[np.ndarray]:
    """Classes [N] of codebooks fitted as the one under study was, from other seeds, on the train split.

    Raises:
        Unavailable: there are fewer train samples than classes.
    """
    rows, num_classes = np.flatnonzero(data.is_train), len(stored.codebook.centroids)
    if num_classes > len(rows):
        raise Unavailable(f"{len(rows)} train samples, {num_classes} classes")
    most = max(params.max_samples, PER_CLASS * num_classes)
    rows = np.sort(np.random.default_rng(params.seed).permutation(rows)[:most])
    how, first, found = TypeAdapter(Quantiser).validate_python(stored.facts["quantiser"]), stored.facts["seed"], []
    for number in range(1, params.stability_seeds + 1):
        again = quantiser.fit(Samples(data.h, rows), num_classes, how, first + 1000 * number, Ranks.alone())
        found.append(quantiser.assign(again, data.h).labels)
    return found


# ---- blocks -------------------------------------------------------------------------------------------------------


def train_counts(data: Measured, num_classes: int) -> np.ndarray:
    """Train samples per class [K]."""
    return counts_of(data.labels[data.is_train], num_classes)


def retrieval_block(params: DiagnosticsParams, data: Measured, given: Labellings) -> Numbers:
    """Consistency of nearest neighbours in h, and their agreement in text and keyframes over random pairs."""
    if data.near.reason is not None:
        return Numbers(unavailable={"retrieval": data.near.reason})
    found = retrieval.consistency(data.near.indices, data.labels, data.queries, params.neighbours)
    runs = [retrieval.consistency(data.near.indices, other, data.queries, params.neighbours) for other in given.seeds]
    tops = [f"top{k}" for k in params.neighbours]
    found |= over_runs({name: found[name] for name in tops}, runs, "_seed_std")
    seen = spectrum.standardised(concatenated(data.features, params.probe.features))
    places, queries = data.in_pool(data.near.indices), data.in_pool(data.queries)
    for name, vectors in (("text", data.prompts), ("keyframes", seen)):
        value, error = retrieval.agreement_over_random(vectors, places, queries, params.seed)
        found |= {f"{name}_over_random": value, f"{name}_over_random_std": error, f"{name}_over_random_chance": 0.0}
    return Numbers(found)


def neighbour_table(data: Measured) -> pd.DataFrame:
    """``key``, ``rank``, ``neighbour``, ``distance``, ``same_class`` of every query; empty where there are none."""
    keys, near = data.index["key"].to_numpy(), data.near.indices
    return pd.DataFrame(
        {
            "key": np.repeat(keys[data.queries], near.shape[1]),
            "rank": np.tile(np.arange(1, near.shape[1] + 1), len(near)),
            "neighbour": keys[near.ravel()],
            "distance": data.near.distances.ravel().astype(np.float32),
            "same_class": (data.labels[near] == data.labels[data.queries, None]).ravel(),
        }
    )


def stability_block(given: Labellings) -> Numbers:
    """``ari``: mean adjusted Rand index between the classes and codebooks of other seeds; ``_std`` over seeds."""
    values = [ari_of(contingency(given.classes, other)) for other in given.seeds]
    chance = [ari_of(contingency(given.classes, other)) for other in given.permuted]
    moments = {"ari": float(np.mean(values)), "ari_std": float(np.std(values, ddof=1))}
    return Numbers({**moments, "ari_chance": float(np.mean(chance)), "ari_chance_std": float(np.std(chance, ddof=1))})


def collapse_block(params: DiagnosticsParams, data: Measured) -> dict[str, float]:
    """RankMe and participation ratio of the encoder's feature and of h over the queries; ``_noise``: of Gaussian noise
    of that shape, the most that so many samples can show; ``_std``: over subsamples (delete-d jackknife)."""
    rng = np.random.default_rng(params.seed)
    halves = labellings(np.zeros(len(data.queries), int), params.repeats, params.subsample_share, params.seed)
    feature = data.features[params.rankme_feature][data.in_pool(data.queries)]

    def numbers(values: np.ndarray) -> dict[str, float]:
        return {"rankme": spectrum.rankme(values), "participation": spectrum.participation(values)}

    found = {}
    for prefix, values in (("", feature), ("h_", np.asarray(data.h[data.queries]))):
        own = numbers(values)
        spread = over_runs(own, [numbers(values[rows]) for rows in halves.kept()], "_std")
        found |= {f"{prefix}{name}": value for name, value in own.items()}
        found |= {f"{prefix}{name}": value * halves.jackknife for name, value in spread.items()}
        found[f"{prefix}rankme_noise"] = spectrum.rankme(rng.standard_normal(values.shape))
    return found


def probe_block(params: DiagnosticsParams, shards: Shards, data: Measured) -> dict[str, Any]:
    """Linear probes per factor from h, the encoder's features, and raw latents, over the queries."""
    rows = data.queries
    seen = concatenated(data.features, params.probe.features)[data.in_pool(rows)]
    spaces = {"h": np.asarray(data.h[rows]), "features": seen, "raw_latents": raw_vectors(shards, rows)}
    factors = {name: values[rows] for name, values in data.factors.items()}
    train = data.is_train[rows]
    return {name: probe(values, factors, train, params.probe.ridge) for name, values in spaces.items()}


def measure(params: DiagnosticsParams, shards: Shards, data: Measured, stored: codebook.Stored) -> dict[str, Any]:
    """The whole report."""
    counts = train_counts(data, len(stored.codebook.centroids))
    unavailable: dict[str, str] = {}
    try:
        seeds = other_seeds(params, data, stored)
    except Unavailable as reason:
        seeds, unavailable["stability"] = [], str(reason)
    given = labellings(data.labels, params.repeats, params.subsample_share, params.seed, seeds)
    stage.say(f"{len(data.index)} samples, {len(data.queries)} queries, {len(given.all())} labellings")
    blocks = {
        "separation": gathered("separation", separations(data.h, given.all(), data.queries), given),
        "retrieval": retrieval_block(params, data, given),
    }
    if seeds:
        blocks["stability"] = stability_block(given)
    results: dict[str, Any] = {
        "occupancy": occupancy_with_spreads(counts, params.near_empty, params.repeats, params.seed),
        "collapse": collapse_block(params, data),
    }
    results |= {name: block.values for name, block in blocks.items() if block.values}
    unavailable |= {name: reason for block in blocks.values() for name, reason in block.unavailable.items()}
    try:
        results["kernel"] = kernel.kernel_with_spreads(data.h, given, params.kernel, params.seed)
    except Unavailable as reason:
        unavailable["kernel"] = str(reason)
    if data.factors:
        results["agreement"] = agreements(data.factors, given)
        results["probes"] = probe_block(params, shards, data)
    unavailable |= missing_factors(data.factors, params.known_factors)
    sizes = {"num_samples": len(data.queries), "num_samples_total": len(data.index)}
    return {**results, **sizes, "unavailable": unavailable}
