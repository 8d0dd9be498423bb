"""What a sample draws is its own, and what micro-batches and accumulation do to the objective is what is stated."""

from pathlib import Path

import pytest
import torch

from pipelines.data.groups import Groups, Size
from pipelines.data.shards import Shards
from pipelines.generation.drifting import draws
from pipelines.generation.drifting.features import FeatureSpaces, missing_places, picked
from pipelines.generation.drifting.objective import DriftingRefiner, start_of
from pipelines.models.latent_mae import LatentMae
from pipelines.models.refiner import Refiner
from tests.generation.toy import CHANNELS, CLASSES, DIM, batch, denoiser, refining, write_encoder, write_latents


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("objective")
    latents = write_latents(folder / "latents", 24)
    return latents, write_encoder(folder / "latent_mae", latents)


def gradient(places: tuple[Path, Path], micro: int, step: int = 50, **drift) -> torch.Tensor:
    """Of the whole batch of 8 clips in micro-batches, as the loop accumulates it."""
    params = refining(drift=drift)
    assert params.drift is not None
    shards = Shards(places[0])
    known = {key: number % CLASSES for number, key in enumerate(shards.index["key"])}
    reader = Groups(shards, "train", ("latents", "prompt_embeds"), 8, 0, known, Size(2, 1, 2))
    torch.manual_seed(0)
    network = Refiner(denoiser(CLASSES, text_length=4), gated=False)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    features = FeatureSpaces(params.drift.features, LatentMae.from_pretrained(places[1]))
    objective = DriftingRefiner(network, params, torch.zeros(1, DIM), features)
    for start in range(0, 8, micro):
        loss = objective.losses(reader.read(step, start, start + micro), step)["refiner"].loss
        assert loss.shape == (micro,) and loss.isfinite().all()
        (loss.mean() / (8 // micro)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


MIXTURE = {"clip": 1.0, "pseudo_class": 0.5, "pooled": 0.0}


def test_problems_of_clips_and_classes_do_not_depend_on_how_a_batch_is_cut(places) -> None:
    whole = gradient(places, 8, problems=MIXTURE)
    for micro in (2, 4):
        torch.testing.assert_close(gradient(places, micro, problems=MIXTURE), whole, rtol=2e-3, atol=2e-5)


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
