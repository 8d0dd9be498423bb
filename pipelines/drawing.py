"""Figures whose text is drawn as it is written: captions, prompts and file names are nobody's formulas.

Matplotlib reads what stands between two ``$`` as mathematics and ends with an error where it is none, so every figure
of this project is made here. Letters that its own font lacks are taken from fonts of this machine.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from pipelines.stage import StageError, bookkeeping, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter
    from PIL.Image import Image

Arguments = ParamSpec("Arguments")
TOLERATED: tuple[type[Exception], ...] = (Exception,)
"""What goes wrong in a drawing and ends no work; the tests see all of it."""

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


def drawn(draw: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """A function that makes pictures of results: whatever goes wrong in it is one warning, for the results are there.

    Data that cannot be read (a :class:`StageError`) is told as such: what is drawn of it is not all that needs it.
    """

    @wraps(draw)
    def tolerant(*values: Arguments.args, **named: Arguments.kwargs) -> None:
        try:
            draw(*values, **named)
        except StageError:
            raise
        except TOLERATED as error:
            told = (str(error).splitlines() or [""])[0]
            say(f"warning: a picture is not drawn ({draw.__module__}.{draw.__name__}: {type(error).__name__}: {told})")

    return tolerant


@cache
def _families() -> list[str]:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FURTHER_FONTS if name in installed)]


@cache
def _kind() -> type[Figure]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import PlaceHolderLayoutEngine

    class Saved(Figure):
        """A figure that cannot be written is a warning: the numbers behind it are results, it is none."""

        is_saved = False

        def draw(self, renderer: Any) -> None:
            """Before it saves a figure with a layout, matplotlib draws it all for nothing but to lay it out."""
            engine = self.get_layout_engine()
            if self.is_saved and engine is not None and not isinstance(engine, PlaceHolderLayoutEngine):
                engine.execute(self)
            else:
                super().draw(renderer)

        def savefig(self, fname: Any, **how: Any) -> None:
            with bookkeeping(f"the picture {fname}"):
                self.is_saved = True
                try:
                    super().savefig(fname, **how)
                finally:
                    self.is_saved = False

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


@cache
def _plain() -> type[LogFormatter]:
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """Matplotlib's choice of the ticks that have room for a number, which is written 0.1 and not 1e-01."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    return Plain


def logarithmic(axes: Axes, which: str = "y") -> None:
    """Logarithmic axes ("x", "y" or "xy") with plain numbers: matplotlib's own are formulas."""
    for letter in which:
        axes.set(**{f"{letter}scale": "log"})
        axis = axes.xaxis if letter == "x" else axes.yaxis
        axis.set_major_formatter(_plain()())
        axis.set_minor_formatter(_plain()(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


SEEN_COLOURS, PALETTE_PIXELS = 65_536, 20_000


def palette(picture: Image, count: int = 256) -> Image:
    """An RGB picture in ``count`` colours, spread so that small bright things keep theirs; exact where it has no more.

    Pillow's time grows with colours times ``count``, and its ``kmeans`` is how many pixels may still change their
    colour in the last round, whatever rounds that takes: minutes for a picture of photographs. So beyond
    :data:`SEEN_COLOURS` the colours are those of every so many-th pixel.
    """
    from PIL import Image as images

    how = {"method": images.Quantize.MAXCOVERAGE, "kmeans": 3, "dither": images.Dither.NONE}
    sample = _sample(picture)
    few = sample.quantize(count, **how)
    return few if sample is picture else picture.quantize(palette=few, dither=images.Dither.NONE)


def _sample(picture: Image) -> Image:
    """The picture, or of one with very many colours a grid of its pixels."""
    from PIL import Image as images

    if picture.getcolors(SEEN_COLOURS) is not None:
        return picture
    step = math.ceil(math.sqrt(picture.width * picture.height / PALETTE_PIXELS))
    size = max(1, picture.width // step), max(1, picture.height // step)
    return picture.resize(size, images.Resampling.NEAREST)
