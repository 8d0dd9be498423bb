"""What the classes are compared with: a baseline that wins is a failure of the classes, and said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import stage
from pipelines.data.shards import Shards
from pipelines.record import baseline
from pipelines.representation import quantiser
from pipelines.representation.agreement import nmi
from pipelines.representation.embedding import Embedding, feature_names, source_of
from pipelines.representation.extraction import check_names, extract, load_encoder, prompt_vectors
from pipelines.representation.params import EmbeddingParams, PseudoClassesParams
from pipelines.representation.passes import Samples
from pipelines.representation.ranks import Ranks


def other_layer(params: PseudoClassesParams) -> EmbeddingParams:
    """The embedding with every feature taken from ``compared_layer``: block1_path in the place of input_path."""
    recipe = params.embedding
    changes = {}
    for name in ("keyframes", "motion"):
        part = getattr(recipe, name)
        if part is not None:
            features = tuple(f"{params.compared_layer}_{feature.partition('_')[2]}" for feature in part.features)
            changes[name] = part.model_copy(update={"features": features})
    return recipe.model_copy(update=changes)


def compared(
    params: PseudoClassesParams,
    shards: Shards,
    latent_mae: Path,
    is_train: np.ndarray,
    factors: Mapping[str, np.ndarray],
    classes: int,
    seen: np.ndarray,
) -> dict[str, float]:
    """NMI with every factor of classes made in the same way from the features of another layer; of the rows ``seen``.

    Raises:
        stage.StageError: the encoder lacks a feature of it, or there are too few different embeddings.
    """
    chosen = np.random.default_rng(params.seed).permutation(seen)[: params.baseline_samples]
    recipe, encoder = other_layer(params), load_encoder(latent_mae)
    names, shape = feature_names(recipe), shards.manifest.fields["latents"].shape
    check_names(encoder, shape, names, "pseudo_classes.compared_layer")
    features = extract(shards, chosen, encoder, names, params.batch_size, recipe.num_keyframes)
    source = source_of(recipe, features, prompt_vectors(shards, chosen) if recipe.text else None)
    train = np.flatnonzero(is_train[chosen])
    h = Embedding.fit(recipe, source, train, Ranks.alone()).apply(source(np.arange(len(chosen))))
    made = quantiser.fit(Samples(h, train), classes, params.quantiser, params.seed, Ranks.alone())
    labels = quantiser.assign(made, h).labels
    return {name: nmi(labels, values[chosen]) for name, values in factors.items()}


def rivals(params: PseudoClassesParams, results: Mapping[str, Any], samples: int) -> list[dict[str, Any]]:
    """The classes beside k-means on PCA of latents and beside the compared layer, in identity and motion: a baseline
    that wins is a failure of the classes, and said; ``samples``: over how many samples the agreement is."""
    own, others, found = results["agreement"], results["nmi_other_spaces"], []
    words = {"pca_latents": "k-means on PCA of latents", params.compared_layer: f"features of {params.compared_layer}"}
    for space, reason in words.items():
        for factor in ("identity", "motion"):
            if space in others and factor in own:
                name = f"nmi of {factor} over {space}"
                found.append(baseline(name, own[factor]["nmi"], ">", others[space][factor], reason, samples))
    for one in found:
        apart = one["value"] - one["threshold"]
        said = "" if one["verdict"] == "pass" else "; WARNING: the baseline wins"
        stage.say(f"{one['name']}: {one['value']:.3f}, {one['reason']} {one['threshold']:.3f} ({apart:+.3f}){said}")
    return found
