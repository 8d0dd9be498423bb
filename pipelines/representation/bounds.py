"""Lloyd's assignment that looks again only where it can have changed, with the labels of a full pass.

By the triangle inequality, a sample whose centre has come nearer than any other centre can be keeps its class (Hamerly,
"Making k-means even faster", SDM 2010). Held are a label and two distances per sample of this process.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipelines.representation import screening
from pipelines.representation.passes import BLOCK, Samples, scores, two_smallest
from pipelines.representation.ranks import Ranks

ROUNDING = 1e-5
"""Share of |x|^2 + |c|^2 by which a squared distance of float32 products may be wrong."""
GROWTH = 1.0 + 1e-6
"""Factor that covers the rounding of a centre's move."""


def nearest_two(values: Tensor, centres: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class [b] of values [b, D], at most so far from its centre [b], at least so far from any other [b].

    With one class there is no other: its distance is infinite.
    """
    lengths = values.square().sum(1)
    fits = screening.fits(values, centres)
    looked = screening.screened(values, centres, lengths) if fits else map(two_smallest, scores(values, centres))
    labels, first, second = (torch.cat(parts) for parts in zip(*looked, strict=True))
    wrong = ROUNDING * (lengths + centres.square().sum(1).max())
    upper = (first + lengths + wrong).clamp_min(0).sqrt()
    return labels, upper, (second + lengths - wrong).clamp_min(0).sqrt()


class Assignment:
    """The classes of this process's samples, moved along with the centres.

    Attributes:
        counts, sums: of this process's samples, per class [K] and [K, D], float64.
        squares: summed squared lengths of this process's samples, float64.
    """

    def __init__(self, samples: Samples, num_classes: int, ranks: Ranks) -> None:
        part = ranks.part(len(samples))
        self.rows, self.samples, self.device = samples.rows[part.start : part.stop], samples, ranks.device
        self.labels = torch.full((len(self.rows),), -1, device=self.device)
        self.upper = torch.full((len(self.rows),), torch.inf, device=self.device)
        self.lower = torch.zeros(len(self.rows), device=self.device)
        self.centres: Tensor | None = None
        self.counts = torch.zeros(num_classes, dtype=torch.float64, device=self.device)
        self.sums = torch.zeros(num_classes, samples.h.shape[1], dtype=torch.float64, device=self.device)
        self.squares = 0.0

    def follow(self, centres: Tensor) -> int:
        """Assign to the nearest of ``centres`` [K, D]; gives how many samples changed their class."""
        if self.centres is not None:
            self._widen((centres.double() - self.centres.double()).norm(dim=1).float() * GROWTH)
        self.centres = centres
        changed = 0
        for start in range(0, len(self.rows), BLOCK):
            part = slice(start, start + BLOCK)
            doubtful = torch.nonzero(self.upper[part] >= self.lower[part])[:, 0]
            if len(doubtful):
                changed += self._look(start + doubtful, centres)
        return changed

    def error(self) -> float:
        """Summed squared distances of this process's samples to the centres that they follow.

        sum |x|^2 - 2 sum_k c_k S_k + sum_k n_k |c_k|^2, with what the classes hold; in float64 little is lost.
        """
        assert self.centres is not None
        centres = self.centres.double()
        apart = (self.counts * centres.square().sum(1) - 2.0 * (centres * self.sums).sum(1)).sum()
        return max(0.0, self.squares + float(apart))

    def _widen(self, moved: Tensor) -> None:
        """The distances that are possible after centre k moved by ``moved`` [K]."""
        most = torch.topk(moved, min(2, len(moved)))
        others = torch.where(self.labels == most.indices[0], most.values[-1], most.values[0])
        self.upper += moved[self.labels]
        self.lower = (self.lower - others).clamp_min(0)

    def _look(self, places: Tensor, centres: Tensor) -> int:
        chosen = self.rows[places.cpu().numpy()]
        values = torch.from_numpy(np.asarray(self.samples.h[chosen], dtype=np.float32)).to(self.device)
        labels, self.upper[places], self.lower[places] = nearest_two(values, centres)
        before = self.labels[places]
        moved = labels != before
        left, new = moved & (before >= 0), before < 0
        self.squares += float(torch.linalg.vector_norm(values[new], dtype=torch.float64)) ** 2
        self._take(labels[moved], values[moved].double())
        self._take(before[left], values[left].double(), -1.0)
        self.labels[places] = labels
        return int(moved.sum())

    def _take(self, labels: Tensor, values: Tensor, sign: float = 1.0) -> None:
        self.sums.index_add_(0, labels, values, alpha=sign)
        self.counts += sign * torch.bincount(labels, minlength=len(self.counts))
