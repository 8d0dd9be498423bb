"""What a sample draws is its own, and what micro-batches and accumulation do to the objective is what is stated."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.data.groups import Groups, Size
from pipelines.data.shards import Shards
from pipelines.generation.drifting import draws, problems
from pipelines.generation.drifting.features import FeatureSpaces, Space, missing_places, picked
from pipelines.generation.drifting.objective import DriftingRefiner, start_of
from pipelines.models.latent_mae import LatentMae
from pipelines.models.refiner import Refiner
from tests.generation.toy import CHANNELS, CLASSES, DIM, batch, denoiser, refining, write_encoder, write_latents


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("objective")
    latents = write_latents(folder / "latents", 24)
    return latents, write_encoder(folder / "latent_mae", latents)


def gradient(places: tuple[Path, Path], micro: int, step: int = 50, section: Any = None, **drift: Any) -> torch.Tensor:
    """Of the whole batch of 8 clips in micro-batches, as the loop accumulates it."""
    params = refining(drift=drift, **(section or {}))
    assert params.drift is not None
    shards = Shards(places[0])
    known = {key: number % CLASSES for number, key in enumerate(shards.index["key"])}
    reader = Groups(shards, "train", ("latents", "prompt_embeds"), 8, 0, known, Size(2, 1, 2))
    torch.manual_seed(0)
    learned = params.drift.learned_temperature
    start = None if learned is None else learned.start
    network = Refiner(denoiser(CLASSES, text_length=4), gated=False, temperature=start)
    for name, parameter in network.named_parameters():
        if name != "log_temperature":
            parameter.data += 0.05 * torch.randn_like(parameter)
    features = FeatureSpaces(params.drift.features, LatentMae.from_pretrained(places[1]))
    objective = DriftingRefiner(network, params, torch.zeros(1, DIM), features)
    for start in range(0, 8, micro):
        loss = objective.losses(reader.read(step, start, start + micro), step)["refiner"].loss
        assert loss.shape == (micro,) and loss.isfinite().all()
        (loss.mean() / (8 // micro)).backward()
    named = [(name, one.grad.flatten()) for name, one in network.named_parameters() if one.grad is not None]
    if learned is not None:
        own = dict(named)["log_temperature"]
        assert own.isfinite().all() and bool(own) == (step >= params.drift.begin)
    return torch.cat([grad for name, grad in named if name != "log_temperature"])


MIXTURE = {"clip": 1.0, "pseudo_class": 0.5, "pooled": 0.0}


def test_problems_of_clips_and_classes_do_not_depend_on_how_a_batch_is_cut(places) -> None:
    whole = gradient(places, 8, problems=MIXTURE)
    for micro in (2, 4):
        torch.testing.assert_close(gradient(places, micro, problems=MIXTURE), whole, rtol=2e-3, atol=2e-5)


def test_spaces_of_one_shape_are_one_set_of_problems_and_no_space_notices(places, monkeypatch) -> None:
    mixture = {"clip": 1.0, "pseudo_class": 0.5, "pooled": 0.5}
    every: dict[str, Any] = {"problems": mixture, "learned_temperature": {"start": 0.3}}
    together, sizes = gradient(places, 8, **every), []

    def one_by_one(spaces: list[Space], *_: Any) -> list[list[Space]]:
        sizes.append(len(spaces))
        return [[space] for space in spaces]

    monkeypatch.setattr(problems, "_alike", one_by_one)
    torch.testing.assert_close(gradient(places, 8, **every), together, rtol=1e-4, atol=1e-6)
    assert sizes == [5, 5, 5], "of clips, classes and all"


def test_a_pooled_problem_and_a_pooled_scale_are_of_a_micro_batch(places) -> None:
    pooled = {"clip": 0.0, "pseudo_class": 0.0, "pooled": 1.0}
    together = refining().drift.field.model_copy(update={"scale": "all"}).model_dump(mode="json")  # type: ignore[union-attr]
    for changes in ({"problems": pooled}, {"problems": MIXTURE, "field": together}):
        whole, cut = gradient(places, 8, **changes), gradient(places, 4, **changes)
        assert float((whole - cut).norm() / whole.norm()) > 0.02


def test_the_encoder_gets_no_gradient_and_stays_as_it_is(places) -> None:
    params = refining()
    assert params.drift is not None
    encoder = LatentMae.from_pretrained(places[1])
    features = FeatureSpaces(params.drift.features, encoder)
    x = torch.randn(2, CHANNELS, 3, 4, 4, requires_grad=True)
    sum(vectors.square().sum() for vectors in features(x).values()).backward()  # type: ignore[union-attr]
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_a_samples_draws_are_its_own_whatever_the_batch() -> None:
    params, latents = refining(), batch(6)["latents"]
    seeds = [10, 11, 12, 13, 14, 15]
    whole, part = start_of(latents, seeds, params), start_of(latents[2:4], seeds[2:4], params)
    for name in ("filled", "told", "mask", "level", "target"):
        assert torch.equal(getattr(whole, name)[2:4], getattr(part, name)), name
    assert torch.equal(draws.normal(seeds, "noise", 3)[[4]], draws.normal([14], "noise", 3))
    assert not torch.equal(draws.normal(seeds, "noise", 3), draws.normal(seeds, "views", 3))
    assert set(draws.levels(list(range(400)), 4).tolist()) == {1, 2, 3, 4}, "never level 0, where nothing is missing"
    alpha = draws.strengths(list(range(2000)), params.drift.guidance)  # type: ignore[union-attr]
    assert alpha.min() == 1.0 and alpha.max() <= 4.0 and 0.45 < float((alpha == 1).float().mean()) < 0.55


def test_frames_given_for_certain_are_never_perturbed_in_training() -> None:
    values = refining().model_dump(mode="json")
    values["corruption"] = {"kind": "gauss", "std": 0.5, "replacement": {"share": 1.0, "std": 0.5}, "anneal": "linear"}
    latents = batch(6)["latents"]
    start = start_of(latents, list(range(6)), type(refining()).model_validate(values))
    assert torch.equal(start.filled[:, :, [0, -1]], latents[:, :, [0, -1]])
    assert not start.told[:, [0, -1]].any() and (start.told[:, 1] == 1).all()


def test_places_are_of_missing_frames_and_each_comes_once_where_there_are_enough() -> None:
    mask = torch.tensor([[True, False, True], [True, True, False]])
    allowed = missing_places(mask, (3, 2, 2))
    assert allowed[0].nonzero()[:, 0].tolist() == [4, 5, 6, 7] and allowed[1].nonzero()[:, 0].tolist() == [8, 9, 10, 11]
    found = picked(torch.rand(2, 12), allowed, 4)
    assert sorted(found[0].tolist()) == [4, 5, 6, 7] and sorted(found[1].tolist()) == [8, 9, 10, 11]
    again = picked(torch.rand(2, 12), allowed, 6)
    assert sorted(set(again[0].tolist())) == [4, 5, 6, 7]


SPARSE: dict[str, Any] = {
    "keyframes": {"growth": "linear", "least": 1, "levels": 2, "selection": "random", "endpoints": False},
    "corruption": {"kind": "dist", "std": 0.02, "replacement": {"share": 0.9, "std": 0.2}, "anneal": "linear"},
}
"""Levels of 2 and 1 of 3 frames, most of them replaced, so that every knob has something to change."""


def nested(name: str, value: Any) -> dict[str, Any]:
    """Changes of the section whose dotted key gets a value, the rest of its block as it is."""
    top, *path = name.split(".")
    values = refining(**SPARSE).model_dump(mode="json")[top]
    if not path:
        return {top: value}
    block = values
    for part in path[:-1]:
        block = block[part]
    block[path[-1]] = value
    return {top: values}


KNOBS = [
    ("keyframes.selection", "uniform"), ("keyframes.selection", {"scores": [2.0, 1.0, 0.0]}),
    ("keyframes.selection", {"level_scores": [[0.0, 1.0, 2.0], [1.0, 0.0, 2.0]]}),
    ("keyframes.selection", {"coarsest": [1]}), ("keyframes.levels", 1), ("filling.mode", "slerp"),
    ("corruption.kind", "none"), ("corruption.std", 0.5), ("corruption.replacement", None), ("noise_std", 0.9),
    ("clamp_keyframes", False), ("prompt_dropout", 1.0), ("class_dropout", 0.0),
    ("regression.spread", None), ("regression.spread", {"samples": 2, "weight": 1.0}), ("regression.floor", 0.9),
    ("regression.decay_steps", 1000), ("regression.target", "adj"), ("drift.weight", 0.5), ("drift.samples", 4),
    ("drift.problems.pseudo_class", 0.0), ("drift.views", {"count": 1, "std": 0.1}), ("drift.views.std", 0.5),
    ("drift.guidance", None), ("drift.guidance.power", 0.5), ("drift.guidance.most", 8.0),
    ("drift.guidance.plain_share", 0.0),
    ("drift.features.maps.windows", [1]), ("drift.features.maps.weight", 3.0), ("drift.features.maps.locations", 5),
    ("drift.features.statistics", None), ("drift.features.latents.locations", 1), ("drift.field.temperatures", [0.2]),
    ("drift.field.normalisation", "rows"), ("drift.field.weights", "inside"), ("drift.field.scale", "location"),
    ("drift.field.floor", 0.0), ("drift.field.correction", "ratio"),
    ("drift.learned_temperature", {"start": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), KNOBS, ids=[f"{name}={str(value)[:12]}" for name, value in KNOBS])
def test_every_knob_changes_what_is_learned(places, plain: torch.Tensor, name: str, value: Any) -> None:
    changes = nested(name, value)
    drift = changes.pop("drift", {})
    found = gradient(places, 8, 4, section={**SPARSE, **changes}, **drift)
    assert found.isfinite().all() and float((found - plain).norm()) > 1e-6 * float(plain.norm())


def test_a_learned_temperature_waits_for_the_drift_and_does_not_depend_on_how_a_batch_is_cut(places) -> None:
    learned = {"learned_temperature": {"start": 0.3}}
    assert torch.equal(gradient(places, 8, 0, **learned), gradient(places, 8, 0)), "regression alone"
    whole, cut = (gradient(places, micro, problems=MIXTURE, **learned) for micro in (8, 4))
    torch.testing.assert_close(cut, whole, rtol=2e-3, atol=2e-5)
    warmer = gradient(places, 8, problems=MIXTURE, learned_temperature={"start": 3.0})
    assert float((warmer - whole).norm()) > 1e-3 * float(whole.norm()), "what it says moves the field"


@pytest.fixture(scope="module")
def plain(places: tuple[Path, Path]) -> torch.Tensor:
    return gradient(places, 8, 4, section=SPARSE)


def test_the_energy_score_is_smallest_where_samples_are_drawn_from_what_the_data_leave_open() -> None:
    """Targets of deviation 1 round a mean, samples of deviation s round it: a proper score is smallest at s = 1."""
    latents = torch.randn(200, CHANNELS, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    own = torch.randn(200, 4, *latents.shape[1:], generator=torch.Generator().manual_seed(1))
    start = start_of(latents, list(range(200)), refining())
    start = replace(start, target=latents)
    sizes = (0.0, 0.4, 0.7, 1.0, 1.4)
    best = {}
    for weight in (0.0, 0.5, 1.0):
        section = {"regression": {**refining().regression.model_dump(), "spread": {"samples": 4, "weight": weight}}}
        objective = DriftingRefiner(torch.nn.Identity(), refining(**section), torch.zeros(1, DIM), None)
        scores = [float(objective._error((size * own).flatten(0, 1), start, 4).mean()) for size in sizes]
        best[weight] = sizes[scores.index(min(scores))]
    assert best == {0.0: 0.0, 0.5: 0.4, 1.0: 1.0}


def test_the_energy_score_of_clamped_frames_has_a_finite_gradient() -> None:
    latents = batch(4)["latents"]
    start = start_of(latents, [1, 2, 3, 4], refining())
    made = latents.repeat_interleave(2, 0).requires_grad_()
    objective = DriftingRefiner(torch.nn.Identity(), refining(), torch.zeros(1, DIM), None)
    objective._error(made, start, 2).sum().backward()
    assert made.grad is not None and made.grad.isfinite().all()
