"""Held-out clips that are nearly a training clip, by the embedding that classes are made in.

How near is near is measured against what is usual: a clip's distance to the nearest training clip, over the distance of
that one to its own nearest training clip (at least half of the usual one, so that twins in train do not blind it). Of
real held-out clips that are none hardly any comes below a third; a copy in another codec, or a few frames later, does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

EMBEDDINGS, ASSIGNMENTS = "embeddings.npy", "assignments.parquet"
NEAR = 0.2
"""Relative distance below which a clip counts as nearly the same; in the demo real held-out ones begin at 0.34."""
PART, USUAL_OF = 4096, 2000
"""Clips that are compared at once; training clips by which the usual distance is told."""


@dataclass(frozen=True)
class Near:
    """A held-out clip, the training clip that it nearly is, and their relative distance."""

    key: str
    twin: str
    relative: float


def nearest(clips: np.ndarray, others: np.ndarray, without: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Distance [N] from each clip to the nearest of the others and which [N]; ``without``: the one to leave out."""
    distance, which = np.empty(len(clips)), np.empty(len(clips), np.int64)
    squares = np.einsum("nd,nd->n", others, others)
    for begin in range(0, len(clips), PART):
        part = clips[begin : begin + PART]
        apart = squares - 2 * part @ others.T
        if without is not None:
            apart[np.arange(len(part)), without[begin : begin + PART]] = np.inf
        found = apart.argmin(1)
        which[begin : begin + PART] = found  # the distance itself without the loss of digits of a matrix product
        distance[begin : begin + PART] = np.linalg.norm(part.astype(np.float64) - others[found], axis=1)
    return distance, which


def near_duplicates(folder: Path) -> tuple[int, list[Near]]:
    """How many held-out clips were compared with train, and those that are nearly one of it.

    Raises:
        ValueError: the folder holds no embeddings by key and split, or too few training clips.
    """
    try:
        table = pq.read_table(folder / ASSIGNMENTS, columns=["key", "split"])
        embeddings = np.load(folder / EMBEDDINGS, allow_pickle=False).astype(np.float32, copy=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"embeddings cannot be read ({' '.join(str(error).split())[:120]})") from None
    keys, splits = np.array(table["key"].to_pylist()), np.array(table["split"].to_pylist())
    if embeddings.ndim != 2 or len(embeddings) != len(keys) or not np.isfinite(embeddings).all():
        raise ValueError("embeddings and keys do not belong together, or are not finite")
    rows = np.flatnonzero(splits == "train")
    if len(rows) < 3:
        raise ValueError(f"{len(rows)} training clips: nothing tells how far apart is usual")
    train, held = embeddings[rows], embeddings[splits != "train"]
    some = np.linspace(0, len(rows) - 1, min(USUAL_OF, len(rows))).astype(int)
    usual = float(np.median(nearest(train[some], train, some)[0]))
    distance, which = nearest(held, train)
    twins, place = np.unique(which, return_inverse=True)
    own = np.maximum(nearest(train[twins], train, twins)[0], usual / 2)[place] if len(held) else distance
    relative = distance / np.maximum(own, 1e-12)
    names, found = keys[splits != "train"], keys[rows][which]
    near = [Near(str(names[n]), str(found[n]), float(relative[n])) for n in np.flatnonzero(relative < NEAR)]
    return len(held), sorted(near, key=lambda one: one.relative)
