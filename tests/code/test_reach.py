"""Which edits change a function's identity: those of what it reaches, however it reaches it, and no others."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from pipelines.code.definitions import CodeError
from pipelines.code.source import Source
from pipelines.code.stages import changed, identity

FILES = {
    "__init__.py": "",
    "main.py": """
        from pipelines import shop, tool as kit
        from pipelines.deep import inner
        from pipelines.gate import passed
        import pipelines.deep.other
        import numpy as np

        LIMIT = 3
        UNUSED = 4

        def make(params: Kept, out):
            from pipelines.late import late
            table = {"a": helper(out)}
            shop = 1
            Plain()
            return kit.used(LIMIT), inner.f, late, passed, pipelines.deep.other.g, np.zeros(table), shop

        def helper(x):
            return [LIMIT for LIMIT in x]

        def idle(x):
            return x

        from pipelines.values import Kept, Plain
        """,
    "tool.py": "def used(x): return x + base()\ndef base(): return 1\ndef unused(): return 2\n",
    "shop.py": "def never(): return 1\n",
    "late.py": "def late(): return 1\ndef later(): return 1\n",
    "gate.py": "from pipelines.far import passed as passed\nfrom pipelines.far import other\n",
    "far.py": "def passed(): return 1\ndef other(): return 2\n",
    "deep/__init__.py": "from pipelines.deep.inner import f\n",
    "deep/inner.py": "class Base:\n    def m(self): return 1\nclass Sub(Base): pass\ndef f(): return Sub().m()\n",
    "deep/other.py": "import os\nos.environ['X'] = '1'\ndef g(): return 1\ndef h(): return 2\n",
    "values.py": "from pydantic import BaseModel as B\nclass Part(B):\n    x: int\nclass Kept(B):\n    part: 'Part'\n"
    "class Other(B):\n    y: int\nclass Plain:\n    z: int = 1\n    def m(self): return 1\n",
    "idle.py": "def idle(): return 1\n",
}


def written(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / "pipelines" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content))
    return root


def value(root: Path) -> str:
    """With what earlier calls kept of unchanged files, as from run to run."""
    (root / "dvc.yaml").touch()
    source = Source(root)
    found = identity(["pipelines.main:make"], source, with_arguments=True).value
    source.keep()
    return found


REACHED = [
    ("main.py", "LIMIT = 3", "LIMIT = 4"),
    ("main.py", '"a": helper', '"b": helper'),
    ("main.py", "[LIMIT for", "[2 * LIMIT for"),
    ("main.py", "import numpy as np", "import cupy as np"),
    ("main.py", "def helper(x):", "def helper(x, y=1):"),
    ("tool.py", "x + base()", "x - base()"),
    ("tool.py", "return 1", "return 3"),
    ("late.py", "def late(): return 1", "def late(): return 2"),
    ("gate.py", "pipelines.far import passed", "pipelines.far import other"),
    ("far.py", "def passed(): return 1", "def passed(): return 2"),
    ("deep/inner.py", "def m(self): return 1", "def m(self): return 2"),
    ("deep/inner.py", "class Sub(Base): pass", "class Sub(Base): y = 1"),
    ("deep/other.py", "= '1'", "= '2'"),
    ("deep/other.py", "import os\n", "import os\nprint()\n"),
    ("deep/other.py", "def g(): return 1", "def g(): return 3"),
    ("values.py", "x: int", "x: float"),
    ("values.py", "z: int = 1", "z: int = 2"),
]
NOT_REACHED = [
    ("main.py", "UNUSED = 4", "UNUSED = 5"),
    ("main.py", "return x\n", "return 2 * x\n"),
    ("main.py", "import numpy as np", "import numpy as np\nimport json as numbers\nnumbers_used = numbers"),
    ("main.py", "params: Kept, out)", "params: Kept, out: int) -> None"),
    ("tool.py", "return 2", "return 7"),
    ("shop.py", "return 1", "return 2"),
    ("late.py", "def later(): return 1", "def later(): return 2"),
    ("far.py", "def other(): return 2", "def other(): return 4"),
    ("deep/other.py", "def h(): return 2", "def h(): return 3"),
    ("values.py", "y: int", "y: float"),
    ("values.py", "z: int", "other: Other\n    z: float"),
    ("idle.py", "return 1", "return 2"),
    ("tool.py", "def unused", "# why\ndef unused"),
    ("deep/inner.py", "class Base:\n", 'class Base:\n    """Doc."""\n'),
]


def edited(root: Path, file: str, old: str, new: str) -> None:
    path = root / "pipelines" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("edit", REACHED, ids=lambda e: f"{e[0]} {e[2]!r}")
def test_an_edit_of_what_is_reached_changes_the_identity(tmp_path: Path, edit: tuple[str, str, str]) -> None:
    before = value(written(tmp_path, FILES))
    edited(tmp_path, *edit)
    assert value(tmp_path) != before


@pytest.mark.parametrize("edit", NOT_REACHED, ids=lambda e: f"{e[0]} {e[2]!r}")
def test_an_edit_of_anything_else_does_not(tmp_path: Path, edit: tuple[str, str, str]) -> None:
    before = value(written(tmp_path, FILES))
    edited(tmp_path, *edit)
    assert value(tmp_path) == before


def test_what_moves_to_another_file_stays_what_it_is_and_a_changed_thing_is_named(tmp_path: Path) -> None:
    before = identity(["pipelines.main:make"], Source(written(tmp_path, FILES)))
    moved = {"tool.py": "from pipelines.moved import base\ndef used(x): return x + base()\n"}
    written(tmp_path, moved | {"moved.py": "def base(): return 1\n"})
    after = identity(["pipelines.main:make"], Source(tmp_path))
    assert after.value == before.value and changed(before.parts, after.parts) == []
    edited(tmp_path, "moved.py", "return 1", "return 2")
    assert changed(after.parts, identity(["pipelines.main:make"], Source(tmp_path)).parts) == ["moved.py base"]


LOOKUPS = {
    "getattr of a module": "from pipelines import kinds\ndef make(x): return getattr(kinds, x)\n",
    "the module handed on": "from pipelines import kinds\ndef make(x): return dict(x=kinds)\n",
    "vars of it": "from pipelines import kinds\ndef make(x): return vars(kinds)[x]\n",
    "an import by name": "import importlib\ndef make(x): return importlib.import_module('pipelines.kinds')\n",
    "an import by a name's beginning": "from importlib import import_module\n"
    "def make(x): return import_module(f'pipelines.k{x}').one()\n",
    "an import by a format": "import importlib\n"
    "def make(x): return importlib.import_module('pipelines.{}'.format(x)).one()\n",
    "an import by joined words": "import importlib\n"
    "def make(x): return importlib.import_module('.'.join(['pipelines', x])).one()\n",
    "an import by per cent": "import importlib\n"
    "def make(x): return importlib.import_module('pipelines.%s' % x).one()\n",
    "a relative import by name": "from importlib import import_module\n"
    "def make(x): return import_module(f'.{x}', __package__).one()\n",
    "an import by a constant": "import importlib\nNAME = 'pipelines.kinds'\n"
    "def make(x): return importlib.import_module(NAME).one()\n",
    "a place looked up by its name": "import pydoc\ndef make(x): return pydoc.locate('pipelines.kinds.one')()\n",
    "a name with its module": "import pkgutil\ndef make(x): return pkgutil.resolve_name('pipelines.kinds:one')()\n",
    "the table of modules": "import sys, pipelines.kinds\n"
    "def make(x): return getattr(sys.modules['pipelines.kinds'], x)()\n",
    "a process of its own": "import subprocess, sys\n"
    "def make(x): subprocess.run([sys.executable, '-m', 'pipelines.kinds'])\n",
    "all names": "from pipelines.kinds import *\ndef make(x): return one()\n",
}


@pytest.mark.parametrize("how", LOOKUPS)
def test_names_that_are_looked_up_at_run_time_count_with_their_whole_module(tmp_path: Path, how: str) -> None:
    files = {"__init__.py": "", "main.py": LOOKUPS[how], "kinds.py": "def one(): return 1\ndef two(): return 1\n"}
    before = value(written(tmp_path, files))
    edited(tmp_path, "kinds.py", "def one(): return 1", "def one(): return 2")
    assert value(tmp_path) != before


def test_a_module_that_looks_into_itself_counts_whole(tmp_path: Path) -> None:
    files = {"__init__.py": "", "main.py": "def make(x): return globals()[x]()\ndef a(): return 1\n"}
    before = value(written(tmp_path, files))
    edited(tmp_path, "main.py", "return 1", "return 2")
    assert value(tmp_path) != before


ORDERS = {
    "a value before and after its name is assigned again": ("A = 1\nB = A + 1\nA = 2\n", "A = 1\nA = 2\nB = A + 1\n"),
    "a value before and after a setting": (
        "import torch\nB = torch.tensor(0.1)\ntorch.set_default_dtype(torch.float64)\n",
        "import torch\ntorch.set_default_dtype(torch.float64)\nB = torch.tensor(0.1)\n",
    ),
    "a class before and after": (
        "A = 1\nclass B:\n    x = A\nA = 2\n",
        "A = 1\nA = 2\nclass B:\n    x = A\n",
    ),
}


@pytest.mark.parametrize("what", ORDERS)
def test_the_order_of_what_a_module_does_counts_where_it_decides_a_value(tmp_path: Path, what: str) -> None:
    one, other = (f"{text}def make(x): return B\n" for text in ORDERS[what])
    before = value(written(tmp_path, {"__init__.py": "", "main.py": one}))
    assert value(written(tmp_path, {"main.py": other})) != before


def test_the_order_of_functions_and_of_independent_values_counts_for_nothing(tmp_path: Path) -> None:
    one = "A = 1\nB = max(1, 2)\ndef make(x): return A + B + g()\ndef g(): return 1\n"
    other = "def g(): return 1\nB = max(1, 2)\ndef make(x): return A + B + g()\nA = 1\n"
    before = value(written(tmp_path, {"__init__.py": "", "main.py": one}))
    assert value(written(tmp_path, {"main.py": other})) == before


READ = {
    "a docstring": ("def make(x): return K.__doc__\n", "one", "two"),
    "a docstring by inspect": ("import inspect\ndef make(x): return inspect.getdoc(K)\n", "one", "two"),
    "annotations": ("import typing\ndef make(x): return typing.get_type_hints(K)\n", "y: int", "y: str"),
    "what a comprehension goes through": ("def make(x): return [K for K in K.z]\n", "z = 1", "z = 2"),
    "a module that runs only under its own name": ("def make(x): return N\n", "N = 3", "N = 4"),
}
KIND = (
    "class K:\n    'one'\n    z = 1\n    def m(self, y: int): pass\n    y: int\n"
    "N = 2\nif __name__ == 'pipelines.main':\n    N = 3\n"
)


@pytest.mark.parametrize("how", READ)
def test_what_code_reads_of_itself_counts(tmp_path: Path, how: str) -> None:
    make, old, new = READ[how]
    before = value(written(tmp_path, {"__init__.py": "", "main.py": KIND + make}))
    edited(tmp_path, "main.py", old, new)
    assert value(tmp_path) != before


NAMESPACE = {
    "import pipelines.ns.x as x": "x.g",
    "from pipelines.ns import x": "x.g",
    "import pipelines.ns.x": "pipelines.ns.x.g",
}


@pytest.mark.parametrize("how", NAMESPACE)
def test_a_package_without_init_is_one(tmp_path: Path, how: str) -> None:
    main = f"{how}\ndef make(y): return {NAMESPACE[how]}()\n"
    files = {"__init__.py": "", "main.py": main, "ns/x.py": "def g(): return 1\n"}
    before = value(written(tmp_path, files))
    edited(tmp_path, "ns/x.py", "1", "2")
    assert value(tmp_path) != before


AT_IMPORT = {
    "a decorator": "from pipelines.book import add\n@add\ndef one(): return 1\n",
    "a call in an assignment": "from pipelines.book import add\nONE = add(1)\n",
    "a default": "from pipelines.book import add\ndef one(x=add(1)): return 1\n",
    "a class body": "from pipelines.book import add\nclass One:\n    x = add(1)\n",
    "a base that is told of those who derive from it": "from pipelines.book import Told\nclass One(Told):\n    x = 1\n",
    "a statement": "import torch\ntorch.set_num_threads(1)\n",
    "a setting": "import torch\ntorch.backends.cudnn.benchmark = 1\n",
    "a package that is imported for its effect": "import torch_npu1\n",
}
BOOK = "def add(x): return x\nclass Told:\n    def __init_subclass__(cls): print(cls)\n"


@pytest.mark.parametrize("how", AT_IMPORT)
def test_what_an_imported_module_runs_counts_whoever_uses_it(tmp_path: Path, how: str) -> None:
    main = "from pipelines import side\nimport pipelines.side as s\ndef make(x): return s.plain()\n"
    files = {"__init__.py": "", "main.py": main, "book.py": BOOK, "side.py": AT_IMPORT[how] + "def plain(): return 0\n"}
    before = value(written(tmp_path, files))
    edited(tmp_path, "side.py", "1", "2")
    assert value(tmp_path) != before


def test_files_that_are_no_python_count_by_their_bytes_for_who_names_them(tmp_path: Path) -> None:
    main = "from pathlib import Path\ndef make(x): return Path(__file__).with_name('page.css').read_text()\n"
    files = {"__init__.py": "", "main.py": main, "page.css": "a", "other/__init__.py": "", "other/x.css": "a"}
    before = value(written(tmp_path, files))
    edited(tmp_path, "other/x.css", "a", "b")
    assert value(tmp_path) == before
    edited(tmp_path, "page.css", "a", "b")
    assert value(tmp_path) != before


def test_a_file_that_nothing_names_counts_for_all_beside_it(tmp_path: Path) -> None:
    main = "from pathlib import Path\ndef make(x): return [p.read_text() for p in Path(__file__).parent.glob('*.t*')]\n"
    before = value(written(tmp_path, {"__init__.py": "", "main.py": main, "page.tmpl": "a"}))
    edited(tmp_path, "page.tmpl", "a", "b")
    assert value(tmp_path) != before


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tool.py", "def used(x:\n", "pipelines/tool.py:1: '(' was never closed; put it right"),
        (
            "tool.py",
            "x = 1\nfrom pipelines.nowhere import y\n",
            "pipelines/tool.py:2: from pipelines.nowhere import y:",
        ),
        ("tool.py", "\nfrom pipelines.far import nothing\n", "pipelines/tool.py:2: from pipelines.far import nothing:"),
        (
            "tool.py",
            "def used(x):\n    import pipelines.gone\n",
            "pipelines/tool.py:2: import pipelines.gone: there is",
        ),
        ("main.py", "def other(): pass\n", "pipelines/main.py: no make in it"),
        ("tool.py", "\0", "pipelines/tool.py"),
    ],
)
def test_what_cannot_be_followed_is_one_line_with_its_place(tmp_path: Path, file: str, content: str, said: str) -> None:
    written(tmp_path, {**FILES, file: content})
    with pytest.raises(CodeError) as caught:
        value(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_module_is_told(tmp_path: Path) -> None:
    with pytest.raises(CodeError, match=r"pipelines\.main: no such module"):
        value(written(tmp_path, {"__init__.py": ""}))
