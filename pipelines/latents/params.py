"""Parameters of the stages autoencoder and latent_shards."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from pipelines.latents.loss_params import Adversarial, Losses
from pipelines.params import BelowOne, Count, NonNegative, Params, Positive, Real, Training, Whole


def _tuple(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"it is a list: [{value}]")
    return tuple(value) if isinstance(value, list) else value


class StackedAutoencoderParams(Params):
    """Size of our autoencoder: ``frames`` and ``patch`` x ``patch`` pixels as channels, spatial stride 8."""

    frames: Count
    patch: Literal[1, 2, 4, 8]
    width: Count
    latent_channels: Count
    blocks: Count
    spade: Count | None


class DiffusersAutoencoderParams(Params):
    """An autoencoder of diffusers that is trained here: by folder or hub name its ``config.json``, and its weights.

    ``weights: random`` starts anew. ``frames``: of the windows it trains on, 1 mod its temporal stride.
    """

    name: str
    revision: str | None
    subfolder: str | None
    weights: Literal["pretrained", "random"]
    frames: Count


def _kind_of_network(value: Any) -> str:
    names = value if isinstance(value, dict) else type(value).model_fields
    return "diffusers" if "name" in names else "ours"


Network = Annotated[
    Annotated[StackedAutoencoderParams, Tag("ours")] | Annotated[DiffusersAutoencoderParams, Tag("diffusers")],
    Discriminator(_kind_of_network),
]


class PretrainedAutoencoderParams(Params):
    """A diffusers autoencoder by folder or hub name; nothing is trained then."""

    name: str
    revision: str | None
    subfolder: str | None


class AutoencoderGates(Params):
    """Least values under which latents must not be made from this autoencoder."""

    min_latent_std: NonNegative
    min_psnr: Real


class TemporalCrop(Params):
    """A sample's frames begin at any frame, not only where the network's groups begin: at most this many later."""

    max_start: Count


class SpatialCrop(Params):
    """A part of the picture at least so large (share of each side), of its proportions, resized to the whole."""

    min_share: Annotated[Positive, Field(lt=1)]


class ColorJitter(Params):
    """Factors drawn from [1 - x, 1 + x], of all pixels, of their distance from the mean grey, and from their grey."""

    brightness: BelowOne
    contrast: BelowOne
    saturation: BelowOne


class Augmentation(Params):
    """What is changed at random in the pixels that an autoencoder trains on; a block that is null changes nothing."""

    temporal_crop: TemporalCrop | None
    spatial_crop: SpatialCrop | None
    color_jitter: ColorJitter | None


class AutoencoderParams(Params):
    """Section ``autoencoder``. ``network`` is trained unless ``pretrained`` names one that is taken as it is."""

    pretrained: PretrainedAutoencoderParams | None
    network: Network
    losses: Losses
    augmentation: Augmentation | None
    gates: AutoencoderGates
    training: Training


class DiscriminatorParams(Params):
    """A patch discriminator: frame by frame (2) or over frames (3), told the mean of the latents, or nothing."""

    dimensions: Literal[2, 3]
    width: Count
    levels: Count
    condition: Literal["latents"] | None


class GoingOn(Params):
    """What the stages that go on from an autoencoder share; ``adversarial: null`` goes on with other losses alone."""

    losses: Losses
    adversarial: Adversarial | None
    discriminator: DiscriminatorParams | None
    augmentation: Augmentation | None
    training: Training

    @model_validator(mode="after")
    def _both_or_neither(self) -> GoingOn:
        if (self.adversarial is None) != (self.discriminator is None):
            raise ValueError("adversarial and discriminator: a block each, or null both")
        return self


class AdversarialGates(Params):
    """Most that the game may cost in dB, and that distance and flicker may be of what they were before."""

    max_psnr_fall: NonNegative
    max_perceptual: Positive
    max_flicker: Positive


class AutoencoderAdversarialParams(GoingOn):
    """Section ``autoencoder_adversarial``."""

    freeze: Annotated[tuple[Literal["encoder", "decoder"], ...], BeforeValidator(_tuple)]
    gates: AdversarialGates


class DecoderGates(Params):
    """Least gain on the large clips (dB, of what they were), and most loss on clips of the latents' own size."""

    min_psnr_gain: Real
    max_perceptual: Positive
    max_flicker: Positive
    max_psnr_fall: NonNegative


class AutoencoderDecoderParams(GoingOn):
    """Section ``autoencoder_decoder``: the decoder alone, on larger clips; the encoder is frozen always."""

    gates: DecoderGates


class EmbeddedText(Params):
    """A word-level tokenizer trained on the captions and a small random frozen T5 encoder, a function of the seed."""

    kind: Literal["embedded"]
    dim: Count
    layers: Count
    heads: Count
    max_length: Count
    seed: Whole


class PretrainedText(Params):
    """A transformers text encoder with its tokenizer, by folder or hub name."""

    kind: Literal["pretrained"]
    name: str
    revision: str | None
    subfolder: str | None
    tokenizer_subfolder: str | None
    max_length: Count


TextEncoder = Annotated[EmbeddedText | PretrainedText, Field(discriminator="kind")]


class LatentShardsParams(Params):
    """Section ``latent_shards``."""

    samples_per_shard: Count
    batch_size: Count
    precision: Literal["auto", "fp32", "bf16"]
    text: TextEncoder
