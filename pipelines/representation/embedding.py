"""The joint embedding h = g(text, keyframes) in which classes are made.

Every part (text, keyframes, motion) is centred and scaled to a mean squared norm of 1 over the train split. Without
alignment, h is the parts side by side, each times its weight: weights are shares of variance whatever the parts' sizes.

With alignment, h keeps what captions and each visual part say in common. With A the text, B a visual part, S_A and S_B
their covariances with ridge shrinkage S + r mean(eigenvalues) I, the singular value decomposition
S_A^(-1/2)' S_AB S_B^(-1/2) = U diag(c) V' gives canonical directions (Hotelling 1936), of which the first
``components`` are kept, and

    text columns of B = w_text (A S_A^(-1/2) U) c^power,    columns of B = w_B (B S_B^(-1/2) V) c^power.

What only one side knows (the background's texture within a tone, a rare word) has a low correlation c and little say.
Weights act after whitening, which would undo them: twice the weight is twice the distance at any ridge.

The columns of h are [text | visual]: either half alone gives a class too, which the other half can judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.representation.extraction import concatenated
from pipelines.representation.params import Alignment, EmbeddingParams
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
    """A fitted g: what is subtracted and divided per part, and the maps of the alignment (none without)."""

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
        if params.alignment is not None:
            tensors |= cls(params, tensors)._aligned(params.alignment, mean_of)
        return cls(params, {name: np.asarray(value, dtype=np.float64) for name, value in tensors.items()})

    def _aligned(self, alignment: Alignment, mean_of: Callable[[Callable[[Parts], Parts]], Parts]) -> Parts:
        """Maps of text and every visual part on their canonical directions, times correlation ** power."""

        def second_moments(parts: Parts) -> Parts:
            text = self._scaled(parts, "text")
            sides = {name: np.concatenate([text, self._scaled(parts, name)], axis=1) for name in self._visual}
            return {name: both.T @ both for name, both in sides.items()}

        found, width, kept = {}, len(self.tensors["text_mean"]), slice(0, alignment.components)
        for name, moments in mean_of(second_moments).items():
            text_map, own_map, c = canonical(moments, width, alignment.ridge)
            strength = c[kept] ** alignment.power
            found |= {f"{name}_text_map": text_map[:, kept] * strength, f"{name}_map": own_map[:, kept] * strength}
            found[f"{name}_correlations"] = c[kept]
        return found

    @property
    def _visual(self) -> list[str]:
        """The visual parts, in the order of their columns."""
        return [name for name in PARTS[1:] if getattr(self.params, name) is not None]

    @property
    def text_width(self) -> int:
        """How many of the first columns of h come from the text; the others come from the visual parts."""
        if self.params.alignment is not None:
            return sum(self.tensors[f"{name}_text_map"].shape[1] for name in self._visual)
        return 0 if self.params.text is None else len(self.tensors["text_mean"])

    @property
    def width(self) -> int:
        """D of h."""
        if self.params.alignment is not None:
            return self.text_width + sum(self.tensors[f"{name}_map"].shape[1] for name in self._visual)
        return sum(len(value) for name, value in self.tensors.items() if name.endswith("_mean"))

    def apply_into(self, h: np.ndarray, source: Source, places: range) -> None:
        """Write h of the samples ``places``."""
        for rows in blocks(places):
            h[rows] = self.apply(source(rows))

    def _scaled(self, parts: Parts, name: str) -> np.ndarray:
        return (parts[name] - self.tensors[f"{name}_mean"]) / self.tensors[f"{name}_scale"]

    def apply(self, parts: Parts) -> np.ndarray:
        """h [N, D], float32, of raw parts."""
        scaled = {name: self._scaled(parts, name) for name in PARTS if name in parts}
        weights = {name: getattr(self.params, name).weight for name in scaled}
        if self.params.alignment is None:
            columns = [weights[name] * values for name, values in scaled.items()]
        else:
            columns = [weights["text"] * (scaled["text"] @ self.tensors[f"{n}_text_map"]) for n in self._visual]
            columns += [weights[name] * (scaled[name] @ self.tensors[f"{name}_map"]) for name in self._visual]
        return np.concatenate(columns, axis=1).astype(np.float32)
