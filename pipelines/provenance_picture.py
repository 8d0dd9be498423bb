"""A chain as an SVG: the clips at the top, what was made of them below, the artifact at the bottom.

Lines are those that no longer way implies; each box names all that was read for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from pipelines.progress import duration
from pipelines.provenance import SHORT, Lineage, printable, set_values, text_of

WIDTH, LINE, PAD, GAP_X, GAP_Y, LANE = 400, 17, 10, 24, 34, 14
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.s{font-weight:600}.d{fill:#666}"
    "rect{fill:#fff;stroke:#888}.own{stroke-width:2.5}path{fill:none;stroke:#888}marker path{fill:#888}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.d{fill:#999}rect{fill:#222}svg{background:#111}}"
)
ARROW = (
    '<defs><marker id="arrow" markerWidth="7" markerHeight="7" refX="6" refY="3.5" orient="auto">'
    '<path d="M0 0 L7 3.5 L0 7 z"/></marker></defs>'
)
Reads = Mapping[str, list[str]]


def edges(found: Lineage) -> dict[str, list[str]]:
    """Of every artifact the content hashes of what it was made from, each once."""
    return {
        digest: list(
            dict.fromkeys(
                held
                for one in node["inputs"].values()
                for held in (one["holds"].values() if one.get("holds") else [one["digest"]])
            )
        )
        for digest, node in found.nodes.items()
    }


def depths_of(artifact: str, reads: Reads) -> dict[str, int]:
    """How many steps each lies before the artifact: the longest way, so that every line goes down."""
    depths = {artifact: 0}
    waiting = [artifact]
    while waiting:
        digest = waiting.pop()
        for other in reads.get(digest, ()):
            if depths.get(other, -1) < depths[digest] + 1 <= len(reads) + 1:
                depths[other] = depths[digest] + 1
                waiting.append(other)
    return depths


def drawn_edges(depths: Mapping[str, int], reads: Reads) -> list[tuple[str, str]]:
    """Pairs (read, made) between which no longer way leads."""

    def leads(start: str, goal: str) -> bool:
        """Whether ``goal`` was read for ``start`` or for what went into it."""
        seen, waiting = set[str](), [start]
        while waiting:
            digest = waiting.pop()
            if digest == goal:
                return True
            waiting += [one for one in reads.get(digest, ()) if one not in seen and depths[one] > depths[digest]]
            seen.update(waiting)
        return False

    return [
        (one, digest)
        for digest in depths
        for one in reads.get(digest, ())
        if not any(leads(other, one) for other in reads[digest] if other != one)
    ]


def svg(found: Lineage) -> str:
    """The picture; texts are escaped and cut to their box, so that no caption can break it."""
    reads = edges(found)
    depths = depths_of(found.artifact, reads)
    rows: dict[int, list[str]] = {}
    for digest, depth in depths.items():
        rows.setdefault(depth, []).append(digest)
    told = {digest: _told(found, digest, reads) for digest in depths}
    height = max(len(lines) for lines in told.values()) * LINE + PAD
    places = {
        digest: (PAD + column * (WIDTH + GAP_X), PAD + (max(rows) - depth) * (height + GAP_Y))
        for depth, row in rows.items()
        for column, digest in enumerate(row)
    }
    beside = PAD + max(map(len, rows.values())) * (WIDTH + GAP_X)
    pairs = drawn_edges(depths, reads)
    far = [pair for pair in pairs if depths[pair[0]] - depths[pair[1]] > 1]
    lines = [_line(places[u], places[v], height) for u, v in pairs if (u, v) not in far]
    lines += [_around(places[u], places[v], height, beside + lane * LANE) for lane, (u, v) in enumerate(far)]
    boxes = [_box(told[digest], place, height, digest == found.artifact) for digest, place in places.items()]
    width = beside + len(far) * LANE + PAD - (0 if far else GAP_X)
    size = f'width="{width}" height="{2 * PAD + len(rows) * (height + GAP_Y) - GAP_Y}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{ARROW}'
    return f"{head}{''.join(lines)}{''.join(boxes)}</svg>\n"


def _line(one: tuple[int, int], other: tuple[int, int], height: int) -> str:
    """To the next row."""
    x, y, end, to = one[0] + WIDTH // 2, one[1] + height, other[0] + WIDTH // 2, other[1]
    return f'<path d="M{x} {y} C{x} {y + GAP_Y // 2} {end} {to - GAP_Y // 2} {end} {to}" marker-end="url(#arrow)"/>'


def _around(one: tuple[int, int], other: tuple[int, int], height: int, lane: int) -> str:
    """Over several rows: beside all boxes, so that it is hidden by none; it leaves and enters between rows."""
    start, end = (one[0] + WIDTH * 3 // 4, one[1] + height), (other[0] + WIDTH * 3 // 4, other[1])
    away, back = start[1] + 4 + 3 * (lane // LANE % 4), end[1] - 11 - 3 * (lane // LANE % 4)  # lines stay apart
    way = f"M{start[0]} {start[1]} V{away} H{lane} V{back} H{end[0]} V{end[1]}"
    return f'<path d="{way}" marker-end="url(#arrow)"/>'


def _told(found: Lineage, digest: str, reads: Reads) -> list[str]:
    """The lines of a box: stage, content hash, run, values, gates, and what was read."""
    node = found.nodes.get(digest)
    if node is None:
        return [_name(found, digest), digest[:SHORT], "a source, or its making is unknown"]
    values = set_values(node, every=False)
    gates = [gate.get("verdict") for gate in node.get("gates") or []]
    passed = f"{gates.count('pass')} of {len(gates)} gates and baselines pass" if gates else "no gates"
    of = ", ".join(_name(found, one) for one in reads[digest])
    return [
        _name(found, digest),
        f"{digest[:SHORT]}  {text_of(node.get('path') or '')}",
        _run(found.runs.get(digest)),
        f"{len(values)} values not as shipped: {'; '.join(values)}" if values else "nothing but shipped values",
        passed,
        f"from {of}" if of else "from no artifact",
    ]


def _name(found: Lineage, digest: str) -> str:
    """Of an artifact its stage; of a source the place at which it was read."""
    if digest in found.nodes:
        return text_of(found.nodes[digest].get("stage"))
    inputs = (one for maker in found.nodes.values() for one in maker["inputs"].values())
    return text_of(next((one["path"] for one in inputs if one["digest"] == digest), digest[:SHORT]))


def _run(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "commit, machine and times unknown here"
    commit = f"commit {(run.get('commit') or 'unknown')[:SHORT]}" + (" + changes" if run.get("dirty") else "")
    took = duration(float(run["seconds"])) if run.get("seconds") is not None else "time unknown"
    return f"{commit}; {(run.get('began_at') or 'begin unknown')[:16]}, {took}"


def _box(lines: list[str], place: tuple[int, int], height: int, is_own: bool) -> str:
    """A box that cuts what does not fit: an inner svg shows nothing beyond its edges."""
    kinds = ["s", "d", *[""] * len(lines)]
    texts = "".join(
        f'<text x="{PAD}" y="{LINE * (number + 1)}" class="{kinds[number]}">{escape(printable(line)[:100])}</text>'
        for number, line in enumerate(lines)
    )
    rect = f'<rect x="2" y="2" width="{WIDTH}" height="{height}" rx="6" class="{"own" if is_own else ""}"/>'
    frame = f'<svg x="{place[0] - 2}" y="{place[1] - 2}" width="{WIDTH + 4}" height="{height + 4}">'
    return f'{frame}{rect}<svg x="2" y="2" width="{WIDTH - PAD}" height="{height}">{texts}</svg></svg>'
