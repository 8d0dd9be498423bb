"""Quantisers, diagnostics and features against scikit-learn, faiss (where it is installed) and the bare encoder.

``REEL_BENCH_SIZE=full`` measures 250,000 samples of 256 and 512 dimensions and 1,024 classes, once (some 15 minutes
on a quiet core); the default is small, in three rounds. Peers get the same samples, start and number of iterations.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import silhouette_score

from benchmarks.paired import Figure, cpu_seconds, ratios
from pipelines.models.latent_mae import LatentMae
from pipelines.representation import kmeans, retrieval
from pipelines.representation.passes import Samples
from pipelines.representation.ranks import Ranks
from pipelines.representation.separation import separations
from pipelines.representation.spreads import labellings

ALONE = Ranks.alone()


@dataclass(frozen=True)
class Size:
    """What is measured: samples, dimensions, classes, iterations of k-means, queries of the diagnostics, rounds."""

    samples: int
    widths: tuple[int, ...]
    classes: int
    iterations: int
    queries: int
    rounds: int


SIZES = {"small": Size(8_000, (32,), 64, 10, 512, 3), "full": Size(250_000, (256, 512), 1024, 3, 4096, 1)}


@dataclass(frozen=True)
class Fit:
    """What one k-means took: processor seconds, most memory above what was there, and its mean squared distance."""

    seconds: float
    peak: int
    inertia: float


def clouds(samples: int, width: int, classes: int) -> np.ndarray:
    """Overlapping Gaussian clouds [N, D], float32."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, width)).astype(np.float32)
    return centres[rng.integers(0, classes, samples)] + rng.standard_normal((samples, width), np.float32)


def peak_bytes(action: Callable[[], object]) -> int:
    """Most memory that a call had above what was there before (Linux; 0 elsewhere)."""

    def status(name: str) -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
        return 1024 * int(line.split()[1])

    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
    except OSError:
        action()
        return 0
    action()
    return max(0, status("VmHWM") - before)


def faiss_installed() -> bool:
    """Whether the extra ``faiss`` is there."""
    return importlib.util.find_spec("faiss") is not None


def fitted(action: Callable[[], float]) -> Fit:
    """Run one k-means."""
    inertia, took = [], []
    peak = peak_bytes(lambda: took.append(cpu_seconds(lambda: inertia.append(action()))))
    return Fit(took[0], peak, inertia[0])


def faiss_kmeans(h: np.ndarray, start: np.ndarray, iterations: int) -> float:
    """faiss's k-means on all samples from a given start; gives the mean squared distance."""
    import faiss

    made = faiss.Kmeans(h.shape[1], len(start), niter=iterations, max_points_per_centroid=len(h))
    made.train(h, init_centroids=start)
    return float(made.index.search(h, 1)[0].mean())


def contenders(size: Size, h: np.ndarray, start: np.ndarray) -> dict[str, Callable[[], float]]:
    """Ours and every peer, each giving the mean squared distance: ``iterations`` from ``start`` and a last pass."""
    count = size.iterations

    def ours(rows: int = len(h)) -> float:
        return kmeans.lloyd(Samples(h, np.arange(rows)), start, count, 0.0, ALONE).inertia

    def full() -> float:
        return KMeans(size.classes, init=start, n_init=1, max_iter=count, tol=0).fit(h).inertia_ / len(h)

    def minibatch() -> float:
        settings = {"n_init": 1, "batch_size": 4096, "max_no_improvement": None, "random_state": 0}
        batches = MiniBatchKMeans(size.classes, init=start, max_iter=count, **settings).fit(h)
        return -float(batches.score(h)) / len(h)

    found = {"ours": ours, "a quarter of N": lambda: ours(len(h) // 4), "scikit-learn KMeans": full}
    found["MiniBatchKMeans"] = minibatch
    if faiss_installed():
        found["faiss"] = lambda: faiss_kmeans(h, start, count)
    return found


def quantisers(size: Size, width: int) -> list[Figure]:
    """Seconds, inertia and memory of k-means against the peers; time against N."""
    h = clouds(size.samples, width, size.classes)
    start = h[: size.classes].copy()
    runs: dict[str, list[Fit]] = {}
    for _ in range(size.rounds):
        for name, action in contenders(size, h, start).items():
            runs.setdefault(name, []).append(fitted(action))
    passes = size.iterations + 1
    what = f"k-means, {size.iterations} iterations and a last pass, N={size.samples}, d={width}, K={size.classes}"
    own, found = runs.pop("ours"), []
    quarter = runs.pop("a quarter of N")
    for name, fits in {"ours": own, **runs}.items():
        seconds = tuple(fit.seconds / passes for fit in fits)
        peak = (max(fit.peak for fit in fits) / 2**30,)
        found.append(Figure("k-means seconds", f"{name}: {what}", "-", "core-seconds per pass", seconds, "-"))
        found.append(Figure("k-means memory", f"{name}: {what}", "-", "GiB beside the samples", peak, "-"))
    for name, fits in runs.items():
        times = tuple(a.seconds / b.seconds for a, b in zip(own, fits, strict=True))
        found.append(Figure("k-means time", what, name, "x seconds", times, "target 1 of faiss"))
        inertia = (own[0].inertia / fits[0].inertia,)
        found.append(Figure("k-means inertia", what, name, "x inertia", inertia, "target 1.01"))
    growth = tuple(a.seconds / (4 * b.seconds) for a, b in zip(own, quarter, strict=True))
    found.append(Figure("k-means growth", what, "four times a quarter of N", "x seconds", growth, "linear: 1"))
    return found


def diagnostics(size: Size, width: int) -> list[Figure]:
    """Separation and neighbours over all samples: seconds, memory, sampling error, equality with scikit-learn."""
    h = clouds(size.samples, width, size.classes)
    labels = np.random.default_rng(1).integers(0, size.classes, len(h))
    labels[: len(h) // 2] = np.argmin(h[: len(h) // 2, :1], axis=1) + np.arange(len(h) // 2) % size.classes
    queries = np.sort(np.random.default_rng(0).permutation(len(h))[: size.queries])
    given, sizes = labellings(labels, 8, 0.8, 0), f"N={size.samples}, d={width}, {size.queries} queries"
    took: list[float] = []
    peak = peak_bytes(lambda: took.append(cpu_seconds(lambda: separations(h, given.all(), queries))))
    what = f"separation under 17 labellings, {sizes}"
    found = [
        Figure("diagnostics time", what, "-", "core-seconds", tuple(took), "limit 600"),
        Figure("diagnostics memory", what, "-", "GiB", (peak / 2**30,), "limit 2"),
    ]
    some, part = min(8_000, len(h)), slice(0, min(8_000, len(h)))

    def ours() -> float:
        (numbers,) = separations(h[part], [labels[part]])
        assert isinstance(numbers, dict)
        return numbers["silhouette"]

    def peer() -> float:
        return float(silhouette_score(h[part], labels[part]))

    gap = abs(ours() - peer())
    found.append(Figure("silhouette", f"ours, {some} samples", "scikit-learn", "difference", (gap,), "limit 1e-6"))
    found.append(
        Figure(
            "silhouette time", f"ours, {some} samples", "scikit-learn", "x", ratios(ours, peer, size.rounds), "target 2"
        )
    )
    chosen = np.sort(np.random.default_rng(2).permutation(some)[: some // 8])
    (sampled,) = separations(h[part], [labels[part]], chosen)
    assert isinstance(sampled, dict)
    error = abs(sampled["silhouette"] - ours())
    found.append(
        Figure("sampling error", f"silhouette, {len(chosen)} queries", f"all {some}", "", (error,), "limit 0.005")
    )
    if faiss_installed():
        found += neighbours(h, queries, size.rounds, sizes)
    return found


def neighbours(h: np.ndarray, queries: np.ndarray, rounds: int, sizes: str) -> list[Figure]:
    """Ten nearest neighbours against faiss's exact index, which computes in float32 (scikit-learn in float64)."""
    import faiss

    def theirs() -> np.ndarray:
        index = faiss.IndexFlatL2(h.shape[1])
        index.add(h)
        return index.search(h[queries], 11)[1][:, 1:]

    same = float((retrieval.neighbours(h, 10, queries)[0] == theirs()).mean())
    times = ratios(lambda: retrieval.neighbours(h, 10, queries), theirs, rounds)
    return [
        Figure("neighbours time", f"top 10, {sizes}", "faiss IndexFlatL2", "x seconds", times, "stated: float64"),
        Figure("neighbours agreement", f"top 10, {sizes}", "faiss IndexFlatL2", "share equal", (same,), "target 0.999"),
    ]


def features(rounds: int) -> list[Figure]:
    """What reading named features costs beside the encoder's blocks alone."""
    shape = {"patch": [1, 2, 2], "width": 64, "depth": 3, "heads": 4, "decoder_width": 64, "decoder_depth": 1}
    mae = LatentMae(16, {"family": "transformer", **shape}).eval()
    names = ("block1_std", "block1_max", "block1_moving", "block1_trajectory", "block1_path", "block3_mean")
    latents = torch.randn(64, 16, 5, 8, 8)

    @torch.no_grad()
    def bare() -> None:
        x, _ = mae.backbone._embedded(latents)  # type: ignore[operator]
        for block in mae.backbone.encoder:  # type: ignore[union-attr]
            x = block(x)

    @torch.no_grad()
    def named() -> None:
        mae.features(latents, names)

    found = ratios(bare, named, 4 * rounds)
    return [Figure("feature extraction", "six named features", "encoder alone", "x samples/s", found, "target 0.9")]


def measure() -> list[Figure]:
    """All figures at the size of ``REEL_BENCH_SIZE``."""
    size = SIZES[os.environ.get("REEL_BENCH_SIZE", "small")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [figure for width in size.widths for figure in quantisers(size, width)]
        return [*found, *diagnostics(size, size.widths[0]), *features(size.rounds)]
