"""Quantisers, diagnostics and features against scikit-learn, faiss (where it is installed) and the bare encoder.

``REEL_BENCH_SIZE=full`` measures 250,000 samples of 256 and 512 dimensions and 1,024 classes (some 20 minutes on two
quiet cores); the default is small. Peers get the same samples, start and number of iterations.
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
ITERATIONS = 10


@dataclass(frozen=True)
class Size:
    """What is measured: samples, dimensions, classes, queries of the diagnostics, rounds of every pair."""

    samples: int
    widths: tuple[int, ...]
    classes: int
    queries: int
    rounds: int


SIZES = {"small": Size(8_000, (32,), 64, 512, 3), "full": Size(250_000, (256, 512), 1024, 4096, 3)}


def clouds(samples: int, width: int, classes: int) -> np.ndarray:
    """Overlapping Gaussian clouds [N, D], float32."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, width)).astype(np.float32)
    return centres[rng.integers(0, classes, samples)] + rng.normal(size=(samples, width)).astype(np.float32)


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


def faiss_kmeans(h: np.ndarray, start: np.ndarray) -> Callable[[], float]:
    """faiss's k-means on all samples from a given start; gives the mean squared distance."""
    import faiss

    def call() -> float:
        made = faiss.Kmeans(h.shape[1], len(start), niter=ITERATIONS, max_points_per_centroid=len(h))
        made.train(h, init_centroids=start)
        return float(made.index.search(h, 1)[0].mean())

    return call


def quantisers(size: Size, width: int) -> list[Figure]:
    """Seconds of ten iterations and inertia against the peers; memory; time against N."""
    h = clouds(size.samples, width, size.classes)
    samples = Samples(h, np.arange(len(h)))
    start = kmeans.start(samples, size.classes, 0, ALONE)
    sizes = f"N={size.samples}, d={width}, K={size.classes}"

    def ours(part: Samples = samples) -> float:
        return kmeans.lloyd(part, start, ITERATIONS, 0.0, ALONE).inertia

    def full() -> float:
        return KMeans(size.classes, init=start, n_init=1, max_iter=ITERATIONS, tol=0).fit(h).inertia_ / len(h)

    def minibatch() -> float:
        batches = MiniBatchKMeans(size.classes, init=start, n_init=1, batch_size=4096, random_state=0).fit(h)
        return -float(batches.score(h)) / len(h)

    peers: dict[str, Callable[[], float]] = {"scikit-learn KMeans": full, "MiniBatchKMeans": minibatch}
    if faiss_installed():
        peers["faiss"] = faiss_kmeans(h, start)
    found, what = [], f"our k-means, {ITERATIONS} iterations, {sizes}"
    own = ours()
    for name, peer in peers.items():
        found.append(Figure("k-means time", what, name, "x seconds", ratios(ours, peer, size.rounds), "target 1.5"))
        found.append(Figure("k-means inertia", what, name, "x inertia", (own / peer(),), "target 1.01"))
    found.append(Figure("k-means memory", what, "bytes of the samples", "x", (peak_bytes(ours) / h.nbytes,), "limit 1"))
    quarter = Samples(h, np.arange(len(h) // 4))
    growth = tuple(ratio / 4 for ratio in ratios(ours, lambda: ours(quarter), size.rounds))
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
    """Ten nearest neighbours against faiss's exact index."""
    import faiss

    def theirs() -> np.ndarray:
        index = faiss.IndexFlatL2(h.shape[1])
        index.add(h)
        return index.search(h[queries], 11)[1][:, 1:]

    same = float((retrieval.neighbours(h, 10, queries)[0] == theirs()).mean())
    times = ratios(lambda: retrieval.neighbours(h, 10, queries), theirs, rounds)
    return [
        Figure("neighbours time", f"top 10, {sizes}", "faiss IndexFlatL2", "x seconds", times, "target 1.5"),
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
