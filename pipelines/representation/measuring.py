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
from pipelines.representation import held_out as held_out_module
from pipelines.representation.agreement import agreements, ari_of, contingency, factor_labels, missing_factors, probe
from pipelines.representation.embedding import feature_names
from pipelines.representation.extraction import (
    check_names,
    concatenated,
    extract,
    load_encoder,
    prompt_vectors,
    raw_vectors,
)
from pipelines.representation.held_out import Fit
from pipelines.representation.occupancy import counts_of, occupancy_with_spreads
from pipelines.representation.params import DiagnosticsParams, Quantiser
from pipelines.representation.passes import Samples
from pipelines.representation.ranks import Ranks
from pipelines.representation.separation import separations
from pipelines.representation.spreads import Labellings, Numbers, Unavailable, gathered, labellings, over_runs

PER_CLASS = 64
"""Train samples per class that codebooks of other seeds are fitted on, where there are more than ``max_samples``."""


@dataclass(frozen=True)
class NearSamples:
    """Neighbours of the queries: row numbers and distances [Q, k], or why there are none."""

    indices: np.ndarray
    distances: np.ndarray
    reason: str | None


@dataclass(frozen=True)
class Measured:
    """What the blocks read. ``labels``, ``h``, ``factors``, ``is_train`` are of all N samples; ``queries`` [Q] are row
    numbers; features (of whole clips), ``read`` (those that h reads, of keyframes) and prompts are of the rows ``pool``
    (queries and their neighbours, sorted)."""

    index: pd.DataFrame
    is_train: np.ndarray
    labels: np.ndarray
    h: np.ndarray
    factors: dict[str, np.ndarray]
    queries: np.ndarray
    near: NearSamples
    pool: np.ndarray
    features: dict[str, np.ndarray]
    read: dict[str, np.ndarray]
    prompts: np.ndarray

    def in_pool(self, rows: np.ndarray) -> np.ndarray:
        """Where rows (all of them in the pool) stand in it."""
        return np.searchsorted(self.pool, rows)


def neighbours_of(h: np.ndarray, queries: np.ndarray, most: int) -> NearSamples:
    """Neighbours of queries among all samples."""
    try:
        return NearSamples(*retrieval.neighbours(h, most, queries), None)
    except Unavailable as reason:
        return NearSamples(np.empty((len(queries), 0), int), np.empty((len(queries), 0)), str(reason))


def sample(params: DiagnosticsParams, shards: Shards, latent_mae: Path, stored: codebook.Stored) -> Measured:
    """Choose the queries, find their neighbours and encode both.

    Raises:
        stage.StageError: fewer than 8 samples, an unknown feature, values that are not finite.
    """
    if len(shards) < 8:
        raise stage.StageError(f"{shards.folder}: {len(shards)} samples; diagnostics need at least 8.")
    encoder = load_encoder(latent_mae)
    names = list(dict.fromkeys([*params.probe.features, *params.kernel.features]))
    check_names(encoder, shards.manifest.fields["latents"].shape, names, "diagnostics.probe.features, kernel.features")
    recipe = stored.embedding.params
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
        extract(shards, pool, encoder, feature_names(recipe), params.batch_size, recipe.num_keyframes),
        prompt_vectors(shards, pool),
    )


def fitter(stored: codebook.Stored) -> Fit:
    """Fits codebooks as the one under study was, from further seeds."""
    how, first = TypeAdapter(Quantiser).validate_python(stored.facts["quantiser"]), stored.facts["seed"]
    classes = len(stored.codebook.centroids)
    return lambda samples, number: quantiser.fit(samples, classes, how, first + 1000 * number, Ranks.alone())


def fitted_rows(params: DiagnosticsParams, data: Measured, num_classes: int) -> np.ndarray:
    """Train rows that codebooks of other seeds and null codebooks are fitted on.

    Raises:
        Unavailable: there are fewer train samples than classes.
    """
    rows = np.flatnonzero(data.is_train)
    if num_classes > len(rows):
        raise Unavailable(f"{len(rows)} train samples, {num_classes} classes")
    most = max(params.max_samples, PER_CLASS * num_classes)
    return np.sort(np.random.default_rng(params.seed).permutation(rows)[:most])


def other_seeds(params: DiagnosticsParams, data: Measured, stored: codebook.Stored) -> list[np.ndarray]:
    """Classes [N] of codebooks fitted as the one under study was, from other seeds, on the train split.

    Raises:
        Unavailable: there are fewer train samples than classes.
    """
    rows, fit = fitted_rows(params, data, len(stored.codebook.centroids)), fitter(stored)
    numbers = range(1, params.stability_seeds + 1)
    return [quantiser.assign(fit(Samples(data.h, rows), number), data.h).labels for number in numbers]


# ---- blocks -------------------------------------------------------------------------------------------------------


def train_counts(data: Measured, num_classes: int) -> np.ndarray:
    """Train samples per class [K]."""
    return counts_of(data.labels[data.is_train], num_classes)


def retrieval_block(params: DiagnosticsParams, data: Measured, given: Labellings) -> Numbers:
    """Consistency of nearest neighbours in h, and the agreement over random pairs of texts that keyframes retrieve
    (``text_over_random``) and of keyframes that texts retrieve."""
    if data.near.reason is not None:
        return Numbers(unavailable={"retrieval": data.near.reason})
    near, asked = data.near.indices, (data.queries, params.neighbours)
    try:
        found, *runs = (retrieval.consistency(near, labels, *asked) for labels in (data.labels, *given.seeds))
    except Unavailable as reason:
        return Numbers(unavailable={"retrieval": str(reason)})
    tops = [f"top{k}" for k in params.neighbours]
    found |= over_runs({name: found[name] for name in tops}, runs, "_seed_std")
    seen = spectrum.standardised(concatenated(data.features, params.probe.features))
    places, queries = data.in_pool(data.near.indices), data.in_pool(data.queries)
    numbers = Numbers(found)
    for name, by, vectors in (("text", seen, data.prompts), ("keyframes", data.prompts, seen)):
        try:
            near = retrieval.neighbours(by, places.shape[1], queries, seed=params.seed)[0]
            value, error = retrieval.agreement_over_random(vectors, near, queries, params.seed)
        except Unavailable as reason:
            numbers.unavailable[f"retrieval/{name}_over_random"] = str(reason)
            continue
        found |= {f"{name}_over_random": value, f"{name}_over_random_std": error, f"{name}_over_random_chance": 0.0}
    return numbers


def held_out_block(params: DiagnosticsParams, data: Measured, stored: codebook.Stored) -> Numbers:
    """Held-out queries among train samples, beside a null codebook, and with one half of h judging the other."""
    book, tops = stored.codebook, params.neighbours
    held_out = np.flatnonzero(~data.is_train)
    queries = np.sort(np.random.default_rng(params.seed).permutation(held_out)[: params.max_samples])
    try:
        among = fitted_rows(params, data, len(book.centroids))
    except Unavailable as reason:
        return Numbers(unavailable={"held_out": str(reason)})
    own = held_out_module.against_null(
        data.h, data.labels, queries, among, len(book.centroids), fitter(stored), tops, params.stability_seeds
    )
    halves = held_out_module.crossed(book, data.h, stored.embedding.text_width, queries, among, tops)
    return Numbers({**own.values, **halves.values}, {**own.unavailable, **halves.unavailable})


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


def stability_block(given: Labellings, null: float | None) -> Numbers:
    """``ari``: mean adjusted Rand index between the classes and codebooks of other seeds; ``_std`` over seeds;
    ``ari_null``: of null codebooks, and ``ari_excess`` over it."""
    try:
        values = [ari_of(contingency(given.classes, other)) for other in given.seeds]
        chance = [ari_of(contingency(given.classes, other)) for other in given.permuted]
    except Unavailable as reason:
        return Numbers(unavailable={"stability": str(reason)})
    found = {"ari": float(np.mean(values)), "ari_std": float(np.std(values, ddof=1))}
    found |= {"ari_chance": float(np.mean(chance)), "ari_chance_std": float(np.std(chance, ddof=1))}
    return Numbers(found if null is None else {**found, "ari_null": null, "ari_excess": found["ari"] - null})


def collapse_block(params: DiagnosticsParams, data: Measured) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """:func:`spectrum.rank_numbers` of every feature that h reads (those are judged), and of h; and why not."""
    halves = labellings(np.zeros(len(data.queries), int), params.repeats, params.subsample_share, params.seed)
    spaces = {name: values[data.in_pool(data.queries)] for name, values in data.read.items()}
    found, unavailable = {}, {}
    for name, values in {**spaces, "h": np.asarray(data.h[data.queries])}.items():
        try:
            found[name] = spectrum.rank_numbers(values, halves, params.seed)
        except Unavailable as reason:
            unavailable[f"collapse/{name}"] = str(reason)
    return found, unavailable


def kernel_block(params: DiagnosticsParams, data: Measured) -> tuple[dict[str, Any], dict[str, str]]:
    """The drifting kernel in every named feature phi_j of the frozen encoder, over the queries."""
    labels = data.labels[data.queries]
    given = labellings(labels, params.repeats, params.subsample_share, params.seed)
    found, unavailable = {}, {}
    for name in params.kernel.features:
        values = data.features[name][data.in_pool(data.queries)]
        try:
            found[name] = kernel.kernel_with_spreads(values, given, params.kernel, params.seed)
        except Unavailable as reason:
            unavailable[f"kernel/{name}"] = str(reason)
    return found, unavailable


def probe_block(params: DiagnosticsParams, shards: Shards, data: Measured) -> tuple[dict[str, Any], dict[str, str]]:
    """Linear probes per factor from h, the encoder's features, and raw latents, over the queries; and why not."""
    rows = data.queries
    seen = concatenated(data.features, params.probe.features)[data.in_pool(rows)]
    spaces = {"h": np.asarray(data.h[rows]), "features": seen, "raw_latents": raw_vectors(shards, rows)}
    factors = {name: values[rows] for name, values in data.factors.items()}
    train = data.is_train[rows]
    found, unavailable = {}, {}
    for name, values in spaces.items():
        try:
            found[name] = probe(values, factors, train, params.probe.ridge)
        except Unavailable as reason:
            unavailable[f"probes/{name}"] = str(reason)
    return found, unavailable


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
        "held_out": held_out_block(params, data, stored),
    }
    if seeds:
        blocks["stability"] = stability_block(given, blocks["held_out"].values.get("stability_null"))
    results: dict[str, Any] = {
        "occupancy": occupancy_with_spreads(counts, params.near_empty, params.repeats, params.seed)
    }
    for name, (values, missing) in {
        "collapse": collapse_block(params, data),
        "kernel": kernel_block(params, data),
    }.items():
        results |= {name: values} if values else {}
        unavailable |= missing
    results |= {name: block.values for name, block in blocks.items() if block.values}
    unavailable |= {name: reason for block in blocks.values() for name, reason in block.unavailable.items()}
    if data.factors:
        results["agreement"] = agreements(data.factors, given)
        results["probes"], missing = probe_block(params, shards, data)
        unavailable |= missing
    unavailable |= missing_factors(data.factors, params.known_factors)
    sizes = {"num_samples": len(data.queries), "num_samples_total": len(data.index)}
    return {**results, **sizes, "unavailable": unavailable}
