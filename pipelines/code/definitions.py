"""One source file taken apart: its definitions, what each of them names, and what every name was imported as."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.code import syntax
from pipelines.code.names import (
    COMPREHENSIONS,
    Named,
    NameReader,
    assigned,
    chain,
    imported,
    modules_of,
    own_nodes,
    signature,
)

PLACE = frozenset({"__file__", "__name__", "__package__", "__spec__", "__path__"})
"""Names by which code asks where it stands."""
AT_IMPORT = "<module>"
"""The definition of what a module does when it is imported, besides defining names."""

Defining = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class CodeError(ValueError):
    """The code cannot be understood, told in one line: file, line, what, what to do."""


@dataclass
class Definition(Named):
    """A function, class or assigned name: its digest, and what it leads to.

    ``annotations``: what a function says of its arguments, which only matters of a stage's own; ``bases``: of a class,
    as chains; ``has_hook``: a class runs code of its own when another derives from it; ``nodes``: its statements.
    """

    texts: list[str] = field(default_factory=list)
    annotations: Named = field(default_factory=Named)
    bases: list[tuple[str, ...]] = field(default_factory=list)
    has_hook: bool = False
    nodes: list[ast.stmt] = field(default_factory=list)
    digest: str = ""

    def said(self) -> str:
        """Docstrings and annotations, of all that is defined inside too: they count where somebody reads them."""
        inside = [part for node in self.nodes for part in ast.walk(node)]
        docs = [ast.get_docstring(part) for part in inside if isinstance(part, Defining)]
        shown = [getattr(part, name, None) for part in inside for name in ("annotation", "returns")]
        return ascii([*docs, *(ast.unparse(part) for part in shown if part is not None)])


@dataclass
class Module:
    """A source file.

    ``bound``: of every name it imports what it stands for; ``imports``: what it imports -> line; ``stars``: modules it
    imports all names of; ``ours``: names it defines that run code of this package when they are called.
    """

    name: str
    path: Path
    shown: str
    doc: str = ""
    definitions: dict[str, Definition] = field(default_factory=dict)
    bound: dict[str, list[str]] = field(default_factory=dict)
    imports: dict[str, int] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    ours: set[str] = field(default_factory=set)

    @property
    def package(self) -> str:
        """The package in which relative imports of this module start."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    def is_ours(self, target: str) -> bool:
        """Whether ``module`` or ``module:name`` is of this module's own package."""
        return target.replace(":", ".").split(".")[0] == self.name.split(".")[0]

    def definition(self, name: str) -> Definition:
        """The definition of that name, made if there is none."""
        return self.definitions.setdefault(name, Definition())


def read_module(name: str, path: Path, shown: str) -> Module:
    """Take the file apart; ``shown`` is how messages call it.

    Raises:
        CodeError: the file is no Python.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise CodeError(f"{shown}:{error.lineno}: {error.msg}; put it right. Nothing was started.") from None
    except (ValueError, OSError, RecursionError) as error:
        raise CodeError(f"{shown}: not readable as Python ({error}); put it right. Nothing was started.") from None
    module = Module(name, path, shown, ast.get_docstring(tree) or "")
    for node in tree.body:
        _take(module, node)
    _idle_imports(module, {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    for definition in module.definitions.values():
        definition.digest = _digest(module, definition)
    return module


def _digest(module: Module, definition: Definition) -> str:
    """SHA-256 of the texts and of what the names in them that others made stand for.

    Where this package defines a name does not count: what moves from file to file stays what it is.
    """
    firsts = {words[0] for words in definition.names}
    lines = {
        f"{name}={target}" for name in firsts for target in module.bound.get(name, ()) if not module.is_ours(target)
    }
    targets = {words[0] for words in definition.targets} | set(definition.imports)
    lines |= {f"import {target}" for target in targets if not module.is_ours(target)}
    if "__doc__" in {word for words in definition.names for word in words}:
        lines.add(f"doc {module.doc!a}")
    if firsts & PLACE:
        lines.add(f"place {module.name}")
    return hashlib.sha256("\n".join([*definition.texts, *sorted(lines)]).encode()).hexdigest()


def _take(module: Module, node: ast.stmt) -> None:
    """Put one statement at the top of the file where it belongs."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        _import(module, node)
    elif isinstance(node, ast.If) and _is_never_run(node.test):
        for other in node.orelse:
            _take(module, other)
    elif syntax.is_idle(node) or (isinstance(node, ast.AnnAssign) and node.value is None):
        return
    elif isinstance(node, Defining):
        _define(module, node.name, node)
        _note_class(module, node)
        module.ours.add(node.name)
        if _is_run_at_definition(module, node):
            module.definition(AT_IMPORT).names.add((node.name,))
    else:
        _take_statement(module, node)


def _take_statement(module: Module, node: ast.stmt) -> None:
    names = list(dict.fromkeys(assigned([node])))
    is_assignment = isinstance(node, ast.Assign | ast.AnnAssign) and bool(names)
    if not is_assignment:
        for inner in own_nodes([node]):  # imports in `try`, `with`, `if` bind names of the module
            if isinstance(inner, ast.Import | ast.ImportFrom):
                _import(module, inner)
        _define(module, AT_IMPORT, node)
    for name in names:
        _define(module, name, node)
    if is_assignment and _runs_ours(module, [node], with_handed_on=True):
        module.definition(AT_IMPORT).names |= {(name,) for name in names}
        module.ours |= set(names)


def _import(module: Module, node: ast.Import | ast.ImportFrom) -> None:
    for target in modules_of(node, module.package):
        module.imports.setdefault(target, node.lineno)
    for name, target in imported(node, module.package):
        if name == "*":
            module.stars.append(target.removesuffix(":*"))
        else:
            module.bound.setdefault(name, []).append(target)


def _define(module: Module, name: str, node: ast.stmt) -> None:
    definition = module.definition(name)
    definition.texts.append(syntax.text(node) + (_order(module, node) if name != AT_IMPORT else ""))
    definition.nodes.append(node)
    NameReader(module.package, module.bound, definition).visit(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        said = NameReader(module.package, module.bound, definition.annotations)
        for part in signature(node):
            said.visit(part)
            said.annotation(part)


def _order(module: Module, node: ast.stmt) -> str:
    """Of a value or class made at import: what came before it and may decide what it is.

    Statements that do something (``torch.set_default_dtype``), and earlier values of names that it names: one that is
    assigned again is another from there on.
    """
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    parts = [*node.bases, *node.decorator_list, *node.body] if isinstance(node, ast.ClassDef) else [node]
    nodes = list(own_nodes(parts))
    before = {part.id for part in nodes if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
    before |= {AT_IMPORT} if any(isinstance(part, ast.Call) for part in nodes) else set()
    times = {name: len(module.definitions[name].texts) for name in sorted(before) if name in module.definitions}
    least = {name: number for name, number in times.items() if number > (name != AT_IMPORT)}
    return f"after {least}" if least else ""


def _note_class(module: Module, node: Defining) -> None:
    """A class may run code of ours for every class that derives from it."""
    if isinstance(node, ast.ClassDef):
        definition = module.definitions[node.name]
        definition.bases = [chain(base) for base in [*node.bases, *(word.value for word in node.keywords)]]
        methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        is_kind = any(words[-1] in {"type", "ABCMeta", "EnumMeta", "EnumType"} for words in definition.bases)
        definition.has_hook = is_kind or bool(methods & {"__init_subclass__", "__set_name__", "__class_getitem__"})


def _idle_imports(module: Module, used: set[str]) -> None:
    """A package of others that is imported and never named is imported for what that does."""
    for name, targets in module.bound.items():
        for target in targets:
            if name not in used and ":" not in target and not _is_ours(module, (name,)):
                module.definition(AT_IMPORT).imports.setdefault(target, 0)


def _is_never_run(test: ast.expr) -> bool:
    """``if TYPE_CHECKING`` and ``if __name__ == "__main__"``: not when a stage imports the module."""
    if isinstance(test, ast.Compare):
        return ast.unparse(test) in {"__name__ == '__main__'", "'__main__' == __name__"}
    return chain(test)[-1] == "TYPE_CHECKING"


def _is_run_at_definition(module: Module, node: Defining) -> bool:
    """Whether code of ours runs when it is defined: decorators, calls in defaults, bases and the class body."""
    for decorator in node.decorator_list:
        if _is_ours(module, chain(decorator.func if isinstance(decorator, ast.Call) else decorator)):
            return True
    if not isinstance(node, ast.ClassDef):
        return _runs_ours(module, [*node.args.defaults, *filter(None, node.args.kw_defaults)])
    inside = [part for part in node.body if isinstance(part, Defining)]
    return _runs_ours(module, [*node.bases, *(part for part in node.body if part not in inside)]) or any(
        _is_run_at_definition(module, part) for part in inside
    )


def _runs_ours(module: Module, nodes: Iterable[ast.AST], with_handed_on: bool = False) -> bool:
    """Whether code of ours runs here: a call of it, a comprehension, a lambda that is called where it stands.

    ``with_handed_on``: also where a function of ours is given to a call, which may call it: ``list(map(f, values))``.
    """
    for node in own_nodes(nodes):
        if isinstance(node, COMPREHENSIONS):
            return True
        if isinstance(node, ast.Call):
            given = [*node.args, *(word.value for word in node.keywords)] if with_handed_on else []
            functions = [words for words in map(chain, given) if words[-1].islower()]
            if isinstance(node.func, ast.Lambda) or any(
                _is_ours(module, words) for words in [chain(node.func), *functions]
            ):
                return True
    return False


def _is_ours(module: Module, words: tuple[str, ...]) -> bool:
    """Whether calling a name runs code of this package, as far as this file tells."""
    return words[0] in module.ours or any(map(module.is_ours, module.bound.get(words[0], ())))
