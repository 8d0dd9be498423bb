"""The drawing of the graph keeps what the graph says."""

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.graph import draw, laid_out, reduced, wrapped
from pipelines.evaluation.outcomes import Outcome

Graph = tuple[list[str], set[tuple[str, str]]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    names = [f"s{index}" for index in range(draw(st.integers(1, 9)))]
    pairs = [(u, v) for index, u in enumerate(names) for v in names[index + 1 :]]
    return names, set(draw(st.lists(st.sampled_from(pairs), max_size=18))) if pairs else set()


def reach(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    closed = set(edges)
    while True:
        more = {(u, w) for u, v in closed for x, w in closed if x == v} - closed
        if not more:
            return closed
        closed |= more


@given(graphs())
def test_reduction_keeps_who_follows_from_whom_and_nothing_superfluous(graph: Graph) -> None:
    names, edges = graph
    kept = set(reduced(names, edges))
    assert reach(kept) == reach(edges)
    assert all(reach(kept - {edge}) != reach(edges) for edge in kept)


@given(graphs())
def test_nodes_and_lanes_never_share_a_place_and_edges_lead_onwards(graph: Graph) -> None:
    names, edges = graph
    layout = laid_out(names, reduced(names, edges))
    lanes = [place for route in layout.routes.values() for place in route[1:-1]]
    taken = [*layout.places.values(), *lanes]
    assert len(set(taken)) == len(taken)
    for (u, v), route in layout.routes.items():
        assert route[0] == layout.places[u] and route[-1] == layout.places[v]
        assert [layer for layer, _ in route] == list(range(route[0][0], route[-1][0] + 1))


def test_a_name_takes_at_most_two_lines_and_loses_no_word() -> None:
    assert wrapped("raw_video") == ["raw video"]
    assert wrapped("anchored_flow_identity") == ["anchored", "flow identity"]
    assert wrapped("extraordinarylongname") == ["extraordinarylongname"]


def test_every_stage_is_a_link_and_a_missing_one_says_so() -> None:
    first = Outcome("first", "Says <b>.", "a", (), "", (), (), metrics={"seconds": 65.0}, gates=[{"verdict": "warn"}])
    second = Outcome("second", "", "b", (), "", ("first",), ())
    for down in (False, True):
        drawing = draw({"first": first, "second": second}, down)
        assert 'href="#stage-first"' in drawing and 'href="#stage-second"' in drawing
        assert "1 min 05 s" in drawing and "not run" in drawing and "Says &lt;b&gt;." in drawing
        assert drawing.count('class="edge"') == 1


def test_an_optional_stage_is_told_as_such_until_it_runs() -> None:
    stage = Outcome("extra", "", "a", (), "", (), (), is_optional=True)
    assert ">optional<" in draw({"extra": stage})
    assert "optional" not in draw({"extra": replace(stage, metrics={})})


@given(graphs())
def test_everything_is_drawn_inside_the_picture(graph: Graph) -> None:
    names, edges = graph
    stages = {n: Outcome(n, "", "a", (), "", tuple(u for u, v in edges if v == n), ()) for n in names}
    for down in (False, True):
        drawing = draw(stages, down)
        width, height = map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', drawing)[0])
        routes = re.findall(r'd="(M[^"]*)" class="edge"', drawing)
        pairs = [pair for route in routes for pair in re.findall(r"([-\d.]+) ([-\d.]+)", route)]
        assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in pairs)
