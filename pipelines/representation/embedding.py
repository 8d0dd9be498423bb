"""The joint embedding h = g(text, keyframes) in which classes are made.

Every part (text, keyframes, motion) is centred, scaled to a mean squared norm of 1 over the train split, and multiplied
by its weight: weights compare shares of variance whatever the parts' sizes. Without alignment h is their concatenation.

With alignment, h keeps what captions and keyframes say in common. With A the text part, B the visual parts side by
side, S_A and S_B their covariances with ridge shrinkage S + r mean(eigenvalues) I, the singular value decomposition
S_A^(-1/2)' S_AB S_B^(-1/2) = U diag(c) V' gives canonical directions (Hotelling 1936), and

    h = [w_text (A S_A^(-1/2) U) c^power | (B S_B^(-1/2) V) c^power],   first ``components`` columns each.

What only one side knows (the background's texture within a tone, a rare word) has a low correlation c and little say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.representation.extraction import concatenated
from pipelines.representation.params import EmbeddingParams
from pipelines.representation.ranks import Ranks
from pipelines.stage import StageError

PARTS = "text", "keyframes", "motion"
Parts = dict[str, np.ndarray]
Source = Callable[[np.ndarray], Parts]
"""Row numbers [b] to the raw parts [b, D_part] of these samples."""

BLOCK = 4096


def feature_names(params: EmbeddingParams) -> list[str]:
    """Features of the encoder that the embedding reads."""
    parts = [part for part in (params.keyframes, params.motion) if part is not None]
    return list(dict.fromkeys(name for part in parts for name in part.features))


def source_of(params: EmbeddingParams, features: Mapping[str, np.ndarray], prompts: np.ndarray | None) -> Source:
    """Raw parts that ``params`` name, from features and prompt vectors of all samples (arrays or memory maps)."""

    def read(rows: np.ndarray) -> Parts:
        found: Parts = {}
        if params.text is not None and prompts is not None:
            found["text"] = np.asarray(prompts[rows])
        for name in ("keyframes", "motion"):
            part = getattr(params, name)
            if part is not None:
                found[name] = concatenated({name: features[name][rows] for name in part.features}, part.features)
        return found

    return read


def blocks(places: range) -> Iterator[np.ndarray]:
    """The numbers of a range, some thousand at a time."""
    for start in range(places.start, places.stop, BLOCK):
        yield np.arange(start, min(start + BLOCK, places.stop))


def _whitening(covariance: np.ndarray, ridge: float) -> np.ndarray:
    """V diag(1 / sqrt(w + ridge mean(w))) over the directions that have variance: [D, R]."""
    variances, directions = np.linalg.eigh(covariance)
    kept = variances > 1e-6 * variances[-1]
    return directions[:, kept] / np.sqrt(variances[kept] + ridge * variances[kept].mean())


def canonical(covariance: np.ndarray, width: int, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canonical directions of two sides from their joint covariance [D_a + D_b, D_a + D_b], the first ``width`` being
    side a: maps [D_a, R], [D_b, R], correlations [R]."""
    left, right = _whitening(covariance[:width, :width], ridge), _whitening(covariance[width:, width:], ridge)
    u, correlations, vt = np.linalg.svd(left.T @ covariance[:width, width:] @ right, full_matrices=False)
    return left @ u, right @ vt.T, correlations


@dataclass(frozen=True)
class Embedding:
    """A fitted g: what is subtracted and divided per part, and the maps of the alignment (None without)."""

    params: EmbeddingParams
    tensors: Mapping[str, np.ndarray]

    @classmethod
    def fit(cls, params: EmbeddingParams, source: Source, rows: np.ndarray, ranks: Ranks) -> Embedding:
        """Fit on the raw parts of ``rows`` (the train split): three passes, shared among processes.

        Raises:
            StageError: a part is the same for all samples.
        """

        def mean_of(statistic: Callable[[Parts], Parts]) -> Parts:
            """Mean over samples of sums that ``statistic`` gives per block; at the end, of all processes."""
            sums: Parts = {}
            for places in blocks(ranks.part(len(rows))):
                for name, value in statistic(source(rows[places])).items():
                    sums[name] = sums.get(name, 0.0) + value
            return {name: ranks.summed(np.asarray(value)) / len(rows) for name, value in sums.items()}

        tensors = mean_of(lambda parts: {f"{name}_mean": v.sum(0, dtype=np.float64) for name, v in parts.items()})
        squares = mean_of(lambda parts: {name: ((v - tensors[f"{name}_mean"]) ** 2).sum() for name, v in parts.items()})
        for name, square in squares.items():
            if square < 1e-16:
                raise StageError(
                    f"embedding.{name}: the same for all {len(rows)} samples, so it says nothing; set it to null."
                )
            tensors[f"{name}_scale"] = np.sqrt(square)
        plain = cls(params, tensors)
        if params.alignment is not None:

            def second_moments(parts: Parts) -> Parts:
                both = np.concatenate(plain._sides(parts), axis=1)
                return {"both": both.T @ both}

            width = len(tensors["text_mean"])
            text_map, seen_map, c = canonical(mean_of(second_moments)["both"], width, params.alignment.ridge)
            kept = slice(0, params.alignment.components)
            strength = c[kept] ** params.alignment.power
            tensors |= {"text_map": text_map[:, kept] * strength, "seen_map": seen_map[:, kept] * strength}
            tensors["correlations"] = c[kept]
        return cls(params, {name: np.asarray(value, dtype=np.float64) for name, value in tensors.items()})

    @property
    def width(self) -> int:
        """D of h."""
        if self.params.alignment is not None:
            return self.tensors["text_map"].shape[1] + self.tensors["seen_map"].shape[1]
        return sum(len(value) for name, value in self.tensors.items() if name.endswith("_mean"))

    def apply_into(self, h: np.ndarray, source: Source, places: range) -> None:
        """Write h of the samples ``places``."""
        for rows in blocks(places):
            h[rows] = self.apply(source(rows))

    def _scaled(self, parts: Parts, name: str) -> np.ndarray:
        weight = getattr(self.params, name).weight
        return weight * (parts[name] - self.tensors[f"{name}_mean"]) / self.tensors[f"{name}_scale"]

    def _sides(self, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
        """Text (not weighted: whitening would undo it) and the weighted visual parts."""
        text = (parts["text"] - self.tensors["text_mean"]) / self.tensors["text_scale"]
        return text, np.concatenate([self._scaled(parts, name) for name in PARTS[1:] if name in parts], axis=1)

    def apply(self, parts: Parts) -> np.ndarray:
        """h [N, D], float32, of raw parts."""
        if self.params.alignment is None:
            h = np.concatenate([self._scaled(parts, name) for name in PARTS if name in parts], axis=1)
        else:
            assert self.params.text is not None
            text, seen = self._sides(parts)
            h = np.concatenate(
                [self.params.text.weight * (text @ self.tensors["text_map"]), seen @ self.tensors["seen_map"]], axis=1
            )
        return h.astype(np.float32)
