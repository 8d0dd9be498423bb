"""Parameters of the stage ``raw_video``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from pipelines.params import Count, Params, Positive, Share, Whole


def _one_mod_four(frames: int) -> int:
    if frames % 4 != 1:
        near = 4 * round((frames - 1) / 4) + 1
        raise ValueError(f"must be 1 mod 4 (1, 5, 9, 13, 17, …), because autoencoders fold time by four; write {near}")
    return frames


def _even(pixels: int) -> int:
    if pixels % 2:
        raise ValueError("must be even, because the clips are stored as yuv420p")
    return pixels


Frames = Annotated[Count, AfterValidator(_one_mod_four)]
Side = Annotated[int, Field(ge=16), AfterValidator(_even)]


class Clip(Params):
    """The form of every clip. ``crf`` is x264's constant rate factor, 0 (largest files) to 51."""

    num_frames: Frames
    height: Side
    width: Side
    frame_rate: Positive
    crf: Annotated[int, Field(ge=0, le=51)]


class Rendered(Params):
    """Clips drawn by the project, with known factors."""

    seed: Whole
    num_clips: Count


class Limits(Params):
    """Most that one video file may hold; anything over is refused before it costs memory."""

    max_pixels: Count
    max_frames: Count
    max_seconds: Positive


class Folder(Params):
    """A folder tree of a user's videos. ``captions``: null = a .txt beside each video, or a .csv/.tsv/.jsonl file."""

    path: Annotated[str, Field(min_length=1)]
    captions: str | None
    max_clips_per_video: Count | None
    max_rejected_share: Share
    limits: Limits


class Source(Params):
    """Where the clips come from: exactly one of the blocks; the other is left out or null."""

    rendered: Rendered | None
    folder: Folder | None

    @model_validator(mode="before")
    @classmethod
    def _left_out_is_null(cls, value: Any) -> Any:
        return {"rendered": None, "folder": None, **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        if (self.rendered is None) == (self.folder is None):
            raise ValueError("must hold exactly one block: rendered: {...} or folder: {...}")
        return self


class RawVideoParams(Params):
    """Where clips come from, their form, and the share of them that training never sees."""

    clip: Clip
    held_out_share: Share
    source: Source
