"""What a stage's entry in dvc.yaml must have: ``python -m pipelines.entries`` says in a second what is wrong with one.

One list for `reel check` and for the project's own tests. A stage that launches none of ours has no such rules.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.code.stages import CODE_FILE
from pipelines.commands import GRAPH, command_text, launch_options, stage_function
from pipelines.document import PARAMS_FILE, ParamsError, read_document
from pipelines.params import Params, mistakes, section_classes
from pipelines.stage import StageError, path_flags

SHELL = re.compile(r"[$;&|<>`{}\\*?~'\"#]")
MADE = {"out": "outs", "metrics": "metrics", "plots": "plots"}
"""Flags that name what a stage makes, and where its entry says so."""
LAUNCHER = re.compile(r"--alone|--threads=[1-9][0-9]*")


@dataclass(frozen=True)
class StageEntry:
    """One stage as its file has it, and where."""

    name: str
    content: Mapping[str, Any]
    lines: Mapping[tuple[Any, ...], int]
    root: Path

    def complaint(self, key: str, said: str) -> str:
        """One line: ``dvc.yaml:12: stage mine: deps: …``; of a key that is not there, the line of the stage's name."""
        line = self.lines.get(("stages", self.name, key)) or self.lines["stages", self.name]
        return f"{GRAPH}:{line}: stage {self.name}: {key}: {said}"

    def paths(self, key: str) -> list[str]:
        """Paths of deps, outs, metrics or plots, with or without options behind them."""
        found = self.content.get(key)
        return (
            []
            if not isinstance(found, list)
            else [str(next(iter(one)) if isinstance(one, dict) else one) for one in found]
        )

    @property
    def made(self) -> list[str]:
        """All that the stage makes."""
        return [path for key in MADE.values() for path in self.paths(key)]


def complaints(root: Path = Path()) -> list[str]:
    """Everything wrong with the entries of the project's stages, each with file, line and what to do.

    Raises:
        ParamsError: dvc.yaml cannot be read.
    """
    content, lines = read_document(root / GRAPH)
    stages = content.get("stages") or {}
    entries = [StageEntry(str(name), one, lines, root) for name, one in stages.items() if isinstance(one, dict)]
    every = {path: entry.name for entry in entries for path in entry.made}
    found = []
    for entry in entries:
        if stage_function(entry.content) is not None:
            found += [*_said(entry), *_params(entry), *_command(entry, every), *_dependencies(entry, every)]
    return found


def _said(entry: StageEntry) -> Iterator[str]:
    """What a person reads: description, group, page."""
    said = str(entry.content.get("desc") or "").strip()
    if not said:
        yield entry.complaint("desc", "missing; add one sentence that says what the stage makes.")
    elif not said.endswith("."):
        yield entry.complaint("desc", "is one sentence, which ends with a full stop.")
    block = (entry.content.get("meta") or {}).get("dagster") or {}
    if not (isinstance(block, dict) and block.get("group")):
        yield entry.complaint(
            "meta", "no dagster.group; add `meta: {dagster: {group: …}}`, a group of the web interface."
        )
    page = entry.root / "docs" / f"{entry.name}.md"
    if page.parent.is_dir() and not page.is_file():
        yield entry.complaint(
            "desc", f"docs/{entry.name}.md is missing; write what it reads, its numbers and its keys."
        )


def _params(entry: StageEntry) -> Iterator[str]:
    """Its section and its own code, nothing else."""
    own = [entry.name, {CODE_FILE.name: [entry.name]}]
    wanted = f"params: [{entry.name}, {{{CODE_FILE.name}: [{entry.name}]}}]"
    if entry.content.get("params") != own:
        yield entry.complaint("params", f"must be `{wanted}`: its section of params.yaml and the identity of its code.")
    for path in entry.paths("deps"):
        if Path(path).parts[:1] == ("pipelines",) and Path(path).suffix in ("", ".py"):
            yield entry.complaint("deps", f"{path} is code, which {CODE_FILE.name} stands for; take it out.")


def _command(entry: StageEntry, every: Mapping[str, str]) -> Iterator[str]:
    """A literal command, whose flags are the function's arguments and whose paths are those that DVC knows."""
    cmd = command_text(entry.content)
    special = SHELL.search(cmd)
    if special:
        yield entry.complaint("cmd", f"`{special[0]}` is the shell's or DVC's; write one command of plain words.")
        return
    words = cmd.split()
    options, words = launch_options(words[words.index("pipelines.launch") + 1 :])
    for option in options:
        if not LAUNCHER.fullmatch(option):
            yield entry.complaint("cmd", f"{option}: the launcher's options are --alone and --threads=N, N at least 1.")
    if len(words) < 2:
        yield entry.complaint("cmd", "names no module and function behind pipelines.launch.")
        return
    module, function, *words = words
    for word, value in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--") and value.startswith("--"):
            yield entry.complaint("cmd", f"{word} has no value; every flag has one path.")
            return
    try:
        flags = path_flags(words)
    except StageError as error:
        yield entry.complaint("cmd", str(error))
        return
    section = flags.pop("params", None)
    if section != entry.name:
        said = "is missing" if section is None else f"{section} is not its own section"
        yield entry.complaint("cmd", f"--params {said}; write --params {entry.name}.")
    yield from _arguments(entry, module, function, flags)
    yield from _paths(entry, flags, every)


def _arguments(entry: StageEntry, module: str, function: str, flags: Mapping[str, str]) -> Iterator[str]:
    """Flags against the function's signature, read from its source; a module that is not there is told elsewhere."""
    source = entry.root / Path(*module.split(".")).with_suffix(".py")
    try:
        body = ast.parse(source.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    found = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == function), None)
    if found is None or found.args.kwarg is not None:
        return
    positional = [argument.arg for argument in [*found.args.posonlyargs, *found.args.args]]
    named = [argument.arg for argument in found.args.kwonlyargs]
    optional = set(positional[len(positional) - len(found.args.defaults) :])
    optional |= {name for name, value in zip(named, found.args.kw_defaults, strict=True) if value is not None}
    known = [name for name in [*positional, *named] if name != "params"]
    for flag in flags:
        if flag not in known:
            near = difflib.get_close_matches(flag, known, n=1)
            hint = (
                f"did you mean --{_flag(near[0])}?" if near else f"it has {', '.join('--' + _flag(n) for n in known)}."
            )
            yield entry.complaint("cmd", f"--{_flag(flag)} is no argument of {module}.{function}; {hint}")
    for name in known:
        if name not in flags and name not in optional:
            yield entry.complaint("cmd", f"--{_flag(name)} is missing; {module}.{function} needs it.")


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _paths(entry: StageEntry, flags: Mapping[str, str], every: Mapping[str, str]) -> Iterator[str]:
    for flag, key in MADE.items():
        path, stated = flags.get(flag), entry.paths(key)
        if path is not None and path not in stated:
            near = f"; it has {', '.join(stated)}" if stated else ""
            yield entry.complaint(key, f"--{flag} {path} is not in it{near}. Without it DVC keeps nothing of it.")
        for other in stated:
            if other != path and other not in {flags.get(one) for one in MADE}:
                yield entry.complaint(key, f"{other} is made by no flag; write --{flag} {other}, or take it out.")
    for flag, path in flags.items():
        if flag not in MADE and path != GRAPH.name and not _is_covered(path, entry.paths("deps")):
            yield entry.complaint("deps", f"--{_flag(flag)} {path} is read and is not in it; add {path}.")


def _is_covered(path: str, deps: Sequence[str]) -> bool:
    """Whether DVC looks at what is read: the path itself, a folder that it lies in, or what lies in it."""
    return any(dep == path or dep.startswith(f"{path}/") or path.startswith(f"{dep}/") for dep in deps)


def _dependencies(entry: StageEntry, every: Mapping[str, str]) -> Iterator[str]:
    """Dependencies that nothing makes and that are not there, and those that the stage makes itself."""
    for path in entry.paths("deps"):
        if "://" in path or "$" in path:
            continue
        if path in entry.made:
            yield entry.complaint("deps", f"{path} is what the stage makes; take it out.")
        elif not _is_covered(path, list(every)) and not _is_there(entry.root / path):
            near = difflib.get_close_matches(path, every, n=1)
            hint = f"did you mean {near[0]}?" if near else "put it there, or correct the path."
            yield entry.complaint("deps", f"{path}: no stage makes it and it is not there; {hint}")


def _is_there(path: Path) -> bool:
    """Whether it lies there, or `dvc add` has put it under DVC and `dvc pull` brings it."""
    return path.exists() or path.with_name(f"{path.name}.dvc").exists()


def hidden_values(kind: type[Params], root: Path = Path()) -> Iterator[str]:
    """A line for each field of a section's class, and of the classes in it, whose value the code hides."""
    waiting, seen = [kind], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for key, field in one.model_fields.items():
            if not field.is_required():
                place = f"{_place(one, key, root)}: {one.__name__}.{key}"
                yield f"{place} has a default, which DVC cannot see change; state the value in params.yaml."
            parts = [field.annotation, *getattr(field.annotation, "__args__", ())]
            waiting += [part for part in parts if hasattr(part, "model_fields")]


def _place(kind: type[Params], key: str, root: Path) -> str:
    """File and line of a field."""
    lines, first = inspect.getsourcelines(kind)
    number = next((n for n, line in enumerate(lines) if re.match(rf"\s+{re.escape(key)}\s*[:=]", line)), 0)
    path = Path(inspect.getfile(kind))
    return f"{path.relative_to(root.resolve()) if path.is_relative_to(root.resolve()) else path}:{first + number}"


def everything(root: Path = Path()) -> list[str]:
    """What `reel check` says of entries, of sections and of the classes of sections.

    Raises:
        ParamsError: dvc.yaml or params.yaml cannot be read.
    """
    classes, _ = section_classes(root / GRAPH)
    hidden = [line for kind in classes.values() for line in hidden_values(kind, root)]
    return [*complaints(root), *dict.fromkeys(hidden), *mistakes(root / PARAMS_FILE, root / GRAPH)]


def main() -> int:
    """Entry point; returns the exit code."""
    try:
        found = everything()
    except ParamsError as error:
        found = [str(error)]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
