"""Passes over the samples that a codebook is fitted on: sums per class, far samples, empty classes filled.

Samples are read in blocks (they may be a memory map that is larger than memory), and a pass is shared among the
processes of the stage; one process gives the same numbers within rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.representation.ranks import Ranks
from pipelines.stage import StageError

BLOCK = 8192
"""Samples read at once."""
ENTRIES, GPU_ENTRIES = 2**19, 2**26
"""Scores held at once: 2 MiB, which a core's cache has room for; a GPU wants more."""
ROUNDING = 1e-8
"""Squared distance to a centre, in squared lengths of the sample, that is none: a mean of equal float32 numbers is not
quite that number, and a class moved there would only take the place of another."""
CANDIDATES = 4
"""Far samples looked at per empty class: doubles of one another cannot fill two."""


@dataclass(frozen=True)
class Codebook:
    """Class centres [K, D], float32, and the mean squared distance of train samples to their centre."""

    centroids: np.ndarray
    inertia: float


@dataclass(frozen=True)
class Samples:
    """Rows of an embedding [N, D] (an array or a memory map) that a codebook is fitted on."""

    h: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, ranks: Ranks) -> Iterator[tuple[np.ndarray, Tensor]]:
        """This process's part: row numbers [b] and values [b, D] on its device."""
        part = ranks.part(len(self.rows))
        for start in range(part.start, part.stop, BLOCK):
            rows = self.rows[start : min(start + BLOCK, part.stop)]
            yield rows, torch.from_numpy(np.asarray(self.h[rows], dtype=np.float32)).to(ranks.device)


@dataclass(frozen=True)
class Pass:
    """One pass over the samples of all processes: per class their number [K] and sum [K, D]; mean squared distance."""

    counts: np.ndarray
    sums: np.ndarray
    inertia: float


def scores(values: Tensor, centres: Tensor) -> Iterator[Tensor]:
    """|c_k|^2 - 2 x c_k of values [b, D], which is the squared distance less |x|^2: [some of b, K] at a time, each to
    be read before the next is asked for, which takes its place."""
    size = max(1, (ENTRIES if values.device.type == "cpu" else GPU_ENTRIES) // len(centres))
    norms, held = centres.square().sum(1), values.new_empty(min(size, len(values)), len(centres))
    for part in values.split(size):
        yield torch.addmm(norms, part, centres.T, alpha=-2, out=held[: len(part)])


def smallest(found: Tensor) -> tuple[Tensor, Tensor]:
    """Place and value of the smallest score of each row of [b, K]."""
    on_cpu = found.device.type == "cpu"  # where numpy finds it eight times as fast as torch
    places = torch.from_numpy(found.numpy().argmin(1)) if on_cpu else found.argmin(1)
    return places, found.gather(1, places[:, None])[:, 0]


def two_smallest(found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Place and value of the smallest score of each row of [b, K], and the next value; ``found`` loses the first."""
    places, first = smallest(found)
    return places, first, smallest(found.scatter_(1, places[:, None], torch.inf))[1]


def nearest(values: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Class [b] and squared distance [b] of values [b, D]: the smallest of :func:`scores`, then + |x|^2."""
    labels, least = (torch.cat(parts) for parts in zip(*map(smallest, scores(values, centres)), strict=True))
    return labels, (least + values.square().sum(1)).clamp_min(0)


def classified(labels: Tensor, values: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Samples per class [K] and their sums [K, D] of one block."""
    sums = values.new_zeros(num_classes, values.shape[1]).index_add_(0, labels, values)
    return torch.bincount(labels, minlength=num_classes), sums


def passed(samples: Samples, centres: np.ndarray, ranks: Ranks) -> Pass:
    """Assign every sample to its nearest centre, and sum up."""
    classes, width = centres.shape
    shared = torch.from_numpy(centres).to(ranks.device)
    counts, inertia = np.zeros(classes), np.zeros(1)
    sums = torch.zeros(classes, width, dtype=torch.float64, device=ranks.device)
    for _, values in samples.blocks(ranks):
        labels, squared = nearest(values, shared)
        found, added = classified(labels, values, classes)
        counts += found.cpu().numpy()
        sums += added
        inertia += float(squared.double().sum())
    packed = ranks.summed(np.concatenate([counts, inertia, sums.cpu().numpy().ravel()]))
    total = packed[classes + 1 :].reshape(classes, width)
    return Pass(packed[:classes], total, float(packed[classes]) / len(samples))


def farthest(
    samples: Samples, centres: np.ndarray, count: int, ranks: Ranks, known: Tensor | None = None
) -> np.ndarray:
    """Up to ``count`` different samples that are farthest from their centre and not on it: [m, D], farthest first.

    ``known``: the classes of this process's samples, where they were found before.
    """
    shared, width = torch.from_numpy(centres).to(ranks.device), centres.shape[1]
    kept = np.zeros((CANDIDATES * count, width + 1), np.float32)
    done = 0
    for _, values in samples.blocks(ranks):
        labels = nearest(values, shared)[0] if known is None else known[done : done + len(values)]
        done += len(values)
        exact = (values - shared[labels]).square().sum(1)
        exact[exact <= ROUNDING * values.square().sum(1)] = 0
        part = torch.cat([exact[:, None], values], 1).cpu().numpy()
        both = np.concatenate([kept, part])
        kept = both[np.argsort(-both[:, 0], kind="stable")[: len(kept)]]
    everywhere = ranks.stacked(kept)
    everywhere = everywhere[everywhere[:, 0] > 0]
    _, first = np.unique(everywhere[:, 1:], axis=0, return_index=True)
    chosen = everywhere[first]
    return chosen[np.argsort(-chosen[:, 0], kind="stable")][:count, 1:]


def without_empty(samples: Samples, centres: np.ndarray, ranks: Ranks) -> tuple[np.ndarray, Pass]:
    """Centres whose empty classes were moved to the samples farthest from their own centre, until none is empty.

    Raises:
        StageError: there are fewer different samples than classes.
    """
    found = passed(samples, centres, ranks)
    while (empty := np.flatnonzero(found.counts == 0)).size:
        spare = farthest(samples, centres, len(empty), ranks)
        if not len(spare):
            filled = len(centres) - len(empty)
            raise StageError(
                f"num_classes {len(centres)}: the {len(samples)} train samples have only {filled} different "
                f"embeddings. Set num_classes to {filled} or less, or give the embedding more parts."
            )
        centres = centres.copy()
        centres[empty[: len(spare)]] = spare
        found = passed(samples, centres, ranks)
    return centres, found


def check_count(samples: Samples, num_classes: int) -> None:
    """Raises:
    StageError: there are fewer samples than classes.
    """
    if num_classes > len(samples):
        raise StageError(
            f"num_classes {num_classes} is more than the {len(samples)} train samples; "
            f"set it to {len(samples)} or less."
        )
