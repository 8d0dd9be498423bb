"""What torchmetrics and scikit-image say of fixed inputs: ``pip install torchmetrics scikit-image`` and run it.

They are no dependency of the project: the numbers that it prints stand in test_peers.py.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def wave(*shape: int, phase: float = 0.0) -> Tensor:
    """Numbers in [-1, 1] that look irregular and are the same everywhere: no random generator is asked."""
    count = int(np.prod(shape))
    places = torch.arange(count, dtype=torch.float64)
    return torch.sin(places * 12.9898 + phase).mul(43758.5453).frac().reshape(shape)


def clips() -> tuple[Tensor, Tensor]:
    """Two sets of videos [3, 3, 2, 16, 16] in [-1, 1], of which each clip is off by another amount."""
    real = wave(3, 3, 2, 16, 16)
    off = torch.tensor([0.02, 0.1, 0.4], dtype=torch.float64)[:, None, None, None, None]
    return (real + off * wave(3, 3, 2, 16, 16, phase=1.0)).clamp(-1, 1), real


def features() -> tuple[Tensor, Tensor]:
    """Features [40, 6] and [30, 6]."""
    return wave(40, 6, phase=2.0), wave(30, 6, phase=3.0) * 1.5 + 0.25


def labels() -> tuple[Tensor, Tensor, Tensor]:
    """Points [60, 3], their classes, and a factor that follows them in part."""
    classes = torch.arange(60) % 4
    points = wave(60, 3, phase=4.0) + classes[:, None] * 0.7
    return points, classes, (classes // 2 + (torch.arange(60) % 7 == 0)) % 3


def theirs() -> dict[str, float]:
    """Every number by its library."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity  # type: ignore[import-not-found]
    from torchmetrics.functional import clustering  # type: ignore[import-not-found]
    from torchmetrics.functional.image import peak_signal_noise_ratio as tm_psnr  # type: ignore[import-not-found]
    from torchmetrics.functional.image import (  # type: ignore[import-not-found]
        structural_similarity_index_measure as tm_ssim,
    )
    from torchmetrics.image.fid import _compute_fid  # type: ignore[import-not-found]
    from torchmetrics.image.kid import poly_mmd  # type: ignore[import-not-found]

    made, real = clips()
    pairs = [(m.numpy(), r.numpy()) for m, r in zip(made, real, strict=True)]
    frames = [(m[:, t], r[:, t]) for m, r in pairs for t in range(m.shape[1])]
    flat = [one.transpose(1, 2).flatten(0, 1) for one in (made, real)]
    one, other = features()
    mean = [x.mean(0) for x in (one, other)], [torch.cov(x.T) for x in (one, other)]
    gamma = 1.0 / one.shape[1]
    kernels = [(gamma * a @ b.T + 1.0) ** 3 for a, b in ((one, one), (one, other), (other, other))]
    m, n = len(one), len(other)
    own = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (kernels[0], kernels[2])]
    points, classes, factor = labels()
    same = min(m, n)
    return {
        "psnr, scikit-image, mean over clips": float(
            np.mean([peak_signal_noise_ratio(r, p, data_range=2.0) for p, r in pairs])
        ),
        "psnr, torchmetrics, one mean over all pixels": float(tm_psnr(made, real, data_range=2.0)),
        "ssim, scikit-image, mean over frames": float(
            np.mean([structural_similarity(r, p, data_range=2.0, channel_axis=0) for p, r in frames])
        ),
        "ssim, torchmetrics, Gaussian window": float(tm_ssim(*flat, data_range=2.0)),
        "frechet, torchmetrics": float(_compute_fid(mean[0][0], mean[1][0], mean[0][1], mean[1][1])),
        "kernel distance, torchmetrics, equal sizes": float(poly_mmd(one[:same], other[:same])),
        "kernel distance, by its formula": float(own[0] + own[1] - 2 * kernels[1].mean()),
        "nmi, torchmetrics": float(clustering.normalized_mutual_info_score(classes, factor, "arithmetic")),
        "ari, torchmetrics": float(clustering.adjusted_rand_score(classes, factor)),
        "davies bouldin, torchmetrics": float(clustering.davies_bouldin_score(points, classes)),
        "calinski harabasz, torchmetrics": float(clustering.calinski_harabasz_score(points, classes)),
    }


if __name__ == "__main__":
    for name, value in theirs().items():
        print(f"{name}: {value!r}")
