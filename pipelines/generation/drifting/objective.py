"""What the drifting refiner minimises: first the squared error, then the drift, with the error decaying beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipelines.flow import corruption, interpolation, keyframes
from pipelines.flow.filling import alike, by_place, fill, level_share, over_elements
from pipelines.flow.guidance import drop_prompts
from pipelines.generation.drifting import draws
from pipelines.generation.drifting.features import FeatureSpaces, Space, Vectors, missing_places, picked
from pipelines.generation.drifting.kept import KeptVectors
from pipelines.generation.drifting.params import DriftingRefinerParams, KeypatchRefinerParams
from pipelines.generation.drifting.problems import Beside, mixed
from pipelines.models.refiner import refined, temperature_of
from pipelines.training.objective import Batch, LossOutput

LEAST_SQUARE = 1e-8
"""Under the root of the energy score; latents have mean square 1."""


@dataclass(frozen=True)
class Start:
    """What a refiner begins from.

    Attributes:
        filled: interpolation [B, C, T, H, W] of the keyframes that the network is given.
        told: how unsure each frame is, [B, T]: 0 given for certain, the level's share missing; of a picture each
            element, [B, T, H, W], as the next two.
        mask: given frames.
        kept: those that come out as they went in; None: all may be corrected.
        level: [B] in 1 … L.
        target: what the squared error wants.
    """

    filled: Tensor
    told: Tensor
    mask: Tensor
    kept: Tensor | None
    level: Tensor
    target: Tensor


def start_of(latents: Tensor, seeds: list[int], params: DriftingRefinerParams) -> Start:
    """The forward process: a level, its keyframes, the interpolation, its corruption; a function of each seed."""
    device, how = latents.device, params.corruption
    nested = draws.masks(seeds, latents.shape[2], params.keyframes).to(device)
    level = draws.levels(seeds, params.keyframes.levels).to(device)
    mask = keyframes.at_level(nested, level)
    given = torch.zeros_like(mask)
    if params.keyframes.endpoints:
        given[:, [0, -1]] = True
    clip, which = latents, torch.zeros_like(mask)
    if how.replacement is not None:
        noise = draws.normal(seeds, "replaced", *latents.shape[1:]).to(latents)
        chosen = (draws.unit(seeds, "chosen", latents.shape[2]) < how.replacement.share).to(device)
        other = (latents + how.replacement.std * noise).transpose(1, 2)
        clip, which = corruption.replaced(latents.transpose(1, 2), other, mask, chosen, given)
        clip = clip.transpose(1, 2)
    filled = fill(clip, mask, params.filling)
    noise = draws.normal(seeds, "corruption", *latents.shape[1:]).to(latents)
    noised = corruption.noised(filled.transpose(1, 2), mask, noise.transpose(1, 2), how.std, how.kind, given)
    sure = corruption.annealed(corruption.confidence(mask, which, given), level, params.keyframes.levels, how.anneal)
    numbers = keyframes.counts(
        latents.shape[2], params.keyframes.least, params.keyframes.levels, params.keyframes.growth
    )
    told = alike(level_share(mask, numbers), mask) * (1.0 - torch.where(mask, sure, 0.0))
    finer = fill(latents, keyframes.at_level(nested, level - 1), params.filling)
    target = latents if params.regression.target == "clean" else finer
    kept = mask & ~which if params.clamp_keyframes else None
    return Start(noised.transpose(1, 2), told, mask, kept, level, target)


def length(squares: Tensor) -> Tensor:
    """Square roots whose gradient is finite where frames are equal (those that are clamped)."""
    return (squares + LEAST_SQUARE).sqrt()


class DriftingRefiner:
    """w(step) |x - clip|^2 + weight (mixture of drifting problems), x = filled + residual, per clip."""

    trained: tuple[str, ...] = ("refiner",)
    reads: tuple[str, ...] = ("latents", "prompt_embeds", "pseudo_class")

    def __init__(
        self,
        refiner: nn.Module,
        params: DriftingRefinerParams | KeypatchRefinerParams,
        empty_prompt: Tensor,
        features: FeatureSpaces | None,
    ) -> None:
        self.refiner, self.params, self.empty_prompt, self.features = refiner, params, empty_prompt, features
        self.encoder = features.encoder if features is not None else None
        self.kept = None if features is None else KeptVectors(features)
        self._spaces: dict[tuple[int, ...], list[Space]] = {}

    # ---- the forward process ----

    def start(self, latents: Tensor, seeds: list[int]) -> Start:
        """What the refiner begins from."""
        assert isinstance(self.params, DriftingRefinerParams)
        return start_of(latents, seeds, self.params)

    def always_given(self, latents: Tensor) -> Tensor:
        """What is never missing, in the shape of a mask of one clip."""
        assert isinstance(self.params, DriftingRefinerParams)
        how, frames = self.params.keyframes, latents.shape[2]
        if how.selection != "random":
            return draws.masks([0], frames, how).all(1)
        never = torch.zeros(1, frames, dtype=torch.bool)
        if how.endpoints and frames > 2:
            never[:, [0, -1]] = True
        return never

    # ---- weights of the phases ----

    def drifts(self, step: int) -> bool:
        """Whether the drift is on at this step."""
        return self.params.drift is not None and step >= self.params.drift.begin

    def regression_weight(self, step: int) -> float:
        """Of the squared error: 1, then falling linearly from where the drift begins; a function of the step alone."""
        if self.params.drift is None or step < self.params.drift.begin:
            return 1.0
        decay, since = self.params.regression, step - self.params.drift.begin
        share = min(1.0, since / decay.decay_steps) if decay.decay_steps else 1.0
        return 1.0 + share * (decay.floor - 1.0)

    # ---- one micro-batch ----

    def refined(self, start: Start, batch: Batch, seeds: list[int], alpha: Tensor, samples: int) -> Tensor:
        """``samples`` refined clips of each, [B G, C, T, H, W], those of a clip side by side."""
        params, shape = self.params, start.filled.shape[1:]
        dropped = draws.unit(seeds, "dropped", 2).to(alpha)
        embeds, mask = drop_prompts(
            batch["prompt_embeds"], batch["prompt_mask"], self.empty_prompt, dropped[:, 0] < params.prompt_dropout
        )
        known = batch["pseudo_class"].masked_fill(dropped[:, 1] < params.class_dropout, -1)
        noise = draws.normal(seeds, "noise", samples, *shape).to(start.filled).flatten(0, 1)
        filled, unsure, given = (part.repeat_interleave(samples, 0) for part in (start.filled, start.told, start.mask))
        told = {"prompt_embeds": embeds, "prompt_mask": mask, "pseudo_class": known, "alpha": alpha}
        told = {name: part.repeat_interleave(samples, 0) for name, part in told.items()}
        kept = None if start.kept is None else start.kept.repeat_interleave(samples, 0)
        return refined(self.refiner, filled, unsure, given, params.noise_std * noise, told, kept)

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        """Regression alone takes one sample of each clip; the drift as many as the params say."""
        latents, seeds, params = batch["latents"], batch["draw"].tolist(), self.params
        start, drift = self.start(latents, seeds), params.drift if self.drifts(step) else None
        units = seeds if drift is None else seeds[:: drift.group.clips]
        alpha = draws.strengths(units, drift.guidance if drift else None).to(latents)
        spread = params.regression.spread
        samples = drift.samples if drift else spread.samples if spread else 1
        made = self.refined(start, batch, seeds, alpha.repeat_interleave(len(seeds) // len(units)), samples)
        error = self._error(made, start, samples)
        weight = self.regression_weight(step)
        loss, metrics = weight * error, {"regression": error.detach().mean()}
        monitors = interpolation.errors(by_place(start.filled, start.mask)[0], *by_place(latents, start.mask))
        if drift is not None:
            assert self.features is not None
            beside = self._beside(batch, start, seeds, alpha, step)
            warmth = None if drift.learned_temperature is None else temperature_of(self.refiner)
            found = mixed(self._spaces_of(latents), self.features(made), beside, drift.problems, drift.field, warmth)
            loss = loss + drift.weight * found.loss
            metrics["drift"] = found.loss.detach().mean()
            monitors |= found.monitors
            monitors["train/cfg_alpha_mean"] = alpha.mean()
        monitors["train/regression_weight"] = torch.tensor(weight)
        return {"refiner": LossOutput(loss, metrics=metrics, monitors=monitors)}

    def _error(self, made: Tensor, start: Start, samples: int) -> Tensor:
        """Error per clip [B], what is given by ``keyframe_weight`` of what is missing.

        Squared, or of samples x_i and target y the energy score E|x_i - y| - weight / 2 E|x_i - x_k|, i != k, of every
        frame by itself, |.| the root mean square over its elements.
        """
        regression = self.params.regression
        each = made.unflatten(0, (-1, samples))
        elements = over_elements(torch.where(start.mask, regression.keyframe_weight, 1.0)).expand_as(start.filled)
        weight = elements.sum((1, 3, 4))  # of frames, [B, T]

        def squares(differences: Tensor) -> Tensor:
            """Weighted mean squares [B, N, T] of [B, N, C, T, H, W]."""
            return (differences.square() * elements[:, None]).sum((2, 4, 5)) / weight[:, None].clamp(min=1e-12)

        share = weight / weight.sum(1, keepdim=True)
        away = squares(each - start.target[:, None])
        if regression.spread is None:
            return (away.mean(1) * share).sum(1)
        first, second = torch.triu_indices(samples, samples, 1, device=made.device)
        apart = squares(each[:, first] - each[:, second])
        score = length(away).mean(1) - 0.5 * regression.spread.weight * length(apart).mean(1)
        return (score * share).sum(1)

    # ---- what the drift reads besides ----

    def _spaces_of(self, latents: Tensor) -> list[Space]:
        shape = latents.shape[1:]
        if shape not in self._spaces:
            assert self.features is not None
            self._spaces[shape] = self.features.spaces(shape)  # type: ignore[arg-type]
        return self._spaces[shape]

    @torch.no_grad()
    def _beside(self, batch: Batch, start: Start, seeds: list[int], alpha: Tensor, step: int) -> Beside:
        latents = batch["latents"]
        absent = torch.zeros(len(alpha), 0, dtype=torch.bool, device=latents.device)
        return Beside(
            views=self._views(latents, batch["rows"].tolist()),
            positives=self._real(batch, "positives"),
            unconditional=self._real(batch, "unconditional"),
            present=batch.get("present", absent),
            alpha=alpha,
            mask=start.mask,
            scores=self._scores(latents, seeds),
            common=self._common(latents, step),
        )

    def _of(self, rows: list[int], clips: Tensor) -> Vectors:
        """Vectors of clips [M, C, T, H, W] of the data's rows, as they are."""
        assert self.kept is not None
        return self.kept(rows, lambda place: clips[place : place + 1], clips.device)

    def _real(self, batch: Batch, name: str) -> Vectors:
        """Those of the positives or unconditional clips; empty where none are drawn."""
        if name not in batch:
            return {}
        return self._of(batch[f"{name}_rows"].flatten().tolist(), batch[name].flatten(0, 1))

    def _views(self, latents: Tensor, rows: list[int]) -> Vectors:
        """Those of each clip and of its views side by side; a clip's views are drawn once for the whole training."""
        own, drift = self._of(rows, latents), self.params.drift
        assert drift is not None and self.kept is not None
        if not drift.views.count:
            return own

        def views(place: int) -> Tensor:
            seed = draws.mixed(self.params.training.seed, rows[place])
            noise = draws.normal([seed], "views", drift.views.count, *latents.shape[1:])[0].to(latents)
            return latents[place] + drift.views.std * noise

        found = self.kept([("views", row) for row in rows], views, latents.device)
        each = (len(rows), drift.views.count)
        return {name: torch.cat([own[name][:, None], found[name].unflatten(0, each)], 1).flatten(0, 1) for name in own}

    def _scores(self, latents: Tensor, seeds: list[int]) -> dict[str, Tensor]:
        """What chooses each clip's places: the first numbers of one draw, so that spaces of one grid look alike."""
        sizes = {space.name: space.grid for space in self._spaces_of(latents) if space.grid is not None}
        most = max((grid[0] * grid[1] * grid[2] for grid in sizes.values()), default=0)
        scores = draws.unit(seeds, "places", most).to(latents.device)
        return {name: scores[:, : grid[0] * grid[1] * grid[2]] for name, grid in sizes.items()}

    def _common(self, latents: Tensor, step: int) -> dict[str, Tensor]:
        """Places that all clips of a step are looked at: of frames that can be missing."""
        spaces = [space for space in self._spaces_of(latents) if space.grid is not None]
        never, found = self.always_given(latents), {}
        for space in spaces:
            assert space.grid is not None
            allowed = missing_places(never, space.grid)
            scores = draws.unit([draws.mixed(self.params.training.seed, step)], "places", allowed.shape[1])
            found[space.name] = picked(scores, allowed, space.locations)[0].to(latents.device)
        return found
