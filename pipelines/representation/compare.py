"""`reel compare representation A B …`: one table with spreads, what exceeds the noise, pictures side by side.

A side is a project folder under a name, ``NAME=FOLDER``; the command checks revisions and experiments out. With
``--encoders`` the sides are choices of encoder, measured now on the current latents.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines import stage
from pipelines.params import ParamsError, parse_section
from pipelines.representation import comparison, encoder_choices
from pipelines.representation.diagnostics_figures import check_layout, layouts
from pipelines.representation.params import DiagnosticsParams, PseudoClassesParams
from pipelines.stage import StageError


def compare_folders(folders: Mapping[str, Path], out: Path, sigmas: float) -> str:
    """Compare project folders, by the names they are to have; write table and pictures to ``out``, return the text."""
    found = {name: comparison.report_of(folder) for name, folder in folders.items()}
    pictures = comparison.side_by_side(folders, out)
    classes = {name: comparison.classes_of(folder) for name, folder in folders.items()}
    known = {name: value for name, value in classes.items() if value is not None}
    return write(found, known, out, sigmas, [path.name for path in pictures])


def write(
    reports: Mapping[str, Mapping[str, Any]],
    classes: Mapping[str, comparison.Classes],
    out: Path,
    sigmas: float,
    pictures: list[str],
) -> str:
    """``table.md``, ``table.csv`` and the classes in one layout; returns what is printed."""
    table = comparison.compared(reports, sigmas)
    text = comparison.as_text(table, list(reports), sigmas)
    if len(classes) > 1:
        agreement = comparison.draw_one_layout(classes, out / "one_layout.png")
        if agreement:
            first, *rest = agreement
            words = ", ".join(f"{name} {agreement[name]:.2f}" for name in rest)
            text += f"\nAdjusted Rand index of the classes with those of {first}: {words}."
            pictures = ["one_layout.png", *pictures]
        else:
            text += "\nThe sides have no samples in common, so their classes are not compared one by one."
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    table.to_csv(out / "table.csv", index=False)
    return f"{text}\n{out}: table.md, table.csv, {', '.join(pictures)}"


def compare_encoders(extra: list[str], out: Path, sigmas: float) -> str:
    """Measure choices of encoder on ``data/latents`` and compare them.

    Args:
        extra: ``NAME=FOLDER`` of further latent-MAE checkpoints, such as one of the other family.
    """
    encoders = {"MAE": Path("checkpoints/latent_mae")}
    for words in extra:
        name, _, folder = words.partition("=")
        if not folder:
            raise StageError(f"{words}: expected NAME=FOLDER of a latent-MAE checkpoint.")
        encoders[name] = Path(folder)
    params, diagnostics = (
        parse_section(kind, name)
        for kind, name in ((PseudoClassesParams, "pseudo_classes"), (DiagnosticsParams, "diagnostics"))
    )
    assert isinstance(params, PseudoClassesParams) and isinstance(diagnostics, DiagnosticsParams)
    check_layout(diagnostics.layout)
    found, measured = encoder_choices.reports(Path("data/latents"), encoders, params, diagnostics)
    first = next(iter(measured.values()))
    keys = first.index["key"].to_numpy()
    plane = list(layouts(first.h[first.queries], diagnostics.layout, diagnostics.seed).values())[-1]
    places = pd.DataFrame(plane, index=keys[first.queries], columns=["x", "y"])
    classes = {name: comparison.Classes(pd.Series(data.labels, index=keys), places) for name, data in measured.items()}
    return write(found, classes, out, sigmas, [])


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="reel compare", description="Representations beside one another.")
    parser.add_argument("sides", nargs="*", metavar="NAME=FOLDER", help="project folders")
    parser.add_argument("--encoders", action="store_true", help="compare encoder choices on the current latents")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FOLDER", help="one more encoder")
    parser.add_argument("--sigmas", type=float, default=2.0, help="noise that a difference must exceed (2)")
    parser.add_argument("--out", type=Path, help="folder for table and pictures (.work/compare/…)")
    words = parser.parse_args(argv)
    if words.encoders == bool(words.sides) or len(words.sides) == 1 or len(set(words.sides)) < len(words.sides):
        parser.error("give two or more different sides, or --encoders")
    sides = {name: Path(folder or name) for name, _, folder in (side.partition("=") for side in words.sides)}
    name = "encoders" if words.encoders else "_".join(re.sub(r"\W+", "-", side) for side in sides)
    out = words.out or Path(".work") / "compare" / name
    try:
        out.mkdir(parents=True, exist_ok=True)
        if words.encoders:
            text = compare_encoders(words.checkpoint, out, words.sigmas)
        else:
            text = compare_folders(sides, out, words.sigmas)
    except (StageError, ParamsError) as error:
        print(f"reel compare: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    stage.current().name = "compare"
    sys.exit(main())
