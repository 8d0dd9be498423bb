"""Training curves as inline SVG: one panel per kind of number, values under the pointer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.evaluation.markup import Html, join, tag

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 10, 26
MOST_POINTS = 240
MOST_LINES = 12
"""In one panel; a training may log a hundred numbers of a kind."""
FIRST = ("loss", "validation")
"""Panels shown before all others, in this order."""

Rows = Sequence[Mapping[str, float]]


def panel_of(name: str) -> str:
    """The panel of a column: validation losses stand with the losses, everything else with its prefix."""
    if name.startswith(("loss", "validation/loss")):
        return "loss"
    return name.partition("/")[0]


def panels(rows: Rows) -> dict[str, list[str]]:
    """Columns by panel, losses first; a column with fewer than two values has no curve."""
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    found: dict[str, list[str]] = {}
    for name in names:
        if sum(name in row for row in rows) > 1:
            found.setdefault(panel_of(name), []).append(name)
    return dict(sorted(found.items(), key=lambda item: FIRST.index(item[0]) if item[0] in FIRST else 99))


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most ``most`` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / size - 1e-9)
    return [round(index * size, 12) for index in range(first, math.floor(high / size + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], with 2 and 5 between where they are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**exponent for exponent in exponents]
    found = [value for value in tens if low <= value <= high]
    if len(found) < 3:
        found = [value * factor for value in tens for factor in (1, 2, 5) if low <= value * factor <= high]
    return found[:: max(1, math.ceil(len(found) / 5))]


@dataclass(frozen=True)
class Axis:
    """Values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log10(n) if self.log else n for n in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """Round numbers along the axis."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)


def number(value: float) -> str:
    """Three significant digits: ``0.0123``, ``1.5k``, ``2e-05``."""
    if value and abs(value) < 1e-3:
        return (
            f"{value:.0e}"
            if f"{value:.0e}".startswith(f"{value:.1e}"[0]) and value == float(f"{value:.0e}")
            else f"{value:.1e}"
        )
    if abs(value) >= 1e4:
        return f"{value / 1e6:.3g}M" if abs(value) >= 1e6 else f"{value / 1e3:.3g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every n-th point, the last one kept."""
    every = max(1, math.ceil(len(points) / MOST_POINTS))
    return points[::every] + (points[-1:] if (len(points) - 1) % every else [])


def _grid(x: Axis, y: Axis) -> list[Html]:
    lines = []
    for value in y.ticks:
        at = y.at(value)
        lines.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
        lines.append(tag("text", number(value), x=LEFT - 7, y=at + 3.5, text_anchor="end"))
    for value in x.ticks:
        lines.append(tag("text", number(value), x=x.at(value), y=HEIGHT - 8, text_anchor="middle"))
    return lines


def panel(rows: Rows, title: str, names: Sequence[str]) -> Html:
    """One set of axes with a line per column, a legend, and the data for the pointer as JSON."""
    series = {
        name: _thinned([(row["step"], float(f"{row[name]:.5g}")) for row in rows if name in row]) for name in names
    }
    steps = [step for points in series.values() for step, _ in points]
    values = [value for points in series.values() for _, value in points]
    low, high = min(values), max(values)
    log = low > 0 and high / low > 20 and title != "lr"
    if not log:
        low = min(low, 0.0) if low >= 0 and low < 0.6 * high else low
    if low == high:
        low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
    x, y = Axis(min(steps), max(steps), LEFT, WIDTH - RIGHT), Axis(low, high, HEIGHT - BOTTOM, TOP, log)
    lines, shown = [], []
    for index, (name, points) in enumerate(series.items()):
        places = [(x.at(step), y.at(value)) for step, value in points]
        line = " ".join(f"{a:g},{b:g}" for a, b in places)
        lines.append(tag("polyline", points=line, class_=f"line series-{index % 6}"))
        data = [[*point, *place] for point, place in zip(points, places, strict=True)]
        shown.append({"name": name, "points": data})
    pointer = tag("line", x1=0, x2=0, y1=TOP, y2=HEIGHT - BOTTOM, class_="pointer")
    drawing = tag("svg", *_grid(x, y), *lines, pointer, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
                  aria_label=f"{title} over steps", data_series=json.dumps(shown, separators=(",", ":")))  # fmt: skip
    keys = [tag("span", name, class_=f"key series-{i % 6}", data_name=name) for i, name in enumerate(names)]
    heading = tag("figcaption", tag("b", title.replace("_", " ")), " log scale" if log else "", class_="curve-title")
    return tag("figure", heading, drawing, tag("div", *keys, class_="keys"), class_="curve")


def draw(rows: Rows) -> Html | None:
    """All panels of one training; None without rows."""
    found = panels(rows)
    if not found:
        return None
    drawn = join(panel(rows, title, names[:MOST_LINES]) for title, names in found.items())
    hidden = sum(max(0, len(names) - MOST_LINES) for names in found.values())
    more = tag("p", f"{hidden} more curves are in the stage's training.csv.", class_="reads") if hidden else None
    return join([tag("div", drawn, class_="curves"), *([more] if more else [])])
