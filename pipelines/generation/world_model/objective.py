"""What the world model minimises: the velocity of the frames to be made, told the past and the actions.

Teacher forcing: the past of a window stands clean, at sigma 0, and only the target's frames count. Blocks change what
stands there: noise of a told level, or errors that the network itself made on such frames before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipelines.data.actions import aligned
from pipelines.flow import path, sigmas
from pipelines.flow.rollout import ChunkNoise, Roll
from pipelines.generation.latents import TokenCount
from pipelines.generation.validation import agreement
from pipelines.generation.world_model.params import Curriculum, WorldModelParams
from pipelines.models.frame_attention import Memory, Shared
from pipelines.models.world_model import WorldModel
from pipelines.training.objective import Batch, LossOutput


@dataclass(frozen=True)
class Chunked:
    """A part of clips as the network sees it: given frames in chunks, then the target's."""

    latents: Tensor
    actions: Tensor
    context: int
    chunks: tuple[int, ...]

    @property
    def given(self) -> Tensor:
        """Bool [B, T]."""
        frames = self.latents.shape[2]
        return (torch.arange(frames, device=self.latents.device) < self.context).expand(len(self.latents), -1)

    def first(self, context: int) -> Chunked:
        """The same with its target after ``context`` frames, and what follows it cut off."""
        target = self.latents.shape[2] - self.context
        stop = context + target
        return Chunked(self.latents[:, :, :stop], self.actions[:, :stop], context, lengths(context, target))


def lengths(context: int, target: int) -> tuple[int, ...]:
    """Chunks of a window: the first frame alone, then ``target`` frames each."""
    return (1, *[target] * ((context - 1) // target + 1))


def earlier_share(curriculum: Curriculum | None, step: int, steps: int) -> float:
    """Share of the updates at ``step`` (of ``steps``) whose target is an earlier chunk."""
    if curriculum is None:
        return 0.0
    done = min(1.0, step / max(1.0, curriculum.until * steps))
    return curriculum.first + (curriculum.last - curriculum.first) * done


class WorldModelObjective:
    """E || v(x_sigma, sigma, past, actions) - (eps - x_0) ||^2 over the target's frames, and the error of their draft.

    Args:
        world_model: the network.
        params: window, draw and blocks.
        stride: raw frames per latent frame.
        tokens: how many tokens a window becomes, for draws that ask.
    """

    trained: tuple[str, ...] = ("world_model",)
    reads: tuple[str, ...] = ("latents", "actions")

    def __init__(self, world_model: WorldModel, params: WorldModelParams, stride: int, tokens: TokenCount) -> None:
        self.world_model = world_model
        self.params, self.stride, self.tokens = params, stride, tokens
        self.errors: Tensor | None = None  # [capacity or fewer, C, target, H, W], the oldest first

    # ---- memory of own errors ----

    def state_dict(self) -> dict[str, Any]:
        """The stored errors: part of the resume state."""
        return {} if self.errors is None else {"errors": self.errors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.errors = state.get("errors")

    # ---- the loss ----

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        """One window, one draw of noise and one sigma per sample."""
        window = self._window(batch)
        own = self.params.own_errors
        if own is not None and step >= own.after and (step - own.after) % own.every == 0:
            self._store(window)
        if float(torch.rand(())) < earlier_share(self.params.curriculum, step, self.params.training.steps):
            target = self.params.window.target_frames
            window = window.first(1 + target * int(torch.randint((window.context - 1) // target, ())))
        latents = window.latents
        level, weight = sigmas.drawn(self.params.draw, len(latents), self.tokens(latents), latents.device)
        output, drafted = self._taken(window, level, torch.randn_like(latents), self._past(window), Shared())
        loss, draft = output.loss * weight, self.params.denoiser.draft
        if drafted is None or draft is None:
            return {"world_model": replace(output, loss=loss)}
        told = {"draft": drafted.detach().mean()}
        return {"world_model": replace(output, loss=loss + draft.weight * drafted, metrics=told)}

    def loss_at(self, window: Chunked, level: Tensor, noise: Tensor, shared: Shared | None = None) -> LossOutput:
        """The loss with the target's frames at ``level`` [B, 1] of ``noise``; ``shared``: of a window at all levels."""
        return self._taken(window, level, noise, None, shared or Shared())[0]

    def _taken(
        self, window: Chunked, level: Tensor, noise: Tensor, past: tuple[Tensor, Tensor] | None, shared: Shared
    ) -> tuple[LossOutput, Tensor | None]:
        """The loss, and the squared error [B] of the target's draft where the network makes one."""
        count, frames = window.context, window.latents.shape[2]
        context, quiet = past or (window.latents[:, :, :count], torch.zeros_like(level).expand(-1, count))
        clean = torch.cat([context, window.latents[:, :, count:]], dim=2)
        sigma = torch.cat([quiet, level.expand(-1, frames - count)], dim=1)
        predicted = self.world_model(
            path.noised(clean, noise, sigma),
            sigma,
            actions=window.actions,
            given=window.given,
            first_frame=context[:, :, :1],
            chunks=window.chunks,
            shared=shared,
            first=count,
        )
        wanted = path.velocity(window.latents, noise)[:, :, count:]
        error = (predicted - wanted).square()
        per_frame = error.mean((1, 3, 4))
        told = {"sigma/context": sigma[:, :count].mean(), "sigma/target": sigma[:, count:].mean()}
        monitors = {**agreement(predicted, wanted), **told}
        output = LossOutput(path.per_sample(error), sigma[:, count:], monitors=monitors, per_frame=per_frame)
        draft = shared.found.get("draft")
        return output, None if draft is None else path.per_sample((draft - window.latents)[:, :, count:].square())

    def _window(self, batch: Batch) -> Chunked:
        """A window of the clips, at a start that the whole batch shares: its first frame is the first of a video."""
        latents, wanted = batch["latents"], self.params.window
        actions = aligned(batch["actions"], self.stride, self.params.denoiser.actions.history)
        start = int(torch.randint(latents.shape[2] - wanted.frames + 1, ()))
        part = slice(start, start + wanted.frames)
        chunks = lengths(wanted.context_frames, wanted.target_frames)
        return Chunked(latents[:, :, part], actions[:, part], wanted.context_frames, chunks)

    def _past(self, window: Chunked) -> tuple[Tensor, Tensor]:
        """What stands in the given frames, and the sigma [B, context] that it is to be noised to."""
        context = window.latents[:, :, : window.context]
        count, own, noisy = len(context), self.params.own_errors, self.params.context_noise
        if own is not None and self.errors is not None and float(torch.rand(())) < own.share and window.context > 1:
            chunks = (window.context - 1) // self.params.window.target_frames
            errors = [self.errors[torch.randint(len(self.errors), (count,))] for _ in range(chunks)]
            context = torch.cat([context[:, :, :1], context[:, :, 1:] + torch.cat(errors, 2).to(context)], dim=2)
        sigma = torch.zeros(count, window.context, device=context.device)
        if noisy is not None:
            sigma = noisy.most * torch.rand(count, 1, device=context.device).expand(-1, window.context)
        return context, sigma

    @torch.no_grad()
    def _store(self, window: Chunked) -> None:
        """Make the target after a past as training sees it, and keep what is wrong with it.

        That past may hold errors made before, so what is kept is of rollouts far longer than a clip, as errors pile up
        in them.
        """
        own, (past, _), true = self.params.own_errors, self._past(window), window.latents[:, :, window.context :]
        assert own is not None
        roll, noise = roll_of(self.world_model, self.params), torch.randn_like(true)
        made = roll.again(past, window.actions, noise, window.chunks[:-1])
        errors = (made - true).float().cpu()
        kept = errors if self.errors is None else torch.cat([self.errors, errors])
        self.errors = kept[-own.capacity :].contiguous()

    def rolled(self, first: Tensor, actions: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """A rollout [B, C, T, H, W] of the network as it is; noise from torch's generator, or from seeds."""
        drawn = torch.randint(2**31, (len(first),)).tolist() if seeds is None else list(seeds)
        return roll_of(self.world_model, self.params).out(first, actions, ChunkNoise(drawn))


def roll_of(network: Any, params: WorldModelParams) -> Roll:
    """How a network of these parameters is rolled out."""
    return Roll(network, Memory, params.sampling, params.window.target_frames, params.memory is not None)
