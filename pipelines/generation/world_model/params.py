"""Parameters of the world model's two stages. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipelines.flow.params import Draw, Sampling
from pipelines.generation.params import _even, _tuple
from pipelines.params import Count, Lora, Params, Share, Training, Whole


class WorldDenoiser(Params):
    """Size of the transformer that is trained from scratch; a token is one latent frame deep."""

    heads: Count
    head_dim: Annotated[Count, AfterValidator(_even)]
    layers: Count
    feed_forward: Count
    patch: Annotated[tuple[Literal[1], Count, Count], BeforeValidator(_tuple)]
    first_frame: Literal["patches"] | None
    actions: ActionSizes
    draft: DraftSizes | None


class DraftSizes(Params):
    """Size of the convolutional network that drafts frames to be made, and the weight of the draft's own error."""

    width: Annotated[Count, Field(multiple_of=8)]
    blocks: Count
    weight: Annotated[float, Field(gt=0)]


class ActionSizes(Params):
    """Sizes of the action module in every block; ``history``: latent frames whose raw rows one frame sees."""

    hidden: Count
    inner: Count
    heads: Count
    rotary: Annotated[Whole, AfterValidator(_even)]
    history: Count

    @model_validator(mode="after")
    def _heads_fit(self) -> ActionSizes:
        if self.inner % self.heads or self.inner // self.heads < self.rotary:
            raise ValueError(
                f"inner {self.inner} must be a multiple of heads {self.heads}, and a head no less wide than rotary "
                f"{self.rotary}"
            )
        return self


class Window(Params):
    """Latent frames of a training window: given ones, then those to be made."""

    context_frames: Count
    target_frames: Count

    @property
    def frames(self) -> int:
        """Of the whole window."""
        return self.context_frames + self.target_frames

    @model_validator(mode="after")
    def _whole_chunks(self) -> Window:
        if (self.context_frames - 1) % self.target_frames:
            raise ValueError(
                f"context_frames {self.context_frames} must be one frame and whole chunks of target_frames "
                f"{self.target_frames}, because a rollout comes in such chunks"
            )
        return self


class PastFrames(Params):
    """What a chunk sees of the past: the first frames of the video and the last before the chunk."""

    sink: Whole
    window: Count


class Curriculum(Params):
    """Share of the updates that make an earlier chunk of the window, falling linearly over the first ``until`` of them.

    Seed E weighs the error of context frames by 0.3 at first: here these frames are the target that often.
    """

    first: Share
    last: Share
    until: Annotated[Share, Field(gt=0)]


class ContextNoise(Params):
    """Noise on the given frames, of a level up to ``most`` for each sample, which the network is told."""

    most: Annotated[Share, Field(gt=0)]


class OwnErrors(Params):
    """The network's own errors, stored and injected: what it makes of a target chunk less what it is.

    Every ``every`` updates, from the first ``after`` on, the target of a batch is made and its errors stored
    (``capacity`` clips, the oldest go first); in ``share`` of the updates, and of these makings, stored errors are
    added to every chunk of the context, so that errors pile up as in a rollout longer than a clip.
    """

    share: Annotated[Share, Field(gt=0)]
    every: Count
    after: Whole
    capacity: Count


class LastLayers(Params):
    """The last blocks, their action modules and the output are trained."""

    last_layers: Count


class AdaptedBlocks(Params):
    """A low-rank adapter of the transformer is trained, and the action modules."""

    lora: Lora


class RolloutTest(Params):
    """Held-out rollouts at the end: clips, frames of video, and updates of the reader that infers actions."""

    clips: Count
    num_frames: Count
    reader_steps: Count
    resamples: Count


class WorldModelParams(Params):
    """Sections ``world_model`` and ``world_model_autoregressive``."""

    denoiser: WorldDenoiser
    trained: Literal["full", "action_only"] | LastLayers | AdaptedBlocks
    window: Window
    memory: PastFrames | None
    draw: Draw
    curriculum: Curriculum | None
    context_noise: ContextNoise | None
    own_errors: OwnErrors | None
    sampling: Sampling
    validation: WorldValidation
    rollouts: RolloutTest | None
    training: Training

    @model_validator(mode="after")
    def _blocks_fit(self) -> WorldModelParams:
        context = self.window.context_frames
        if self.sampling.guidance is not None:
            raise ValueError("sampling.guidance: a world model has no prompt to be guided by; set it to null")
        if context > 1 and self.memory is None:
            raise ValueError(
                f"memory: null goes on from the last frame alone, so window.context_frames is 1, not {context}"
            )
        for name in ("curriculum", "own_errors"):
            if getattr(self, name) is not None and context == 1:
                raise ValueError(
                    f"{name}: needs a context of more than the first frame (window.context_frames above 1)"
                )
        return self


class WorldValidation(Params):
    """Held-out clips, each with its own fixed noise, at ``levels`` fixed sigmas; ``shown`` rollouts per validation."""

    clips: Count
    levels: Count
    shown: Whole
