"""Parameters of the room: scoring samples, and the page that shows everything."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipelines.flow.params import Guidance
from pipelines.params import Count, Names, Params, Positive, Share, Whole


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Wholes = Annotated[tuple[Whole, ...], BeforeValidator(_tuple), Field(min_length=1)]
Features = Annotated[Names, Field(min_length=1)]


class SamplingChange(Params):
    """Other steps (shared out over the phases) and guidance than those that the checkpoints record."""

    steps: Count
    guidance: Guidance | None


class FeatureSpaceParams(Params):
    """Where distances are measured: principal directions of named latent-MAE features of training clips."""

    appearance: Features
    motion: Features
    dims: Count
    shrinkage: Share


class KnownFactors(Params):
    """Columns ``factor_<name>`` by what shows them: single frames (identity, scene) or a clip's course (motion)."""

    identity: Names
    motion: Names
    scene: Names

    @model_validator(mode="after")
    def _once(self) -> KnownFactors:
        names = [*self.identity, *self.motion, *self.scene]
        if len(set(names)) < len(names):
            raise ValueError("a factor stands in two groups; keep it in one")
        return self


class ReaderTraining(Params):
    """Training of one reader of factors: AdamW, one cycle of the learning rate."""

    width: Count
    steps: Count
    batch_size: Count
    learning_rate: Positive


class ProbeParams(Params):
    """Readers of known factors, trained on real clips of the train split."""

    factors: KnownFactors
    frames: ReaderTraining
    clips: ReaderTraining


class EvaluationParams(Params):
    """Section ``evaluation``."""

    num_prompts: Annotated[int, Field(ge=2)]
    validation_prompts: Whole
    composition_prompts: Whole
    seeds: Wholes
    batch_size: Count
    precision: Literal["auto", "fp32", "bf16"]
    sampling: SamplingChange | None
    class_neighbours: Count
    feature_space: FeatureSpaceParams
    probe: ProbeParams
    max_train_clips: Annotated[int, Field(ge=4)]
    resamples: Annotated[int, Field(ge=2)]
    num_shown: Count


class ReportParams(Params):
    """How the page looks. What it shows is derived from ``dvc.yaml`` and what the stages wrote."""

    title: Annotated[str, Field(min_length=1)]
    picture_kilobytes: Count
    clip_pixels: Count
