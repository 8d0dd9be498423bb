"""`reel compare representation A B …`: one table with spreads, what exceeds the noise, pictures side by side.

A side is a project folder, or a Git revision, branch, tag or DVC experiment of this project. With ``--encoders`` the
sides are choices of encoder, measured now on the current latents.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines import stage
from pipelines.params import ParamsError, parse_section
from pipelines.representation import comparison, encoder_choices
from pipelines.representation.figures import check_layout, layouts
from pipelines.representation.params import DiagnosticsParams, PseudoClassesParams
from pipelines.stage import StageError

WANTED = ("metrics", "plots", "data/pseudo_classes", "data/diagnostics")
STAGES = ("latent_mae", "pseudo_classes", "diagnostics")


def _run(words: list[str], cwd: Path) -> bytes:
    try:
        return subprocess.run(words, cwd=cwd, check=True, capture_output=True).stdout
    except FileNotFoundError:
        raise StageError(f"{words[0]}: not installed, and needed to read a revision.") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise StageError(f"`{' '.join(words)}` failed: {lines[-1] if lines else error.returncode}") from None


def commit_of(name: str, root: Path) -> str:
    """The commit of a revision, or of the DVC experiment of that name.

    Raises:
        StageError: there is neither.
    """
    refs = _run(["git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"], root).decode().splitlines()
    found = {line.split(" ", 1)[1].rsplit("/", 1)[1]: line.split(" ", 1)[0] for line in refs}
    if name in found:
        return found[name]
    if name.startswith("-"):
        raise StageError(f"{name}: not a revision.")
    try:
        return _run(["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], root).decode().strip()
    except StageError:
        known = f" (experiments: {', '.join(sorted(found))})" if found else ""
        raise StageError(f"{name}: neither a folder with metrics/, nor a revision or experiment{known}.") from None


@contextmanager
def checked_out(name: str, root: Path) -> Iterator[Path]:
    """A temporary folder with the reports, pictures and classes of a revision; the project itself is not touched.

    Raises:
        StageError: there is no such revision, or DVC has not its outputs.
    """
    commit = commit_of(name, root)
    with tempfile.TemporaryDirectory(prefix="reel-compare-") as place:
        folder = Path(place)
        with tarfile.open(fileobj=io.BytesIO(_run(["git", "archive", "--format=tar", commit], root))) as tar:
            tar.extractall(folder, filter="data")
        dvc = [sys.executable, "-m", "dvc"]
        cache = _run([*dvc, "cache", "dir"], root).decode().strip()
        _run([*dvc, "config", "--local", "core.no_scm", "true"], folder)
        _run([*dvc, "cache", "dir", "--local", str((root / cache).resolve())], folder)
        lock = (folder / "dvc.lock").read_text(encoding="utf-8") if (folder / "dvc.lock").is_file() else ""
        outs = [path for path in re.findall(r"^ *- path: (\S+)$", lock, re.M) if path.startswith(WANTED)]
        wanted = sorted({path for path in outs if Path(path).stem in STAGES})
        if not wanted:
            raise StageError(f"{name}: dvc.lock of this revision knows no diagnostics; run them there (dvc exp run).")
        try:
            _run([*dvc, "checkout", *wanted], folder)
        except StageError as error:
            raise StageError(f"{name}: {error} Try `dvc pull` of that revision, or `dvc exp pull`.") from None
        yield folder


def compare_folders(names: list[str], root: Path, out: Path, sigmas: float) -> str:
    """Compare project folders or revisions; write table and pictures to ``out`` and return the text."""
    with ExitStack() as stack:
        folders = {}
        for name in names:
            is_folder = (root / name / "metrics").is_dir()
            folders[name] = root / name if is_folder else stack.enter_context(checked_out(name, root))
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
    parser.add_argument("what", choices=["representation"])
    parser.add_argument("sides", nargs="*", help="project folders (. is this one), revisions or DVC experiments")
    parser.add_argument("--encoders", action="store_true", help="compare encoder choices on the current latents")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FOLDER", help="one more encoder")
    parser.add_argument("--sigmas", type=float, default=2.0, help="noise that a difference must exceed (2)")
    parser.add_argument("--out", type=Path, help="folder for table and pictures (.work/compare/…)")
    words = parser.parse_args(argv)
    if words.encoders == bool(words.sides) or len(words.sides) == 1 or len(set(words.sides)) < len(words.sides):
        parser.error("give two or more different sides, or --encoders")
    name = "encoders" if words.encoders else "_".join(re.sub(r"\W+", "-", side) for side in words.sides)
    out = words.out or Path(".work") / "compare" / name
    try:
        out.mkdir(parents=True, exist_ok=True)
        if words.encoders:
            text = compare_encoders(words.checkpoint, out, words.sigmas)
        else:
            text = compare_folders(words.sides, Path.cwd(), out, words.sigmas)
    except (StageError, ParamsError) as error:
        print(f"reel compare: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    stage.current().name = "compare"
    sys.exit(main())
