"""Products in bfloat16 find the nearest centre that float32 finds, and never promise too much of the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.representation import bounds, screening


def clouds(samples: int = 700, classes: int = 96, width: int = 48) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, width))
    return centres[rng.integers(0, classes, samples)] + rng.normal(size=(samples, width)), centres


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    values, centres = clouds()
    one = np.ones(values.shape[1])
    one[3] = 300.0
    return {
        "clouds": (values, centres),
        "samples as centres": (values, values[:96]),
        "far from the origin": (values + 50.0, centres + 50.0),
        "one long axis": (values * one, centres * one),
        "small": (values * 1e-4, centres * 1e-4),
        "centres twice": (values, np.concatenate([centres[:48], centres[:48]])),
        "all alike": (np.ones_like(values), np.ones_like(centres)),
    }


@pytest.mark.parametrize("name", cases())
def test_screened_classes_are_the_nearest_and_their_bounds_hold(name: str) -> None:
    values, centres = (torch.from_numpy(part.astype(np.float32)) for part in cases()[name])
    squared = torch.cdist(values.double(), centres.double()).square()
    lengths = values.square().sum(1)
    labels, first, second = (
        torch.cat(parts) for parts in zip(*screening.screened(values, centres, lengths), strict=True)
    )
    slack = bounds.ROUNDING * (lengths + centres.square().sum(1).max()).double()
    rows = torch.arange(len(values))
    assert bool((squared[rows, labels] <= squared.min(1).values + slack).all())
    assert bool(((first + lengths).double() - squared[rows, labels]).abs().le(slack).all())
    squared[rows, labels] = torch.inf
    assert bool(((second + lengths).double() <= squared.min(1).values + slack).all())


def test_few_centres_are_not_screened_and_many_are_where_the_processor_can() -> None:
    values = torch.randn(4, 512)
    assert not screening.fits(values, torch.randn(64, 512))
    assert not screening.fits(torch.randn(4, 2**17), torch.randn(1, 2**17))
    assert screening.fits(values, torch.randn(1024, 512)) == screening.computes_bf16(values.device)
