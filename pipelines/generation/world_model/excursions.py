"""Actions that go out and come back: what a rollout is judged by, because it stays where training clips are."""

from __future__ import annotations

import numpy as np

from pipelines.data.actions import kinds_of
from pipelines.data.contract import ActionFacts

OPPOSITES = {"W": "S", "S": "W", "A": "D", "D": "A", "UP": "DOWN", "DOWN": "UP", "LEFT": "RIGHT", "RIGHT": "LEFT"}


def opposites(facts: ActionFacts) -> dict[int, int] | None:
    """The column of each key's opposite, None where a key has none (there is no way back then)."""
    keys, _ = kinds_of(facts)
    names = {facts.names[place].upper(): place for place in keys}
    if any(OPPOSITES.get(name) not in names for name in names):
        return None
    return {place: names[OPPOSITES[name]] for name, place in names.items()}


def inverse(rows: np.ndarray, facts: ActionFacts) -> np.ndarray:
    """Rows [N, A] of the way back: opposite keys, axes reversed, in reverse order.

    Raises:
        ValueError: a key has no opposite.
    """
    other = opposites(facts)
    if other is None:
        raise ValueError(f"keys {', '.join(facts.names)}: not each has an opposite.")
    back = -rows[::-1].copy()
    for place, opposite in other.items():
        back[:, opposite] = rows[::-1, place]
    return back


def excursions(facts: ActionFacts, frames: int, leg: int, seed: int) -> np.ndarray:
    """Actions [frames, A]: ``leg`` frames of the same out, as many back, and anew; row 0 is held and moves nothing.

    Out goes one key, two that are no opposites, or none, with the axes at even speeds. Without opposites, legs are
    drawn one after the other.
    """
    random = np.random.default_rng(seed)
    keys, axes = kinds_of(facts)
    other = opposites(facts)
    legs: list[np.ndarray] = []
    while sum(map(len, legs)) < frames - 1:
        out = np.zeros((leg, len(facts.names)), np.float32)
        chosen = random.permutation(keys)[: int(random.choice([0, 1, 1, 1, 2]))].tolist() if keys else []
        if len(chosen) == 2 and other is not None and other[chosen[0]] == chosen[1]:
            chosen = chosen[:1]
        out[:, chosen] = 1.0
        out[:, axes] = random.uniform(-1, 1, len(axes)).round(2)
        legs += [out, inverse(out, facts)] if other is not None else [out]
    rows = np.concatenate(legs)[: frames - 1]
    return np.concatenate([rows[:1], rows]).astype(np.float32)
