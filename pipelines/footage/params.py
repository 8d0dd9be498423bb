"""Parameters of the stage ``raw_video``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipelines.data.endings import PICTURES, VIDEOS
from pipelines.footage import factors
from pipelines.footage.cutting_params import Cutting, FileLimits, Frames, Quality, Side, Text, as_tuples
from pipelines.params import Count, Params, Positive, Share, Whole


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
    combinations: Annotated[tuple[dict[str, str], ...], BeforeValidator(as_tuples), Field(min_length=1)]

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


class Footage(Params):
    """What all sources of files state."""

    prompt_prefix: Text | None
    cutting: Cutting
    quality: Quality
    max_clips_per_video: Count | None
    max_rejected_share: Share
    limits: FileLimits


class Folder(Footage):
    """A folder tree of a user's videos or pictures; ``captions``: null = a .txt or .json beside each, or a table.

    A pattern (``*/metadata.csv``) names several tables.
    """

    path: Text
    media: Literal["videos", "images", "both"]
    captions: str | None


class Tars(Footage):
    """WebDataset tars of videos with captions: paths or URLs (``{000..123}`` counts), at most ``max_samples``."""

    urls: Annotated[tuple[Text, ...], BeforeValidator(as_tuples), Field(min_length=1)]
    max_samples: Count | None


class Webdataset(Footage):
    """WebDataset tars whose members are told by their fields, as the webdataset library names them: key ``.`` field.

    ``media``: the field with the picture or video (``png``, ``image.jpg``, ``mp4``); ``captions``: the one with the
    text (null: none); ``caption``: where that is JSON, the name in it (null: a known one).
    """

    urls: Annotated[tuple[Text, ...], BeforeValidator(as_tuples), Field(min_length=1)]
    max_samples: Count | None
    media: Text
    captions: Text | None
    caption: Text | None

    @model_validator(mode="after")
    def _fields_that_can_be_read(self) -> Webdataset:
        ending = "." + self.media.lower().rpartition(".")[2]
        if ending not in (*PICTURES, *VIDEOS):
            known = " ".join(one[1:] for one in (*PICTURES, *VIDEOS))
            raise ValueError(f"media {self.media}: is no picture's or video's field; those end in {known}")
        if self.caption is not None and not (self.captions or "").lower().endswith("json"):
            raise ValueError(f"caption {self.caption} is a name in a JSON text, but captions is {self.captions}")
        return self

    @property
    def still(self) -> bool:
        """Whether the samples are pictures."""
        return "." + self.media.lower().rpartition(".")[2] in PICTURES


class Recordings(Footage):
    """Folders of ``frame_0001.png`` … with an action log (a csv of key, time, frame) in each; null: no actions."""

    path: Text
    frame_rate: Positive
    action_log: Text | None
    captions: str | None


class Lerobot(Footage):
    """A LeRobot data set of version 3 (parquet and mp4 files of many episodes); captions are its tasks.

    ``camera``: the feature whose videos are taken, as ``observation.images.front``. ``action``: the feature that is
    the clips' actions; null: none.
    """

    path: Text
    camera: Text
    action: Text | None


class Vpt(Footage):
    """Recordings of Minecraft as of OpenAI's VPT: ``a.mp4`` with a line of ``a.jsonl`` for each frame."""

    path: Text
    captions: str | None


class SourceBlock(Params):
    """Where the clips come from: exactly one of the blocks; the others are left out or null."""

    rendered: Rendered | None
    folder: Folder | None
    tars: Tars | None
    webdataset: Webdataset | None
    recordings: Recordings | None
    lerobot: Lerobot | None
    vpt: Vpt | None

    @model_validator(mode="before")
    @classmethod
    def _left_out_is_null(cls, value: Any) -> Any:
        return {**dict.fromkeys(cls.model_fields), **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> SourceBlock:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError(f"must hold exactly one block: {', '.join(type(self).model_fields)}")
        return self

    @property
    def footage(self) -> Folder | Tars | Webdataset | Recordings | Lerobot | Vpt | None:
        """The block of a source of files; None for the rendered one."""
        return self.folder or self.tars or self.webdataset or self.recordings or self.lerobot or self.vpt


class RawVideoParams(Params):
    """Where clips come from, their form, and the shares of them that training never sees.

    ``tars_above``: of more clips than these, the mp4 files lie in tars; null or left out: each is always a file.
    """

    clip: Clip
    splits: Splits
    source: SourceBlock
    tars_above: Whole | None

    @model_validator(mode="before")
    @classmethod
    def _left_out_is_never(cls, value: Any) -> Any:
        return {"tars_above": None, **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _pictures_are_one_frame(self) -> RawVideoParams:
        folder, tars = self.source.folder, self.source.webdataset
        pictures = folder if folder is not None and folder.media != "videos" else None
        pictures = tars if tars is not None and tars.still else pictures
        if pictures is None:
            return self
        sizes = pictures.cutting.buckets.sizes if pictures.cutting.buckets else ((self.clip.num_frames, 0, 0),)
        if all(frames != 1 for frames, _, _ in sizes):
            block = type(pictures).__name__.lower()
            raise ValueError(
                f"source.{block}.media {pictures.media} needs a form of one frame: cutting.buckets with a size "
                "[1, height, width], or clip.num_frames 1"
            )
        return self
