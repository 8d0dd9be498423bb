"""Rollouts of held-out first frames, measured: do they follow the actions, and do they stay what they were?

Every number of a quarter is of that quarter of the rollout's frames. Intervals are percentile bootstraps over clips.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipelines.data.actions import aligned, kinds_of
from pipelines.generation.latents import Latents
from pipelines.generation.world_model.objective import WorldModelObjective
from pipelines.generation.world_model.reader import ActionReader, Examples, Kept, Read, read, trained_reader
from pipelines.generation.world_model.recorded import Measured, quarters
from pipelines.generation.world_model.staying import Rolling, horizon, returned, seams, speed
from pipelines.models.autoencoder import Autoencoder

READABLE = 0.8
"""Share of real frames on which the reader must read a factor before it judges rollouts by it."""
CORRELATED = 0.5
"""The same of an axis: least correlation of what is read and held on real frames."""
MOST_WAYS = 5
"""Counterfactual actions: nothing, and each of the first keys."""
NAME = "rollout/action_accuracy"


def measure(
    data: Latents, objective: WorldModelObjective, decoder: Autoencoder, device: torch.device, kept: Kept | None = None
) -> tuple[Measured, ActionReader]:
    """All of it, with the network as it is, and the reader that judged; ``kept``: where one may stand already."""
    asked, found = objective.params.rollouts, Measured()
    assert asked is not None
    rolling, resamples = Rolling(data, objective, decoder, device), asked.resamples
    reader, known = trained_reader(data.shards, asked.reader_steps, device, kept)
    rows = data.shards.rows("validation")
    chosen = rows[np.linspace(0, len(rows) - 1, min(asked.clips, len(rows))).round().astype(int)]
    real = Examples.of(data.shards, chosen, known.words)
    found.count = len(chosen)
    first = real.latents[:, :, :1]
    _followed_by_real(found, reader, real, resamples)
    told = rolling.excursions(len(first), 1 + (asked.num_frames - 1) // rolling.stride * rolling.stride)
    made = rolling.rolled(first, told)
    _followed(found, reader, made, aligned(torch.from_numpy(told), rolling.stride), resamples)
    _kept(found, reader, made, real, known, resamples)
    video = rolling.decoded(made)
    returned(found, rolling, first, video, resamples)
    horizon(found, rolling, real, resamples)
    _ways(found, rolling, reader, first, resamples)
    seams(found, video, rolling.decoded(real.latents), rolling.leg, resamples)
    speed(found, rolling, first, told)
    found.rollout = video[:4]
    return found, reader


# ---- do they follow? ----------------------------------------------------------------------------------------------


def _right(found: Read, held: Tensor, reader: ActionReader) -> Tensor:
    """Share [N, T - 1] of each latent frame's raw frames whose keys are read exactly as they were held."""
    return (found.keys == (held[:, 1:][..., reader.keys] > 0.5)).all(-1).float().mean(-1)


def _followed_by_real(found: Measured, reader: ActionReader, real: Examples, resamples: int) -> None:
    """What the reader reaches on real held-out clips: a rollout can hardly reach more."""
    told = read(reader, real.latents)
    _axes(found, "reader", told, real.held, reader)
    if not reader.keys:
        return
    found.interval("reader/action_accuracy", _right(told, real.held, reader).mean(1), resamples)
    found.interval("reader/action_accuracy_shuffled", _right(told, real.held.roll(1, 0), reader).mean(1), resamples)


def _followed(found: Measured, reader: ActionReader, made: Tensor, held: Tensor, resamples: int) -> None:
    told = read(reader, made)
    if not reader.keys:
        found.unavailable[NAME] = "no column of the actions is a key"
    else:
        right, others = _right(told, held, reader), _right(told, held.roll(1, 0), reader)
        found.interval(NAME, right.mean(1), resamples)
        found.interval(f"{NAME}_shuffled", others.mean(1), resamples)
        found.by_quarter(NAME, right, resamples)
        found.by_quarter(f"{NAME}_shuffled", others, resamples)
        rows = (held[:, 1:][..., reader.keys] > 0.5).flatten(0, 2)
        _, counts = torch.unique(rows, dim=0, return_counts=True)
        found.numbers[f"{NAME}_chance"] = float(counts.max() / counts.sum())
    _axes(found, "rollout", told, held, reader)
    for place in range(len(reader.axes)):
        real = found.numbers.get(f"reader/axis_correlation/{place}", 0.0)
        if real < CORRELATED and found.numbers.pop(f"rollout/axis_correlation/{place}", None) is not None:
            found.unavailable[f"rollout/axis_correlation/{place}"] = f"read with {real:.2f} on real frames only"


def _axes(found: Measured, of: str, told: Read, held: Tensor, reader: ActionReader) -> None:
    """Correlation of the axes that are read with those that were held."""
    for place, axis in enumerate(reader.axes):
        asked, seen = held[:, 1:, :, axis].flatten().double(), told.axes[..., place].flatten().double()
        name = f"{of}/axis_correlation/{place}"
        if float(asked.std()) > 0 and float(seen.std()) > 0:
            found.numbers[name] = float(torch.corrcoef(torch.stack([asked, seen]))[0, 1])
        else:
            found.unavailable[name] = "one of the two does not vary"


def _ways(found: Measured, rolling: Rolling, reader: ActionReader, first: Tensor, resamples: int) -> None:
    """Counterfactuals: the same start and noise, told nothing or one key each."""
    facts = rolling.data.manifest.actions
    assert facts is not None
    keys, _ = kinds_of(facts)
    names = ["none", *(facts.names[place] for place in keys)][:MOST_WAYS]
    shown, right = [], []
    for name in names:
        rows = np.zeros((len(first), 1 + 2 * rolling.leg, len(facts.names)), np.float32)
        if name != "none":
            rows[:, :, facts.names.index(name)] = 1.0
        made = rolling.rolled(first, rows)
        right.append(_right(read(reader, made), aligned(torch.from_numpy(rows), rolling.stride), reader).mean(1))
        shown.append(rolling.decoded(made[:4]))
    found.interval("rollout/counterfactual_accuracy", torch.stack(right).mean(0), resamples)
    found.numbers["rollout/counterfactual_accuracy_chance"] = 1 / len(names)
    found.ways, found.ways_named = np.stack(shown), names


# ---- do they stay? ------------------------------------------------------------------------------------------------


def _kept(found: Measured, reader: ActionReader, made: Tensor, real: Examples, known: Examples, resamples: int) -> None:
    """Identity, and the distance to real frames in the reader's features, by quarter."""
    told, true = read(reader, made), read(reader, real.latents)
    _identity(found, reader, told, true, real, known, resamples)
    among = read(reader, known.latents[:: max(1, len(known.latents) // 256)]).features.flatten(0, 1)
    for quarter, part in quarters(told.features.shape[1]):
        value = _distance(told.features[:, part].flatten(0, 1), among)
        found.numbers[f"rollout/feature_distance/{quarter}"] = value
    found.numbers["reader/feature_distance_real"] = _distance(true.features.flatten(0, 1), among)


def _identity(
    found: Measured, reader: ActionReader, told: Read, true: Read, real: Examples, known: Examples, resamples: int
) -> None:
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

    found.by_quarter("rollout/identity_agreement", right(told), resamples)
    found.numbers["reader/identity_agreement"] = float(right(true).mean())
    sizes = [len(known.words[name]) for name in readable]
    found.numbers["rollout/identity_agreement_chance"] = 1.0 / float(np.prod(sizes))


def _distance(one: Tensor, other: Tensor) -> float:
    """Squared difference of means and of spreads over the features, in variances of the second: 0 is alike."""
    scale = other.var(0).clamp_min(1e-6)
    means, spreads = (one.mean(0) - other.mean(0)).square(), (one.std(0) - other.std(0)).square()
    return float(((means + spreads) / scale).mean())
