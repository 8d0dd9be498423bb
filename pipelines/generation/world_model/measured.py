"""Rollouts of held-out first frames, measured: do they follow the actions, and do they stay what they were?

Every number of a quarter is of that quarter of the rollout's frames. Intervals are percentile bootstraps over clips.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipelines.data.actions import aligned, kinds_of
from pipelines.generation.latents import Latents
from pipelines.generation.world_model.excursions import excursions, opposites
from pipelines.generation.world_model.objective import WorldModelObjective
from pipelines.generation.world_model.pictures import pixels
from pipelines.generation.world_model.reader import Examples, Read, Reader, read, trained_reader
from pipelines.models.autoencoder import Autoencoder
from pipelines.models.streaming import decoded_in_pieces

QUARTERS, LEVEL = 4, 0.95
READABLE = 0.8
"""Share of real frames on which the reader must read a factor before it judges rollouts by it."""
CORRELATED = 0.5
"""The same of an axis: least correlation of what is read and held on real frames."""
MOST_WAYS = 5
"""Counterfactual actions: nothing, and each of the first keys."""
NAME = "rollout/action_accuracy"


@dataclass
class Measured:
    """Numbers by name, over how many clips, those that are undefined with the reason, and what is drawn."""

    count: int
    numbers: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    rollout: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1, 1, 3), np.uint8))
    ways: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1, 1, 3), np.uint8))
    ways_named: list[str] = field(default_factory=list)

    def interval(self, name: str, per_clip: Tensor, resamples: int) -> None:
        """The mean over clips with its interval; one clip has no interval."""
        values = per_clip.double().numpy()
        self.numbers[name] = float(values.mean())
        if len(values) > 1:
            drawn = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
            low, high = np.quantile(values[drawn].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            self.numbers |= {f"{name}_low": float(low), f"{name}_high": float(high)}

    def by_quarter(self, name: str, per_frame: Tensor) -> None:
        """Means [N, T] in quarters of the frames."""
        parts = np.array_split(np.arange(per_frame.shape[1]), QUARTERS)
        for number, part in enumerate(parts, 1):
            if len(part):
                self.numbers[f"{name}/q{number}"] = float(per_frame[:, part].double().mean())


def measure(data: Latents, objective: WorldModelObjective, decoder: Autoencoder, device: torch.device) -> Measured:
    """All of it, with the network as it is."""
    asked = objective.params.rollouts
    assert asked is not None
    reader, known = trained_reader(data.shards, asked.reader_steps, device)
    rows = data.shards.rows("validation")
    chosen = rows[np.linspace(0, len(rows) - 1, min(asked.clips, len(rows))).round().astype(int)]
    real, found = Examples.of(data.shards, chosen, known.words), Measured(len(chosen))
    _followed_by_real(found, reader, real, asked.resamples)
    made, held = _rollouts(data, objective, real, asked.num_frames, device)
    _followed(found, reader, made, held, asked.resamples)
    _kept(found, reader, made, real, known)
    _returned(found, data, objective, decoder, made)
    _horizon(found, data, objective, decoder, real, device)
    _ways(found, data, objective, decoder, reader, real, device)
    found.rollout = _decoded(decoder, made[:4])
    leg = data.manifest.autoencoder.temporal_stride * objective.params.window.target_frames
    _seams(found, _decoded(decoder, made), _decoded(decoder, real.latents), leg)
    return found


def _decoded(decoder: Autoencoder, latents: Tensor) -> np.ndarray:
    device = decoder.latent_mean.device
    clips = ([pixels(piece) for piece in decoded_in_pieces(decoder, one[None].to(device))] for one in latents)
    return np.concatenate([np.concatenate(pieces, axis=1) for pieces in clips])


def _held(data: Latents, objective: WorldModelObjective, actions: np.ndarray) -> Tensor:
    stride = data.manifest.autoencoder.temporal_stride
    return aligned(torch.from_numpy(actions), stride, objective.params.denoiser.actions.history)


def _rollouts(
    data: Latents, objective: WorldModelObjective, real: Examples, frames: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Latents [N, C, T, H, W] of excursions from the clips' first frames, and the raw rows [N, T, stride, A]."""
    stride, facts = data.manifest.autoencoder.temporal_stride, data.manifest.actions
    assert facts is not None
    leg = stride * objective.params.window.target_frames
    number = 1 + (frames - 1) // stride * stride
    actions = np.stack([excursions(facts, number, leg, seed) for seed in range(len(real.latents))])
    held = _held(data, objective, actions).to(device)
    made = objective.rolled(real.latents[:, :, :1].to(device), held, seeds=range(len(actions))).cpu()
    return made, aligned(torch.from_numpy(actions), stride)


# ---- do they follow? ----------------------------------------------------------------------------------------------


def _right(found: Read, held: Tensor, reader: Reader) -> Tensor:
    """Share [N, T - 1] of each latent frame's raw frames whose keys are read exactly as they were held."""
    return (found.keys == (held[:, 1:][..., reader.keys] > 0.5)).all(-1).float().mean(-1)


def _followed_by_real(found: Measured, reader: Reader, real: Examples, resamples: int) -> None:
    """What the reader reaches on real held-out clips: a rollout can hardly reach more."""
    told = read(reader, real.latents)
    _axes(found, "reader", told, real.held, reader)
    if not reader.keys:
        return
    found.interval("reader/action_accuracy", _right(told, real.held, reader).mean(1), resamples)
    found.interval("reader/action_accuracy_shuffled", _right(told, real.held.roll(1, 0), reader).mean(1), resamples)


def _followed(found: Measured, reader: Reader, made: Tensor, held: Tensor, resamples: int) -> None:
    told = read(reader, made)
    if not reader.keys:
        found.unavailable[NAME] = "no column of the actions is a key"
    else:
        right, others = _right(told, held, reader), _right(told, held.roll(1, 0), reader)
        found.interval(NAME, right.mean(1), resamples)
        found.interval(f"{NAME}_shuffled", others.mean(1), resamples)
        found.by_quarter(NAME, right)
        found.by_quarter(f"{NAME}_shuffled", others)
        rows = (held[:, 1:][..., reader.keys] > 0.5).flatten(0, 2)
        _, counts = torch.unique(rows, dim=0, return_counts=True)
        found.numbers[f"{NAME}_chance"] = float(counts.max() / counts.sum())
    _axes(found, "rollout", told, held, reader)
    for place in range(len(reader.axes)):
        real = found.numbers.get(f"reader/axis_correlation/{place}", 0.0)
        if real < CORRELATED and found.numbers.pop(f"rollout/axis_correlation/{place}", None) is not None:
            found.unavailable[f"rollout/axis_correlation/{place}"] = f"read with {real:.2f} on real frames only"


def _axes(found: Measured, of: str, told: Read, held: Tensor, reader: Reader) -> None:
    """Correlation of the axes that are read with those that were held."""
    for place, axis in enumerate(reader.axes):
        asked, seen = held[:, 1:, :, axis].flatten().double(), told.axes[..., place].flatten().double()
        name = f"{of}/axis_correlation/{place}"
        if float(asked.std()) > 0 and float(seen.std()) > 0:
            found.numbers[name] = float(torch.corrcoef(torch.stack([asked, seen]))[0, 1])
        else:
            found.unavailable[name] = "one of the two does not vary"


def _ways(
    found: Measured,
    data: Latents,
    objective: WorldModelObjective,
    decoder: Autoencoder,
    reader: Reader,
    real: Examples,
    device: torch.device,
) -> None:
    """Counterfactuals: the same start and noise, told nothing or one key each."""
    facts, stride = data.manifest.actions, data.manifest.autoencoder.temporal_stride
    assert facts is not None
    keys, _ = kinds_of(facts)
    names = ["none", *(facts.names[place] for place in keys)][:MOST_WAYS]
    frames = 1 + 2 * stride * objective.params.window.target_frames
    first, shown, right = real.latents[:, :, :1].to(device), [], []
    for name in names:
        actions = np.zeros((len(first), frames, len(facts.names)), np.float32)
        if name != "none":
            actions[:, :, facts.names.index(name)] = 1.0
        made = objective.rolled(first, _held(data, objective, actions).to(device), seeds=range(len(first))).cpu()
        held = aligned(torch.from_numpy(actions), stride)
        right.append(_right(read(reader, made), held, reader).mean(1))
        shown.append(_decoded(decoder, made[:4]))
    found.interval("rollout/counterfactual_accuracy", torch.stack(right).mean(0), 200)
    found.numbers["rollout/counterfactual_accuracy_chance"] = 1 / len(names)
    found.ways, found.ways_named = np.stack(shown), names


# ---- do they stay? ------------------------------------------------------------------------------------------------


def _kept(found: Measured, reader: Reader, made: Tensor, real: Examples, known: Examples) -> None:
    """Identity, and the distance to real frames in the reader's features, by quarter."""
    told, true = read(reader, made), read(reader, real.latents)
    _identity(found, reader, told, true, real, known)
    among = read(reader, known.latents[:: max(1, len(known.latents) // 256)]).features.flatten(0, 1)
    parts = np.array_split(np.arange(told.features.shape[1]), QUARTERS)
    for number, part in enumerate(parts, 1):
        if len(part):
            value = _distance(told.features[:, part].flatten(0, 1), among)
            found.numbers[f"rollout/feature_distance/q{number}"] = value
    found.numbers["reader/feature_distance_real"] = _distance(true.features.flatten(0, 1), among)


def _identity(found: Measured, reader: Reader, told: Read, true: Read, real: Examples, known: Examples) -> None:
    """Frames whose factors are read as the start's; of factors that the reader reads on real clips."""
    readable = []
    for name in reader.names:
        share = float((true.factors[name] == real.factors[name][:, None]).float().mean())
        found.numbers[f"reader/agreement/{name}"] = share
        if share >= READABLE:
            readable.append(name)
        else:
            found.unavailable[f"rollout/identity_agreement of {name}"] = f"read on {share:.2f} of real frames only"
    if not readable:
        found.unavailable["rollout/identity_agreement"] = "no factor of identity is named, or read on real clips"
        return

    def right(one: Read) -> Tensor:
        return torch.stack([one.factors[name] == real.factors[name][:, None] for name in readable]).all(0).float()

    found.by_quarter("rollout/identity_agreement", right(told))
    found.numbers["reader/identity_agreement"] = float(right(true).mean())
    sizes = [len(known.words[name]) for name in readable]
    found.numbers["rollout/identity_agreement_chance"] = 1.0 / float(np.prod(sizes))


def _distance(one: Tensor, other: Tensor) -> float:
    """Squared difference of means and of spreads over the features, in variances of the second: 0 is alike."""
    scale = other.var(0).clamp_min(1e-6)
    means, spreads = (one.mean(0) - other.mean(0)).square(), (one.std(0) - other.std(0)).square()
    return float(((means + spreads) / scale).mean())


def _returned(
    found: Measured, data: Latents, objective: WorldModelObjective, decoder: Autoencoder, made: Tensor
) -> None:
    """How far the frames after a way out and back are from the start, over how far those at the turn are."""
    facts = data.manifest.actions
    assert facts is not None
    if opposites(facts) is None:
        found.unavailable["rollout/return_distance"] = "not every key has an opposite"
        return
    leg = objective.params.window.target_frames  # latent frames out, as the excursions go
    video = [
        torch.from_numpy(_decoded(decoder, made[:, :, place : place + 1])).float() for place in range(made.shape[2])
    ]
    away = torch.stack([(frame - video[0]).abs().mean((1, 2, 3, 4)) for frame in video], 1)
    turns, returns = away[:, leg :: 2 * leg], away[:, 2 * leg :: 2 * leg]
    count = min(turns.shape[1], returns.shape[1])
    moved = turns[:, :count].mean()
    if count and float(moved) > 0:
        found.numbers["rollout/return_distance"] = float(returns[:, :count].mean() / moved)
    else:
        found.unavailable["rollout/return_distance"] = "nothing moved on the way out, or the rollout is too short"


def _horizon(
    found: Measured,
    data: Latents,
    objective: WorldModelObjective,
    decoder: Autoencoder,
    real: Examples,
    device: torch.device,
) -> None:
    """Squared error of decoded frames to real clips with their own actions, by latent frame, beside standing still."""
    stride = data.manifest.autoencoder.temporal_stride
    history = objective.params.denoiser.actions.history
    rows = torch.cat([real.held[:, :1, -1], real.held[:, 1:].flatten(1, 2)], dim=1)
    held = aligned(rows, stride, history).to(device)
    made = objective.rolled(real.latents[:, :, :1].to(device), held, seeds=range(len(held))).cpu()
    true, rolled = (torch.from_numpy(_decoded(decoder, one)).float() / 255 for one in (real.latents, made))
    still = true[:, :1].expand_as(true)
    for frame in range(1, made.shape[2]):
        part = slice(1 + stride * (frame - 1), 1 + stride * frame)
        found.numbers[f"rollout/error/frame_{stride * frame}"] = float((rolled - true)[:, part].square().mean())
        found.numbers[f"rollout/error_frozen/frame_{stride * frame}"] = float((still - true)[:, part].square().mean())


def _seams(found: Measured, made: np.ndarray, real: np.ndarray, leg: int) -> None:
    """Change from frame to frame where chunks of ``leg`` frames meet, over the change elsewhere.

    Beside it that of real clips, decoded from latents of several frames each, which meet there too.
    """
    for name, video in (("rollout/seam_ratio", made), ("reader/seam_ratio_real", real)):
        change = np.abs(video[:, 1:].astype(np.int16) - video[:, :-1]).mean((0, 2, 3, 4))
        borders = np.arange(len(change)) % leg == 0
        inside = ~borders
        borders[0] = False  # after the first frame alone, of a picture
        if borders.any() and change[inside].mean() > 0:
            found.numbers[name] = float(change[borders].mean() / change[inside].mean())
        else:
            found.unavailable[name] = "one chunk, or nothing moves"
