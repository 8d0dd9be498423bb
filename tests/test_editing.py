"""A YAML file changed in its text: the values are those asked for, and every comment and untouched line stays."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.document import ParamsError, Whole, load
from pipelines.editing import edited

NAMES = st.sampled_from("abcde")
SCALARS = st.sampled_from([0, 1, -2.5, 1e-09, True, None, "on", "a, b", "# no remark", "x: y", "", "010", float("nan")])
VALUES = st.recursive(
    SCALARS, lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=2), max_leaves=6
)
BLOCKS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=4)


def in_lines(value: Any, indent: int, style: Any, remark: Any) -> str:
    """A value behind its key in one of the ways people write it, a comment behind each line."""
    space = " " * indent
    if isinstance(value, dict) and value and style():
        return f"{remark()}\n" + "\n".join(
            f"{space}{key}:{in_lines(one, indent + 2, style, remark)}" for key, one in value.items()
        )
    if isinstance(value, list) and value and style():
        return f"{remark()}\n" + "\n".join(f"{space}- {flow(one)}{remark()}" for one in value)
    if isinstance(value, dict | list) and len(value) > 1 and style():
        opened, closed = "{}" if isinstance(value, dict) else "[]"
        items = [f"{key}: {flow(one)}" for key, one in value.items()] if isinstance(value, dict) else map(flow, value)
        return (
            f" {opened}{remark()}\n"
            + "".join(f"{space}  {item},{remark()}\n" for item in items)
            + f"{space}{closed}{remark()}"
        )
    return f" {flow(value)}{remark()}"


def flow(value: Any) -> str:
    return edited("", {"a": Whole(value) if isinstance(value, dict) else value}).removeprefix("a: ").rstrip("\n")


def applied(values: Any, changes: Any) -> Any:
    if isinstance(changes, Whole) or not isinstance(changes, dict) or not isinstance(values, dict):
        return changes
    return values | {key: applied(values.get(key), one) for key, one in changes.items()}


@given(st.data())
def test_the_values_are_those_asked_for_and_every_comment_stays(data: st.DataObject) -> None:
    values, asked = data.draw(BLOCKS), data.draw(BLOCKS)
    changes = {
        key: Whole(one) if isinstance(one, dict) and data.draw(st.booleans()) else one for key, one in asked.items()
    }
    count = iter(range(1000))

    def chance() -> bool:
        return data.draw(st.booleans())

    def remark() -> str:
        return f"  # says {next(count)};" if chance() else ""

    entries = (f"{key}:{in_lines(one, 2, chance, remark)}\n" for key, one in values.items())
    text = "# says top;\n\n" + "# says between;\n".join(entries) + "\n# says end;\n"
    assert repr(load(text)) == repr(values)
    made = edited(text, changes)
    assert repr(load(made)) == repr(applied(values, changes))
    assert sorted(re.findall(r"# says \w+;", made)) == sorted(re.findall(r"# says \w+;", text))
    assert edited(made, changes) == made and edited(text, {}) == text
    untouched = (
        entry for key, entry in zip(values, text.split("# says between;\n"), strict=True) if key not in changes
    )
    assert all(entry.removeprefix("# says top;\n\n").removesuffix("\n# says end;\n") in made for entry in untouched)


@pytest.mark.parametrize(
    ("text", "changes", "made"),
    [
        (
            "a:  # why\n  b: 1  # what\n  c: 2\n# next\nd: 1\n",
            {"a": Whole(e=3)},
            "a: {e: 3} # why\n  # b: 1  # what\n  # c: 2\n# next\nd: 1\n",
        ),
        ("a:\n- 1  # one\n- 2\n# end\n", {"a": None}, "a: null\n# - 1  # one\n# - 2\n# end\n"),
        ("a:\n  b: 1\n\n# end\n", {"a": 2}, "a: 2\n\n# end\n"),
        ("a: {b: 1,  # what\n    c: 2}  # why\n", {"a": {"b": 3}}, "a: {b: 3,  # what\n    c: 2}  # why\n"),
        ("a: {b: 1,  # what\n    c: 2}  # why\n", {"a": None}, "a: null # why\n  # what\n"),
        ("a:  # nothing\nb: ~ # none\n", {"a": {"x": 1}, "b": "on"}, "a: {x: 1} # nothing\nb: on # none\n"),
        (
            "a: |  # as it is\n  # text\nb: 'x\n  y'  # two lines\n",
            {"a": 1, "b": 2},
            "a: 1\n  # as it is\nb: 2 # two lines\n",
        ),
        ("a:\n  b: 1\n\n  # tail\nc: 1\n", {"a": {"z": 2}}, "a:\n  b: 1\n  z: 2\n\n  # tail\nc: 1\n"),
        ("a: &x {b: 1}  # first\nc: *x  # second\n", {"c": {"b": 2}}, "a: &x {b: 1}  # first\nc: {b: 2} # second\n"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n  d: 1\n", {"c": {"b": 2}}, "a: &x {b: 1}\nc:\n  <<: *x\n  d: 1\n  b: 2\n"),
        ("# only this\n", {"a": 1.0e-9}, "# only this\na: 1.0e-09\n"),
        ("a: 1   # last", {"a": 10}, "a: 10  # last\n"),
    ],
)
def test_what_people_write_stays_as_they_wrote_it(text: str, changes: dict[str, Any], made: str) -> None:
    assert edited(text, changes) == made


@pytest.mark.parametrize("text", ["a: &x {b: 1}\nc: *x\n", "a: &x\n  b: 1  # one\nc: *x\n"])
def test_a_value_that_another_key_shares_is_refused_by_name(text: str) -> None:
    with pytest.raises(ParamsError, match=r"^a: written in a way that cannot be changed here"):
        edited(text, {"a": Whole(b=2)})
