"""The graph of stages as a layered drawing in SVG: inputs on one side, what follows from them on the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from pipelines.evaluation.markup import Html, join, tag
from pipelines.evaluation.outcomes import Outcome
from pipelines.progress import duration

Edges = frozenset[tuple[str, str]]
MARKS = {"pass": "✓", "warn": "!", "fail": "✗"}
"""Of gates; said in words in the section that the node links to."""


@dataclass(frozen=True)
class GraphLayout:
    """Places on a grid: ``places[name] = (layer, row)``; every edge as the places it passes, first to last."""

    places: dict[str, tuple[int, int]]
    routes: dict[tuple[str, str], tuple[tuple[int, int], ...]]

    @property
    def size(self) -> tuple[int, int]:
        """Number of layers and of rows, lanes of long edges included."""
        every = [*self.places.values(), *(place for route in self.routes.values() for place in route)]
        return max(layer for layer, _ in every) + 1, max(row for _, row in every) + 1


def reduced(names: Sequence[str], edges: Iterable[tuple[str, str]]) -> Edges:
    """The edges that no longer path implies (transitive reduction); the graph has no cycles."""
    following = {name: {v for u, v in edges if u == name} for name in names}

    @cache
    def reachable(name: str) -> frozenset[str]:
        return frozenset(following[name]).union(*(reachable(after) for after in following[name]))

    def implied(u: str, v: str) -> bool:
        return any(v in reachable(other) for other in following[u] if other != v)

    return frozenset((u, v) for u in names for v in following[u] if not implied(u, v))


def _depths(names: Sequence[str], edges: Edges) -> tuple[dict[str, int], dict[str, int]]:
    """Of every node the length of the longest path that leads to it, and of the longest that leaves it."""

    @cache
    def before(name: str) -> int:
        return max((before(u) + 1 for u, v in edges if v == name), default=0)

    @cache
    def after(name: str) -> int:
        return max((after(v) + 1 for u, v in edges if u == name), default=0)

    return {name: before(name) for name in names}, {name: after(name) for name in names}


def laid_out(names: Sequence[str], edges: Edges) -> GraphLayout:
    """Layers by longest path, a node with room to move in its middle; rows by the longest path through a node.

    An edge over several layers reserves a lane in each, so that it never crosses a node.
    """
    before, after = _depths(names, edges)
    last = max(before.values(), default=0)
    layer = {name: (before[name] + last - after[name]) // 2 for name in names}
    points: dict[tuple[str, ...], int] = {(name,): layer[name] for name in names}
    chains: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for u, v in sorted(edges, key=lambda edge: (names.index(edge[0]), names.index(edge[1]))):
        lanes = [(u, v, str(at)) for at in range(layer[u] + 1, layer[v])]
        points |= {lane: layer[u] + 1 + index for index, lane in enumerate(lanes)}
        chains[u, v] = [(u,), *lanes, (v,)]
    rows = _rows(points, chains, {name: before[name] + after[name] for name in names})
    places = {name: (layer[name], rows[(name,)]) for name in names}
    return GraphLayout(places, {edge: tuple((points[p], rows[p]) for p in chain) for edge, chain in chains.items()})


def _rows(
    points: Mapping[tuple[str, ...], int],
    chains: Mapping[tuple[str, str], Sequence[tuple[str, ...]]],
    importance: Mapping[str, int],
) -> dict[tuple[str, ...], int]:
    """A row per point: that of its most important predecessor where it is free, else the next one down."""
    previous: dict[tuple[str, ...], list[tuple[str, ...]]] = {point: [] for point in points}
    for chain in chains.values():
        for first, second in pairwise(chain):
            previous[second].append(first)

    def weight(point: tuple[str, ...]) -> int:
        return min(importance[name] for name in point[:2])

    rows: dict[tuple[str, ...], int] = {}
    for at in range(max(points.values(), default=0) + 1):
        wanted = {}
        for point in (p for p, layer in points.items() if layer == at):
            leading = max(previous[point], key=weight, default=None)
            wanted[point] = rows[leading] if leading is not None else 0
        free = 0
        for point in sorted(wanted, key=lambda p: (wanted[p], -weight(p))):
            rows[point] = max(free, wanted[point])
            free = rows[point] + 1
    return rows


# ---- drawing ------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, GAP, LANE, THIN = 124, 66, 20, 26, 18


@dataclass(frozen=True)
class Drawing:
    """Grid to pixels; ``down`` draws layers from top to bottom (for narrow screens) instead of left to right.

    ``filled``: of every row, whether a node stands in it; a row of lanes alone is thin.
    """

    down: bool
    filled: tuple[bool, ...]

    def start(self, row: int) -> int:
        """Where a row begins."""
        own = WIDTH + 40 + GAP if self.down else HEIGHT + LANE
        return sum(own if is_filled else THIN for is_filled in self.filled[:row])

    def corner(self, place: tuple[int, int]) -> tuple[int, int]:
        """The upper left corner of a node's box."""
        layer, row = place
        if self.down:
            return self.start(row) + 2, layer * (HEIGHT + GAP) + 2
        return layer * (WIDTH + GAP) + 2, self.start(row) + 2

    @property
    def width(self) -> int:
        """Width of a node's box."""
        return WIDTH + 40 if self.down else WIDTH

    @property
    def direction(self) -> str:
        """The word for style sheet and identifiers."""
        return "down" if self.down else "across"

    def ends(self, place: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where edges enter and leave the box at a place."""
        x, y = self.corner(place)
        is_filled = self.filled[place[1]]
        if self.down:
            middle = x + (self.width if is_filled else THIN) / 2
            return (middle, y), (middle, y + HEIGHT)
        middle = y + (HEIGHT if is_filled else THIN) / 2
        return (x, middle), (x + self.width, middle)

    def bend(self, start: tuple[float, float], end: tuple[float, float]) -> str:
        """A smooth curve from one box to the next layer's."""
        (x0, y0), (x1, y1) = start, end
        if self.down:
            middle = (y0 + y1) / 2
            return f"C{x0:g} {middle:g} {x1:g} {middle:g} {x1:g} {y1:g}"
        middle = (x0 + x1) / 2
        return f"C{middle:g} {y0:g} {middle:g} {y1:g} {x1:g} {y1:g}"

    def edge(self, route: Sequence[tuple[int, int]]) -> Html:
        """A path through the lanes of the layers between."""
        x, y = self.ends(route[0])[1]
        words = [f"M{x:g} {y:g}"]
        for index, place in enumerate(route[1:], start=1):
            enters, leaves = self.ends(place)
            words.append(self.bend(self.ends(route[index - 1])[1], enters))
            if index < len(route) - 1:
                words.append(f"L{leaves[0]:g} {leaves[1]:g}")
        return tag("path", d=" ".join(words), class_="edge", marker_end=f"url(#arrow-{self.direction})")


def wrapped(name: str, most: int = 13) -> list[str]:
    """A stage's name on at most two lines, broken between its words."""
    words = name.replace("_", " ").split()
    if len(name) <= most:
        return [" ".join(words)]
    splits = [(" ".join(words[:n]), " ".join(words[n:])) for n in range(1, len(words))]
    return list(min(splits, key=lambda pair: max(map(len, pair)))) if splits else [name]


def _node(stage: Outcome, corner: tuple[int, int], width: int, colour: int) -> Html:
    x, y = corner
    lines = wrapped(stage.name)
    first = y + 19 + (2 - len(lines)) * 8
    names = [tag("text", line, x=x + 13, y=first + 15 * index, class_="name") for index, line in enumerate(lines)]
    seconds = stage.seconds
    if not stage.has_run:
        state = "optional" if stage.is_optional else "not run"
    elif seconds is not None:
        state = duration(seconds)
    else:
        state = "done"
    below = [tag("text", state, x=x + 13, y=y + HEIGHT - 10, class_="state")]
    if stage.verdict is not None:
        mark = MARKS[stage.verdict]
        words = f"state {stage.verdict}"
        below.append(tag("text", mark, x=x + width - 10, y=y + HEIGHT - 10, class_=words, text_anchor="end"))
    box = tag("rect", x=x, y=y, width=width, height=HEIGHT, rx=8, class_="box")
    stripe = tag("path", d=f"M{x + 4} {y + 9} V{y + HEIGHT - 9}", class_="stripe")
    classes = f"node group-{colour}" + ("" if stage.has_run else " missing")
    title = tag("title", f"{stage.name}: {stage.description}")
    return tag("a", title, box, stripe, *names, *below, href=f"#stage-{stage.name}", class_=classes)


def colours(stages: Iterable[Outcome]) -> dict[str, int]:
    """A colour number per group, in the order in which groups appear."""
    return {group: index % 8 for index, group in enumerate(dict.fromkeys(stage.group for stage in stages))}


def draw(stages: Mapping[str, Outcome], down: bool = False) -> Html:
    """The graph as an inline SVG whose nodes link to the stages' sections (``#stage-<name>``)."""
    names = list(stages)
    edges = reduced(names, [(u, stage.name) for stage in stages.values() for u in stage.reads])
    layout, group = laid_out(names, edges), colours(stages.values())
    layers, rows = layout.size
    stand = {row for _, row in layout.places.values()}
    drawing = Drawing(down, tuple(row in stand for row in range(rows)))
    far_x, far_y = drawing.corner((layers - 1, max(stand)))
    width, height = far_x + drawing.width, far_y + HEIGHT
    if max(stand) < rows - 1:  # lanes beyond the last node
        width, height = (drawing.start(rows), height) if down else (width, drawing.start(rows))
    nodes = [
        _node(stages[name], drawing.corner(place), drawing.width, group[stages[name].group])
        for name, place in layout.places.items()
    ]
    sizes = {"markerWidth": 7, "markerHeight": 7, "refX": 6, "refY": 3.5}
    head = tag("path", d="M0 0 L7 3.5 L0 7 z")
    arrow = tag("marker", head, id=f"arrow-{drawing.direction}", orient="auto", **sizes)
    return tag(
        "svg",
        tag("defs", arrow),
        join(drawing.edge(route) for route in layout.routes.values()),
        *nodes,
        viewBox=f"0 0 {width + 2} {height + 2}",
        class_=f"lineage {drawing.direction}",
        role="img",
        aria_label="Graph of the stages: " + "; ".join(f"{u} to {v}" for u, v in sorted(edges)),
        style=f"max-width:{width + 2}px" if not down else f"width:{width + 2}px",
    )
