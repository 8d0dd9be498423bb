"""What is logged while training has known answers: losses by level, means by weight."""

from __future__ import annotations

import pytest
import torch

from pipelines.training.meters import BUCKETS, Averages, Scalars, sigma_buckets


def test_a_loss_counts_in_the_quarter_of_its_level_and_of_frames_in_that_of_their_mean() -> None:
    sums, counts = sigma_buckets(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0.0, 0.25, 0.3, 1.0])).tolist()
    assert (sums, counts) == ([1.0, 6.0, 0.0, 8.0], [1.0, 2.0, 0.0, 1.0])
    per_frame = torch.tensor([[0.0, 1.0], [0.9, 0.8]])
    assert sigma_buckets(torch.tensor([3.0, 5.0]), per_frame)[0].tolist() == [0.0, 0.0, 3.0, 5.0]


def test_numbers_of_an_update_come_back_by_name_and_empty_levels_not_at_all() -> None:
    scalars = Scalars()
    scalars.add("loss", torch.tensor(2.0))
    scalars.buckets.append(sigma_buckets(torch.tensor([1.0, 3.0]), torch.tensor([0.1, 0.2])))
    assert scalars.take() == ([("loss", 2.0)], [(BUCKETS[0], 2.0, 2.0)]) and scalars.take() == ([], [])


def test_means_are_weighted_by_samples() -> None:
    means = Averages()
    means.add("x", 1.0, 3.0)
    means.add("x", 5.0, 1.0)
    assert means.peek("x") == {"x": 2.0} and means.take() == {"x": pytest.approx(2.0)} and means.take() == {}
