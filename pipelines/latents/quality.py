"""How good an autoencoder is: PSNR against decoded frames, beside what needs no network at the same compression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pipelines import stage
from pipelines.latents.clips import Clips
from pipelines.models.autoencoder import Autoencoder, Trainable
from pipelines.models.forwards import Forwards
from pipelines.models.stacked_autoencoder import stack, unstack

MOST_STATISTICS_CLIPS, MOST_HELD_OUT_CLIPS = 512, 512
"""Most clips that the statistics of latents are taken from, and that are measured; of more, as many are drawn."""
MOST_PATCH_VALUES = 32_000_000
"""Most numbers in the matrix of patches that the principal components are fitted to."""
MOST_DIRECT = 2048
"""Most numbers of a patch of which all directions are computed; of larger ones the strongest alone are sought."""


def psnr(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB of video in [-1, 1]: 10 log10(2^2 / MSE); at most 126, of equal ones.

    Raises:
        StageError: the error is not finite.
    """
    if not np.isfinite(mean_squared_error):
        raise stage.StageError(f"the mean squared error of reconstructions is {mean_squared_error}; train anew.")
    return 10.0 * float(np.log10(4.0 / max(mean_squared_error, 1e-12)))


@dataclass(frozen=True)
class Quality:
    """Reconstruction of some clips: over all pixels, and per clip."""

    psnr: float
    per_clip: dict[str, float]
    latent_shape: tuple[int, ...]
    compression: float


@torch.no_grad()
def reconstruction_quality(
    autoencoder: Autoencoder, clips: Clips, rows: Sequence[int], device: torch.device, batch_size: int = 8
) -> Quality:
    """PSNR of decoded latents against the decoded frames of the clips (not against what was rendered before mp4)."""
    errors: dict[str, float] = {}
    latents, video = torch.empty(0), torch.empty(0)
    for batch, pixels in clips.videos(rows, batch_size):
        video = pixels.to(device)
        latents = autoencoder.encode(video)
        error = (autoencoder.decode(latents).float() - video).square().mean(dim=(1, 2, 3, 4))
        errors |= {clips.key(row): float(value) for row, value in zip(batch, error, strict=True)}
        stage.report(len(errors), len(rows), "clips measured")
    return Quality(
        psnr=psnr(float(np.mean(list(errors.values())))),
        per_clip={key: psnr(error) for key, error in errors.items()},
        latent_shape=tuple(latents.shape[1:]),
        compression=video[0].numel() / latents[0].numel(),
    )


def latent_statistics(
    autoencoder: Autoencoder, clips: Clips, rows: Sequence[int], device: torch.device, batch_size: int = 8
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] of what ``encode`` gives, over clips, frames and places; float64 sums."""

    def encoded(network: Autoencoder, video: Tensor) -> Tensor:
        return network.encode(video.to(device)).double().cpu()

    total, squares, count = torch.zeros(1), torch.zeros(1), 0
    for _, latents in Forwards(encoded, autoencoder, device).of(clips.videos(rows, batch_size)):
        total = total + latents.sum(dim=(0, 2, 3, 4))
        squares = squares + latents.square().sum(dim=(0, 2, 3, 4))
        count += latents[:, 0].numel()
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()


def normalise_again(network: Trainable, mean: Tensor, std: Tensor) -> None:
    """Statistics of codes from those of latents [C] that the present statistics have normalised."""
    held_mean, held_std = network.latent_mean.cpu(), network.latent_std.cpu()
    if held_mean.dim() == 1:  # else each latent frame has its own
        network.set_statistics(mean * held_std + held_mean, std.clamp_min(1e-6) * held_std)


# ---- without a network --------------------------------------------------------------------------------------------


def patches(video: Tensor, frames: int, side: int) -> Tensor:
    """Patches of the same reach as a latent pixel: [B, 3, T, H, W] to [N, 3 * frames * side * side]."""
    return pixel_unshuffle(stack(video, frames).flatten(0, 1), side).movedim(1, -1).flatten(0, 2)


def hartley(size: int) -> Tensor:
    """The orthogonal matrix cas(2 pi j k / size) / sqrt(size), [size, size], cas = cos + sin (Hartley 1942).

    It gives every channel an equal part of the first component, and of the others between none and twice that.
    """
    index = torch.arange(size, dtype=torch.float64)
    angle = 2 * torch.pi / size * torch.outer(index, index)
    return ((angle.cos() + angle.sin()) / size**0.5).float()


@dataclass(frozen=True)
class PatchPCA:
    """A linear code of patches: mean [D], orthonormal components [D, K], strongest first, deviations [K] along them."""

    mean: Tensor
    components: Tensor
    deviations: Tensor

    @property
    def deviation(self) -> float:
        """Root of the mean square over components."""
        return float(self.deviations.square().mean().sqrt())

    def spread(self) -> Tensor:
        """The components [D, K] turned among each other, so that all have about the same deviation.

        Strong ones stay above noise that has drowned weak ones, which a flow then learns from coarse to fine. (One
        component per channel, each scaled to deviation 1, would give the noise in weak ones the same part of its loss.)
        """
        return self.components @ hartley(self.components.shape[1])

    def reconstruct(self, video: Tensor, frames: int, side: int) -> Tensor:
        """Video [B, 3, T, H, W] through the code, clamped to [-1, 1] as an autoencoder's is."""
        folded = pixel_unshuffle(stack(video, frames).flatten(0, 1), side).movedim(1, -1)
        kept = (folded - self.mean) @ self.components @ self.components.T + self.mean
        groups = pixel_shuffle(kept.movedim(-1, 1), side).unflatten(0, (len(video), -1))
        return unstack(groups, frames).clamp(-1, 1)


def fit_patch_pca(parts: Iterable[Tensor], components: int) -> PatchPCA:
    """The best linear code with so many numbers per patch, in closed form.

    Args:
        parts: patches [n, D], some after the other. Of up to :data:`MOST_DIRECT` numbers a patch, only the moments are
            kept of them.
    """
    some = iter(parts)
    first = next(some)
    if first.shape[1] <= MOST_DIRECT:
        return _from_moments(chain([first], some), components)
    rows = torch.cat([first, *some])
    mean = rows.mean(dim=0)
    centred = rows.sub_(mean)
    kept = min(components, *centred.shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vectors = torch.svd_lowrank(centred, q=min(kept + 16, *centred.shape), niter=4)[2][:, :kept]
    return PatchPCA(mean, vectors, (centred @ vectors).square().mean(dim=0).sqrt())


def _from_moments(parts: Iterable[Tensor], components: int) -> PatchPCA:
    """Principal components from one pass over patches: sums of them and of their products, about a first mean."""
    about = total = products = torch.zeros(1, dtype=torch.float64)
    count = 0
    for part in parts:
        about = about if count else part.mean(dim=0)
        centred = part - about
        total = total + centred.sum(dim=0, dtype=torch.float64)
        products = products + centred.T @ centred
        count += len(part)
    mean = total / count
    values, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    kept = min(components, count, len(mean))
    deviations = values[-kept:].flip(0).clamp_min(0).sqrt()
    return PatchPCA(about + mean.float(), vectors[:, -kept:].flip(1).float(), deviations.float())


def patch_pca_of(clips: Clips, rows: Sequence[int], strides: tuple[int, int], channels: int) -> PatchPCA:
    """Fitted to patches of clips spread over the rows, at most :data:`MOST_PATCH_VALUES` numbers.

    Args:
        strides: (frames, pixels) of a patch.
    """
    entry = clips.catalog.iloc[rows[0]]
    per_clip = 3 * (int(entry["num_frames"]) - 1 + strides[0]) * int(entry["height"]) * int(entry["width"])
    count = max(1, min(len(rows), MOST_PATCH_VALUES // per_clip))
    chosen = [rows[index] for index in np.linspace(0, len(rows) - 1, count).astype(int)]
    return fit_patch_pca((patches(video, *strides) for _, video in clips.videos(chosen, 8)), channels)


def linear_baselines(clips: Clips, fitted: PatchPCA, rows: Sequence[int], strides: tuple[int, int]) -> dict[str, float]:
    """PSNR of patch PCA, and of the mean colour alone, on the pixels that :func:`reconstruction_quality` counts."""
    errors, squares, total, pixels = [], 0.0, torch.zeros(3, dtype=torch.float64), 0
    for _, video in clips.videos(rows, 8):
        errors.append((fitted.reconstruct(video, *strides) - video).square().mean(dim=(1, 2, 3, 4)))
        squares += float(video.double().square().sum())
        total += video.double().sum(dim=(0, 2, 3, 4))
        pixels += video[:, 0].numel()
    colour = squares / (3 * pixels) - float((total / pixels).square().mean())
    return {"psnr_patch_pca": psnr(float(torch.cat(errors).mean())), "psnr_mean_colour": psnr(colour)}
