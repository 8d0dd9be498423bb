"""The picture of a chain shows every edge, and no text of anybody breaks it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from pipelines.provenance import Lineage
from pipelines.provenance_picture import HEIGHT, WIDTH, svg


def chain(text: str = "stage") -> Lineage:
    """Clips, latents of them, a flow of both: one edge passes over a column."""
    read = {"clips": [], "latents": ["clips"], "flow": ["clips", "latents"]}
    nodes = {
        name: {"stage": text, "params": {text: text}, "inputs": {one: {"path": one, "digest": one} for one in inputs}}
        for name, inputs in read.items()
    }
    return Lineage(Path("flow"), "flow", nodes, None, {})


def test_an_edge_over_a_column_goes_around_the_boxes_and_none_is_lost() -> None:
    drawing = svg(chain())
    boxes = [tuple(map(float, found)) for found in re.findall(r'<rect x="(\S+)" y="(\S+)"', drawing)]
    paths = re.findall(r'<path d="(\S[^"]*)"', drawing)
    assert len(boxes) == len(paths) == 3
    [around] = [path for path in paths if "V" in path]
    lane = float(re.findall(r"V(\S+)", around)[0])
    assert all(lane > y + HEIGHT for _, y in boxes)
    turns = [float(x) for x in re.findall(r"H(\S+)", around)[:2]]
    assert all(not x <= turn <= x + WIDTH for turn in turns for x, _ in boxes), "it goes up and down between columns"
    height = float(re.findall(r'height="(\d+)"', drawing)[0])
    assert lane < height


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>&", "\x00\x1b[31m\u202e", "$x$ `a` | # [b](c)", "x" * 1_000_000]
)
def test_a_hostile_text_leaves_the_picture_whole_and_small(text: str) -> None:
    drawing = svg(chain(text))
    assert len(ElementTree.fromstring(drawing).findall(".//{*}text")) == 12 and len(drawing) < 6000
    assert "<script>" not in drawing and all(letter.isprintable() or letter == "\n" for letter in drawing)
