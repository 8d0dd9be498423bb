"""Stage ``diagnostics``: what a codebook is worth, every number beside its chance level, and the gates.

The stage always completes and records; the training that reads ``gates.json`` refuses to start where a verdict is fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines import stage
from pipelines.data.catalog import SEEN, TEST, TRAIN
from pipelines.data.contract import require_autoencoder
from pipelines.data.shards import Shards
from pipelines.drawing import drawn
from pipelines.representation import codebook, diagnostics_figures, exemplars, kernel
from pipelines.representation.class_figures import draw_occupancy
from pipelines.representation.gates import judge, over
from pipelines.representation.held_out import crossed
from pipelines.representation.measuring import Measured, measure, neighbour_table, sample, train_counts
from pipelines.representation.params import DiagnosticsParams
from pipelines.training import checkpoint


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
    whole, everything = shards, stored
    shards, stored = Shards(latents, SEEN), stored.of(np.asarray(shards.index["split"].isin(SEEN)))
    require_autoencoder(shards.manifest, autoencoder)
    checkpoint.read(autoencoder)
    diagnostics_figures.check_layout(params.layout)
    data = sample(params, shards, latent_mae, stored)
    results = measure(params, shards, data, stored)
    results["gates"] = over(judge(params.gates, results), *counts(params, data))
    results["test"], missing = tested(params, whole, everything, results)
    results["unavailable"] |= missing
    planes = diagnostics_figures.layouts(np.asarray(data.h[data.queries]), params.layout, params.seed)
    draw(params, shards, data, stored, results, planes, autoencoder, plots)
    with stage.whole_folder(out) as folder:
        stage.write_json(folder / "gates.json", {"gates": results["gates"]})
        neighbour_table(data).to_parquet(folder / "neighbours.parquet", index=False)
        projection_table(data, planes).to_parquet(folder / "projection.parquet", index=False)
    stage.write_metrics(metrics, results)
    for found in results["gates"]:
        value = f"{found['value']:.4g}" if "value" in found else "not available"
        stage.say(
            f"gate {found['name']}: {found['verdict']} ({value} {found['comparison']} {found['threshold']:g}; "
            f"{found['reason']})"
        )


def counts(params: DiagnosticsParams, data: Measured) -> tuple[int, int, int, int]:
    """Samples that gates are over: train, held-out queries, queries, all."""
    train = int(data.is_train.sum())
    return train, min(len(data.index) - train, params.max_samples), len(data.queries), len(data.index)


def tested(
    params: DiagnosticsParams, shards: Shards, stored: codebook.Stored, results: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, str]]:
    """The one line that reads the test split: its clips as queries among train clips, one half of h judging the other,
    beside the validation clips on which parameters were chosen; no gate stands on it. Or why there is none."""
    split, tops = shards.index["split"].to_numpy(), params.neighbours
    queries, among = np.flatnonzero(split == TEST), np.flatnonzero(split == TRAIN)
    if not len(queries):
        reason = f"the index has no split {TEST}; raw_video makes it"
        stage.say(f"test split: not available, {reason}")
        return {}, {"test": reason}
    found = crossed(stored.codebook, stored.h, stored.embedding.text_width, queries, among, tops)
    words, seen = [], results.get("held_out", {})
    for name in ("text_to_keyframes", "keyframes_to_text"):
        key = next((f"{name}_top{k}" for k in (5, 1, 10) if f"{name}_top{k}" in found.values), None)
        if key is not None:
            of_validation = f"validation {seen[key]:.3f}" if key in seen else "validation not available"
            numbers = f"{found.values[key]:.3f} ± {found.values[f'{key}_std']:.3f}, {of_validation}"
            words.append(f"{key} {numbers}, chance {found.values[f'{key}_chance']:.3f}")
    if words:
        stage.say(f"test split, {len(queries)} clips: {'; '.join(words)}")
    return found.values, {f"test/{name}": reason for name, reason in found.unavailable.items()}


def projection_table(data: Measured, planes: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """``key``, ``x``, ``y`` of the last layout (PCA where there is no other), ``pseudo_class``: of the queries."""
    plane = list(planes.values())[-1]
    index = data.index.iloc[data.queries]
    columns = {"key": index["key"].to_numpy(), "x": plane[:, 0], "y": plane[:, 1]}
    return pd.DataFrame({**columns, "pseudo_class": data.labels[data.queries]})


@drawn
def draw(
    params: DiagnosticsParams,
    shards: Shards,
    data: Measured,
    stored: codebook.Stored,
    results: dict[str, Any],
    planes: Mapping[str, np.ndarray],
    autoencoder: Path,
    plots: Path,
) -> None:
    """All pictures of the report."""
    rows = data.queries
    draw_occupancy(train_counts(data, len(stored.codebook.centroids)), results["occupancy"], plots / "occupancy.png")
    index, labels, prompts = data.index.iloc[rows], data.labels[rows], data.prompts[data.in_pool(rows)]
    names = [name for name in (*params.known_factors.identity, *params.known_factors.motion) if name in data.factors]
    best = sorted(names, key=lambda name: -results["agreement"][name]["nmi"])[:2]
    colourings = {name: index[f"factor_{name}"].astype(str).to_numpy() for name in best}
    colourings["prompt family"] = diagnostics_figures.prompt_families(prompts, index["prompt"].tolist(), params.seed)
    for name, plane in planes.items():
        title = f"The joint embedding: {diagnostics_figures.LAYOUTS[name]}"
        file = "projection.png" if name == "pca" else f"projection_{name}.png"
        diagnostics_figures.draw_projection(plane, labels, colourings, title, plots / file)
    if "kernel" in results:
        labels, places = data.labels[rows], data.in_pool(rows)
        sides = {
            name: kernel.pooled(kernel.class_distances(data.features[name][places], labels, params.kernel, params.seed))
            for name in results["kernel"]
        }
        diagnostics_figures.draw_kernel(sides, params.kernel.taus, results["kernel"], plots / "kernel.png")
    decoder = exemplars.Decoder(shards, autoencoder)
    seen = decoder, data.h, data.labels, stored.codebook.centroids
    exemplars.draw_exemplars(*seen, params.seed, plots / "exemplars.png")
    exemplars.draw_pages(*seen, plots / "exemplars_of_all.png")
    if "retrieval" in results:
        near = (data.queries, data.near.indices)
        exemplars.draw_retrieval(decoder, near, data.labels, results["retrieval"], plots / "retrieval.png")
