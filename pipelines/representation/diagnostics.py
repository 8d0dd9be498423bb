"""Stage ``diagnostics``: what a codebook is worth, every number beside its chance level, and the gates.

The stage always completes and records; the training that reads ``gates.json`` refuses to start where a verdict is fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from pipelines import stage
from pipelines.data.contract import require_autoencoder
from pipelines.data.shards import Shards
from pipelines.representation import codebook, figures, kernel, quantiser, retrieval, spectrum
from pipelines.representation.agreement import agreements, factor_labels, missing_factors, probe
from pipelines.representation.chance import Numbers, Repeats, Unavailable, with_chance
from pipelines.representation.class_figures import draw_occupancy
from pipelines.representation.embedding import feature_names, parts_of
from pipelines.representation.extraction import (
    check_names,
    concatenated,
    extract,
    load_encoder,
    prompt_vectors,
    raw_vectors,
)
from pipelines.representation.gates import judge
from pipelines.representation.occupancy import counts_of, expected_entropy_ratio, gini, occupancy
from pipelines.representation.params import DiagnosticsParams
from pipelines.representation.separation import separation
from pipelines.training import checkpoint


@dataclass(frozen=True)
class Sampled:
    """The samples that are measured, row by row: a seeded subset when there are more than ``max_samples``."""

    rows: np.ndarray
    index: pd.DataFrame
    is_train: np.ndarray
    labels: np.ndarray
    h: np.ndarray
    features: dict[str, np.ndarray]
    prompts: np.ndarray
    factors: dict[str, np.ndarray]


def sample(params: DiagnosticsParams, shards: Shards, latent_mae: Path, stored: codebook.Stored) -> Sampled:
    """Embed up to ``max_samples`` samples, drawn evenly over all.

    Raises:
        stage.StageError: fewer than 8 samples, an unknown feature, values that are not finite.
    """
    if len(shards) < 8:
        raise stage.StageError(f"{shards.folder}: {len(shards)} samples; diagnostics need at least 8.")
    order = np.random.default_rng(params.seed).permutation(len(shards))[: params.max_samples]
    rows = np.sort(order)
    encoder = load_encoder(latent_mae)
    wanted = [*feature_names(stored.embedding.params), *params.probe.features, params.rankme_feature]
    names = list(dict.fromkeys(wanted))
    check_names(encoder, shards.manifest.fields["latents"].shape, names, "diagnostics.probe.features, rankme_feature")
    features = extract(shards, rows, encoder, names, params.batch_size)
    prompts = prompt_vectors(shards, rows)
    index = shards.index.iloc[rows].reset_index(drop=True)
    by_key = stored.assignments.set_index("key")["pseudo_class"]
    return Sampled(
        rows,
        index,
        np.asarray(index["split"] == "train"),
        np.asarray(by_key.loc[index["key"]]),
        stored.embedding.apply(parts_of(stored.embedding.params, features, prompts)),
        features,
        prompts,
        factor_labels(index, params.known_factors),
    )


# ---- blocks of the report -----------------------------------------------------------------------------------------


def train_counts(stored: codebook.Stored) -> np.ndarray:
    """Train samples per class [K]."""
    table = stored.assignments
    labels = table["pseudo_class"].to_numpy()[table["split"].to_numpy() == "train"]
    return counts_of(labels, len(stored.codebook.centroids))


def occupancy_block(params: DiagnosticsParams, stored: codebook.Stored) -> dict[str, float]:
    """Occupancy of the train split, and the entropy ratio of a fair die with as many throws."""
    counts = train_counts(stored)
    die = expected_entropy_ratio(int(counts.sum()), len(counts), params.repeats, params.seed)
    numbers = occupancy(counts, params.near_empty)
    return {**numbers, "gini": gini(counts), "entropy_ratio_chance": die[0], "entropy_ratio_chance_std": die[1]}


def retrieval_block(params: DiagnosticsParams, data: Sampled) -> tuple[Numbers, pd.DataFrame]:
    """Consistency of nearest neighbours in h and their agreement in text and keyframes; and the neighbours."""
    most = max(params.neighbours)
    try:
        indices, distances = retrieval.neighbours(data.h, most)
    except Unavailable as reason:
        return Numbers(unavailable={"retrieval": str(reason)}), pd.DataFrame()
    found = Numbers(retrieval.consistency(indices, data.labels, params.neighbours))
    seen = spectrum.standardised(concatenated(data.features, params.probe.features))
    for name, vectors in (("text", data.prompts), ("keyframes", seen)):
        value, error = retrieval.agreement_over_random(vectors, indices, params.seed)
        found.values |= {f"{name}_over_random": value, f"{name}_over_random_std": error}
    keys = data.index["key"].to_numpy()
    table = pd.DataFrame(
        {
            "key": np.repeat(keys, most),
            "rank": np.tile(np.arange(1, most + 1), len(keys)),
            "neighbour": keys[indices.ravel()],
            "distance": distances.ravel().astype(np.float32),
            "same_class": (data.labels[indices] == data.labels[:, None]).ravel(),
        }
    )
    return found, table


def stability_block(params: DiagnosticsParams, data: Sampled, num_classes: int) -> Numbers:
    """``ari``: mean adjusted Rand index between the classes and k-means from other seeds on the same h; chance 0."""
    train = data.is_train
    if num_classes > train.sum():
        return Numbers(unavailable={"stability": f"{int(train.sum())} train samples measured, {num_classes} classes"})
    values = []
    for seed in range(1, params.stability_seeds + 1):
        again = quantiser.fit(data.h[train], num_classes, params.seed + 1000 * seed, 1, 300)
        values.append(adjusted_rand_score(data.labels[train], quantiser.assign(again, data.h[train]).labels))
    return Numbers({"ari": float(np.mean(values)), "ari_std": float(np.std(values, ddof=1)), "ari_chance": 0.0})


def collapse_block(params: DiagnosticsParams, data: Sampled) -> dict[str, float]:
    """RankMe and participation ratio of the encoder's feature and of h; ``_most``: of Gaussian noise of that shape."""
    rng = np.random.default_rng(params.seed)
    found = {}
    for prefix, values in (("", data.features[params.rankme_feature]), ("h_", data.h)):
        found |= {
            f"{prefix}rankme": spectrum.rankme(values),
            f"{prefix}rankme_most": spectrum.rankme(rng.standard_normal(values.shape)),
            f"{prefix}participation": spectrum.participation(values),
        }
    return found


def probe_block(params: DiagnosticsParams, shards: Shards, data: Sampled) -> dict[str, Any]:
    """Linear probes per factor from h, the encoder's features, and raw latents."""
    spaces = {
        "h": data.h,
        "features": concatenated(data.features, params.probe.features),
        "raw_latents": raw_vectors(shards, data.rows),
    }
    return {name: probe(values, data.factors, data.is_train, params.probe.ridge) for name, values in spaces.items()}


def measure(
    params: DiagnosticsParams, shards: Shards, data: Sampled, stored: codebook.Stored
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The whole report, and the table of neighbours."""
    repeats = Repeats(params.repeats, params.subsample_share, params.seed)
    num_classes = len(stored.codebook.centroids)
    results: dict[str, Any] = {"occupancy": occupancy_block(params, stored), "collapse": collapse_block(params, data)}
    near, table = retrieval_block(params, data)
    blocks = {
        "separation": with_chance("separation", separation, data.h, data.labels, repeats),
        "retrieval": near,
        "stability": stability_block(params, data, num_classes),
    }
    unavailable = {name: reason for block in blocks.values() for name, reason in block.unavailable.items()}
    results |= {name: block.values for name, block in blocks.items() if block.values}
    try:
        results["kernel"] = kernel.kernel_with_chance(data.h, data.labels, params.kernel, params.repeats, params.seed)
    except Unavailable as reason:
        unavailable["kernel"] = str(reason)
    if data.factors:
        results["agreement"] = agreements(data.labels, data.factors, params.repeats, params.seed)
        results["probes"] = probe_block(params, shards, data)
    unavailable |= missing_factors(data.factors, params.known_factors)
    results |= {"num_samples": len(data.rows), "num_samples_total": len(shards), "unavailable": unavailable}
    return results, table


def diagnose(
    params: DiagnosticsParams,
    latents: Path,
    latent_mae: Path,
    pseudo_classes: Path,
    autoencoder: Path,
    out: Path,
    metrics: Path,
    plots: Path,
) -> None:
    """Measure a codebook and judge it; write ``gates.json``, neighbours, the 2-D layout, metrics and pictures.

    Raises:
        stage.StageError: the codebook is of other latents or another encoder, its files do not belong together, the
            latents are of another autoencoder, or there are too few samples.
    """
    shards = Shards(latents)
    shards.manifest.require(["latents", "prompt_embeds"], "diagnostics")
    stored = codebook.read(pseudo_classes)
    codebook.require_sources(stored, latents, latent_mae, shards.index["key"].tolist(), pseudo_classes)
    require_autoencoder(shards.manifest, autoencoder)
    checkpoint.read(autoencoder)
    data = sample(params, shards, latent_mae, stored)
    results, neighbours = measure(params, shards, data, stored)
    results["gates"] = judge(params.gates, results)
    draw(params, shards, data, stored, results, autoencoder, plots)
    layout = figures.layout(data.h)
    with stage.whole_folder(out) as folder:
        stage.write_json(folder / "gates.json", {"gates": results["gates"]})
        neighbours.to_parquet(folder / "neighbours.parquet", index=False)
        columns = {"key": data.index["key"], "x": layout[:, 0], "y": layout[:, 1], "pseudo_class": data.labels}
        pd.DataFrame(columns).to_parquet(folder / "projection.parquet", index=False)
    stage.write_metrics(metrics, results)
    for found in results["gates"]:
        value = f"{found['value']:.4g}" if "value" in found else "not available"
        stage.say(
            f"gate {found['name']}: {found['verdict']} ({value} {found['comparison']} {found['threshold']:g}; "
            f"{found['reason']})"
        )


def draw(
    params: DiagnosticsParams,
    shards: Shards,
    data: Sampled,
    stored: codebook.Stored,
    results: dict[str, Any],
    autoencoder: Path,
    plots: Path,
) -> None:
    """All pictures of the report."""
    counts = train_counts(stored)
    draw_occupancy(counts, results["occupancy"], plots / "occupancy.png")
    names = [name for name in (*params.known_factors.identity, *params.known_factors.motion) if name in data.factors]
    best = sorted(names, key=lambda name: -results["agreement"][name]["nmi"])[:2]
    colourings = {name: data.index[f"factor_{name}"].astype(str).to_numpy() for name in best}
    colourings["prompt family"] = figures.prompt_families(data.prompts, data.index["prompt"].tolist(), params.seed)
    planes = {"projection": figures.layout(data.h)}
    title = "The joint embedding: first two principal components"
    if params.tsne is not None:
        planes["projection_tsne"] = figures.tsne(data.h, params.tsne.perplexity, params.seed)
    for name, plane in planes.items():
        shown = title if name == "projection" else "The joint embedding: t-SNE (near is alike; far says little)"
        figures.draw_projection(plane, data.labels, colourings, shown, plots / f"{name}.png")
    if "kernel" in results:
        sides = kernel.class_distances(data.h, data.labels, params.kernel, params.seed)
        figures.draw_kernel(kernel.pooled(sides), params.kernel.taus, results["kernel"], plots / "kernel.png")
    decoder = figures.Decoder(shards, data.rows, autoencoder)
    figures.draw_exemplars(
        decoder, data.h, data.labels, stored.codebook.centroids, params.seed, plots / "exemplars.png"
    )
    if "retrieval" in results:
        figures.draw_retrieval(decoder, data.h, data.labels, results["retrieval"], plots / "retrieval.png")
