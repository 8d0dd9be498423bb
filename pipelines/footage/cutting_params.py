"""Parameters of how a user's files become clips, and which of them are good enough."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipelines.params import Count, NonNegative, Params, Positive, Real


def _one_mod_four(frames: int) -> int:
    if frames % 4 != 1:
        near = 4 * round((frames - 1) / 4) + 1
        raise ValueError(f"must be 1 mod 4 (1, 5, 9, 13, 17, …), because autoencoders fold time by four; write {near}")
    return frames


def _even(pixels: int) -> int:
    if pixels % 2:
        raise ValueError("must be even, because the clips are stored as yuv420p")
    return pixels


def as_tuples(value: Any) -> Any:
    """YAML's lists, nested ones too, as tuples."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


Frames = Annotated[Count, AfterValidator(_one_mod_four)]
Side = Annotated[int, Field(ge=16), AfterValidator(_even)]
Text = Annotated[str, Field(min_length=1)]


class FileLimits(Params):
    """Most that one file may hold or cost; anything over is refused before it costs more."""

    max_pixels: Count
    max_frames: Count
    max_seconds: Positive
    max_bytes: Count
    max_decode_seconds: Positive


class Shots(Params):
    """No clip across a cut: a change of frames (:mod:`pipelines.footage.shots`) above ``threshold``, 0 to 1, and above
    ``ratio`` times the changes around it."""

    threshold: Annotated[Positive, Field(lt=1)]
    ratio: Annotated[Real, Field(ge=1)]


class Buckets(Params):
    """Forms to choose from instead of ``clip``'s: [frames, height, width] each; frames are 1 mod ``fold``."""

    fold: Literal[4, 8]
    sizes: Annotated[tuple[tuple[Count, Side, Side], ...], BeforeValidator(as_tuples), Field(min_length=1)]

    @model_validator(mode="after")
    def _frames_fold(self) -> Buckets:
        for frames, height, width in self.sizes:
            if frames % self.fold != 1:
                near = self.fold * round((frames - 1) / self.fold) + 1
                raise ValueError(f"[{frames}, {height}, {width}]: frames must be 1 mod {self.fold}; write {near}")
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError("sizes: a bucket stands twice; keep one")
        return self


class Hold(Params):
    """Where a video has no frame near a time, the one before is shown on for at most ``max_seconds``: recordings of
    screens have a frame only when something changes."""

    max_seconds: Positive


class Cutting(Params):
    """How a video becomes clips. ``stride``: from one clip's start to the next, in lengths of the clip."""

    stride: Positive
    shots: Shots | None
    buckets: Buckets | None
    hold: Hold | None


class Motion(Params):
    """Mean absolute change from frame to frame, in grey levels of 255; ``max_change`` null: no upper end."""

    min_change: NonNegative
    max_change: Positive | None


class Sharpness(Params):
    """Variance of the Laplacian of the grey frames: low where everything is blurred."""

    min_variance: NonNegative


class Duplicate(Params):
    """Perceptual hashes (256 bits over four frames) that differ in at most so many bits are the same footage."""

    max_bits: Annotated[int, Field(ge=0, le=15)]


class Caption(Params):
    """Fewest words of a caption."""

    min_words: Count


class Quality(Params):
    """Clips that are left out; null: that is not judged."""

    motion: Motion | None
    sharpness: Sharpness | None
    duplicate: Duplicate | None
    caption: Caption | None
