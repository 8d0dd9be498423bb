"""Parameters of the stage ``raw_video``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

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


class Folder(Params):
    """A folder tree of a user's videos. ``captions``: null = a .txt beside each video, or a .csv/.tsv/.jsonl file."""

    path: Annotated[str, Field(min_length=1)]
    captions: str | None
    max_clips_per_video: Count | None
    max_rejected_share: Share
    limits: Limits


class Limits(Params):
    """Most that one video file may hold; anything over is refused before it costs memory."""

    max_pixels: Count
    max_frames: Count
    max_seconds: Positive


class RenderedSource(Params):
    """``source: {rendered: …}``"""

    rendered: Rendered


class FolderSource(Params):
    """``source: {folder: …}``"""

    folder: Folder


def _stated(value: Any) -> Any:
    """A block set to null is a block left out."""
    return {name: part for name, part in value.items() if part is not None} if isinstance(value, dict) else value


def _kind(value: Any) -> Literal["rendered", "folder"] | None:
    if isinstance(value, dict):
        return "folder" if "folder" in value and "rendered" not in value else "rendered"
    return "folder" if isinstance(value, FolderSource) else "rendered" if isinstance(value, RenderedSource) else None


def _exactly_one(value: Any) -> Any:
    value = _stated(value)
    if not isinstance(value, (dict, RenderedSource, FolderSource)):
        raise ValueError("must be a block: rendered: {...} or folder: {...}")
    if isinstance(value, dict) and len({"rendered", "folder"} & set(value)) != 1:
        raise ValueError("must hold exactly one block: rendered: {...} or folder: {...}")
    return value


Source = Annotated[
    Annotated[RenderedSource, Tag("rendered")] | Annotated[FolderSource, Tag("folder")],
    Discriminator(_kind),
    BeforeValidator(_exactly_one),
]


class RawVideoParams(Params):
    """Where clips come from, their form, and the share of them that training never sees."""

    clip: Clip
    held_out_share: Share
    source: Source


Folder.model_rebuild()
