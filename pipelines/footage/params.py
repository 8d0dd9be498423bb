"""Parameters of the stage ``raw_video``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipelines.footage import factors
from pipelines.params import Count, NonNegative, Params, Positive, Real, Share, Whole


def _one_mod_four(frames: int) -> int:
    if frames % 4 != 1:
        near = 4 * round((frames - 1) / 4) + 1
        raise ValueError(f"must be 1 mod 4 (1, 5, 9, 13, 17, …), because autoencoders fold time by four; write {near}")
    return frames


def _even(pixels: int) -> int:
    if pixels % 2:
        raise ValueError("must be even, because the clips are stored as yuv420p")
    return pixels


def _tuples(value: Any) -> Any:
    """YAML's lists, nested ones too, as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


Frames = Annotated[Count, AfterValidator(_one_mod_four)]
Side = Annotated[int, Field(ge=16), AfterValidator(_even)]
Text = Annotated[str, Field(min_length=1)]


class Clip(Params):
    """The form of every clip. ``crf`` is x264's constant rate factor, 0 (largest files) to 51."""

    num_frames: Frames
    height: Side
    width: Side
    frame_rate: Positive
    crf: Annotated[int, Field(ge=0, le=51)]


class Splits(Params):
    """Shares of the clips that training never sees: ``validation`` to choose by, ``test`` to judge by at the end."""

    validation: Annotated[Share, Field(gt=0, lt=1)]
    test: Annotated[Share, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _leave_some_to_train_on(self) -> Splits:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation:g} and test {self.test:g} leave nothing to train on")
        return self


class Composition(Params):
    """Values of factors that no clip shows together but ``num_clips`` further ones, of the split ``composition``."""

    num_clips: Count
    combinations: Annotated[tuple[dict[str, str], ...], BeforeValidator(_tuples), Field(min_length=1)]

    @model_validator(mode="after")
    def _are_of_known_values(self) -> Composition:
        for number, combination in enumerate(self.combinations):
            if len(combination) < 2:
                raise ValueError(f"combinations.{number}: names {len(combination)} factor; a combination is of several")
            for name, value in combination.items():
                if name not in factors.FACTORS:
                    raise ValueError(f"combinations.{number}: no factor {name}; known: {', '.join(factors.FACTORS)}")
                if value not in factors.FACTORS[name]:
                    known = ", ".join(factors.FACTORS[name])
                    raise ValueError(f"combinations.{number}: {name} is never {value}; known: {known}")
        return self


class Rendered(Params):
    """Clips drawn by the project, with known factors; those of the split ``test`` are of a series of their own.

    ``steered_share``: of the clips, those whose motion changes with actions that neither prompt nor first frame tells.
    """

    seed: Whole
    test_seed: Whole
    num_clips: Count
    steered_share: Share
    composition: Composition | None

    @model_validator(mode="after")
    def _are_two_series(self) -> Rendered:
        if self.seed == self.test_seed:
            raise ValueError(f"test_seed: is {self.seed} like seed, so the splits would share their clips")
        return self

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Rendered:
        factors.draw((self.seed,), 0, self.held_out)
        factors.draw_steered((self.seed,), 0, self.held_out)
        return self

    @property
    def held_out(self) -> tuple[factors.Combination, ...]:
        """The combinations that only the split ``composition`` shows."""
        return tuple(tuple(one.items()) for one in self.composition.combinations) if self.composition else ()


class Limits(Params):
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
    sizes: Annotated[tuple[tuple[Count, Side, Side], ...], BeforeValidator(_tuples), Field(min_length=1)]

    @model_validator(mode="after")
    def _frames_fold(self) -> Buckets:
        for frames, height, width in self.sizes:
            if frames % self.fold != 1:
                near = self.fold * round((frames - 1) / self.fold) + 1
                raise ValueError(f"[{frames}, {height}, {width}]: frames must be 1 mod {self.fold}; write {near}")
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError("sizes: a bucket stands twice; keep one")
        return self


class Cutting(Params):
    """How a video becomes clips. ``stride``: from one clip's start to the next, in lengths of the clip."""

    stride: Positive
    shots: Shots | None
    buckets: Buckets | None


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


class Footage(Params):
    """What all sources of files state."""

    prompt_prefix: Text | None
    cutting: Cutting
    quality: Quality
    max_clips_per_video: Count | None
    max_rejected_share: Share
    limits: Limits


class Folder(Footage):
    """A folder tree of a user's videos or pictures; ``captions``: null = a .txt or .json beside each, or a file."""

    path: Text
    media: Literal["videos", "images", "both"]
    captions: str | None


class Tars(Footage):
    """WebDataset tars of videos with captions: paths or URLs (``{000..123}`` counts), at most ``max_samples``."""

    urls: Annotated[tuple[Text, ...], BeforeValidator(_tuples), Field(min_length=1)]
    max_samples: Count | None


class Recordings(Footage):
    """Folders of ``frame_0001.png`` … with an action log (a csv of key, time, frame) in each; null: no actions."""

    path: Text
    frame_rate: Positive
    action_log: Text | None
    captions: str | None


class Source(Params):
    """Where the clips come from: exactly one of the blocks; the others are left out or null."""

    rendered: Rendered | None
    folder: Folder | None
    tars: Tars | None
    recordings: Recordings | None

    @model_validator(mode="before")
    @classmethod
    def _left_out_is_null(cls, value: Any) -> Any:
        return {**dict.fromkeys(cls.model_fields), **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError(f"must hold exactly one block: {', '.join(type(self).model_fields)}")
        return self

    @property
    def footage(self) -> Folder | Tars | Recordings | None:
        """The block of a source of files; None for the rendered one."""
        return self.folder or self.tars or self.recordings


class RawVideoParams(Params):
    """Where clips come from, their form, and the shares of them that training never sees."""

    clip: Clip
    splits: Splits
    source: Source

    @model_validator(mode="after")
    def _pictures_are_one_frame(self) -> RawVideoParams:
        folder = self.source.folder
        if folder is None or folder.media == "videos":
            return self
        sizes = folder.cutting.buckets.sizes if folder.cutting.buckets else ((self.clip.num_frames, 0, 0),)
        if all(frames != 1 for frames, _, _ in sizes):
            raise ValueError(
                f"source.folder.media {folder.media} needs a form of one frame: cutting.buckets with a size "
                "[1, height, width], or clip.num_frames 1"
            )
        return self
