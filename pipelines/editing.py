"""Values of a YAML file changed in its text: whatever does not change stays, to the last space and comment.

The parser says where each value begins and ends; a new one is put there in one line. So comments stay where a person
put them, and a block of several lines that gives way to another stays as a comment: it says what the other choice was.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML, MappingNode, Node, SequenceNode
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from pipelines.document import WIDTH, ParamsError, Representer, Whole, load

REMARK = re.compile(r"(?<![^\s])#.*")


@dataclass(frozen=True)
class Edit:
    """``text[begin:end]`` becomes ``new``."""

    begin: int
    end: int
    new: str


def edited(text: str, changes: Mapping[str, Any]) -> str:
    """The text with these changes: blocks key by key, a :class:`Whole` block and every other value in its place.

    Raises:
        ruamel.yaml.error.YAMLError: the text is no YAML. ParamsError: it is written so that these values cannot be
        changed without others.
    """
    values = load(text)
    values = {} if values is None else values
    made = text if not text or text.endswith("\n") else f"{text}\n"
    node = YAML(typ="safe", pure=True).compose(made)
    if node is None:
        made += "".join(f"{_flow(key)}: {_flow(value)}\n" for key, value in changes.items())
    else:
        edits = sorted(_edits(made, node, values, changes), key=lambda one: one.begin)  # an inner block's stay first
        for edit in reversed(edits):
            made = made[: edit.begin] + edit.new + made[edit.end :]
    with contextlib.suppress(YAMLError):
        if _same(load(made), _changed(values, changes)):
            return made
    keys = ", ".join(map(str, changes))
    raise ParamsError(f"{keys}: written in a way that cannot be changed here (&name and *name?); change it by hand.")


def _edits(text: str, node: Node, values: Mapping[str, Any], changes: Mapping[str, Any]) -> Iterator[Edit]:
    """What changes below one mapping."""
    if not isinstance(node, MappingNode):
        return
    nodes = {key.value: (key, value) for key, value in node.value}
    added = {}
    for name, change in changes.items():
        is_merged = isinstance(change, Mapping) and not isinstance(change, Whole)
        wanted = _changed(values[name], change) if is_merged and isinstance(values.get(name), Mapping) else change
        if name not in nodes:
            if name not in values or not _same(values[name], _plain(wanted)):
                added[name] = wanted
            continue
        key, value = nodes[name]
        is_alias = value.start_mark.index < key.end_mark.index  # the parser tells where the value itself stands
        if is_merged and isinstance(value, MappingNode) and not is_alias:
            yield from _edits(text, value, values[name], change)
        elif not _same(values[name], _plain(wanted)):
            yield _replaced(text, key, value, _flow(wanted), is_alias)
    if added:
        yield _added(text, node, added)


def _replaced(text: str, key: Node, value: Node, new: str, is_alias: bool) -> Edit:
    """Another value behind a key; comments that stood within the old one follow it."""
    behind = key.end_mark.index
    if is_alias:
        found = re.compile(r"\s*:\s*\*[^\s,\]}]+").match(text, behind)
        return _in_line(text, behind, found.end() if found else behind, f": {new}")
    begin, end = value.start_mark.index, value.end_mark.index
    is_block = isinstance(value, MappingNode | SequenceNode)
    if is_block and not value.flow_style and "\n" in text[behind:begin]:
        return _below(text, text.index(":", behind) + 1, begin, end, new)
    if begin == end:  # nothing is written: null
        begin = end = text.index(":", behind) + 1
    old = text[begin:end].rstrip("\n ")
    told = old if is_block else old.partition("\n")[0] if old[:1] in ("|", ">") else ""
    column = " " * (_column(text, key.start_mark.index) + 2)
    remarks = "".join(f"\n{column}{remark}" for remark in REMARK.findall(told)) if "\n" in old else ""
    space = "" if text[begin - 1 : begin].isspace() else " "
    return _in_line(text, begin, begin + len(old), space + new, remarks)


def _below(text: str, begin: int, block: int, end: int, new: str) -> Edit:
    """A value in place of the block on the lines below, which stays as a comment where it has comments."""
    first, end = text.rindex("\n", 0, block) + 1, _content_end(text, begin, end)
    old = text[first:end]
    told, _, between = text[begin:first].rstrip("\n").partition("\n")
    kept = "\n".join(part for part in (between, _remarked(old) if REMARK.search(old) else "") if part.strip())
    return Edit(begin, end, _aligned(f" {new}", told) + (f"\n{kept}" if kept else ""))


def _in_line(text: str, begin: int, end: int, new: str, remarks: str = "") -> Edit:
    """Another value in place of ``text[begin:end]``; the comment behind it keeps its column where it can."""
    stop = text.find("\n", end)
    rest = text[end : stop if stop >= 0 else len(text)]
    if re.fullmatch(r" +#.*", rest):
        new, end = _aligned(new, " " * (0 if "\n" in text[begin:end] else end - begin) + rest), end + len(rest)
    elif remarks:
        new, end = new + rest, end + len(rest)
    return Edit(begin, end, new + remarks)


def _aligned(new: str, old: str) -> str:
    """The new text with the comment of the old one, if it has one, at its column or behind a space."""
    column = len(old) - len(old.lstrip(" "))
    return f"{new}{' ' * max(1, column - len(new))}{old[column:]}".rstrip(" ")


def _content_end(text: str, begin: int, end: int) -> int:
    """The end of the last line before ``end`` that is neither empty nor a comment, without its line feed."""
    lines = text[begin:end].split("\n")
    while len(lines) > 1 and re.fullmatch(r"\s*(#.*)?", lines[-1]):
        lines.pop()
    return begin + len("\n".join(lines))


def _remarked(lines: str) -> str:
    """Lines of a block as comments that stand in its column."""
    column = len(lines) - len(lines.lstrip(" "))
    return "\n".join(
        line if re.fullmatch(r"\s*(#.*)?", line) else f"{line[:column]}# {line[column:]}" for line in lines.split("\n")
    )


def _added(text: str, node: MappingNode, added: Mapping[str, Any]) -> Edit:
    """New keys behind the last one of a block."""
    items = [f"{_flow(key)}: {_flow(value)}" for key, value in added.items()]
    if node.flow_style:
        end = node.end_mark.index - 1
        last = max((one.end_mark.index for pair in node.value for one in pair), default=end)
        is_parted = not node.value or "," in REMARK.sub("", text[last:end])
        return Edit(end, end, ("" if is_parted else ", ") + ", ".join(items))
    column = " " * _column(text, node.value[0][0].start_mark.index)
    end = _content_end(text, node.start_mark.index, node.end_mark.index)
    return Edit(end, end, "".join(f"\n{column}{item}" for item in items))


def _column(text: str, index: int) -> int:
    return index - (text.rfind("\n", 0, index) + 1)


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    writer = YAML(typ="rt")
    writer.Representer, writer.width = Representer, WIDTH
    stream = io.StringIO()
    writer.dump(_in_braces({"a": value}), stream)
    return stream.getvalue().strip()[len("{a: ") : -1]


def _in_braces(value: Any) -> Any:
    if isinstance(value, Mapping):
        made = CommentedMap({key: _in_braces(one) for key, one in value.items()})
    elif isinstance(value, list | tuple):
        made = CommentedSeq([_in_braces(one) for one in value])
    else:
        return value
    made.fa.set_flow_style()
    return made


# ---- values -------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _changed(values: Any, changes: Any) -> Any:
    """The values that the changed text is to have."""
    if not isinstance(changes, Mapping) or isinstance(changes, Whole) or not isinstance(values, Mapping):
        return _plain(changes)
    return {**values, **{key: _changed(values.get(key), change) for key, change in changes.items()}}


def _same(one: Any, other: Any) -> bool:
    """Equal in kind too: 1, 1.0 and true are three values, and NaN is NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))
