"""params.yaml and dvc.yaml with another source: lines are added and commented out, every other character stays.

Where the keys stand is asked of ruamel.yaml, with which DVC reads these files; the result is read again and compared,
so that nothing else changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.footage.params import SourceBlock
from pipelines.stage import StageError

STAGE = "raw_video"
SHARED: dict[str, Any] = {
    "prompt_prefix": None,
    "cutting": {"stride": 1.0, "shots": {"threshold": 0.15, "ratio": 2.5}, "buckets": None, "hold": None},
    "quality": {"motion": None, "sharpness": None, "duplicate": None, "caption": {"min_words": 1}},
    "max_clips_per_video": None,
    "max_rejected_share": 0.05,
    "limits": {
        "max_pixels": 9437184,
        "max_frames": 200000,
        "max_seconds": 10800.0,
        "max_bytes": 68719476736,
        "max_decode_seconds": 3600.0,
    },
}
"""What every source of files states, where params.yaml has none yet from which it could be taken."""
WIDTH = 100
"""A block in braces that is longer stands on lines of its own."""
COMMENTS = {
    "path": "searched with its subfolders",
    "media": "videos, images (one-frame clips) or both",
    "captions": "null: a text beside each; or a table; or a pattern that fits several",
    "urls": "paths or addresses; {000..012} counts",
    "max_samples": "null: all",
    "camera": "the feature whose videos are taken",
    "action": "the feature that is the clips' actions; null: none",
    "action_log": "name of the csv of keys in each folder; null: no actions",
    "prompt_prefix": 'text in front of every caption: "prefix. caption"',
    "cutting": "how a video becomes clips",
    "quality": "null: not judged",
    "max_clips_per_video": "null: all",
    "max_rejected_share": "of unusable files, above which the stage fails",
    "limits": "most that one file may hold or cost",
}


def _loaded(text: str, file: str) -> Any:
    try:
        return YAML().load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        raise StageError(f"{where}: not readable as YAML: {getattr(error, 'problem', error)}.") from None


def _plain(value: Any) -> Any:
    """A loaded document without ruamel's own classes."""
    return YAML(typ="safe", pure=True).load(value)


def _key(mapping: Any, name: str) -> tuple[int, int]:
    """Line and column of a key, from 0."""
    return mapping.lc.key(name)


def _item(sequence: Any, place: int) -> tuple[int, int]:
    """Line and column of an item, from 0."""
    return sequence.lc.item(place % len(sequence))


def _begins(mapping: Any) -> int:
    """The line of a mapping's first key."""
    return mapping.lc.line


def _in_braces(sequence: Any) -> bool:
    return bool(sequence.fa.flow_style())


def shared_values(params: str) -> dict[str, Any]:
    """What the present source of files states besides its own keys; the usual values where it is none."""
    source = (_plain(params) or {}).get(STAGE, {}).get("source") or {}
    present = next((one for name, one in source.items() if name != "rendered" and isinstance(one, Mapping)), {})
    return {name: present.get(name, value) for name, value in SHARED.items()}


def block_lines(block: str, values: Mapping[str, Any], indent: int) -> list[str]:
    """The block as lines of YAML, a comment behind each of its keys."""
    lines = [f"{' ' * indent}{block}:"]
    for name, value in values.items():
        comment = f"  # {COMMENTS[name]}" if name in COMMENTS else ""
        text = f"{' ' * (indent + 2)}{name}: {flow(value)}"
        if len(text) <= WIDTH or not isinstance(value, Mapping):
            lines.append(text + comment)
            continue
        lines.append(f"{' ' * (indent + 2)}{name}:{comment}")
        lines += [f"{' ' * (indent + 4)}{one}: {flow(held)}" for one, held in value.items()]
    return lines


def flow(value: Any) -> str:
    """A value in one line of YAML that YAML 1.1 and 1.2 read alike."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {flow(one)}" for name, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        return scalar(value)
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    return json.dumps(value)


def scalar(text: str) -> str:
    """Text as YAML, in quotes where it could be taken for anything else."""
    plain = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", text)
    words = ("null", "true", "false", "yes", "no", "on", "off", "y", "n", ".", "..", ".nan", ".inf")
    return text if plain and text.lower() not in words else json.dumps(text, ensure_ascii=False)


def with_source(params: str, block: str, values: Mapping[str, Any], file: str = "params.yaml") -> str:
    """The text of params.yaml with this block as the one source; the earlier one stays as a comment.

    Raises:
        StageError: the file has no ``raw_video.source``, or cannot be changed without changing more.
    """
    document = _loaded(params, file)
    section: Any = document.get(STAGE) if isinstance(document, Mapping) else None
    source: Any = section.get("source") if isinstance(section, Mapping) else None
    if not isinstance(section, Mapping) or not isinstance(source, Mapping):
        raise StageError(f"{file}: has no {STAGE}.source to be written to.")
    lines = params.split("\n")
    begin, column = _key(section, "source")
    if _begins(source) == begin:  # in braces, on the line of its key
        end = _end(lines, begin, column)
        lines[begin:end] = [f"{' ' * column}source:", *(_commented(line, column) for line in lines[begin:end])]
    else:
        for name in [name for name, one in source.items() if one is not None]:
            first, deep = _key(source, name)
            for number in range(first, _end(lines, first, deep)):
                lines[number] = _commented(lines[number], deep)
    lines[begin + 1 : begin + 1] = block_lines(block, values, column + 2)
    text = "\n".join(lines)
    before, after = _plain(params), _plain(text)
    before[STAGE]["source"] = {**{name: None for name, one in source.items() if one is None}, block: dict(values)}
    kept = {name: one for name, one in after[STAGE]["source"].items() if one is not None}
    if {**after, STAGE: {**after[STAGE], "source": kept}} != {
        **before,
        STAGE: {**before[STAGE], "source": {block: dict(values)}},
    }:
        raise StageError(
            f"{file}: {STAGE}.source is written in a way that cannot be changed here; see docs/raw_video.md."
        )
    return text


def _commented(line: str, column: int) -> str:
    if not line.strip() or line.lstrip().startswith("#"):
        return line
    return f"{line[:column]}# {line[column:]}"


def _end(lines: Sequence[str], first: int, column: int) -> int:
    """The line after the last of a block that begins at ``first`` in this column."""
    end = first + 1
    for number in range(first + 1, len(lines)):
        line = lines[number]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(line) - len(line.lstrip()) <= column:
            break
        end = number + 1
    return end


def with_deps(graph: str, wanted: Sequence[str], gone: Sequence[str], file: str = "dvc.yaml") -> str:
    """The text of dvc.yaml whose stage depends on ``wanted`` too, and no more on ``gone``.

    Raises:
        StageError: the stage or its deps are not there, or cannot be changed without changing more.
    """
    document = _loaded(graph, file)
    stage: Any = (document or {}).get("stages", {}).get(STAGE)
    deps: Any = stage.get("deps") if isinstance(stage, Mapping) else None
    if not isinstance(stage, Mapping) or not isinstance(deps, list | None):
        raise StageError(f"{file}: no stage {STAGE} whose deps could be set; see docs/raw_video.md.")
    if deps is None:
        return _with_new_deps(graph, stage, wanted)
    present = [str(dep) for dep in deps]
    left = [dep for dep in present if dep not in gone or dep in wanted]
    new = [*(dep for dep in wanted if not _covered(dep, left)), *left]
    if new == present:
        return graph
    lines = graph.split("\n")
    begin, column = _key(stage, "deps")
    if _in_braces(deps) or not new:
        last = begin if _in_braces(deps) else _item(deps, -1)[0]
        end = next(number for number in range(last, len(lines)) if not _in_braces(deps) or "]" in lines[number]) + 1
        lines[begin:end] = [f"{' ' * column}deps: [{', '.join(map(scalar, new))}]"] if new else []
    else:
        _change_items(lines, deps, left, [dep for dep in new if dep not in left])
    text = "\n".join(lines)
    before, after = _plain(graph), _plain(text)
    before["stages"][STAGE].pop("deps")
    if sorted(after["stages"][STAGE].pop("deps", [])) != sorted(new) or before != after:
        raise StageError(
            f"{file}: add {', '.join(map(scalar, wanted))} to deps of {STAGE}; its lines are not as expected."
        )
    return text


def _change_items(lines: list[str], deps: Any, left: Sequence[str], added: Sequence[str]) -> None:
    """Items of a list that stands on lines of its own: those not ``left`` go, others come before the first."""
    first, deep = _item(deps, 0)
    gone = [_item(deps, place)[0] for place, dep in enumerate(deps) if str(dep) not in left]
    for number in sorted(gone, reverse=True):
        del lines[number]
    lines[first:first] = [f"{' ' * (deep - 2)}- {scalar(dep)}" for dep in added]


def _with_new_deps(graph: str, stage: Any, wanted: Sequence[str]) -> str:
    """The same, of a stage without deps: they are written before its params or outs."""
    if not wanted:
        return graph
    lines = graph.split("\n")
    begin, column = _key(stage, next(name for name in ("params", "outs", "cmd") if name in stage))
    lines.insert(begin, f"{' ' * column}deps: [{', '.join(map(scalar, wanted))}]")
    return "\n".join(lines)


def _covered(path: str, deps: Sequence[str]) -> bool:
    return any(path == dep or path.startswith(f"{dep.rstrip('/')}/") for dep in deps)


def paths_of(params: str) -> list[str]:
    """Paths that the present source names."""
    source = (_plain(params) or {}).get(STAGE, {}).get("source") or {}
    found = []
    for name in SourceBlock.model_fields:
        one = source.get(name)
        if isinstance(one, Mapping):
            urls = one.get("urls")
            found += [one[key] for key in ("path", "captions") if isinstance(one.get(key), str)]
            for url in urls if isinstance(urls, list) else ():
                found += [str(url), str(url).rpartition("/")[0]]
    return found
