"""Keys and cursor drawn over frames: what a viewer was told at every moment."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from pipelines.data.contract import ActionFacts

SMALLEST = 320
"""Pixels that a frame is enlarged to at least, in whole multiples, so that keys can be read."""
PAD = {"W": (0, 1), "A": (1, 0), "S": (1, 1), "D": (1, 2)}
"""Row and column of a key where all keys are these; others stand in one row."""
DOWN, UP, EDGE, CURSOR = (255, 206, 84), (40, 44, 52), (235, 235, 235), (240, 70, 60)
REACH = 0.02
"""Of the frame's width that an axis at 1 moves the cursor per frame."""


class Overlay:
    """Draws over frames in order; the cursor starts in the middle and stays inside the picture."""

    def __init__(self, facts: ActionFacts, size: tuple[int, int]) -> None:
        self.facts = facts
        self.scale = max(1, -(-SMALLEST // min(size)))
        self.height, self.width = (side * self.scale for side in size)
        self.keys = [place for place, kind in enumerate(facts.kinds) if kind == "key"]
        self.mouse = [place for place, kind in enumerate(facts.kinds) if kind == "mouse"][:2]
        self.cursor = np.array([0.5, 0.5])

    def _place(self, number: int, name: str) -> tuple[int, int]:
        names = {self.facts.names[place].upper() for place in self.keys}
        return PAD[name.upper()] if names <= set(PAD) else (1, number)

    def draw(self, pixels: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The frame uint8 [H, W, 3] enlarged, with what ``row`` [A] holds."""
        picture = Image.fromarray(pixels.repeat(self.scale, 0).repeat(self.scale, 1))
        pen, side = ImageDraw.Draw(picture), self.width // 10
        for number, column in enumerate(self.keys):
            name = self.facts.names[column]
            line, place = self._place(number, name)
            left, top = side // 2 + place * (side + 4), self.height - (2 - line) * (side + 4) - side // 2
            held = row[column] > 0.5
            pen.rounded_rectangle((left, top, left + side, top + side), 5, fill=DOWN if held else UP, outline=EDGE)
            middle = (left + side / 2, top + side / 2)
            pen.text(middle, name[:5], fill=UP if held else EDGE, anchor="mm", font_size=side // 2)
        if len(self.mouse) == 2:
            self.cursor = (self.cursor + REACH * row[self.mouse]).clip(0.02, 0.98)
            x, y = self.cursor[0] * self.width, self.cursor[1] * self.height
            size = self.width / 40
            pen.polygon([(x, y), (x, y + 2 * size), (x + 1.4 * size, y + 1.4 * size)], fill=CURSOR, outline=EDGE)
        return np.asarray(picture)
