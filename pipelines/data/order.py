"""In which order samples are read: a pure function of (seed, step), whoever asks, from wherever a run resumes.

Samples that cannot be stacked lie in different buckets (clips of another size or length). A batch comes from one
bucket; which one is drawn by the seed, in proportion to how many samples the buckets have. Inside a bucket samples come
in an endless stream of epochs, each made from (seed, epoch). No process, worker or earlier step enters anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""One epoch of a bucket: (generator, rows [N]) to what is read, [N] or [N, ...]."""

TURNS = 1 << 31
"""In the seed of the order of buckets, where the seed of a bucket's samples has its number."""


def permuted(generator: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    """Every row once, in random order."""
    return generator.permutation(rows)


def balanced(classes: np.ndarray, share: float) -> Draw:
    """A draw in which a class of n samples stands for n ** (1 - share) of them.

    Every epoch of N rows is N rows again: a row comes floor or ceil of its expected number of times, a class likewise,
    and classes are spread evenly over the epoch, so that batches hold them in equal parts too.

    Args:
        classes: class of every row of the index, [rows].
        share: 0 draws as the data is, 1 draws every class equally often.
    """
    if share == 0:
        return permuted

    def draw(generator: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        shuffled = generator.permutation(rows)
        ordered = shuffled[np.argsort(classes[shuffled], kind="stable")]
        _, kind, counts = np.unique(classes[ordered], return_inverse=True, return_counts=True)
        weight = (counts**-share)[kind]
        ends = np.floor(np.cumsum(weight) * (len(rows) / weight.sum()) + generator.random()).astype(np.int64)
        ends[-1] = len(rows)
        times = np.diff(ends, prepend=0)
        taken, kind = np.repeat(ordered, times), np.repeat(kind, times)
        again = np.arange(len(rows)) - np.repeat(ends - times, times)  # 0 for a row's first time, 1 for its second ...
        rank = np.lexsort((again, kind))
        taken, kind = taken[rank], kind[rank]
        held = np.bincount(kind, minlength=len(counts))
        within = np.arange(len(rows)) - np.repeat(np.cumsum(held) - held, held)
        slot = (within + generator.random(len(counts))[kind]) / held[kind]
        return taken[np.argsort(slot, kind="stable")]

    return draw


class Order:
    """The endless sequence of global batches.

    Args:
        buckets: rows of the index that can be stacked with one another, in an order that the data alone decides.
        batch_size: of all processes together.
        seed: of the order.
        draw: one epoch of a bucket.
    """

    def __init__(self, buckets: Sequence[np.ndarray], batch_size: int, seed: int, draw: Draw = permuted) -> None:
        self.buckets = [np.asarray(rows) for rows in buckets]
        self.batch_size, self.seed, self.draw = batch_size, seed, draw
        self._epoch = lru_cache(maxsize=4 * len(self.buckets))(self._drawn)
        self._turns = lru_cache(maxsize=4)(self._shuffled_turns)

    def _drawn(self, bucket: int, epoch: int) -> np.ndarray:
        mark = [] if len(self.buckets) == 1 else [1 + bucket]
        return self.draw(np.random.default_rng([self.seed, epoch, *mark]), self.buckets[bucket])

    # ---- whose turn it is ----

    def _before(self, round_: int) -> np.ndarray:
        """Batches of each bucket before this round; a round shows about every sample once."""
        return np.array([round_ * len(rows) // self.batch_size for rows in self.buckets])

    def _shuffled_turns(self, round_: int) -> np.ndarray:
        counts = self._before(round_ + 1) - self._before(round_)
        turns = np.repeat(np.arange(len(self.buckets)), counts)
        return np.random.default_rng([self.seed, round_, TURNS]).permutation(turns)

    def turn(self, step: int) -> tuple[int, int]:
        """The bucket of a step's batch, and how many batches of that bucket came before."""
        if len(self.buckets) == 1:
            return 0, step
        round_ = step * self.batch_size // sum(map(len, self.buckets))
        while self._before(round_ + 1).sum() <= step:
            round_ += 1
        before = self._before(round_)
        turns = self._turns(round_)
        place = step - int(before.sum())
        bucket = int(turns[place])
        return bucket, int(before[bucket]) + int((turns[:place] == bucket).sum())

    # ---- what is read ----

    def batch(self, step: int) -> np.ndarray:
        """What the global batch of a step holds, in order: [batch_size] or [batch_size, ...]."""
        bucket, number = self.turn(step)
        size = len(self.buckets[bucket])
        epoch, place = divmod(number * self.batch_size, size)
        parts, wanted = [], self.batch_size
        while wanted:
            part = self._epoch(bucket, epoch)[place : place + wanted]
            parts.append(part)
            wanted, epoch, place = wanted - len(part), epoch + 1, 0
        return np.concatenate(parts)
