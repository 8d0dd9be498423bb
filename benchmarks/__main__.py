"""`python -m benchmarks [NAME…]`: all figures, or those of the named modules; rows also go to .work/bench.json.

`python -m benchmarks against COMMIT` is `python -m benchmarks.against COMMIT`.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from dataclasses import asdict
from pathlib import Path

import benchmarks
from benchmarks import against


def names() -> list[str]:
    """Modules of this package that measure something."""
    found = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    return [name for name in found if name not in {"__main__", "paired"}]


def main() -> None:
    """Measure and print, one line per figure."""
    if sys.argv[1:2] == ["against"]:
        raise SystemExit(against.main(sys.argv[2:]))
    rows = []
    for name in sys.argv[1:] or names():
        module = importlib.import_module(f"benchmarks.{name}")
        if not hasattr(module, "measure"):
            continue
        print(f"measuring {name} …", flush=True)
        for figure in module.measure():
            print(f"  {figure}", flush=True)
            rows.append({**asdict(figure), "median": figure.median})
    Path(".work").mkdir(exist_ok=True)
    Path(".work/bench.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
