"""Stage ``pseudo_classes``: embed h = g(text, keyframes), make classes by k-means or VQ, say what they follow.

Everything per sample stands in memory-mapped files while the stage works, so the data may be larger than memory, and
several processes share the work.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from pipelines import stage
from pipelines.data.catalog import SEEN
from pipelines.data.shards import Shards
from pipelines.representation import class_figures, codebook, quantiser
from pipelines.representation.agreement import agreements, factor_labels, missing_factors, nmi
from pipelines.representation.embedding import Embedding, Source, feature_names, source_of
from pipelines.representation.extraction import (
    check_names,
    extract_into,
    load_encoder,
    prompt_vectors,
    prompt_vectors_into,
    prompt_width,
    raw_vectors,
    widths,
)
from pipelines.representation.occupancy import counts_of, occupancy, occupancy_with_spreads
from pipelines.representation.params import Kmeans, PseudoClassesParams
from pipelines.representation.passes import Codebook, Samples
from pipelines.representation.ranks import Ranks
from pipelines.representation.rivals import compared, rivals
from pipelines.representation.spreads import labellings

NEAR_EMPTY = 2
"""Train samples below which a class counts as near-empty where there is no fallback that says so."""
SUBSAMPLE = 0.8
"""Share of the samples in a subsample of the jackknife."""
Made = tuple[Codebook, quantiser.Assignments, dict[str, float]]


def raw_parts(params: PseudoClassesParams, shards: Shards, latent_mae: Path, scratch: Path, ranks: Ranks) -> Source:
    """The raw parts of all samples, in matrices under ``scratch``; each process reads and writes its share.

    Raises:
        stage.StageError: the encoder lacks a named feature, or a feature is not finite.
    """
    encoder = load_encoder(latent_mae)
    names = feature_names(params.embedding)
    check_names(encoder, shards.manifest.fields["latents"].shape, names, "pseudo_classes.embedding")
    rows, part = np.arange(len(shards)), ranks.part(len(shards))
    features = {
        name: ranks.matrix(scratch / f"{name}.npy", (len(rows), width))
        for name, width in widths(shards, encoder, names, params.embedding.num_keyframes).items()
    }
    if names:
        extract_into(features, part, shards, rows, encoder, params.batch_size, params.embedding.num_keyframes)
    prompts = None
    if params.embedding.text is not None:
        prompts = ranks.matrix(scratch / "prompts.npy", (len(rows), prompt_width(shards)))
        prompt_vectors_into(prompts, part, shards, rows)
    ranks.wait()
    return source_of(params.embedding, features, prompts)


def embedded(
    params: PseudoClassesParams, shards: Shards, latent_mae: Path, is_train: np.ndarray, scratch: Path, ranks: Ranks
) -> tuple[Embedding, np.ndarray]:
    """The embedding fitted on the train split, and h [N, D] of all samples in a matrix under ``scratch``.

    Raises:
        stage.StageError: the encoder lacks a named feature, or a feature is not finite.
    """
    source = raw_parts(params, shards, latent_mae, scratch, ranks)
    embedding = Embedding.fit(params.embedding, source, np.flatnonzero(is_train), ranks)
    h = ranks.matrix(scratch / "h.npy", (len(shards), embedding.width))
    embedding.apply_into(h, source, ranks.part(len(shards)))
    ranks.wait()
    return embedding, h


def clustered(params: PseudoClassesParams, h: np.ndarray, is_train: np.ndarray, num_classes: int, ranks: Ranks) -> Made:
    """A codebook of some size fitted on train, everybody's class, and occupancy of the train split."""
    samples = Samples(h, np.flatnonzero(is_train))
    made = quantiser.fit(samples, num_classes, params.quantiser, params.seed, ranks)
    assigned = quantiser.assign(made, h)
    near_empty = params.fallback.near_empty if params.fallback else NEAR_EMPTY
    return made, assigned, occupancy(counts_of(assigned.labels[is_train], num_classes), near_empty)


def decide(
    params: PseudoClassesParams, h: np.ndarray, is_train: np.ndarray, ranks: Ranks
) -> tuple[Made, dict[str, Any]]:
    """The codebook of ``num_classes``, or the fallback when its occupancy is worse than allowed; both are recorded.

    The fallback is taken only when it is itself better in what failed.
    """
    first = clustered(params, h, is_train, params.num_classes, ranks)
    record: dict[str, Any] = {"first": {"inertia": first[0].inertia, **first[2]}}
    if params.fallback is None:
        return first, {**record, "reason": "no fallback in params"}
    rule = params.fallback
    second = clustered(params, h, is_train, min(rule.num_classes, params.num_classes), ranks)
    record["fallback"] = {"inertia": second[0].inertia, **second[2]}
    low, sparse = first[2]["entropy_ratio"], first[2]["near_empty_share"]
    reasons = []
    if low < rule.min_entropy_ratio and second[2]["entropy_ratio"] > low:
        reasons.append(f"entropy ratio {low:.3f} is below {rule.min_entropy_ratio:g}")
    if sparse > rule.max_near_empty_share and second[2]["near_empty_share"] < sparse:
        reasons.append(f"near-empty share {sparse:.3f} is above {rule.max_near_empty_share:g}")
    if reasons:
        return second, {**record, "reason": "fallback: " + " and ".join(reasons)}
    return first, {**record, "reason": "the first codebook passes its occupancy rule, or the fallback is no better"}


def _principal(values: np.ndarray, is_train: np.ndarray, components: int, samples: int, seed: int) -> np.ndarray:
    """Principal components of latents, each with variance 1 over train (fitted on a seeded subset)."""
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(is_train))[:samples]
    most = min(components, len(chosen), values.shape[1])
    found = PCA(most, whiten=True, svd_solver="randomized", random_state=seed).fit(values[chosen])
    kept = found.singular_values_ > 1e-6 * found.singular_values_[0]
    return found.transform(values)[:, kept]


def _seen(shards: Shards) -> np.ndarray:
    """Rows of the splits that may be looked at while parameters are chosen."""
    return np.flatnonzero(shards.index["split"].isin(SEEN))


def baselines(
    params: PseudoClassesParams, shards: Shards, is_train: np.ndarray, factors: Mapping[str, np.ndarray], classes: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """NMI with every factor of k-means on other spaces: raw latents, whitened PCA of latents, mean prompt embedding;
    and why a space has none (equal clips or prompts are fewer than the classes)."""
    rows = np.random.default_rng(params.seed).permutation(_seen(shards))[: params.baseline_samples]
    raw, train = raw_vectors(shards, rows), is_train[rows]
    spaces = {"raw_latents": raw}
    spaces["pca_latents"] = _principal(raw, train, params.baseline_components, params.baseline_samples, params.seed)
    spaces["text"] = prompt_vectors(shards, rows)
    found, unavailable = {}, {}
    for name, values in spaces.items():
        one = Kmeans(kind="kmeans", restarts=1, max_iterations=100)
        try:
            made = quantiser.fit(Samples(values, np.flatnonzero(train)), classes, one, params.seed, Ranks.alone())
        except stage.StageError as error:  # its remedy is for the classes themselves
            unavailable[f"nmi_other_spaces/{name}"] = str(error).partition(". ")[0]
            continue
        labels = quantiser.assign(made, values).labels
        found[name] = {factor: nmi(labels, labels_of[rows]) for factor, labels_of in factors.items()}
    return found, unavailable


def _table(shards: Shards, assigned: quantiser.Assignments) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "key": shards.index["key"].to_numpy(),
            "pseudo_class": assigned.labels.astype(np.int64),
            "distance": assigned.distance.astype(np.float32),
            "margin": assigned.margin.astype(np.float32),
            "split": shards.index["split"].to_numpy(),
        }
    )


def cluster(
    params: PseudoClassesParams, latents: Path, latent_mae: Path, out: Path, metrics: Path, plots: Path
) -> None:
    """Write a codebook fitted on train and the class of every sample, and report what the classes follow.

    Raises:
        stage.StageError: more classes than train samples, an unknown or broken feature, a folder that is not what it
            should be.
    """
    shards = Shards(latents)
    shards.manifest.require(["latents", *(["prompt_embeds"] if params.embedding.text else [])], "pseudo_classes")
    is_train = shards.index["split"].to_numpy() == "train"
    if params.num_classes > is_train.sum():
        raise stage.StageError(
            f"pseudo_classes.num_classes {params.num_classes} is more than the {int(is_train.sum())} train samples."
        )
    ranks = Ranks.here()
    scratch = stage.current().work_folder(out) / "rows"
    try:
        embedding, h = embedded(params, shards, latent_mae, is_train, scratch, ranks)
        result, decision = decide(params, h, is_train, ranks)
        if not ranks.is_main:
            return
        made, assigned, _ = result
        stage.say(f"{len(made.centroids)} classes; {decision['reason']}")
        facts = {
            "latents": stage.digest(latents),
            "latent_mae": stage.digest(latent_mae),
            "text_encoder": shards.manifest.text_encoder.digest,
            "seed": params.seed,
            "quantiser": params.quantiser.model_dump(mode="json"),
            "decision": decision,
        }
        with stage.whole_folder(out) as folder:
            codebook.write(folder, made, embedding, _table(shards, assigned), h, facts)
    finally:
        if ranks.is_main:
            shutil.rmtree(scratch, ignore_errors=True)
    results = report(params, shards, latent_mae, is_train, result, plots)
    stage.write_metrics(metrics, {**results, "decision": decision, "dimensions": embedding.width})


def report(
    params: PseudoClassesParams, shards: Shards, latent_mae: Path, is_train: np.ndarray, result: Made, plots: Path
) -> dict[str, Any]:
    """Inertia, occupancy and agreement with known factors beside other spaces and chance; the pictures.

    Of train and validation samples alone: nothing is to be chosen by what the others say.
    """
    made, assigned, _ = result
    seen = _seen(shards)
    labels = assigned.labels[seen]
    classes = len(made.centroids)
    counts = counts_of(assigned.labels[is_train], classes)
    near_empty = params.fallback.near_empty if params.fallback else NEAR_EMPTY
    results: dict[str, Any] = {
        "inertia": made.inertia,
        "mean_margin": float(assigned.margin[seen].mean()),
        **occupancy_with_spreads(counts, near_empty, params.permutations, params.seed),
    }
    class_figures.draw_occupancy(counts, results, plots / "occupancy.png")
    factors = factor_labels(shards.index, params.known_factors)
    results["unavailable"] = missing_factors(factors, params.known_factors)
    if not factors:
        return results
    given = labellings(labels, params.permutations, SUBSAMPLE, params.seed)
    results["agreement"] = agreements({name: values[seen] for name, values in factors.items()}, given)
    results["nmi_other_spaces"], missing = baselines(params, shards, is_train, factors, classes)
    results["unavailable"] |= missing
    try:
        others = compared(params, shards, latent_mae, is_train, factors, classes, seen)
        results["nmi_other_spaces"][params.compared_layer] = others
    except stage.StageError as error:
        results["unavailable"][f"nmi_other_spaces/{params.compared_layer}"] = str(error).partition(". ")[0]
    results["baselines"] = rivals(params, results, len(labels))
    class_figures.draw_agreement(results["agreement"], results["nmi_other_spaces"], plots / "agreement.png")
    names = [name for name in (*params.known_factors.identity, *params.known_factors.motion) if name in factors]
    values = {name: shards.index[f"factor_{name}"].astype(str).to_numpy()[seen] for name in names}
    class_figures.draw_composition(labels, values, classes, plots / "composition.png")
    return results
