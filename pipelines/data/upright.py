"""How stored pixels are turned and mirrored to be seen upright, from the display matrix of a container or bitstream.

The matrix is ISO's (ISO/IEC 14496-12, 6.2.2): nine integers, of which four map a stored place to a shown one,
x' = a x + c y and y' = b x + d y, with y downwards. Its angle alone loses the mirror of front cameras.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Upright:
    """First left and right change places (``mirrored``), then ``turns`` anticlockwise quarter turns."""

    turns: int = 0
    mirrored: bool = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """[H, W, ...] as it is seen, in memory of its own order."""
        if self.turns == 0 and not self.mirrored:
            return np.ascontiguousarray(pixels)
        return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.turns))

    @property
    def linear(self) -> np.ndarray:
        """[2, 2], (x, y) to (x', y'), y downwards."""
        turn = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), self.turns)
        return turn @ np.diag([-1 if self.mirrored else 1, 1])


AS_STORED = Upright()
ALL = tuple(Upright(turns, mirrored) for mirrored in (False, True) for turns in range(4))


def nearest(matrix: np.ndarray) -> Upright:
    """Of the eight ways to lay a rectangle down, the one nearest to a linear map [2, 2]; as stored, if it is none.

    Scales say nothing about up and down. A rotation that is no quarter turn becomes the nearest one, because clips have
    no black corners.
    """
    fits = [float((one.linear * matrix).sum()) for one in ALL]
    return ALL[int(np.argmax(fits))] if max(fits) > 0 else AS_STORED


def upright(frame: VideoFrame) -> Upright:
    """What the frame's display matrix says; as stored, where it has none."""
    try:
        found = [one for one in cast(Iterable[SideData], frame.side_data) if one.type == Type.DISPLAYMATRIX]
    except ValueError:  # beside it stands a kind that PyAV has no name for (EXIF), and it then gives none
        return Upright(round(frame.rotation / 90) % 4)
    if not found:
        return AS_STORED
    a, b, _, c, d = np.frombuffer(bytes(found[0]), np.int32)[:5].astype(float)
    return nearest(np.array([[a, c], [b, d]]))
