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

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.representation.extraction import concatenated
from pipelines.representation.params import EmbeddingParams
from pipelines.stage import StageError

PARTS = "text", "keyframes", "motion"
Parts = dict[str, np.ndarray]


def feature_names(params: EmbeddingParams) -> list[str]:
    """Features of the encoder that the embedding reads."""
    parts = [part for part in (params.keyframes, params.motion) if part is not None]
    return list(dict.fromkeys(name for part in parts for name in part.features))


def parts_of(params: EmbeddingParams, features: dict[str, np.ndarray], prompts: np.ndarray | None) -> Parts:
    """The raw parts [N, D_part] that ``params`` name."""
    found: Parts = {}
    if params.text is not None and prompts is not None:
        found["text"] = prompts
    for name in ("keyframes", "motion"):
        part = getattr(params, name)
        if part is not None:
            found[name] = concatenated(features, part.features)
    return found


def _whitening(values: np.ndarray, ridge: float) -> np.ndarray:
    """V diag(1 / sqrt(w + ridge mean(w))) over the directions that have variance: [D, R]."""
    variances, directions = np.linalg.eigh(values.T @ values / len(values))
    kept = variances > 1e-6 * variances[-1]
    return directions[:, kept] / np.sqrt(variances[kept] + ridge * variances[kept].mean())


def canonical(text: np.ndarray, seen: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canonical directions of two centred matrices [N, D_a], [N, D_b]: maps [D_a, R], [D_b, R], correlations [R]."""
    left, right = _whitening(text, ridge), _whitening(seen, ridge)
    u, correlations, vt = np.linalg.svd((text @ left).T @ (seen @ right) / len(text), full_matrices=False)
    return left @ u, right @ vt.T, correlations


@dataclass(frozen=True)
class Embedding:
    """A fitted g: what is subtracted and divided per part, and the maps of the alignment (None without)."""

    params: EmbeddingParams
    tensors: Mapping[str, np.ndarray]

    @classmethod
    def fit(cls, params: EmbeddingParams, parts: Parts) -> Embedding:
        """Fit on the raw parts of the train split.

        Raises:
            StageError: a part is the same for all samples.
        """
        tensors: dict[str, np.ndarray] = {}
        for name, values in parts.items():
            mean = values.mean(0, dtype=np.float64)
            scale = np.sqrt(((values - mean) ** 2).sum(1).mean())
            if scale < 1e-8:
                raise StageError(
                    f"embedding.{name}: the same for all {len(values)} samples, so it says nothing; set it to null."
                )
            tensors |= {f"{name}_mean": mean, f"{name}_scale": np.array(scale)}
        plain = cls(params, tensors)
        if params.alignment is not None:
            text, seen = plain._sides(parts)
            text_map, seen_map, c = canonical(text, seen, params.alignment.ridge)
            kept = slice(0, params.alignment.components)
            strength = c[kept] ** params.alignment.power
            tensors |= {"text_map": text_map[:, kept] * strength, "seen_map": seen_map[:, kept] * strength}
            tensors["correlations"] = c[kept]
        return cls(params, {name: np.asarray(value, dtype=np.float64) for name, value in tensors.items()})

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
