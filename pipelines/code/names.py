"""What a piece of code names: module-level names with their attributes, its own imports, names made at run time."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.code.syntax import is_idle, keeps_annotations

LOOKUPS = frozenset({"globals", "eval", "exec", "__import__"})
LOOKUP_MODULES = ("importlib", "pkgutil", "pydoc", "runpy", "sys.modules")
NO_LOOKUPS = ("importlib.metadata", "importlib.resources", "importlib.util.find_spec")
"""Names at run time: code that uses one of these may reach anything in its module."""
IMPORTERS = frozenset({"import_module", "__import__", "locate", "resolve_name", "run_module"})
"""Functions that import the module whose name they are given."""
SAID = frozenset({"getdoc", "getsource", "getsourcelines", "get_type_hints", "get_annotations"})
"""Functions that read the docstring or the annotations of what they are given."""
NO_FORWARD = frozenset({"Literal", "Float", "Int", "Integer", "UInt", "Bool", "Num", "Shaped", "Real", "Complex"})
"""What is subscripted with words that are no names: literals, and jaxtyping's shapes."""
MOST_OF_A_WORD = 200

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
CLOSED = (*FUNCTIONS, ast.ClassDef, ast.Constant)
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

Bound = Mapping[str, Sequence[str]]
"""Names and what they were imported as, ``module`` or ``module:name``; nothing for a variable."""
Scopes = tuple[Bound, ...]


@dataclass
class Named:
    """What code leads to.

    ``names``: (name, attributes) that it takes from its module; ``targets``: the same for what it imports itself;
    ``imports``: modules it imports itself, with the line; ``prefixes``: beginnings of module names that it completes at
    run time; ``looks_up``: it takes names at run time; ``words``: its short literals.
    """

    names: set[tuple[str, ...]] = field(default_factory=set)
    targets: set[tuple[str, ...]] = field(default_factory=set)
    imports: dict[str, int] = field(default_factory=dict)
    prefixes: set[str] = field(default_factory=set)
    looks_up: bool = False
    words: set[str] = field(default_factory=set)


def chain(node: ast.AST) -> tuple[str, ...]:
    """``a.b.c`` as its words; an empty first word where it does not begin with a name."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else "", *reversed(attributes))


def own_nodes(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes and what is below them, without the insides of functions, classes and comprehensions."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, COMPREHENSIONS):
            inside = (found for found in ast.walk(node) if isinstance(found, ast.NamedExpr))
            yield from (found.target for found in inside)  # bound where the comprehension stands
        elif not isinstance(node, CLOSED):
            for name in node._fields:
                part = getattr(node, name, None)
                if isinstance(part, list):
                    waiting += [item for item in part if isinstance(item, ast.AST)]
                elif isinstance(part, ast.AST) and not isinstance(part, ast.expr_context):
                    waiting.append(part)


def imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, str]]:
    """(name bound, ``module`` or ``module:name``) of an import statement; ``import a.b`` binds ``a``."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0], alias.name.split(".")[0])
        return
    source = node.module or ""
    if node.level:
        parts = package.split(".")
        above = ".".join(parts[: len(parts) - node.level + 1])
        source = f"{above}.{source}" if source else above
    for alias in node.names:
        yield alias.asname or alias.name, f"{source}:{alias.name}"


def modules_of(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """What an import statement needs, as ``module`` or ``module:name``."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        yield from (target.removesuffix(":*") for _, target in imported(node, package))


def assigned(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names that code binds where it stands, imports apart."""
    return _stored(own_nodes(nodes))


def _stored(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name):
            name = None if isinstance(node.ctx, ast.Load) else node.id
        elif isinstance(node, NAMED):
            name = node.name
        else:
            name = node.rest if isinstance(node, ast.MatchMapping) else None
        if name:
            yield name


def bound_by(body: Sequence[ast.AST], package: str) -> dict[str, list[str]]:
    """Names that a function's body binds in it."""
    nodes = list(own_nodes(body))
    found: dict[str, list[str]] = {name: [] for name in _stored(nodes)}
    elsewhere: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, target in imported(node, package):
                found.setdefault(name, []).append(target)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            elsewhere |= set(node.names)
    return {name: targets for name, targets in found.items() if name not in elsewhere}


def signature(node: ast.AST) -> list[ast.expr]:
    """What a function says of its arguments and its result."""
    arguments = [part for part in ast.walk(node.args) if isinstance(part, ast.arg)]  # type: ignore[attr-defined]
    return [*filter(None, [*(part.annotation for part in arguments), getattr(node, "returns", None)])]


class NameReader:
    """Notes what syntax trees name, local variables apart; ``bound`` are the imports of the module around them."""

    def __init__(self, package: str, bound: Bound, into: Named) -> None:
        self.package = package
        self.bound = bound
        self.into = into

    def visit(self, node: ast.AST, scopes: Scopes = ()) -> None:
        """Read the node; ``scopes`` are the functions around it, the outermost first."""
        if isinstance(node, ast.Attribute | ast.Name):
            self._name(node, scopes)
        elif isinstance(node, FUNCTIONS):
            self._function(node, scopes)
        elif isinstance(node, COMPREHENSIONS):
            self._comprehension(node, scopes)
        elif isinstance(node, ast.ClassDef) and not keeps_annotations(node):
            for part in node.body:
                self.visit(_unannotated(part), scopes)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for target in modules_of(node, self.package):
                self.into.imports.setdefault(target, node.lineno)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and len(node.value) < MOST_OF_A_WORD:
                self.into.words.add(node.value)
        elif not is_idle(node):
            if isinstance(node, ast.Call):
                self._call(node, scopes)
            elif isinstance(node, ast.AnnAssign) and scopes:
                node = _unannotated(node)
            elif isinstance(node, ast.AnnAssign):
                self.annotation(node.annotation, scopes)
            self._children(node, scopes)

    def _comprehension(self, node: ast.AST, scopes: Scopes) -> None:
        """What a comprehension goes through first is looked up outside of it: ``[rate for rate in rate()]``."""
        assert isinstance(node, COMPREHENSIONS)
        inner: Bound = {name: () for part in node.generators for name in assigned([part.target])}
        first, *others = node.generators
        self.visit(first.iter, scopes)
        results = [child for child in ast.iter_child_nodes(node) if child not in node.generators]
        for part in [first.target, *first.ifs, *others, *results]:
            self.visit(part, (*scopes, inner))

    def _children(self, node: ast.AST, scopes: Scopes) -> None:
        for child in ast.iter_child_nodes(node):
            self.visit(child, scopes)

    def _name(self, node: ast.Attribute | ast.Name, scopes: Scopes) -> None:
        words = chain(node)
        self.into.looks_up |= "__subclasses__" in words
        is_stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        if words[0] and not (is_stored and not scopes):
            self._use(words, scopes)
        while isinstance(node, ast.Attribute):
            node = node.value  # type: ignore[assignment]
        if not words[0]:
            self.visit(node, scopes)

    def _function(self, node: ast.AST, scopes: Scopes) -> None:
        assert isinstance(node, FUNCTIONS)
        body = node.body if isinstance(node.body, list) else [node.body]
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        arguments = [argument for argument in every if argument is not None]
        outside = [*node.args.defaults, *filter(None, node.args.kw_defaults), *getattr(node, "decorator_list", ())]
        for part in [*outside, *(signature(node) if keeps_annotations(node) else ())]:
            self.visit(part, scopes)
        inner = bound_by(body, self.package) | {argument.arg: [] for argument in arguments}
        for part in body:
            self.visit(part, (*scopes, inner))

    def annotation(self, node: ast.AST | None, scopes: Scopes = ()) -> None:
        """Names of an annotation, or a part of one, that is written as a string."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                self.visit(ast.parse(node.value, mode="eval").body, scopes)
            except SyntaxError:  # words, not code
                return
        elif node is not None and not (isinstance(node, ast.Subscript) and chain(node.value)[-1] in NO_FORWARD):
            for child in ast.iter_child_nodes(node):
                self.annotation(child, scopes)

    def _targets(self, name: str, scopes: Scopes) -> tuple[Sequence[str], bool]:
        """What a name was imported as, and whether a function around binds it."""
        for scope in reversed(scopes):
            if name in scope:
                return scope[name], True
        return self.bound.get(name, ()), False

    def _use(self, words: tuple[str, ...], scopes: Scopes) -> None:
        targets, is_local = self._targets(words[0], scopes)
        if is_local:
            self.into.targets |= {(target, *words[1:]) for target in targets}
        else:
            self.into.names.add(words)
            self.into.looks_up |= words[0] in LOOKUPS
        for target in targets:
            whole = ".".join([target.replace(":", "."), *words[1:]])
            self.into.looks_up |= _is_within(whole, LOOKUP_MODULES) and not _is_within(whole, NO_LOOKUPS)

    def _call(self, node: ast.Call, scopes: Scopes) -> None:
        """``getattr`` of a module, ``vars()``, and names of modules that are put together at run time."""
        function = chain(node.func)[-1]
        first = node.args[0] if node.args else None
        if function == "vars" and first is None:
            self.into.looks_up = True
        elif function == "getattr" and len(node.args) > 1 and isinstance(first, ast.Name | ast.Attribute):
            self._getattr(chain(first), node.args[1], scopes)
        elif function in IMPORTERS and first is not None:
            self._import_of(first)
        elif function in SAID and isinstance(first, ast.Name | ast.Attribute):
            self._use((*chain(first), "__doc__"), scopes)

    def _import_of(self, name: ast.expr) -> None:
        """A module that is imported by name, or all whose names begin so where the rest is made at run time."""
        begins = _beginning(name)
        if begins.startswith("."):  # as Python resolves it, from the package of this module
            levels = len(begins) - len(begins.lstrip("."))
            above = self.package.split(".")[: len(self.package.split(".")) - levels + 1]
            begins = ".".join([*above, begins.lstrip(".")])
        if begins and isinstance(name, ast.Constant):
            self.into.targets.add((begins, "*"))
        elif begins:
            self.into.prefixes.add(begins)

    def _getattr(self, words: tuple[str, ...], name: ast.expr, scopes: Scopes) -> None:
        targets, _ = self._targets(words[0], scopes)
        if isinstance(name, ast.Constant):
            self._use((*words, str(name.value)), scopes)
        elif any(":" not in target or target.rpartition(":")[2].islower() for target in targets):
            self.into.looks_up = True


def _unannotated(node: ast.stmt) -> ast.stmt:
    """A statement without its annotation, where nothing reads that."""
    return ast.Assign([node.target], node.value or ast.Constant(None)) if isinstance(node, ast.AnnAssign) else node


def _beginning(node: ast.expr) -> str:
    """What a text that is put together at run time begins with, as far as the code says."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.BinOp):
        return _beginning(node.left).split("%")[0]
    if isinstance(node, ast.JoinedStr) and node.values:
        return _beginning(node.values[0])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "format":
            return _beginning(node.func.value).split("{")[0]
        if node.func.attr == "join" and node.args and isinstance(node.args[0], ast.List | ast.Tuple):
            return next(map(_beginning, node.args[0].elts), "")
    return ""


def _is_within(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)
