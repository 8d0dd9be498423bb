"""Which latent frames are given: every selection of the params, and what does not fit the clips."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipelines.generation.drifting import draws
from pipelines.generation.drifting.objective import DriftingRefiner
from pipelines.generation.drifting.params import Keyframes, Keypatches
from pipelines.stage import StageError
from tests.generation.toy import DIM, refining

PLAIN: dict[str, Any] = {"growth": "linear", "least": 2, "levels": 2, "selection": "random", "endpoints": False}
"""Levels of 5, 4 and 2 of 5 frames."""


def given(selection: object, seeds: tuple[int, ...] = (1, 2, 3, 4), **changes: Any) -> list[list[list[int]]]:
    """Places by clip and level."""
    how = Keyframes.model_validate({**PLAIN, "selection": selection, **changes})
    return [[level.nonzero().flatten().tolist() for level in clip] for clip in draws.masks(list(seeds), 5, how)]


def test_given_scores_choose_the_lowest_for_every_clip() -> None:
    every = [0, 1, 2, 3, 4]
    assert given({"scores": [4, 0.5, 2, -1, 3]}) == [[every, [1, 2, 3, 4], [1, 3]]] * 4


def test_scores_by_level_join_what_the_sparser_level_has() -> None:
    rows = [[9, 0, 9, 1, 2], [0, 9, 1, 9, 9]]
    assert given({"level_scores": rows})[0][1:] == [[0, 1, 2, 3], [0, 2]]


def test_a_given_set_is_the_sparsest_level_and_finer_ones_add_random_frames() -> None:
    found = given({"coarsest": [3, 1]}, tuple(range(40)))
    assert all(levels[2] == [1, 3] and {1, 3} < set(levels[1]) for levels in found)
    assert len({tuple(levels[1]) for levels in found}) == 3, "each of the three other frames is left out somewhere"


def test_frames_of_a_given_set_are_never_missing() -> None:
    params = refining(keyframes={**PLAIN, "selection": {"coarsest": [1, 3]}})
    objective = DriftingRefiner(torch.nn.Identity(), params, torch.zeros(1, DIM), None)
    assert objective.always_given(torch.zeros(1, 2, 5, 4, 4)).tolist() == [[False, True, False, True, False]]


def of_patches(selection: object, seeds: tuple[int, ...] = (1, 2, 3), least: int = 2) -> list[list[list[int]]]:
    """Patches of 2 x 3 by picture and level."""
    how = {"patch": 1, "growth": "linear", "least": least, "levels": 2, "selection": selection}
    chosen = draws.patch_masks(list(seeds), (2, 3), Keypatches.model_validate(how))
    return [[level.nonzero().flatten().tolist() for level in picture] for picture in chosen]


def test_patches_are_selected_as_frames_are() -> None:
    every = list(range(6))
    assert of_patches({"scores": [4, 0.5, 2, -1, 3, 9]}) == [[every, [1, 2, 3, 4], [1, 3]]] * 3
    rows = [[9, 0, 9, 1, 2, 9], [0, 9, 1, 9, 9, 9]]
    assert of_patches({"level_scores": rows})[0][1:] == [[0, 1, 2, 3], [0, 2]]
    found = of_patches({"coarsest": [5, 1]}, tuple(range(40)))
    assert all(levels[2] == [1, 5] and {1, 5} < set(levels[1]) for levels in found)
    assert len({tuple(levels[1]) for levels in found}) > 1, "finer levels add others at random"
    assert of_patches("random") == of_patches("random") and len({str(one) for one in of_patches("random")}) > 1


def test_uniform_patches_lie_apart_and_are_nested() -> None:
    """8 of 64 patches: no two of them close, and no patch far from all of them."""
    how = {"patch": 1, "growth": "geometric", "least": 8, "levels": 3, "selection": "uniform"}
    (levels,) = draws.patch_masks([0], (8, 8), Keypatches.model_validate(how))
    assert levels.sum(1).tolist() == [64, 32, 16, 8]
    assert all(bool((sparse <= fine).all()) for fine, sparse in pairwise(levels))
    places = torch.nonzero(levels[3].view(8, 8)).double()
    apart = torch.cdist(places, places).fill_diagonal_(torch.inf)
    everywhere = torch.cdist(torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double(), places)
    assert apart.min() > 2 and everywhere.amin(1).max() < 4


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        ({"scores": [1.0]}, "keypatches.selection: 1 score, but pictures have 6 patches"),
        ({"level_scores": [[1.0] * 6]}, "keypatches.selection.level_scores: 1 row for 2 levels"),
        ({"coarsest": [0, 6]}, "patch 6 lies outside pictures of 6 patches, 0 to 5"),
        ({"coarsest": [0, 1, 2]}, "2 places, as keypatches.least says; has 3"),
    ],
)
def test_what_does_not_fit_the_pictures_is_refused(selection: Any, told: str) -> None:
    with pytest.raises(StageError, match=told):
        of_patches(selection)


@pytest.mark.parametrize(
    ("selection", "changes", "told"),
    [
        ({"scores": [1.0, 2.0]}, {}, "2 scores, but clips have 5 latent frames"),
        ({"level_scores": [[1.0] * 5]}, {}, "level_scores: 1 row for 2 levels"),
        ({"level_scores": [[1.0] * 5, [1.0] * 4]}, {}, "4 scores, but clips have 5 latent frames"),
        ({"coarsest": [0, 5]}, {}, "frame 5 lies outside clips of 5 latent frames, 0 to 4"),
        ({"coarsest": [0, 2]}, {"endpoints": True}, "lacks frame 0 or 4"),
        ({"coarsest": [0, 2, 4]}, {}, "the given set must have 2 places, as keyframes.least says; has 3"),
        ({"coarsest": [2, 2]}, {}, "the given set must have 2 places, as keyframes.least says; has 1"),
    ],
)
def test_what_does_not_fit_the_clips_is_refused(selection: Any, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(StageError, match=told):
        given(selection, **changes)


@pytest.mark.parametrize("selection", ["some", {"coarsest": [-1, 2]}, {"scores": []}, {"scores": [float("nan")]}, {}])
def test_what_is_no_selection_is_refused(selection: Any) -> None:
    with pytest.raises(ValidationError, match="selection"):
        Keyframes.model_validate({**PLAIN, "selection": selection})
