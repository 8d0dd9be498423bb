"""Numbers of rollouts where the answer is known: what was read and held is given, and worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.generation.world_model import measured, staying
from pipelines.generation.world_model.held_out import averaged_monitors, mean_loss
from pipelines.generation.world_model.reader import Read, loss_of, pairs_of
from pipelines.generation.world_model.recorded import Measured
from pipelines.training.objective import LossOutput

READER: Any = SimpleNamespace(keys=[0, 1], axes=[2], names=["shape", "color"])
"""Two keys and an axis are held; two factors are read."""


def read(keys: list[list[bool]], axis: list[float], **factors: list[int]) -> Read:
    """One clip, one raw frame per latent frame: keys [T - 1, 2], the axis [T - 1]."""
    told = {name: torch.tensor([values]) for name, values in factors.items()}
    seen = torch.tensor(keys)[None, :, None], torch.tensor(axis)[None, :, None, None]
    return Read(torch.zeros(1, len(keys), 1), *seen, told)


def held(*rows: list[float]) -> Tensor:
    """Rows [1, T, 1, 3]; the first belongs to the picture and is not read."""
    return torch.tensor([[0.0, 0.0, 0.0], *rows])[None, :, None]


def test_a_frame_counts_where_all_its_keys_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four frames the second reads one key too many; of held rows, three of four are the same."""
    told = read([[True, False], [True, True], [True, False], [False, True]], [0.0] * 4)
    monkeypatch.setattr(measured, "read", lambda reader, latents: told)
    rows = held([1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0])
    found = Measured()
    measured._followed(found, READER, torch.zeros(1), rows, 20)
    assert found.numbers[measured.NAME] == 0.75 and found.numbers[f"{measured.NAME}_chance"] == 0.75
    assert [found.numbers[f"{measured.NAME}/q{n}"] for n in (1, 2, 3, 4)] == [1.0, 0.0, 1.0, 1.0]


def test_an_axis_correlates_as_numpy_says_and_not_at_all_where_it_stands_still() -> None:
    asked, seen = [0.0, 1.0, 2.0, 5.0], [1.0, 0.0, 2.0, 4.0]
    found = Measured()
    measured._axes(found, "x", read([[False, False]] * 4, seen), held(*([0, 0, value] for value in asked)), READER)
    assert found.numbers == {"x/axis_correlation/0": pytest.approx(np.corrcoef(asked, seen)[0, 1])}
    measured._axes(
        still := Measured(), "x", read([[False, False]] * 4, [1.0] * 4), held(*[[0.0, 0.0, 1.0]] * 4), READER
    )
    assert not still.numbers and "does not vary" in still.unavailable["x/axis_correlation/0"]


def test_identity_is_that_all_readable_factors_are_the_starts() -> None:
    """Shape is read on all real frames; colour on none, so that it does not count."""
    real: Any = SimpleNamespace(factors={"shape": torch.tensor([1]), "color": torch.tensor([0])})
    known: Any = SimpleNamespace(words={"shape": ["a", "b", "c"], "color": ["r", "g"]})
    nothing = [[False, False]] * 4
    true = read(nothing, [0.0] * 4, shape=[1, 1, 1, 1], color=[1, 1, 1, 1])
    told = read(nothing, [0.0] * 4, shape=[1, 1, 0, 2], color=[0, 0, 0, 0])
    measured._identity(found := Measured(), READER, told, true, real, known, 20)
    name = "rollout/identity_agreement"
    assert [found.numbers[f"{name}/q{n}"] for n in (1, 2, 3, 4)] == [1.0, 1.0, 0.0, 0.0]
    assert found.numbers[f"{name}_chance"] == pytest.approx(1 / 3) and found.numbers["reader/identity_agreement"] == 1.0
    assert found.unavailable.keys() == {f"{name} of color"}


def test_the_feature_distance_is_in_variances_of_the_real_ones() -> None:
    """Means 2 apart and deviations 2 and 1 where the real variance is 1 (over n - 1): (4 + 1) / 1."""
    real, made = torch.tensor([[0.0], [2**0.5]]), torch.tensor([[0.0], [8**0.5]])
    assert measured._distance(real, real) == 0.0
    moved = made - made.mean() + real.mean() + 2
    assert measured._distance(moved, real) == pytest.approx(5.0, rel=1e-5)


def test_the_error_of_a_latent_frame_is_the_mean_square_of_its_raw_frames() -> None:
    """Brightness of 255: true 0, 51, 51, 102, 102 at two raw frames per latent frame; rolled out 0, 0, 51, 0, 102."""
    levels = {"true": [0, 51, 51, 102, 102], "made": [0, 0, 51, 0, 102]}
    video = {name: np.array(line, np.uint8).reshape(1, 5, 1, 1, 1).repeat(3, 4) for name, line in levels.items()}
    latents = torch.zeros(1, 1, 3, 1, 1)
    rolling: Any = SimpleNamespace(
        stride=2,
        rolled=lambda first, rows: latents + 1,
        decoded=lambda asked: video["made" if float(asked.sum()) else "true"],
    )
    real: Any = SimpleNamespace(latents=latents, held=torch.zeros(1, 3, 2, 1))
    staying.horizon(found := Measured(), rolling, real, 5)
    assert found.numbers == pytest.approx(
        {
            f"{staying.ERROR}/frame_2": 0.2**2 / 2,
            f"{staying.ERROR}/frame_4": 0.4**2 / 2,
            f"{staying.ERROR}_frozen/frame_2": 0.2**2,
            f"{staying.ERROR}_frozen/frame_4": 0.4**2,
        }
    )


def test_losses_and_monitors_are_means_over_levels() -> None:
    outputs = [
        LossOutput(torch.tensor([1.0, 3.0]), monitors={"cos": torch.tensor(0.5), "sigma/mean": torch.tensor(0.1)}),
        LossOutput(torch.tensor([4.0, 6.0]), monitors={"cos": torch.tensor(0.7), "sigma/mean": torch.tensor(0.9)}),
    ]
    assert mean_loss(outputs) == 3.5 and averaged_monitors(outputs) == {"cos": pytest.approx(0.6)}


def test_the_readers_loss_of_answers_that_say_nothing_is_by_the_textbook() -> None:
    """Logits 0: ln 2 for keys, ln 4 for four values; the axis is off by 3."""

    class Silent:
        keys, axes, names = (0, 1), (2,), ("shape",)

        def __call__(self, pairs: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
            return pairs, torch.zeros(1, 1, 3), [torch.zeros(1, 4)]

    silent: Any = Silent()
    loss = loss_of(silent, torch.zeros(1, 2, 1, 1), torch.tensor([[[1.0, 0.0, 3.0]]]), {"shape": torch.tensor([2])})
    assert float(loss) == pytest.approx(math.log(2) + 9 + math.log(4))


def test_pairs_are_neighbours_earlier_channels_first() -> None:
    latents = torch.arange(3.0).reshape(1, 1, 3, 1, 1)
    assert pairs_of(latents).flatten(2).tolist() == [[[0, 1], [1, 2]]]
