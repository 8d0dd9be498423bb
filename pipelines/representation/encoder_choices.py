"""The same report for every choice of encoder: what would classes be worth if h were made from other features?

A choice is a matrix of features of all samples. Each goes through the embedding, the quantiser and the diagnostics that
``params.yaml`` states, in the place of the visual parts of h; text and alignment stay as they are. Beside them stands
the embedding as ``params.yaml`` has it, for every encoder that has the features it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines import stage
from pipelines.data.catalog import SEEN
from pipelines.data.shards import Shards
from pipelines.models.latent_mae import LatentMae
from pipelines.representation import codebook, quantiser
from pipelines.representation.agreement import factor_labels
from pipelines.representation.embedding import Embedding, feature_names, source_of
from pipelines.representation.extraction import concatenated, extract, load_encoder, prompt_vectors, raw_vectors
from pipelines.representation.measuring import Measured, measure, neighbours_of
from pipelines.representation.params import DiagnosticsParams, EmbeddingParams, FeaturePart, PseudoClassesParams
from pipelines.representation.passes import Samples
from pipelines.representation.ranks import Ranks
from pipelines.representation.spectrum import standardised

POOLINGS = ("std", "max", "moving", "trajectory", "path")
MOST = 512
"""Principal directions of raw latents that are kept: an alignment of thousands of columns would fit noise."""
FEATURE = "choice"


@dataclass(frozen=True)
class Choice:
    """The embedding and the features [N, D] it reads; ``FEATURE`` are all of them side by side, for the probes."""

    recipe: EmbeddingParams
    features: dict[str, np.ndarray]


def principal(values: np.ndarray, components: int, whiten: bool, fitted_on: np.ndarray) -> np.ndarray:
    """Scores on the first principal directions [N, <= components], found on the rows ``fitted_on``."""
    mean = values[fitted_on].mean(0)
    _, sizes, directions = np.linalg.svd(values[fitted_on] - mean, full_matrices=False)
    kept = min(components, int((sizes > 1e-6 * sizes[0]).sum()))
    scores = (values - mean) @ directions[:kept].T
    return (scores / (sizes[:kept] / np.sqrt(len(fitted_on))) if whiten else scores).astype(np.float32)


def pooled(shards: Shards, encoder: LatentMae, batch_size: int) -> np.ndarray:
    """The clip poolings of all layers of an encoder, each column with mean 0 and standard deviation 1: [N, D]."""
    probe = encoder.features(torch.zeros(1, *(length or 1 for length in shards.manifest.fields["latents"].shape)))
    layers = sorted({name.removesuffix("_path") for name in probe if name.endswith("_path")} - {"input"})
    names = [f"{layer}_{pooling}" for layer in layers for pooling in POOLINGS]
    rows = np.arange(len(shards))
    return standardised(concatenated(extract(shards, rows, encoder, names, batch_size), names)).astype(np.float32)


def whole(values: np.ndarray, params: PseudoClassesParams) -> Choice:
    """One matrix [N, D] in the place of all visual parts."""
    visual = FeaturePart(features=(FEATURE,), weight=1.0)
    return Choice(params.embedding.model_copy(update={"keyframes": visual, "motion": None}), {FEATURE: values})


def stated(shards: Shards, encoder: LatentMae, names: list[str], params: PseudoClassesParams) -> Choice:
    """The embedding of ``params.yaml``, from the features ``names`` that it reads."""
    rows, count = np.arange(len(shards)), params.embedding.num_keyframes
    found = extract(shards, rows, encoder, names, params.batch_size, count)
    return Choice(params.embedding, {**found, FEATURE: concatenated(found, names)})


def choices(
    shards: Shards, encoders: Mapping[str, Path], params: PseudoClassesParams
) -> dict[str, Callable[[], Choice]]:
    """By name: each trained encoder (as params.yaml has it; all poolings), the same with random weights, raw latents,
    whitened PCA of latents."""
    train, found = shards.rows("train"), {}
    fitted_on = np.random.default_rng(params.seed).permutation(train)[: params.baseline_samples]
    names, shape = feature_names(params.embedding), shards.manifest.fields["latents"].shape
    for name, folder in encoders.items():
        encoder = load_encoder(folder)
        if names and encoder.features(torch.zeros(1, *(length or 1 for length in shape))).keys() >= set(names):
            found[name] = lambda encoder=encoder: stated(shards, encoder, names, params)
        found[f"{name}, all poolings"] = lambda encoder=encoder: whole(
            pooled(shards, encoder, params.batch_size), params
        )
        torch.manual_seed(params.seed)
        blank = LatentMae(encoder.config["channels"], encoder.config["architecture"]).eval()
        found[f"{name}, random weights"] = lambda blank=blank: whole(pooled(shards, blank, params.batch_size), params)

    def latents(components: int, whiten: bool) -> Choice:
        return whole(principal(raw_vectors(shards, np.arange(len(shards))), components, whiten, fitted_on), params)

    found["raw latents"] = lambda: latents(MOST, False)
    found["PCA of latents"] = lambda: latents(params.baseline_components, True)
    return found


def report(
    shards: Shards, choice: Choice, params: PseudoClassesParams, diagnostics: DiagnosticsParams
) -> tuple[dict[str, Any], Measured]:
    """The diagnostics of the classes of a choice, and what was measured."""
    rows, train = np.arange(len(shards)), shards.rows("train")
    prompts = prompt_vectors(shards, rows)
    source = source_of(choice.recipe, choice.features, prompts)
    embedding = Embedding.fit(choice.recipe, source, train, Ranks.alone())
    h = embedding.apply(source(rows))
    made = quantiser.fit(Samples(h, train), params.num_classes, params.quantiser, params.seed, Ranks.alone())
    facts = {"quantiser": params.quantiser.model_dump(mode="json"), "seed": params.seed}
    stored = codebook.Stored(made, h, embedding, shards.index, facts)
    queries = np.sort(np.random.default_rng(diagnostics.seed).permutation(rows)[: diagnostics.max_samples])
    data = Measured(
        shards.index,
        np.asarray(shards.index["split"] == "train"),
        quantiser.assign(made, h).labels,
        h,
        factor_labels(shards.index, diagnostics.known_factors),
        queries,
        neighbours_of(h, queries, max(diagnostics.neighbours)),
        rows,
        choice.features,
        {name: choice.features[name] for name in feature_names(choice.recipe)},
        prompts,
    )
    probe = diagnostics.probe.model_copy(update={"features": (FEATURE,)})
    kernel = diagnostics.kernel.model_copy(update={"features": (FEATURE,)})
    asked = diagnostics.model_copy(update={"probe": probe, "kernel": kernel})
    return measure(asked, shards, data, stored), data


def reports(
    latents: Path, encoders: Mapping[str, Path], params: PseudoClassesParams, diagnostics: DiagnosticsParams
) -> tuple[dict[str, dict[str, Any]], dict[str, Measured]]:
    """:func:`report` of every choice."""
    shards = Shards(latents, SEEN)
    found, measured = {}, {}
    for name, choice in choices(shards, encoders, params).items():
        stage.say(f"encoder choice: {name}")
        found[name], data = report(shards, choice(), params, diagnostics)
        measured[name] = replace(data, features={}, read={}, prompts=np.empty(0))  # what comparing needs is small
    return found, measured
