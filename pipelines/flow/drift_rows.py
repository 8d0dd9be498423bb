"""Drifting problems, and all of them at all locations as rows of batched products (:mod:`pipelines.flow.drift`)."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.flow.drift_kernel import is_far
from pipelines.flow.params import DriftField


@dataclass(frozen=True)
class Problems:
    """Features and weights of P problems at L locations.

    Attributes:
        generated, positives, negatives: [L, P, G, D], [L, P, M, D], [L, P, N, D]; N may be 0.
        weights: [P, G + N + M] of generated, negatives, positives; None: all 1.
        present: bool [P, G + N + M]; what is absent takes no part. None: all are there.
    """

    generated: Tensor
    positives: Tensor
    negatives: Tensor
    weights: Tensor | None = None
    present: Tensor | None = None

    def __post_init__(self) -> None:
        group = self.generated.shape[2]
        if not group or not self.positives.shape[2]:
            raise ValueError("a drifting problem needs at least one generated sample and one positive.")
        if group + self.negatives.shape[2] < 2:
            raise ValueError(
                "a drifting problem with one generated sample and no negatives has no field: give it 2 samples or more."
            )


class Rows:
    """Problems and locations as R = L P rows of one batched product; features are views of what was given."""

    def __init__(self, problems: Problems) -> None:
        kind = torch.promote_types(problems.generated.dtype, torch.float32)
        given = (problems.generated, problems.negatives, problems.positives)
        self.parts = tuple(part.detach().to(kind).flatten(0, 1) for part in given)
        self.locations, self.problems, self.group, self.width = problems.generated.shape
        self.num_negatives = self.group + problems.negatives.shape[2]
        self.weights = self._per_row(problems.weights, kind)
        there = self._per_row(problems.present, torch.bool)
        self.rows_there = None if there is None else there[:, 0, : self.group]
        self.absent = None
        if there is not None and self.rows_there is not None:
            self.absent = ~(there & self.rows_there[:, :, None])
        self.gram = torch.bmm(self.parts[0], self.parts[0].mT)
        self.far = is_far(self.gram)

    def _per_row(self, values: Tensor | None, kind: torch.dtype) -> Tensor | None:
        return None if values is None else values.detach().to(kind).repeat(self.locations, 1)[:, None, :]

    def cut(self, piece: slice) -> Rows:
        """Some of the rows, where no scale is pooled over them; samples that lie far from zero are moved there."""
        found = copy(self)
        found.parts, found.gram = tuple(part[piece] for part in self.parts), self.gram[piece]
        if self.far:
            centre = found.parts[0].mean(1, keepdim=True)
            found.parts = tuple(part - centre for part in found.parts)
            found.gram = torch.bmm(found.parts[0], found.parts[0].mT)
        for name in ("weights", "rows_there", "absent"):
            whole = getattr(self, name)
            setattr(found, name, None if whole is None else whole[piece])
        return found

    def moved(self, coefs: Tensor, piece: slice) -> Tensor:
        """coefs [r, K G, J] times the samples of those rows: [r, K G, D]."""
        total, start = None, 0
        for part in self.parts:
            stop = start + part.shape[1]
            own, samples = coefs[:, :, start:stop], part[piece]
            total = torch.bmm(own, samples) if total is None else total.baddbmm_(own, samples)
            start = stop
        assert total is not None
        return total

    def pooled(self, sums: Tensor, counts: Tensor | float, field: DriftField) -> Tensor:
        """Sums [..., R] over counts [R] or one for all, over all rows, a problem's locations or for each row."""
        if field.scale == "location":
            return sums / counts
        if field.scale == "all":
            whole = counts.sum() if isinstance(counts, Tensor) else counts * len(self.parts[0])
            return (sums.sum(-1, keepdim=True) / whole).expand_as(sums)
        whole = self._of_problems(counts) if isinstance(counts, Tensor) else counts * self.locations
        return (self._of_problems(sums) / whole).repeat(*([1] * (sums.dim() - 1)), self.locations)

    def _of_problems(self, sums: Tensor) -> Tensor:
        """Sums over a problem's locations, [..., P] of [..., R]."""
        return sums.unflatten(-1, (self.locations, -1)).sum(-2)

    def mean_distance(self, found: Tensor, field: DriftField) -> Tensor:
        """S [R]: the mean of all distances, those of a sample to itself too; weighted where weights come after."""
        if self.absent is None and (self.weights is None or field.weights == "inside"):
            return self.pooled(found.sum((1, 2)), float(found.shape[1] * found.shape[2]), field)
        counted = torch.ones_like(found)
        if self.weights is not None and field.weights == "after":
            counted.mul_(self.weights)
        if self.absent is not None:
            counted.masked_fill_(self.absent, 0.0)
        return self.pooled((found * counted).sum((1, 2)), counted.sum((1, 2)), field)

    def size(self, field: Tensor) -> Tensor:
        """Sum of squares of V [R, K, G, D] over G and D: [K, R]."""
        if self.rows_there is None:
            return torch.linalg.vector_norm(field, dim=(2, 3)).square_().mT
        squares = torch.linalg.vector_norm(field, dim=3).square_() * self.rows_there[:, None, :]
        return squares.sum(-1).mT

    def counts(self) -> Tensor | float:
        """Numbers of field values of each row, [R] or one for all."""
        return float(self.group * self.width) if self.rows_there is None else self.rows_there.sum(1) * self.width
