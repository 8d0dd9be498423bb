"""A definition as text: what does the same reads the same, in every version of Python; everything else differs."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.code.syntax import text

ROOT = Path(__file__).parents[2]

SAMPLE = '''
"""A module."""
import b
import a

@decorated(1)
def f(x: int, /, y: "str" = "\\u00e9\\U0001fae8", *rest, key: float = 1e3, **more) -> None:
    """Says so."""
    if (n := len(rest)) > 1_000: pass
    z: int = 3
    w: int
    with open(x) as one, open(y) as two:
        return f"{x!r:>{y}}a" f"b{z=}" "c" f"{w:}" rf"\\d{x}" 'it' "'s", b"\\x00"
    match x:
        case {"a": [1, *others], **left} if left: ...
        case A(b=-1.0) | None: yield 2j
    try:
        del x[1:2, ...]
    except* (ValueError, TypeError) as error:
        raise E from error
    async def g(): return [await i async for i in j if i]
    lambda *a, b=1: {**a, "b": not b}

class C(B, metaclass=M):
    """Doc."""
    field: int = 1
    """Of the field."""
    other: "list[str]"

    @property
    def p(self) -> "str": ...
'''
DIGEST = "6160fee6087379e33ff7875e538ad87846788fffe18352622aa3853ba0eb996a"


def digest(source: str) -> str:
    return hashlib.sha256(text(ast.parse(source)).encode()).hexdigest()


def others() -> list[Path]:
    """Interpreters of other versions that stand beside this one or on the path."""
    import shutil

    found = [shutil.which(f"python3.{minor}") for minor in (11, 12, 13)]
    found += [str(path) for path in sorted(Path(sys.base_prefix).parent.glob("3.1[123]*/bin/python3"))]
    return [Path(path) for path in dict.fromkeys(filter(None, found))]


def test_the_text_is_the_same_in_every_version_of_python() -> None:
    assert digest(SAMPLE) == DIGEST
    program = "import ast, hashlib, sys; from pipelines.code.syntax import text\n"
    program += "print(hashlib.sha256(text(ast.parse(sys.stdin.read())).encode()).hexdigest())"
    for python in others():
        command = [str(python), "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"]
        done = subprocess.run(command, input=SAMPLE, capture_output=True, text=True, timeout=60, encoding="utf-8")
        if done.returncode == 0 or "Python" not in done.stderr:  # a version that is on the path and not installed
            assert done.stdout.strip() == DIGEST, f"{python}: {done.stderr}"


SAME = [
    ("x = 1", "x = (1)  # one"),
    ("def f():\n    return 1", 'def f():\n    """Doc."""\n\n    # why\n    return 1'),
    ("def f():\n    pass", 'def f():\n    "doc"'),
    ("class A:\n    x = 1", 'class A:\n    """A."""\n\n    x = 1\n    """X."""'),
    ("x = 'it' 's'", 'x = "its"'),
    ("x = f'a' 'b'", "x = f'ab'"),
    ("x = f'{a:}'", "x = f'{a}'"),
    ("x = [1,\n 2,\n]", "x = [1, 2]"),
    ("x = 1_000", "x = 1000"),
    ("def f(x, y): return x", "def f(x: int, y: 'A') -> int: return x"),
    ("def f():\n    y = 1", "def f():\n    z: int\n    y: int = 1"),
    ("class A:\n    x: int = 1\n    y: str", "class A:\n    x = 1"),
    ("def f():\n    import b\n    import a", "def f():\n    import a, b"),
    ("del (a, b)", "del a, b"),
]
DIFFER = [
    ("x = 1", "x = 1.0"),
    ("x = 1", "x = True"),
    ("x = 0.0", "x = -0.0"),
    ("x = 'a'", "x = b'a'"),
    ("x = f'{a}'", "x = f'{a!r}'"),
    ("x = f'{a:.2f}'", "x = f'{a:.3f}'"),
    ("x = f'{a}b'", "x = f'b{a}'"),
    ("x = a < b", "x = a <= b"),
    ("x = a - b", "x = b - a"),
    ("x = not a", "x = a"),
    ("def f(x, y): return x", "def f(y, x): return x"),
    ("def f(x=1): return x", "def f(x=2): return x"),
    ("class A(B):\n    x: int = 1", "class A(B):\n    x: float = 1"),
    ("@dataclass\nclass A:\n    x: int", "@dataclass\nclass A:\n    x: float"),
    ("class A(B):\n    x: int", "class A(B):\n    pass"),
    ("@d\ndef f(x: int): return x", "@d\ndef f(x: str): return x"),
    ("def f():\n    from a import x\n    return x", "def f():\n    from b import x\n    return x"),
    ("def f():\n    yield 1", "def f():\n    return 1"),
    ("x = [*a]", "x = [a]"),
    ("if a:\n    b()\nelse:\n    c()", "if a:\n    c()\nelse:\n    b()"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_does_the_same_reads_the_same(one: str, other: str) -> None:
    assert text(ast.parse(one)) == text(ast.parse(other))


@pytest.mark.parametrize(("one", "other"), DIFFER)
def test_what_does_something_else_reads_otherwise(one: str, other: str) -> None:
    assert text(ast.parse(one)) != text(ast.parse(other))


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").rglob("*.py")), ids=lambda p: p.name)
def test_a_file_written_anew_by_a_formatter_reads_the_same(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert text(ast.parse(ast.unparse(tree))) == text(tree)
