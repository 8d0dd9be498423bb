"""A definition as text that stays the same as long as it does the same to the interpreter.

Comments, docstrings, formatting, places, the order of neighbouring imports and the annotations of functions and their
variables are not in it; those of a class are where it has a decorator or a base, which may make fields of them.
``ast.dump`` differs between versions of Python; this text does not: fields that are absent or empty are left out,
f-strings are joined into their shortest form, and strings are written in ASCII.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

SKIPPED = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
"""Fields that say nothing which other fields do not say."""


def is_idle(node: ast.AST) -> bool:
    """Whether a statement does nothing: a docstring or another lone constant, ``pass``."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def keeps_annotations(node: ast.AST) -> bool:
    """Whether annotations may be read: a decorator is free to look at a function's, and so is what makes a class."""
    return any(getattr(node, name, ()) for name in ("decorator_list", "bases", "keywords"))


def text(node: ast.AST) -> str:
    """The node and all below it."""
    pieces: list[str] = []
    _write(node, pieces)
    return "".join(pieces)


def _write(node: object, into: list[str], bare: bool = False) -> None:
    """``bare``: inside a function, whose annotations nobody reads."""
    if isinstance(node, ast.Constant):
        into.append(_constant(node.value))
    elif isinstance(node, ast.JoinedStr):
        into.append(f"JoinedStr({','.join(_joined(node))})")
    elif isinstance(node, ast.AST):
        _write_node(node, into, bare)
    elif isinstance(node, list):
        _write_list(node, into, bare)
    else:
        into.append(ascii(node))


def _write_node(node: ast.AST, into: list[str], bare: bool) -> None:
    kind, skipped = type(node).__name__, SKIPPED
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        bare = not keeps_annotations(node)
        skipped = SKIPPED | {"returns"} if bare else SKIPPED
    elif isinstance(node, ast.ClassDef):
        bare = not keeps_annotations(node)
    elif bare and isinstance(node, ast.arg):
        skipped = SKIPPED | {"annotation"}
    elif bare and isinstance(node, ast.AnnAssign) and node.value is not None:
        node = ast.Assign([node.target], node.value)
        kind = "Assign"
    elif isinstance(node, ast.Delete):  # `del (a, b)` and `del a, b`: a formatter makes one of the other
        node = ast.Delete([part for target in node.targets for part in getattr(target, "elts", [target])])
    into.append(f"{kind}(")
    for name in sorted(node._fields):
        value = getattr(node, name, None)
        if name not in skipped and value is not None and value != []:
            into.append(f"{name}=")
            _write(value, into, bare)
            into.append(",")
    into.append(")")


def _write_list(nodes: Sequence[object], into: list[str], bare: bool) -> None:
    imports: set[str] = set()
    into.append("[")
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= _imports(node)
            continue
        is_declared = bare and isinstance(node, ast.AnnAssign) and node.value is None
        if is_declared or (isinstance(node, ast.stmt) and is_idle(node)):
            continue
        into.extend([*sorted(imports), ","])
        imports = set()
        _write(node, into, bare)
    into.extend([*sorted(imports), "]"])


def _imports(node: ast.Import | ast.ImportFrom) -> set[str]:
    source = f"{'.' * node.level}{node.module or ''}:" if isinstance(node, ast.ImportFrom) else ""
    return {f"import {source}{alias.name} as {alias.asname or ''};" for alias in node.names}


def _constant(value: object) -> str:
    """A literal with its type: ``1``, ``1.0`` and ``True`` differ."""
    return f"{type(value).__name__} {value!a}"


def _joined(node: ast.JoinedStr) -> list[str]:
    """Parts of an f-string: neighbouring literals are one, empty ones none, an empty format none."""
    parts: list[str] = []
    literal = ""
    for value in node.values:
        if isinstance(value, ast.Constant):
            literal += str(value.value)
            continue
        if literal:
            parts.append(_constant(literal))
            literal = ""
        if isinstance(value, ast.FormattedValue):
            form = _joined(value.format_spec) if isinstance(value.format_spec, ast.JoinedStr) else []
            parts.append(f"{text(value.value)}!{value.conversion}:[{','.join(form)}]")
        else:
            parts.append(text(value))
    return [*parts, _constant(literal)] if literal else parts
