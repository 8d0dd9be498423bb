"""Every metric on degenerate input: absent with a reason, or right; never NaN, never the best value, never a traceback.

Metrics are found by their annotations: a public function or method that makes a float of arrays. Each stands here with
its degenerate inputs, or among those that are left out, with why.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

import pipelines
from pipelines.evaluation import distances, video_metrics
from pipelines.flow import drift_statistics
from pipelines.flow.drift import Problems
from pipelines.footage import quality, storing
from pipelines.generation import anchored_flow
from pipelines.generation.drifting import intervals, measuring
from pipelines.latents import denoiser_probe, measures
from pipelines.representation import agreement, held_out, kernel, occupancy, retrieval, separation, spectrum
from pipelines.representation.params import KernelParams
from pipelines.representation.passes import Codebook, Samples
from pipelines.representation.spreads import Numbers, Unavailable, labellings

ARRAYS = ("Tensor", "ndarray", "Problems", "Sides")
NUMBERS = ("float", "Found", "Numbers")
WHOLE = "a part of a stage on its own data; its numbers are of the functions here"
ELSEWHERE: Mapping[str, str] = {
    "evaluation.judge.FittedSpace.frechet": "frechet_distance",
    "generation.drifting.finishing.final_numbers": WHOLE,
    "generation.drifting.measuring.field_numbers": WHOLE,
    "generation.validation.FixedLevels.numbers": "its target holds noise; a loss that is not finite ends training",
    "generation.world_model.play.write": "seconds per frame",
    "latents.folder.numbers": "no metric: numbers of a tensor as text",
    "representation.latent_mae.reconstruction_errors": "tests/representation/test_stages.py",
    "representation.pseudo_classes.baselines": WHOLE,
    "representation.rivals.compared": WHOLE,
    "training.memory.standing_gib": "no metric of data",
}


def annotated() -> Iterator[tuple[str, Any]]:
    """Every public function and method of the project, by its name within ``pipelines``."""
    for found in pkgutil.walk_packages(pipelines.__path__, "pipelines."):
        if found.name.endswith("__main__") or found.name.startswith("pipelines.kubernetes"):  # of an extra
            continue
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            inside = vars(value).items() if inspect.isclass(value) and value.__module__ == found.name else ()
            for title, one in ((name, value), *((f"{name}.{key}", part) for key, part in inside)):
                function = inspect.unwrap(getattr(one, "__func__", one))
                private = any(part.startswith("_") for part in title.split("."))
                if inspect.isfunction(function) and function.__module__ == found.name and not private:
                    yield f"{found.name.removeprefix('pipelines.')}.{title}", function


def is_metric(function: Any) -> bool:
    """Whether it makes a number of arrays."""
    told = {name: str(kind) for name, kind in function.__annotations__.items()}
    made = told.pop("return", "")
    return any(word in made for word in NUMBERS) and any(word in kind for kind in told.values() for word in ARRAYS)


# ---- inputs -------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(3)
N, D = 24, 5
LABELS = np.arange(N) % 3
ODD = {"nan": math.nan, "infinite": math.inf}


def cloud(count: int = N, width: int = D) -> np.ndarray:
    return RNG.normal(size=(count, width))


def spoilt(values: np.ndarray, odd: float) -> np.ndarray:
    found = np.array(values, dtype=np.float64)
    found.reshape(-1)[1] = odd
    return found


def points() -> dict[str, np.ndarray]:
    """Features [N, D] that say nothing, one column, and values that are none."""
    equal = {"equal": np.full((N, D), 0.1), "equal far": np.full((N, D), 1e8 / 3), "one sample": cloud(1)}
    return {**equal, "one column": cloud(N, 1), **{name: spoilt(cloud(), odd) for name, odd in ODD.items()}}


def clips() -> dict[str, torch.Tensor]:
    """Clips [B, 3, T, H, W]."""
    made = torch.rand(3, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = {"black": torch.zeros_like(made), "one frame": made[:, :, :1], "still": made[:, :, :1].expand_as(made)}
    return found | {name: torch.from_numpy(spoilt(made.numpy(), odd)).float() for name, odd in ODD.items()}


FIELD = kernel.field_of((0.1, 0.3))
KERNEL = KernelParams(features=("f",), taus=(0.1,), queries=8, positives=8, negatives=8)
ONES = torch.ones(N, dtype=torch.float64)


def held(latents: torch.Tensor) -> measuring.HeldOut:
    """Held-out clips of one level, of which the middle frames are missing; interpolation gives their first frame."""
    mask = torch.zeros(latents.shape[0], latents.shape[2], dtype=torch.bool)
    mask[:, 0] = mask[:, -1] = latents.shape[2] > 1
    filled = latents[:, :, :1].expand_as(latents)
    noise = torch.zeros(1, *latents.shape)
    return measuring.HeldOut(latents, filled, mask.float(), mask, noise, {}, len(latents), (2,), ["a"], clamp=True)


def blind(samples: Samples, number: int) -> Codebook:
    return Codebook(np.zeros((2, samples.h.shape[1]), np.float32) + number, 0.0)


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))


def of_points(x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Metrics of features, by name; where two sides are compared, the degenerate one is each of them."""
    h, real, asked = x.astype(np.float64), cloud(width=x.shape[1]), np.arange(min(N, len(x)))
    labels, near = LABELS[: len(x)], np.zeros((len(x), 1), int)
    given = labellings(labels, 2, 0.5, 0) if len(x) > 2 else None
    problems = [
        Problems(*(tensor(side)[None, None].float() for side in sides)) for sides in ((h, real, real), (real, h, h))
    ]
    found: dict[str, Callable[[], Any]] = {
        "evaluation.distances.Kernels.distance": lambda: [
            distances.Kernels.of(tensor(a), tensor(b)).distance(ONES[: len(a)], ONES[: len(b)])
            for a, b in ((h, real), (real, h))
        ],
        "evaluation.video_metrics.frechet_distance": lambda: [
            video_metrics.frechet_distance(tensor(a), tensor(b), 0.1) for a, b in ((h, real), (real, h))
        ],
        "flow.drift_statistics.kernel_statistics": lambda: [
            drift_statistics.kernel_statistics(one, FIELD) for one in problems
        ],
        "flow.drift_statistics.sample_statistics": lambda: [
            drift_statistics.sample_statistics(one) for one in problems
        ],
        "generation.drifting.measuring.Independent.distance": lambda: [
            measuring.Independent.of(_latents(a)).distance(_latents(b), 4) for a, b in ((h, real), (real, h))
        ],
        "latents.denoiser_probe.probe": lambda: denoiser_probe.probe(
            _latents(h), _latents(real), denoiser_probe.Budget(2)
        ),
        "latents.measures.frechet": lambda: [measures.frechet(tensor(a), tensor(b)) for a, b in ((h, real), (real, h))],
        "latents.measures.latent_usage": lambda: measures.latent_usage(tensor(h)),
        "representation.agreement.probe": lambda: agreement.probe(h, {"f": labels}, np.arange(len(h)) % 2 == 0, 0.1),
        "representation.held_out.consistency": lambda: held_out.consistency(h, labels, asked[:4], asked[4:], (1,), 0),
        "representation.held_out.crossed": lambda: held_out.crossed(
            Codebook(real[:2].astype(np.float32), 0.0), h, 1, asked[:4], asked[4:], (1,)
        ),
        "representation.held_out.against_null": lambda: held_out.against_null(
            h, labels, asked[:4], asked[4:], 2, blind, (1,), 2
        ),
        "representation.kernel.kernel_statistics": lambda: kernel.kernel_statistics(
            kernel.class_distances(h, labels, KERNEL, 0), KERNEL.taus
        ),
        "representation.retrieval.agreement_over_random": lambda: retrieval.agreement_over_random(h, near, asked, 0),
        "representation.separation.separations": lambda: separation.separations(h, [labels]),
        "representation.spectrum.rankme": lambda: spectrum.rankme(h),
        "representation.spectrum.participation": lambda: spectrum.participation(h),
    }
    if given is not None:
        found |= {
            "representation.kernel.kernel_with_spreads": lambda: kernel.kernel_with_spreads(h, given, KERNEL, 0),
            "representation.spectrum.rank_numbers": lambda: spectrum.rank_numbers(h, given, 0),
        }
    return found


def _latents(values: np.ndarray) -> torch.Tensor:
    """Features as latents [N, D, 2, 2, 2] of one value each."""
    return tensor(values).float()[:, :, None, None, None].expand(-1, -1, 2, 2, 2).contiguous()


def of_clips(x: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Metrics of clips, by name."""
    true = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    wide = x.repeat(1, 1, 1, 2, 2)
    return {
        "evaluation.video_metrics.local_vs_global_ratio": lambda: video_metrics.local_vs_global_ratio(true, x),
        "evaluation.video_metrics.frame_difference": lambda: video_metrics.frame_difference(x),
        "evaluation.video_metrics.temporal_consistency": lambda: video_metrics.temporal_consistency(x),
        "evaluation.video_metrics.psnr": lambda: video_metrics.psnr(x, x),
        "generation.anchored_flow.motion_ratio": lambda: anchored_flow.motion_ratio(true, x, "m"),
        "generation.drifting.measuring.errors": lambda: measuring.errors(held(true), x[None]),
        "generation.drifting.measuring.gain": lambda: measuring.gain(held(x), true[None], 4),
        "generation.drifting.measuring.motion": lambda: measuring.motion(held(x), true, 4),
        "latents.measures.flicker": lambda: measures.flicker(wide, torch.zeros_like(wide)),
    }


def of_labels() -> dict[str, list[Callable[[], Any]]]:
    """Metrics of classes and counts, by name."""
    one, none = np.zeros(6, int), np.zeros(0, int)
    pairs = [(one, one), (none, none), (one[:1], one[:1]), (np.arange(6), np.arange(6))]
    tables = [agreement.contingency(a, b) for a, b in pairs if len(a)]
    counts = [np.zeros(3, int), np.array([5]), np.array([0, 1])]
    given = labellings(one, 2, 0.5, 0)
    return {
        "representation.agreement.nmi_of": [lambda t=t: agreement.nmi_of(t) for t in tables],
        "representation.agreement.ari_of": [lambda t=t: agreement.ari_of(t) for t in tables],
        "representation.agreement.nmi": [lambda p=p: agreement.nmi(*p) for p in pairs],
        "representation.agreement.nmi_most": [lambda p=p: agreement.nmi_most(*p) for p in pairs],
        "representation.agreement.agreements": [lambda: agreement.agreements({"f": np.arange(6) % 2}, given)],
        "representation.occupancy.occupancy": [lambda c=c: occupancy.occupancy(c, 2) for c in counts],
        "representation.occupancy.occupancy_with_spreads": [
            lambda c=c: occupancy.occupancy_with_spreads(c, 2, 2, 0) for c in counts
        ],
        "representation.occupancy.gini": [lambda c=c: occupancy.gini(c) for c in counts],
        "representation.retrieval.chance_consistency": [lambda p=p: retrieval.chance_consistency(*p) for p in pairs],
        "representation.retrieval.consistency": [
            lambda labels=labels: retrieval.consistency(
                np.zeros((len(labels), 1), int), labels, np.arange(len(labels)), (1,)
            )
            for labels in (one, one[:1], none)
        ],
        "generation.drifting.intervals.interval": [lambda: intervals.interval(lambda rows: math.nan, 3, 2)],
        "footage.quality.motion": [lambda: quality.motion(np.zeros((1, 16, 16, 3), np.uint8))],
        "footage.quality.sharpness": [lambda: quality.sharpness(np.zeros((1, 16, 16, 3), np.uint8))],
        "footage.storing.psnr": [lambda: storing.psnr(*[np.zeros((1, 16, 16, 3), np.uint8)] * 2)],
    }


def test_every_metric_is_tried_or_left_out_for_a_reason() -> None:
    found = {name for name, function in annotated() if is_metric(function)}
    tried = {*of_points(cloud()), *of_clips(clips()["black"]), *of_labels()}
    assert found == {*tried, *ELSEWHERE}


# ---- what comes out -----------------------------------------------------------------------------------------------


def numbers(found: Any) -> list[float]:
    """All numbers of a result; absent ones are not there."""
    if found is None or isinstance(found, Unavailable):
        return []
    if isinstance(found, Numbers):
        return numbers(found.values)
    if isinstance(found, Mapping):
        return [value for part in found.values() for value in numbers(part)]
    if isinstance(found, list | tuple):
        return [value for part in found for value in numbers(part)]
    return [float(found)]


def made(call: Callable[[], Any]) -> Any:
    """The result; a reason where there is none."""
    try:
        return call()
    except ValueError as reason:
        assert str(reason), "absent without a reason"
        return Unavailable(str(reason))


@pytest.mark.parametrize("name", points())
def test_points_that_say_nothing_have_no_number_or_a_finite_one(name: str) -> None:
    for metric, call in of_points(points()[name]).items():
        found = numbers(made(call))
        if name in ODD and metric.startswith("flow."):
            continue  # of features of clips that were checked
        assert all(math.isfinite(value) for value in found), (metric, found)
        assert not (name in ODD and found), (metric, found)


@pytest.mark.parametrize("name", clips())
def test_clips_that_say_nothing_have_no_number_or_a_finite_one(name: str) -> None:
    for metric, call in of_clips(clips()[name]).items():
        found = numbers(made(call))
        assert all(math.isfinite(value) for value in found), (metric, found)
        assert not (name in ODD and found), (metric, found)


@pytest.mark.parametrize("name", of_labels())
def test_classes_that_say_nothing_have_no_number_or_a_finite_one(name: str) -> None:
    for call in of_labels()[name]:
        assert all(math.isfinite(value) for value in numbers(made(call)))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8 / 3])
def test_classes_that_coincide_are_not_separated_whatever_rounding_leaves_of_their_distances(value: float) -> None:
    """Equal points have no separation; two of three classes in one place no silhouette of their own."""
    assert isinstance(separation.separations(np.full((N, D), value), [LABELS])[0], Unavailable)
    places = np.where(LABELS == 2, value + 1.0, value)[:, None].repeat(D, 1)
    found = separation.separations(places, [LABELS])[0]
    assert not isinstance(found, Unavailable) and "davies_bouldin" not in found
    assert found["silhouette"] == pytest.approx(1 / 3, abs=1e-6)
