"""Parameters of the stages autoencoder and latent_shards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipelines.params import Count, NonNegative, Params, Real, Training, Whole


class StackedAutoencoderParams(Params):
    """Size of our autoencoder: ``frames`` and ``patch`` x ``patch`` pixels as channels, spatial stride 8."""

    frames: Count
    patch: Literal[1, 2, 4]
    width: Count
    latent_channels: Count
    blocks: Count


class PretrainedAutoencoderParams(Params):
    """A diffusers autoencoder by folder or hub name; nothing is trained then."""

    name: str
    revision: str | None
    subfolder: str | None


class AutoencoderGates(Params):
    """Least values under which latents must not be made from this autoencoder."""

    min_latent_std: NonNegative
    min_psnr: Real


class AutoencoderParams(Params):
    """Section ``autoencoder``. ``network`` is trained unless ``pretrained`` names one that is taken as it is."""

    pretrained: PretrainedAutoencoderParams | None
    network: StackedAutoencoderParams
    gates: AutoencoderGates
    training: Training


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
