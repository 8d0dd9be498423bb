"""Parameters of the representation stages; values and their comments are in ``params.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipelines.params import Count, Names, NonNegative, Params, Positive, Real, Share, Training, Whole


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Counts = Annotated[tuple[Count, ...], BeforeValidator(_tuple), Field(min_length=1)]
Patch = Annotated[tuple[Count, Count, Count], BeforeValidator(_tuple)]
Positives = Annotated[tuple[Positive, ...], BeforeValidator(_tuple), Field(min_length=1)]

# ---- latent_mae ---------------------------------------------------------------------------------------------------


class TransformerFamily(Params):
    """VideoMAE-like: the encoder sees visible patches only."""

    family: Literal["transformer"]
    patch: Patch
    width: Count
    depth: Count
    heads: Count
    decoder_width: Count
    decoder_depth: Count

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerFamily:
        if self.width % self.heads or self.decoder_width % self.heads:
            raise ValueError(f"width and decoder_width must be multiples of heads ({self.heads})")
        return self


class ConvFamily(Params):
    """ResNet stages with a U-Net decoder; the feature encoder of the drifting loss."""

    family: Literal["conv"]
    patch: Patch
    width: Count
    blocks: Counts
    temporal_kernel: Literal[1, 3, 5]
    locations: Count


class Mask(Params):
    """What training hides: ``tube`` the same places in all frames, ``patch`` every patch by itself."""

    shape: Literal["tube", "patch"]
    ratio: Annotated[Share, Field(gt=0, lt=1)]


class ProbeTraining(Params):
    """Ridge classifiers from features to each known factor, trained on train, scored on held_out."""

    features: Names
    ridge: Positive


class LatentMaeParams(Params):
    """Section ``latent_mae``."""

    architecture: Annotated[TransformerFamily | ConvFamily, Field(discriminator="family")]
    mask: Mask
    probe: ProbeTraining
    spectrum_feature: str
    training: Training


# ---- pseudo_classes -----------------------------------------------------------------------------------------------


class TextPart(Params):
    """Mean of the prompt's token embeddings."""

    weight: NonNegative


class FeaturePart(Params):
    """Named features of the latent MAE, concatenated."""

    features: Annotated[Names, Field(min_length=1)]
    weight: NonNegative


class Alignment(Params):
    """Keep what text and keyframes say in common: canonical directions weighted by correlation ** power."""

    components: Count
    ridge: NonNegative
    power: NonNegative


class EmbeddingParams(Params):
    """h = g(text, keyframes)."""

    num_keyframes: Annotated[int, Field(ge=2)]
    text: TextPart | None
    keyframes: FeaturePart | None
    motion: FeaturePart | None
    alignment: Alignment | None

    @model_validator(mode="after")
    def _something(self) -> EmbeddingParams:
        seen = self.keyframes is not None or self.motion is not None
        if self.text is None and not seen:
            raise ValueError("give at least one of text, keyframes and motion")
        if self.alignment is not None and not (seen and self.text is not None):
            raise ValueError("alignment compares text with keyframes or motion; give both or set it to null")
        return self


class Fallback(Params):
    """A smaller codebook, also made and measured; it is taken when the first one's occupancy is worse than this."""

    num_classes: Count
    min_entropy_ratio: Share
    max_near_empty_share: Share
    near_empty: Count


class KnownFactors(Params):
    """Columns ``factor_<name>`` whose combination is one label, for data that has them."""

    identity: Names
    motion: Names


class Kmeans(Params):
    """Exact k-means: the best of some restarts of Lloyd's iteration."""

    kind: Literal["kmeans"]
    restarts: Count
    max_iterations: Count


class Vq(Params):
    """A VQ layer: codes follow moving averages over batches; a code used less than a share of even use is revived."""

    kind: Literal["vq"]
    steps: Count
    batch_size: Count
    decay: Annotated[Share, Field(gt=0, lt=1)]
    revive_below: Annotated[Share, Field(lt=1)]


Quantiser = Annotated[Kmeans | Vq, Field(discriminator="kind")]


class PseudoClassesParams(Params):
    """Section ``pseudo_classes``."""

    num_classes: Annotated[int, Field(ge=2)]
    seed: Whole
    quantiser: Quantiser
    batch_size: Count
    embedding: EmbeddingParams
    fallback: Fallback | None
    known_factors: KnownFactors
    compared_layer: str
    baseline_samples: Count
    baseline_components: Count
    permutations: Annotated[int, Field(ge=2)]


# ---- diagnostics --------------------------------------------------------------------------------------------------


class Threshold(Params):
    """On which side of ``warn`` a gate passes, and beyond ``fail`` it fails."""

    warn: Real
    fail: Real


def _falls(gate: Threshold) -> Threshold:
    if gate.fail > gate.warn:
        raise ValueError(f"fail {gate.fail:g} is above warn {gate.warn:g}, but this number must be at least so large")
    return gate


def _rises(gate: Threshold) -> Threshold:
    if gate.fail < gate.warn:
        raise ValueError(f"fail {gate.fail:g} is below warn {gate.warn:g}, but this number must be at most so large")
    return gate


AtLeast = Annotated[Threshold, AfterValidator(_falls)]
AtMost = Annotated[Threshold, AfterValidator(_rises)]


class AgreementGate(Params):
    """NMI of classes with the known factor less its chance level."""

    identity: AtLeast
    motion: AtLeast


class Gates(Params):
    """Thresholds; ``at least`` except ``near_empty_share`` and ``largest_share``, which are ``at most``."""

    near_empty_share: AtMost
    largest_share: AtMost
    entropy_ratio: AtLeast
    retrieval_excess: AtLeast
    text_to_keyframes: AtLeast
    keyframes_to_text: AtLeast
    rankme: AtLeast
    stability: AtLeast
    agreement: AgreementGate


class KernelParams(Params):
    """The drifting kernel between samples of a class (positives) and of other classes (negatives)."""

    features: Annotated[Names, Field(min_length=1)]
    taus: Positives
    queries: Count
    positives: Count
    negatives: Count


class TsneLayout(Params):
    """A second layout by t-SNE: neighbours to balance."""

    kind: Literal["tsne"]
    perplexity: Positive


class UmapLayout(Params):
    """A second layout by UMAP (the extra ``umap``): neighbours to keep, and how close points may lie."""

    kind: Literal["umap"]
    neighbours: Annotated[int, Field(ge=2)]
    min_distance: Share


Layout = Annotated[TsneLayout | UmapLayout, Field(discriminator="kind")]


class DiagnosticsParams(Params):
    """Section ``diagnostics``."""

    seed: Whole
    batch_size: Count
    max_samples: Annotated[int, Field(ge=8)]
    repeats: Annotated[int, Field(ge=2)]
    subsample_share: Annotated[Share, Field(gt=0, lt=1)]
    neighbours: Counts
    near_empty: Count
    kernel: KernelParams
    probe: ProbeTraining
    known_factors: KnownFactors
    layout: Layout | None
    stability_seeds: Annotated[int, Field(ge=2)]
    gates: Gates
