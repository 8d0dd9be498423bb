"""Clips that look the same, by their perceptual hashes: near ones are found without comparing all with all.

Hashes of 256 bits that differ in at most 15 differ in at most one bit in one of eight bands. So a clip looks up its own
bits of each band, and those with one bit turned: 33 places a band, however many clips there are.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence

import numpy as np

SIDE = 8
"""A frame gives a hash of so many by so many parts a bit each."""
BANDS = 8
TURNED = (0, *(1 << bit for bit in range(32)))
"""What a band of 32 bits may differ in: nothing, or one bit."""

Label = tuple[Hashable, ...]
Places = int | dict[Label, list[int]]
"""Kept clips of equal bits in a band: mostly one, else by their label."""


def lookalikes(hashes: Sequence[str], labels: Sequence[Label], max_bits: int) -> list[int | None]:
    """Per clip: the first kept clip before it that looks the same; None: it is kept itself.

    Args:
        hashes: of 256 bits each, in hexadecimal.
        labels: only clips are compared of whose labels no part is equal: those of two sources, say.
        max_bits: 0 to 15, in how many bits the same may differ. No pair within it is missed.
    """
    kept, found = KeptClips(hashes, labels, max_bits), []
    for place in range(len(hashes)):
        found.append(twin := kept.twin(place))
        if twin is None:
            kept.add(place)
    return found


class KeptClips:
    """The clips that are kept so far, to be found by those which look like them."""

    def __init__(self, hashes: Sequence[str], labels: Sequence[Label], max_bits: int) -> None:
        self._codes = np.array([list(bytes.fromhex(one)) for one in hashes], np.uint8).reshape(len(hashes), -1)
        self._bands, self._labels, self._max_bits = dealt(self._codes), labels, max_bits
        self._turned = TURNED if max_bits >= BANDS else TURNED[:1]  # so few that one band is equal
        self._seen: list[dict[int, Places]] = [{} for _ in range(BANDS)]
        self.compared = 0
        """Pairs whose bits were counted."""

    def twin(self, place: int) -> int | None:
        """The first kept clip that looks like this one."""
        near = np.array(sorted(self._near(place)), np.int64)
        self.compared += len(near)
        alike = np.bitwise_count(self._codes[near] ^ self._codes[place]).sum(1) <= self._max_bits
        return int(near[alike.argmax()]) if alike.any() else None

    def add(self, place: int) -> None:
        """Keep a clip."""
        label = self._labels[place]
        for seen, key in zip(self._seen, self._bands[place].tolist(), strict=True):
            held = seen.setdefault(key, place)
            if isinstance(held, int) and held != place:
                held = seen[key] = {self._labels[held]: [held]}
            if not isinstance(held, int):
                held.setdefault(label, []).append(place)

    def _near(self, place: int) -> set[int]:
        """Kept clips that may look like it; clips of one source, alike by the thousand, are passed over at once."""
        mine, near = self._labels[place], set[int]()
        for seen, key in zip(self._seen, self._bands[place].tolist(), strict=True):
            for held in (seen.get(key ^ turned) for turned in self._turned):
                if held is not None:
                    places = {self._labels[held]: [held]} if isinstance(held, int) else held
                    near.update(*(ones for label, ones in places.items() if all(map(operator.ne, label, mine))))
        return near


def dealt(codes: np.ndarray) -> np.ndarray:
    """The bits of hashes, uint8 [N, 32], as eight bands of 32 bits: uint32 [N, 8].

    What tells clips apart is dealt evenly: bits that are equal in most of this footage (bars with a subtitle, a sky)
    fill no band, and neither do those of one part of the picture, which the frames of a calm clip share.
    """
    bits = np.unpackbits(codes, axis=1)
    share = bits.mean(0) if len(bits) else np.zeros(bits.shape[1])
    part = np.arange(bits.shape[1]) % (SIDE * SIDE)
    tells = np.bincount(part, share * (1 - share))
    order = np.lexsort((part, -tells[part]))
    bands = bits[:, order].reshape(len(bits), -1, BANDS).transpose(0, 2, 1)
    return np.ascontiguousarray(np.packbits(bands, axis=2)).view(">u4")[..., 0]
