"""Numbers of README and docs against the runs they are said to be of: `python -m benchmarks.claims`.

A page marks a number by a comment right after it, which no reader of the page sees:

    the ratio is 0.81 (0.75 to 0.88)<!--= demo evaluation systems/anchored_flow_motion/motion_ratio-->

The words are a run, a stage and a name in its metrics. Digits, interval (``_low``, ``_high``), ``± `` (``_std``) and
percent follow the text that stands there. A table has one comment above it, in which ``*`` is the row:

    <!--= demo
    columns: evaluation */motion_ratio, -
    rows: systems/rectified_flow, references/held_out
    -->

and output of commands ``<!--= demo lines-->`` above its fence: after a stage's name every ``name value``, ``[gate
verdict]`` and ``gate NAME: verdict (value >= threshold;`` of that stage is a claim.

``docs/numbers/RUN.json`` holds the run (commit, machine, day) and the numbers that pages quote, no others.
``python -m benchmarks.claims take demo FOLDER`` reads a finished demo in a folder, ``take RUN ablation.json`` the table
of ``reel ablate``; both write that file and every marked number, and print the lines that changed: words around them
may be untrue now. A file that holds what ``reel demo`` printed may follow: the times of stages are then taken from it.
Without ``take`` nothing is written, and the exit status says whether all agree.
"""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.marks import Book, ClaimError, Numbers, corrected, with_times

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = Path("docs") / "numbers"


def pages(root: Path) -> Iterator[Path]:
    """README and the pages of docs."""
    yield from (page for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))) if page.is_file())


def flat(content: Any, prefix: str = "") -> Iterator[tuple[str, float | str]]:
    """Every number and word of a metrics file under slash names; entries of a list by their ``name``."""
    if isinstance(content, list):
        content = {entry["name"]: entry for entry in content if isinstance(entry, dict) and "name" in entry}
    for key, value in content.items():
        if isinstance(value, dict | list):
            yield from flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float | str):
            yield f"{prefix}{key}", value


def of_project(folder: Path) -> tuple[dict[str, str], Numbers]:
    """The run (commit, machine, day) and all numbers of a folder in which the stages ran.

    Raises:
        ClaimError: there are no metrics.
    """
    files = sorted((folder / "metrics").glob("*.json"))
    if not files:
        raise ClaimError(f"{folder / 'metrics'}: no metrics; give the folder in which the demo ran")
    found: Numbers = {file.stem: dict(flat(json.loads(file.read_text(encoding="utf-8")))) for file in files}
    machine = next((str(told["ran_on"]) for told in found.values() if "ran_on" in told), "")
    return {**_when(folder, max(file.stat().st_mtime for file in files)), "ran_on": machine}, found


def of_ablation(file: Path) -> tuple[dict[str, str], Numbers]:
    """The run and the numbers of `reel ablate`: means, ``_std`` and ``_seeds``, ``…/difference``, ``…/verdict``.

    Raises:
        ClaimError: the file is not where `reel ablate` wrote it, so that nothing says which commit it is of.
    """
    if file.resolve().parts[-3:-1] != (".work", "ablations"):
        raise ClaimError(
            f"{file}: name it where reel ablate wrote it, PROJECT/.work/ablations; the project says the commit."
        )
    content = json.loads(file.read_text(encoding="utf-8"))
    found: Numbers = {}
    for column, names in content["values"].items():
        for name, seeds in names.items():
            values = list(seeds.values())
            told = {name: statistics.fmean(values), f"{name}_seeds": len(values)}
            found.setdefault(column, {}).update(told)
            if len(values) > 1:
                found[column][f"{name}_std"] = statistics.stdev(values)
    for column, names in content["differences"].items():
        for name, difference in names.items():
            keys = {"mean": "", "low": "_low", "high": "_high"}
            told = {f"{name}/difference{keys[key]}": difference[key] for key in keys if difference[key] is not None}
            found[column].update({**told, f"{name}/verdict": difference["verdict"]})
    folder = file.resolve().parents[2]
    seeded = ", ".join(content["seeds_moved_in"])
    return {**_when(folder, file.stat().st_mtime), "seeds_moved_in": seeded}, found


def _when(folder: Path, seconds: float) -> dict[str, str]:
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    day = datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
    return {"commit": done.stdout.strip(), "day": day}


def stated(root: Path) -> dict[str, Numbers]:
    """Run -> the numbers in its file."""
    files = sorted((root / NUMBERS).glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8"))["numbers"] for file in files}


def mistakes(root: Path) -> list[str]:
    """What pages say otherwise than their runs, and numbers in docs/numbers that no page quotes."""
    book = Book(stated(root))
    found = []
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        try:
            found += _differing(page.relative_to(root), text, corrected(text, book))
        except ClaimError as error:
            found.append(f"{page.relative_to(root)}: {error}")
    for run, numbers in book.runs.items():
        asked = {(stage, name) for stage, names in book.asked.get(run, {}).items() for name in names}
        left = [f"{stage} {name}" for stage, names in numbers.items() for name in names if (stage, name) not in asked]
        found += [f"{NUMBERS / run}.json: no page quotes {name}" for name in left] if not found else []
    return found


def _differing(page: Path, before: str, after: str) -> list[str]:
    pairs = zip(before.splitlines(), after.splitlines(), strict=True)
    return [f"{page}:{row}: {one}\n    the run says: {two}" for row, (one, two) in enumerate(pairs, 1) if one != two]


def take(root: Path, run: str, source: Path, transcript: Path | None = None) -> list[str]:
    """Write a run's numbers and every marked number of the pages; the lines that changed.

    Raises:
        ClaimError: the run lacks a number that a page quotes; nothing is written then.
    """
    facts, numbers = of_ablation(source) if source.is_file() else of_project(source)
    book = Book({run: numbers}, only=run)
    texts: dict[Path, tuple[str, str]] = {}
    printed = transcript.read_text(encoding="utf-8") if transcript else ""
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        try:
            texts[page] = text, with_times(corrected(text, book), printed)
        except ClaimError as error:
            raise ClaimError(f"{page.relative_to(root)}: {error}") from None
    (root / NUMBERS).mkdir(parents=True, exist_ok=True)
    content = {"run": facts, "numbers": book.asked.get(run, {})}
    (root / NUMBERS / f"{run}.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for page, (_, text) in texts.items():
        page.write_text(text, encoding="utf-8")
    return [line for page, both in texts.items() for line in _differing(page.relative_to(root), *both)]


def main(words: list[str], root: Path = ROOT) -> int:
    """Check, or take; the exit status."""
    try:
        if len(words) in (3, 4) and words[0] == "take":
            told = take(root, words[1], *map(Path, words[2:]))
            print("\n".join([*told, f"{len(told)} lines changed; read the words around them, then commit."]))
            return 0
        if words:
            raise ClaimError("python -m benchmarks.claims [take RUN FOLDER|ablation.json [TRANSCRIPT]]")
        told = mistakes(root)
        print("\n".join(told) if told else "Every marked number is that of its run.")
        return 1 if told else 0
    except (ClaimError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
