"""A chain as an SVG: the artifact at the right, what it was made from to its left, back to the clips."""

from __future__ import annotations

from html import escape

from pipelines.provenance import SHORT, Lineage, set_values, text_of

WIDTH, HEIGHT, GAP_X, GAP_Y, LINE, LANE = 230, 76, 60, 18, 16, 10
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.s{font-weight:600}"
    "rect{fill:#fff;stroke:#888}path{fill:none;stroke:#888}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}rect{fill:#222}svg{background:#111}}"
)


def edges(found: Lineage) -> dict[str, list[str]]:
    """Of every artifact the content hashes of what it was made from."""
    return {
        digest: [
            held
            for one in node["inputs"].values()
            for held in (one["holds"].values() if one.get("holds") else [one["digest"]])
        ]
        for digest, node in found.nodes.items()
    }


def _depths(found: Lineage, reads: dict[str, list[str]]) -> dict[str, int]:
    """How many steps each lies before the artifact: the longest way, so that every line goes to the right."""
    depths = {found.artifact: 0}
    waiting = [found.artifact]
    while waiting:
        digest = waiting.pop()
        for other in reads.get(digest, ()):
            if depths.get(other, -1) < depths[digest] + 1 <= len(reads) + 1:
                depths[other] = depths[digest] + 1
                waiting.append(other)
    return depths


def svg(found: Lineage) -> str:
    """The picture; texts are escaped and cut to their box, so that no caption can break it."""
    reads = edges(found)
    depths = _depths(found, reads)
    columns: dict[int, list[str]] = {}
    for digest, depth in depths.items():
        columns.setdefault(depth, []).append(digest)
    last = max(columns)
    places = {
        digest: (GAP_Y + (last - depth) * (WIDTH + GAP_X), GAP_Y + row * (HEIGHT + GAP_Y))
        for depth, column in columns.items()
        for row, digest in enumerate(column)
    }
    below = GAP_Y + max(map(len, columns.values())) * (HEIGHT + GAP_Y)
    pairs = [(other, digest) for digest in places for other in reads.get(digest, ()) if other in places]
    far = [pair for pair in pairs if depths[pair[0]] - depths[pair[1]] > 1]
    drawn = [_line(places[u], places[v]) for u, v in pairs if (u, v) not in far]
    drawn += [_around(places[u], places[v], lane, below) for lane, (u, v) in enumerate(far)]
    drawn += [_box(found, digest, x, y) for digest, (x, y) in places.items()]
    width = 2 * GAP_Y + (last + 1) * WIDTH + last * GAP_X
    height = below + len(far) * LANE + (GAP_Y if far else 0)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{"".join(drawn)}</svg>\n'


def _line(one: tuple[int, int], other: tuple[int, int]) -> str:
    """To the next column."""
    return f'<path d="M{one[0] + WIDTH} {one[1] + HEIGHT / 2} L{other[0]} {other[1] + HEIGHT / 2}"/>'


def _around(one: tuple[int, int], other: tuple[int, int], lane: int, below: int) -> str:
    """Over several columns: between them and below all boxes, so that it is hidden by none."""
    aside = LANE + lane % 4 * 8
    start, end, y = one[0] + WIDTH, other[0], below + lane * LANE
    way = f"M{start} {one[1] + HEIGHT / 2} H{start + aside} V{y} H{end - aside} V{other[1] + HEIGHT / 2} H{end}"
    return f'<path d="{way}"/>'


def _box(found: Lineage, digest: str, x: float, y: float) -> str:
    node = found.nodes.get(digest)
    if node is None:
        lines = ["a source, or unknown", digest[:SHORT]]
    else:
        set_here = set_values(node, every=False)
        run = found.runs.get(digest) or {}
        commit = f"commit {(run.get('commit') or 'unknown')[:SHORT]}" + (" + changes" if run.get("dirty") else "")
        lines = [str(node.get("stage")), digest[:SHORT], commit, f"{len(set_here)} values not as shipped"]
    texts = "".join(
        f'<text x="{x + 8}" y="{y + LINE * (number + 1)}"{" class=" + chr(34) + "s" + chr(34) if not number else ""}>'
        f"{escape(text_of(line)[:32])}</text>"
        for number, line in enumerate(lines)
    )
    return f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>{texts}'
