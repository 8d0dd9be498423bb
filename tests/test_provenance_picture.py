"""The picture of a chain shows what every artifact was made from, and no text of anybody breaks it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.provenance import Lineage
from pipelines.provenance_picture import WIDTH, depths_of, drawn_edges, svg

SVG = "{http://www.w3.org/2000/svg}"
BRANCHED = {"clips": [], "latents": ["clips"], "mae": ["latents"], "classes": ["mae", "latents"]} | {
    "flow": ["latents"],
    "judge": ["classes", "flow"],
}
"""One line passes over a row: latents to flow, which stands beside classes."""


def chain(read: dict[str, list[str]], text: str | None = None) -> Lineage:
    """Artifacts by name with what each was made from; the last is the one that is told of."""
    nodes = {
        name: {
            "stage": text or name,
            "params": {text or "key": text},
            "inputs": {one: {"path": text or one, "digest": one} for one in inputs},
        }
        for name, inputs in read.items()
    }
    artifact = list(read)[-1]
    return Lineage(Path(artifact), artifact, nodes, None, {})


def texts_by_box(drawing: str) -> dict[str, list[str]]:
    """Of every box its lines, by the first."""
    root = ElementTree.fromstring(drawing)
    boxes = [[text.text or "" for text in box.iter(f"{SVG}text")] for box in root.findall(f"./{SVG}svg")]
    return {lines[0]: lines for lines in boxes}


def test_every_box_names_what_it_was_made_from_and_lines_are_those_that_no_longer_way_implies() -> None:
    found = chain(BRANCHED)
    boxes = texts_by_box(svg(found))
    assert {name: lines[-1] for name, lines in boxes.items()} == {
        name: f"from {', '.join(inputs)}" if inputs else "from no artifact" for name, inputs in BRANCHED.items()
    }
    lines = re.findall(r'<path d="[^"]*" marker-end', svg(found))
    assert len(lines) == 6, "all but latents to classes, which the way over mae implies"


def test_a_line_over_a_row_goes_around_the_boxes() -> None:
    drawing = svg(chain(BRANCHED))
    frames = [tuple(map(int, found)) for found in re.findall(r'<svg x="(\d+)" y="(\d+)" width="\d+" height', drawing)]
    boxes = [(x, y) for x, y in frames if (x, y) != (2, 2)]
    [around] = [path for path in re.findall(r'<path d="([^"]*)"', drawing) if "H" in path]
    lane, own = (int(x) for x in re.findall(r"H(\d+)", around))
    away, back = (int(y) for y in re.findall(r"V(\d+)", around)[:2])
    height = int(re.findall(r'height="(\d+)"', drawing)[1]) - 4
    assert all(lane > x + WIDTH for x, _ in boxes) and lane < int(re.findall(r'width="(\d+)"', drawing)[0])
    assert all(not y <= at <= y + height for _, y in boxes for at in (away, back)), "it goes aside between rows"
    assert any(x <= own <= x + WIDTH for x, _ in boxes)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Artifacts that were made of earlier ones; the last of them of all that nothing else was made of."""
    count = draw(st.integers(1, 7))
    read = {str(n): [str(m) for m in range(n) if draw(st.booleans())] for n in range(count)}
    loose = [name for name in read if not any(name in inputs for inputs in read.values())]
    return read | {"last": loose}


@given(graphs())
def test_the_lines_lead_down_and_to_all_that_was_read(read: dict[str, list[str]]) -> None:
    depths = depths_of("last", read)
    drawn = drawn_edges(depths, read)
    assert all(depths[one] > depths[other] for one, other in drawn) and len(set(drawn)) == len(drawn)

    def above(name: str, lines: list[tuple[str, str]]) -> set[str]:
        own = {one for one, other in lines if other == name}
        return own.union(*(above(one, lines) for one in own))

    every = [(one, name) for name, inputs in read.items() for one in inputs]
    assert all(above(name, drawn) == above(name, every) for name in read)
    for pair in drawn:
        assert pair[0] not in above(pair[1], [line for line in drawn if line != pair]), "none is implied"


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>&", "\x00\x1b[31m\u202e", "$x$ `a` | # [b](c)", "x" * 1_000_000, "Z\u0351" * 500]
)
def test_a_hostile_text_leaves_the_picture_whole_and_small(text: str) -> None:
    drawing = svg(chain({"clips": [], "latents": ["clips"], "flow": ["clips", "latents"]}, text))
    root = ElementTree.fromstring(drawing)
    assert len(root.findall(".//{*}text")) == 18 and len(drawing) < 12_000
    assert "<script>" not in drawing and all(letter.isprintable() or letter == "\n" for letter in drawing)
    inner = root.findall(f"./{SVG}svg/{SVG}svg")
    assert all(pane.findall(f"{SVG}text") and int(pane.attrib["width"]) < WIDTH for pane in inner), "it is cut there"
