"""`python -m benchmarks.hot_step COMMIT`: a training step of rectified_flow here and at an earlier commit, by part.

Both trees (those of :mod:`benchmarks.against`) measure it in turn with their own code, one thread, processor time of
the thread: forward, backward, and the update with Muon. Beside the ratio stands how much of the machine is used:
GFLOP/s of each part, and its share of what the thread reaches on a product of 2048 x 2048 in the same arithmetic.
With ``--markdown PAGE`` the rows replace those between the page's markers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.against import tree
from pipelines.starting import KEPT_MEMORY

SCRIPT = Path(__file__).with_name("step_in_tree.py")
PAIRS = 5
BEGIN, END = "<!-- step -->", "<!-- end step -->"
HEAD = (
    "| part | ms, base | here | ratio (spread) | GFLOP/s, base | of its peak | here | of its peak |\n"
    + "|---" * 8
    + "|"
)


def measured(place: Path) -> dict[str, Any]:
    """What the script prints in a tree, in the environment that the tree's own stages have."""
    start = place / "pipelines" / "starting.py"
    kept = KEPT_MEMORY if start.is_file() and "KEPT_MEMORY" in start.read_text(encoding="utf-8") else {}
    environment = {**os.environ, **kept, "PYTHONPATH": str(place)}
    python = place / ".venv" / "bin" / "python"
    done = subprocess.run([python, SCRIPT], cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{place}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def rows(base: Sequence[dict[str, Any]], here: Sequence[dict[str, Any]]) -> list[str]:
    """One of each part and one of the step."""
    parts = {name: (name,) for name in base[0]["ms"]}
    parts["step"] = tuple(base[0]["ms"])

    def spent(one: dict[str, Any], names: tuple[str, ...]) -> float:
        return sum(statistics.median(one["ms"][name]) for name in names)

    def rate(runs: Sequence[dict[str, Any]], names: tuple[str, ...]) -> str:
        speed = statistics.median(sum(one["gflop"][name] for name in names) / spent(one, names) for one in runs) * 1e3
        peak = statistics.median(one["peak"] for one in runs)
        return f"{speed:.0f} | {speed / peak:.2f} of {peak:.0f} ({runs[0]['kind']})"

    found = []
    for name, names in parts.items():
        ratios = [spent(ours, names) / spent(theirs, names) for ours, theirs in zip(here, base, strict=True)]
        first, second = (statistics.median(spent(one, names) for one in runs) for runs in (base, here))
        spread = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
        found.append(f"| {name} | {first:.1f} | {second:.1f} | {spread} | {rate(base, names)} | {rate(here, names)} |")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_step", description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--markdown", type=Path, help="the page whose table gets the rows")
    asked = parser.parse_args(argv)
    base, here = tree(asked.commit), tree("HEAD")
    pairs = [(measured(base), measured(here)) for _ in range(PAIRS)]
    table = [HEAD, *rows([first for first, _ in pairs], [second for _, second in pairs])]
    print("\n".join(table))
    if asked.markdown:
        before, rest = asked.markdown.read_text(encoding="utf-8").split(BEGIN)
        text = "\n".join([f"{before}{BEGIN}", *table, f"{END}{rest.split(END)[1]}"])
        asked.markdown.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
