"""Generators that work in pixels, judged like those of latents: through the autoencoder, as everything is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from pipelines.flow.params import Guidance
from pipelines.training.generator import Generator
from pipelines.training.picture_refining import KeypatchGenerator


class Codec(Protocol):
    """Latents to clips and back."""

    def video(self, latents: Tensor, what: str) -> Tensor:
        """Decoded clips in [-1, 1]."""
        ...

    def encode(self, video: Tensor) -> Tensor:
        """Latents of a video."""
        ...


@dataclass(frozen=True)
class InPixels(Generator):
    """A refiner of pixels as one of latents: it is told whole clips and decodes them.

    Its mask is of pixels: patches of them are hidden after decoding.
    """

    inner: KeypatchGenerator
    codec: Codec

    @property
    def networks(self) -> list[Any]:
        """Those of the refiner."""
        return self.inner.networks

    @property
    def evaluations(self) -> int:
        """As the refiner."""
        return self.inner.evaluations

    @property
    def story(self) -> str:
        """As the refiner, in pixels."""
        return f"{self.inner.story}, in pixels"

    def with_sampling(
        self, steps: int | None = None, guidance: Guidance | None = None, sampler: str | None = None
    ) -> InPixels:
        """As the refiner."""
        return replace(self, inner=self.inner.with_sampling(steps, guidance, sampler))

    def without_guidance(self) -> InPixels:
        """As the refiner."""
        return replace(self, inner=self.inner.without_guidance())

    def drawn_mask(self, seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Which pixels are given of clips that are latents [C, T, H, W]: bool [B, F, h, w]."""
        facts = self.facts["autoencoder"]
        frames, side = 1 + (shape[1] - 1) * facts["temporal_stride"], facts["spatial_stride"]
        return self.inner.drawn_mask(seeds, (3, frames, shape[2] * side, shape[3] * side))

    def _told(self, conditions: Mapping[str, Any]) -> dict[str, Any]:
        video = self.codec.video(conditions["keypatches"], "patches")
        return {**conditions, "keypatches": video * conditions["keypatch_mask"][:, None]}

    def starting_clips(self, conditions: Mapping[str, Any]) -> Tensor:
        """The clips with the missing patches of their pixels filled in, as latents."""
        return self.codec.encode(self.inner.starting_clips(self._told(conditions)))

    def sample(
        self, conditions: Mapping[str, Any], seeds: Sequence[int], shape: tuple[int, int, int, int] | None = None
    ) -> Tensor:
        """Latents of what the refiner makes of the clips' pixels."""
        return self.codec.encode(self.inner.sample(self._told(conditions), seeds).cpu())


def seen_in_pixels(generator: Generator, codec: Codec) -> Generator:
    """The generator itself; one of pixels as :class:`InPixels`."""
    if not isinstance(generator, KeypatchGenerator) or generator.space == "latents":
        return generator
    shared = {name: getattr(generator, name) for name in ("folder", "facts", "needs", "takes")}
    return InPixels(**shared, inner=generator, codec=codec)
