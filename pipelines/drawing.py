"""Figures whose text is drawn as it is written: captions, prompts and file names are nobody's formulas.

Matplotlib reads what stands between two ``$`` as mathematics and ends with an error where it is none, so every figure
of this project is made here. Letters that its own font lacks are taken from fonts of this machine.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

from pipelines.stage import bookkeeping

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FURTHER_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic"),
    *("Noto Sans Devanagari", "Noto Sans Arabic", "Arial Unicode MS"),
)
"""Fonts with letters that DejaVu Sans lacks, of Linux, macOS and Windows."""


def one_line(text: str, most: int) -> str:
    """A caption as a picture can show it: one line of at most so many characters, without control characters."""
    cut = "".join(letter if letter.isprintable() else " " for letter in text[: most + 1])
    return cut if len(cut) <= most else f"{cut[: most - 1]}…"


@cache
def _families() -> list[str]:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FURTHER_FONTS if name in installed)]


@cache
def _kind() -> type[Figure]:
    from matplotlib.figure import Figure

    class Saved(Figure):
        """A figure that cannot be written is a warning: the numbers behind it are results, it is none."""

        def savefig(self, fname: Any, **how: Any) -> None:
            with bookkeeping(f"the picture {fname}"):
                super().savefig(fname, **how)

    return Saved


def new_figure(**how: Any) -> Figure:
    """A figure to be saved as a file, or told in a line where that cannot be; ``how`` as of matplotlib's ``Figure``."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    mpl.rcParams["text.parse_math"] = False  # read when a text is made, so it stays
    mpl.rcParams["font.family"] = _families()
    warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")  # it is drawn as a box
    figure = _kind()(**how)
    FigureCanvasAgg(figure)
    return figure


def logarithmic(axes: Axes) -> None:
    """A logarithmic vertical axis with plain numbers: matplotlib's own are formulas."""
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
