"""Numbers that compare generated clips with real ones. Pure functions; Fréchet distances in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.flow.anchored import frame_variation

FLOOR = 1e-12
ROUNDING = 1e-6
"""Relative difference of features (float32) up to which they are equal."""
CLIPS_AT_ONCE = 4
"""Clips whose pixels are compared at a time."""


def bytes_of(video: Tensor) -> Tensor:
    """Video of any shape as uint8 of 0 to 255, what a file holds and a quarter of the memory; or given in [-1, 1]."""
    return video if video.dtype == torch.uint8 else video.add(1).mul_(127.5).clamp_(0, 255).round_().byte()


def values(video: Tensor) -> Tensor:
    """Video of any shape in [-1, 1], as it is or given as uint8 of 0 to 255."""
    return video.float() / 127.5 - 1.0 if video.dtype == torch.uint8 else video


def require_finite(*numbers: Tensor) -> None:
    """Check numbers before a metric is made of them.

    Raises:
        ValueError: some are not finite; compared with anything they would seem small, or large.
    """
    if not all(bool(torch.stack(one.aminmax()).isfinite().all()) for one in numbers if one.numel()):
        raise ValueError("values that are not finite")


def _by_clip(metric: Callable[..., Tensor], *videos: Tensor) -> Tensor:
    """What a metric gives for some clips at a time, joined: few clips stay in the processor's cache, and in memory.

    It is given whole grey levels, of which float32 holds every square and difference, or float64 of [-1, 1].
    """
    parts = zip(*(video.split(CLIPS_AT_ONCE) for video in videos), strict=True)
    return torch.cat([metric(*map(_exact, part)) for part in parts])


def _exact(video: Tensor) -> Tensor:
    return video.float() if video.dtype == torch.uint8 else video.double()


def _range(video: Tensor) -> float:
    """From black to white, as :func:`_by_clip` gives it."""
    return 255.0 if video.dtype == torch.uint8 else 2.0


# ---- Fréchet distance ---------------------------------------------------------------------------------------------


def moments(features: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of features [N, D] in float64, N >= 2.

    ``shrinkage`` a in [0, 1] pulls the covariance towards a multiple of the identity, (1 - a) S + a tr(S)/D I, which
    keeps it well conditioned when N is not much larger than D (Ledoit and Wolf, 2004, with a given intensity).

    Raises:
        ValueError: fewer than two samples, no feature, or values that are not finite.
    """
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least two samples, got {len(features)}")
    if features.shape[1] == 0:
        raise ValueError("a covariance needs a feature")
    require_finite(features)
    features = features.double()
    covariance = torch.atleast_2d(torch.cov(features.T))
    size = len(covariance)
    even = covariance.trace() / size * torch.eye(size, dtype=torch.float64, device=features.device)
    return features.mean(0), (1.0 - shrinkage) * covariance + shrinkage * even


def square_root(matrix: Tensor) -> Tensor:
    """The symmetric root of a symmetric positive semidefinite matrix; rounding below zero counts as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T


def frechet_distance(first: Tensor, second: Tensor, shrinkage: float) -> float:
    """Squared Fréchet distance of two Gaussians fitted to features [N, D] and [M, D] (arXiv:1706.08500, Eq. 6).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2): symmetric, at least 0, and 0 for equal moments. Without
    ``shrinkage`` that of torchmetrics.

    Raises:
        ValueError: as :func:`moments`.
    """
    (mean1, cov1), (mean2, cov2) = moments(first, shrinkage), moments(second, shrinkage)
    root = square_root(cov1)
    inner = torch.linalg.eigvalsh(root @ cov2 @ root).clamp_min(0.0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2.0 * inner
    return max(0.0, float(distance))


@dataclass(frozen=True)
class FeatureSpace:
    """Standardised principal directions of reference features, scaled so that a direction's mean variance is 1."""

    mean: Tensor
    std: Tensor
    directions: Tensor

    @classmethod
    def fit(cls, reference: Tensor, dims: int) -> FeatureSpace:
        """From features [N, D]; at most min(dims, D, N - 1) directions. Constant features do not count.

        Raises:
            ValueError: fewer than two references, all alike, or not finite: everything would lie in one point.
        """
        require_finite(reference)
        reference = reference.double()
        if len(reference) < 2 or bool((reference - reference[0]).abs().max() <= ROUNDING * reference.abs().max()):
            raise ValueError(f"the {len(reference)} clips that the feature space is fitted on are all alike in it")
        mean, std = reference.mean(0), reference.std(0)
        std = torch.where(std > 1e-6 * std.max().clamp_min(FLOOR), std, torch.inf)
        _, sizes, directions = torch.linalg.svd((reference - mean) / std, full_matrices=False)
        kept = min(dims, len(reference) - 1, reference.shape[1])
        scale = (sizes[:kept].square().mean() / (len(reference) - 1)).sqrt().clamp_min(FLOOR)
        return cls(mean, std, directions[:kept] / scale)

    def project(self, features: Tensor) -> Tensor:
        """[N, D] to [N, dims] in float64."""
        return ((features.double() - self.mean) / self.std) @ self.directions.T


# ---- motion -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MotionRatio:
    """Variation over frames relative to what frames share, divided by the same ratio of real clips.

        (E |x - mean_f x|^2 / E |mean_f x|^2) / (the same of real)

    0 is a frozen clip, 1 is as much change from frame to frame as in the data. Seed A names the number and never
    computes it; the definition is ours (its Section A.4). What each clip adds to the means, [N], is taken once, so that
    resamples of clips cost next to nothing.
    """

    moving: Tensor
    shared: Tensor
    real_moving: Tensor
    real_shared: Tensor

    @classmethod
    def of(cls, x: Tensor, real: Tensor) -> MotionRatio:
        """Of latents (or video) [N, C, T, H, W] and real ones [M, C, T, H, W].

        Raises:
            ValueError: values that are not finite.
        """
        require_finite(x, real)
        return cls(*frame_variation(x.double()), *frame_variation(real.double()))

    def __call__(self, weights: Tensor) -> Tensor:
        """Ratios [R] of weightings [R, N] of the clips, on both sides alike (then M = N); NaN where one has none.

        Raises:
            ValueError: in every one nothing that the real clips' frames add, or nothing that frames share.
        """
        return self._of(*(weights @ part for part in (self.moving, self.shared, self.real_moving, self.real_shared)))

    def of_all(self) -> float:
        """The ratio of all clips alike.

        Raises:
            ValueError: as of weightings.
        """
        return float(self._of(*(part.sum() for part in (self.moving, self.shared, self.real_moving, self.real_shared))))

    @staticmethod
    def _of(added: Tensor, held: Tensor, real_added: Tensor, real_held: Tensor) -> Tensor:
        moves, shows = (real_added > 0) & (real_held > 0), held > 0
        if not bool(moves.any()):
            raise ValueError("the real clips stand still, or their frames share nothing")
        if not bool(shows.any()):
            raise ValueError("the frames of the clips share nothing")
        return torch.where(moves & shows, (added / held) / (real_added / real_held), torch.nan)


def local_vs_global_ratio(x: Tensor, real: Tensor) -> float:
    """:class:`MotionRatio` of all clips alike.

    Raises:
        ValueError: as its methods.
    """
    return MotionRatio.of(x, real).of_all()


def frame_difference(video: Tensor) -> float:
    """Mean absolute difference of neighbouring frames of video [B, 3, T, H, W] in [-1, 1], in gray levels of 255.

    Raises:
        ValueError: clips of one frame, or values that are not finite.
    """
    _require_frames(video)
    found = _by_clip(lambda part: part.diff(dim=2).abs_().flatten(1).mean(1), video)
    return float(found.double().mean() * 255.0 / _range(video))


def temporal_consistency(video: Tensor) -> float:
    """Mean cosine similarity of neighbouring frames, each less its own mean colour: 1 is a frozen clip.

    Two neighbours of one colour each have no structure to compare, and do not count.

    Raises:
        ValueError: clips of one frame, values that are not finite, or every frame is of one colour.
    """
    _require_frames(video)
    found = _by_clip(_neighbour_similarities, video)
    if not len(found):
        raise ValueError("every frame is of one colour")
    return float(found.mean())


def _neighbour_similarities(video: Tensor) -> Tensor:
    """Cosine similarities of all neighbours of which one has a structure, clip by clip."""
    flat = (video.amax((3, 4)) == video.amin((3, 4))).all(1)
    shown = ~(flat[:, 1:] & flat[:, :-1])
    frames = (video - video.mean((3, 4), keepdim=True)).transpose(1, 2).flatten(2)
    size = torch.linalg.vector_norm(frames, dim=2)
    alike = torch.linalg.vecdot(frames[:, 1:], frames[:, :-1])
    return (alike / (size[:, 1:] * size[:, :-1]).clamp_min(FLOOR)).double()[shown]


def _require_frames(video: Tensor) -> None:
    if len(video) == 0 or video.shape[2] < 2:
        raise ValueError("clips of one frame have no neighbouring frames")
    require_finite(video)


# ---- pixels -------------------------------------------------------------------------------------------------------


def psnr(video: Tensor, reference: Tensor) -> float:
    """Mean over clips of 10 log10(4 / mse) in dB, video in [-1, 1].

    Scikit-image's, clip by clip; torchmetrics takes one mean square over all clips, which the worst of them decides.

    Raises:
        ValueError: a clip is equal to its reference, so that there is no error to state; or values that are not finite.
    """
    require_finite(video, reference)
    if video.dtype != reference.dtype:
        video, reference = values(video), values(reference)

    def squares(one: Tensor, other: Tensor) -> Tensor:
        apart = (one - other).flatten(1)
        return torch.linalg.vecdot(apart, apart) / apart.shape[1]

    error = _by_clip(squares, video, reference).double()
    if not bool((error > 0).all()):
        raise ValueError(f"{int((error == 0).sum())} clips are equal to their references: no PSNR")
    return float((10.0 * torch.log10(_range(video) ** 2 / error)).mean())
