"""What PSNR does not say of reconstructions: structure, features, flicker, error per frame, use of latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.latents.clips import Clips
from pipelines.latents.quality import psnr
from pipelines.models.autoencoder import Autoencoder
from pipelines.models.perceptual import EncoderFeatures, frames_of
from pipelines.models.stacked_autoencoder import stack
from pipelines.stage import StageError

WINDOW = 7
STILL = 2 / 127.5
"""Two grey levels of 255, in [-1, 1]: where the clip changes less from frame to frame, it stands still."""


def ssim(predicted: Tensor, target: Tensor) -> Tensor:
    """Structural similarity [B] of video [B, 3, T, H, W] in [-1, 1]: ``skimage.metrics.structural_similarity``.

    Its defaults: windows of 7 x 7 pixels with equal weights that lie inside the picture, covariances over n - 1,
    K1 = 0.01, K2 = 0.03, data_range = 2, mean over channels; here over frames too. Torchmetrics' default is another:
    a Gaussian window.

    Raises:
        ValueError: pictures smaller than a window.
    """
    x, y = frames_of(predicted).double(), frames_of(target).double()
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW} x {WINDOW} pixels, got {tuple(x.shape[-2:])}")

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, WINDOW, stride=1)

    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    mx, my = mean(x), mean(y)
    vx, vy = (unbiased * (mean(one * one) - m * m) for one, m in ((x, mx), (y, my)))
    vxy = unbiased * (mean(x * y) - mx * my)
    c1, c2 = (0.01 * 2.0) ** 2, (0.03 * 2.0) ** 2
    similarity = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return similarity.mean(dim=(1, 2, 3)).unflatten(0, (len(target), -1)).mean(dim=1).float()


def flicker(predicted: Tensor, target: Tensor) -> tuple[float, int]:
    """(sum, count) of |change from frame to frame| of the reconstruction, in grey levels, where the clip is still.

    The clip is still at a pixel where all its channels change by less than two grey levels.

    Raises:
        StageError: the reconstruction is not finite.
    """
    if not bool(predicted.isfinite().all()):
        raise StageError("reconstructions are not finite; train the autoencoder anew, with a smaller step.")
    still = (target.diff(dim=2).abs() < STILL).all(dim=1, keepdim=True).expand_as(target.diff(dim=2))
    changes = predicted.diff(dim=2).abs()[still]
    return float(changes.double().sum()) * 127.5, changes.numel()


def frechet(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet distance of Gaussians fitted to features [N, D] and [M, D]: the formula of FID.

    Raises:
        ValueError: fewer than two samples on a side, or values that are not finite.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs two samples a side, got {len(x)} and {len(y)}")
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise ValueError("values that are not finite")
    x, y = x.double(), y.double()
    mean = (x.mean(0) - y.mean(0)).square().sum()
    cx, cy = torch.atleast_2d(torch.cov(x.T)), torch.atleast_2d(torch.cov(y.T))
    roots = torch.linalg.eigvals(cx @ cy).real.clamp_min(0).sqrt().sum()
    return float((mean + cx.trace() + cy.trace() - 2 * roots).clamp_min(0))


def latent_usage(latents: Tensor) -> dict[str, float]:
    """How many of the channels [N, C] say something of their own.

    ``effective_channels``: exp of the entropy of the eigenvalues of their correlations, from 1 (all the same) to C;
    absent where no channel says anything.

    Raises:
        ValueError: fewer than two places, or values that are not finite.
    """
    if len(latents) < 2 or not bool(latents.isfinite().all()):
        raise ValueError("fewer than two places, or values that are not finite")
    spread = latents.double().std(dim=0)
    used = spread > 1e-3 * spread.max()
    if not bool(used.any()):
        return {"used_channels": 0}
    values = torch.linalg.eigvalsh(torch.atleast_2d(torch.corrcoef(latents.double().T[used]))).clamp_min(1e-12)
    share = values / values.sum()
    return {"effective_channels": float((-(share * share.log()).sum()).exp()), "used_channels": int(used.sum())}


@torch.no_grad()
def evaluate(
    autoencoder: Autoencoder,
    clips: Clips,
    rows: Sequence[int],
    device: torch.device,
    features: EncoderFeatures | None,
    perceptual: nn.Module | None,
    say: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """All of them over clips: numbers, and ``psnr_per_frame`` as a list where clips are equally long.

    Args:
        features: whose last layer the feature distance is measured in; None: not measured.
        perceptual: distance of groups or frames; None: not measured.
        say: told clips done and their number.
    """
    errors, similar, far, seen, shown, latents = [], [], [], [], [], []
    unsteady, still = 0.0, 0
    for _, pixels in clips.videos(rows, 8):
        video = pixels.to(device)
        codes = autoencoder.encode(video)
        made = autoencoder.decode(codes).float()
        errors.append((made - video).square().mean(dim=(1, 3, 4)).cpu())
        similar.append(ssim(made, video).cpu())
        latents.append(codes.movedim(1, -1).flatten(0, -2).cpu())
        changed, count = flicker(made, video)
        unsteady, still = unsteady + changed, still + count
        pairs = [stack(one, autoencoder.temporal_stride).flatten(0, 1).unflatten(1, (3, -1)) for one in (made, video)]
        if perceptual is not None:
            far.append(perceptual(*pairs).cpu())
        if features is not None:
            shown.append(features.layers(pairs[0])[-1].mean(dim=(2, 3)).cpu())
            seen.append(features.layers(pairs[1])[-1].mean(dim=(2, 3)).cpu())
        say(sum(len(one) for one in errors), len(rows))
    found: dict[str, Any] = {
        "psnr": psnr(float(torch.cat([one.mean(dim=1) for one in errors]).mean())),
        "ssim": float(torch.cat(similar).mean()),
        "latent": latent_usage(torch.cat(latents)),
    }
    if still:  # else nothing stands still, and nothing could flicker
        found["flicker"] = unsteady / still
    if far:
        found["perceptual"] = float(torch.cat(far).mean())
    if seen and len(torch.cat(seen)) > 1:
        found["feature_distance"] = frechet(torch.cat(shown), torch.cat(seen))
    if len({one.shape[1] for one in errors}) == 1:
        found["psnr_per_frame"] = [psnr(float(error)) for error in torch.cat(errors).mean(dim=0)]
    return found
