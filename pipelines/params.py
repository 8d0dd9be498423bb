"""Strict parameters: every value visible in ``params.yaml``, every mistake reported with file and line.

``params.yaml`` owns values. A stage's section is a :class:`Params` subclass without defaults, because a value that is
not in the file is a value DVC cannot see change. All sections are validated together before anything starts:
``python -m pipelines.params`` prints every mistake at once.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import PydanticUserError, ValidationError

from pipelines.commands import GRAPH, stage_commands
from pipelines.credentials import REMEDY, credentials
from pipelines.document import PARAMS_FILE, ParamsError, read_document
from pipelines.optimization import (  # noqa: F401  one address for what stages are described with
    SGD,
    Adam,
    AdamW,
    AdamW8Bit,
    Constant,
    Ema,
    Exponential,
    Falling,
    Lion,
    Lora,
    Muon,
    NetworkTraining,
    Optimizer,
    ReduceOnPlateau,
    RMSprop,
    Schedule,
    Step,
    StopAbove,
    StopBelow,
    Training,
)
from pipelines.values import (  # noqa: F401
    BelowOne,
    Betas,
    Count,
    Fraction,
    Names,
    NonNegative,
    Pair,
    Params,
    Positive,
    Real,
    Share,
    Whole,
)

HAS_LINE = re.compile(r"\S+:\d+: ")
"""A complaint that begins with its own file and line."""


class Wandb(Params):
    """Experiment tracking by wandb; ``offline`` needs neither network nor account."""

    project: str
    mode: Literal["offline", "online"]


class TrackingParams(Params):
    """Where training rows go besides the JSONL file. No stage tracks this section: switching it retrains nothing."""

    wandb: Wandb | None


# ---- loading with file:line ---------------------------------------------------------------------------------------


def _members(kind: Any) -> list[type[Params]]:
    """A Params class, or those of a union."""
    if isinstance(kind, type) and issubclass(kind, Params):
        return [kind]
    return [member for part in getattr(kind, "__args__", ()) for member in _members(part)]


def _known_keys(kind: Any) -> list[str]:
    """Field names of a Params class, or of the members of a union."""
    return list(dict.fromkeys(name for member in _members(kind) for name in member.model_fields))


def _goes_by(member: type[Params], name: Any) -> bool:
    """Whether a member of a union is the one whose ``name``, ``kind`` or the like is this word."""
    return any(name in getattr(field.annotation, "__args__", ()) for field in member.model_fields.values())


def _tags(kind: Any, name: str) -> list[str]:
    """The words in the field ``name`` that the members of a union go by."""
    fields = [member.model_fields[name] for member in _members(kind) if name in member.model_fields]
    return [str(tag) for field in fields for tag in getattr(field.annotation, "__args__", ())]


def _annotation_at(kind: Any, location: Sequence[Any]) -> Any:
    """Follow a pydantic error location into nested Params classes, as far as it names fields and members of unions."""
    for name in location:
        members = _members(kind)
        holder = next((member for member in members if name in member.model_fields), None)
        if holder is not None:
            kind = holder.model_fields[name].annotation
        elif len(members) > 1:
            kind = next((member for member in members if _goes_by(member, name)), kind)
    return kind


def _message(path: Path, section: str, error: Mapping[str, Any], kind: type[Params], lines: Mapping[Any, int]) -> str:
    """One line: ``params.yaml:12: autoencoder.training.step: unknown key; did you mean steps?``"""
    location = list(error["loc"])
    key: tuple[Any, ...] = (section,)
    for part in location:  # union branch names are in the location but not in the file
        if (*key, part) in lines or part == location[-1]:
            key = (*key, part)
    line = next(lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in lines)
    name = ".".join(map(str, key))
    if error["type"] == "extra_forbidden":
        parent = _annotation_at(kind, location[:-1])
        known = _known_keys(parent)
        close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}."
        return f"{path}:{line}: {name}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{path}:{line}: {name}: missing; state it (no value is hidden in the code)."
    if error["type"].startswith("union_tag"):  # which member of a union it is stands in a key of its own
        word, found = error["ctx"]["discriminator"].strip("'"), error["ctx"].get("tag")
        said = "missing" if found is None else f"got {found!r}"
        known = _tags(_annotation_at(kind, location), word)
        return f"{path}:{line}: {name}.{word}: {said}; one of {', '.join(known)}."
    text = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
    if isinstance(error["input"], (dict, list)):
        return f"{path}:{line}: {name}: {text}."
    return f"{path}:{line}: {name}: got {error['input']!r}: {text}."


def parse_section(kind: type[Params], section: str, path: Path = PARAMS_FILE) -> Params:
    """The section as its class.

    Raises:
        ParamsError: all mistakes of the section, a line each, with file:line.
    """
    values, lines = read_document(path)
    return _parsed(kind, section, values, lines, path)


def _parsed(
    kind: type[Params], section: str, values: Mapping[Any, Any], lines: Mapping[Any, int], path: Path
) -> Params:
    if section not in values:
        close = difflib.get_close_matches(section, map(str, values), n=1)
        hint = f" Did you mean {close[0]}?" if close else f" Sections: {', '.join(map(str, values))}."
        raise ParamsError(f"{path}: no section {section}.{hint}")
    secrets = [*_secrets({section: values[section]}, lines, path)]
    if secrets:
        raise ParamsError("\n".join(secrets))
    try:
        return kind.model_validate(values[section])
    except PydanticUserError as error:
        said = str(error).split("\n")[0]
        raise ParamsError(f"{path}: {section}: its class in {kind.__module__} cannot be used: {said}") from None
    except ValidationError as problem:
        errors = problem.errors(include_url=False)
        raise ParamsError(
            "\n".join(dict.fromkeys(_message(path, section, error, kind, lines) for error in errors))
        ) from None


def _secrets(values: Any, lines: Mapping[Any, int], path: Path) -> Iterator[str]:
    """A line for every value that holds a credential, which names its place and not the value."""
    for place, told in credentials(values):
        line = next(lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in lines)
        yield f"{path}:{line}: {'.'.join(map(str, place))}: an address with {told} is a secret; {REMEDY}."


def _class_of(node: ast.ImportFrom, name: str, source: Path) -> type[Params]:
    """The class that an import line of a stage module names."""
    line = f"from {node.module} import {name}"
    try:
        found = getattr(importlib.import_module(str(node.module)), name)
    except SyntaxError as error:
        raise ParamsError(f"{error.filename}:{error.lineno}: {error.msg}; put it right.") from None
    except Exception as error:  # whatever a module of a user's own may raise when it is imported
        said = " ".join(str(error).split()) or type(error).__name__
        raise ParamsError(f"{source}:{node.lineno}: {line}: {said}; correct it.") from None
    if not (isinstance(found, type) and issubclass(found, Params)):
        raise ParamsError(
            f"{source}:{node.lineno}: {line}: is no class of pipelines.params.Params; derive it from that."
        )
    return found


def section_class(module: str, function: str, root: Path = Path()) -> type[Params]:
    """The Params class that a stage function's ``params`` argument names, found without importing the stage.

    The stage module may import torch; its parameters live in a torch-free ``params`` module, named by a
    ``from … import XParams`` line that this function reads from the source.
    """
    source = root / Path(*module.split(".")).with_suffix(".py")
    if not source.is_file():
        raise ParamsError(f"{module}: no such stage module ({source}); see `cmd` in dvc.yaml.")
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ParamsError(f"{source}:{error.lineno}: {error.msg}; put it right.") from None
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    found = next((node for node in functions if node.name == function), None)
    if found is None:
        raise ParamsError(f"{source}: no function {function}; it has {', '.join(f.name for f in functions)}.")
    names = {argument.arg: argument.annotation for argument in found.args.args}
    annotation = names.get("params")
    if not isinstance(annotation, ast.Name):
        raise ParamsError(f"{source}: {function}() must take `params: <Stage>Params`.")
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == annotation.id for alias in node.names):
            return _class_of(node, annotation.id, source)
    raise ParamsError(f"{source}: import {annotation.id} with a `from pipelines.<room>.params import` line.")


def section_classes(graph: Path = GRAPH) -> tuple[dict[str, type[Params]], dict[str, str]]:
    """Of every section that a stage of the graph reads its class; and of the stages that have none, why, in a line."""
    root, lines = graph.parent, read_document(graph)[1] if graph.is_file() else {}
    found: dict[str, type[Params]] = {}
    wrong: dict[str, str] = {}
    for name, (module, function, section) in stage_commands(graph).items():
        try:
            found[section] = section_class(module, function, root)
        except ParamsError as error:
            place = f"{graph.name}:{lines['stages', name, 'cmd']}: stage {name}: cmd: "
            wrong[section] = str(error) if HAS_LINE.match(str(error)) else f"{place}{error}"
    return found, wrong


def mistakes(path: Path = PARAMS_FILE, graph: Path = GRAPH) -> list[str]:
    """All that is wrong with the sections and with the classes that describe them, a line each.

    Raises:
        ParamsError: one of the two files cannot be read.
    """
    values, lines = read_document(path)
    expected, wrong = section_classes(graph)
    if "tracking" in values:
        expected["tracking"] = TrackingParams
    found = list(dict.fromkeys(wrong.values()))
    found += [*_secrets(*read_document(graph), graph)] if graph.is_file() else []
    meant = set[str]()
    for section in values:
        if section not in expected and section not in wrong:
            close = difflib.get_close_matches(str(section), expected, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else "no stage in dvc.yaml reads it."
            found.append(f"{path}:{lines[(section,)]}: {section}: unknown section; {hint}")
            meant.update(close)
    for section, kind in expected.items():
        if section in meant and section not in values:
            continue  # told by its wrong name
        try:
            _parsed(kind, section, values, lines, path)  # the file is read once
        except ParamsError as error:
            found.append(str(error))
    return found


def check(path: Path = PARAMS_FILE, graph: Path = GRAPH) -> None:
    """Validate every section against its stage.

    Raises:
        ParamsError: every mistake of the whole file, a line each.
    """
    found = mistakes(path, graph)
    if found:
        raise ParamsError("\n".join(found))


if __name__ == "__main__":
    try:
        check()
    except ParamsError as error:
        sys.exit(str(error))
    print("params.yaml: every section is valid.")
