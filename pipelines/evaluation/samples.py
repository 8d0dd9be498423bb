"""The samples of the evaluation as rows of playable clips: one row per prompt, one clip per system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.evaluation.glossary import NAMES
from pipelines.evaluation.markup import Html, data_uri, shortened, tag, video

Sample = dict[str, Any]
REAL = "held_out"
COLUMNS = {"system", "prompt", "file"}


def read_samples(folder: Path) -> list[Sample] | None:
    """Rows of ``samples.parquet``, undefined values as None; None when the evaluation wrote no such table."""
    path = folder / "samples.parquet"
    if not path.is_file():
        return None
    samples = pd.read_parquet(path)
    if not set(samples.columns) >= COLUMNS:
        return None
    rows = samples.astype(object).where(samples.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _readings(sample: Sample) -> list[Html]:
    """What the probe read in the sample, factor by factor: as the prompt says, or else what it saw."""
    shown = []
    for name in (column.removeprefix("factor_") for column in sample if column.startswith("factor_")):
        wanted, seen = sample[f"factor_{name}"], sample.get(f"probe_{name}")
        if wanted is None or seen is None:
            continue
        mark, kind = ("✓", "right") if wanted == seen else ("✗", "wrong")
        title = f"{name}: the prompt says {wanted}, the probe reads {seen}"
        words = f"no {name}" if seen == "none" else shortened(seen)
        shown.append(tag("span", f"{mark} {words}", class_=f"reading {kind}", title=title))
    return shown


def _clip(sample: Sample, folder: Path, pixels: int) -> Html:
    """One clip with what a probe read in it."""
    path, system = folder / str(sample["file"]), NAMES.get(sample["system"], str(sample["system"]).replace("_", " "))
    if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
        shown = video(data_uri(path.read_bytes(), ".mp4"), f"{system}: {shortened(sample['prompt'])}", pixels)
    else:
        shown = tag("p", f"{shortened(sample['file'])} is missing", class_="absent")
    readings = tag("div", *_readings(sample), class_="readings")
    return tag("figure", tag("figcaption", tag("b", system)), shown, readings, class_="clip")


def clip_rows(samples: list[Sample], folder: Path, pixels: int, most: int) -> Html:
    """A row of clips for each of ``most`` prompts that have files: the first sample of every system."""
    prompts: dict[str, dict[str, Sample]] = {}
    for sample in samples:
        if sample["file"] is not None:
            prompts.setdefault(str(sample["prompt"]), {}).setdefault(str(sample["system"]), sample)
    rows = []
    for prompt, systems in list(prompts.items())[:most]:
        real_first = sorted(systems.values(), key=lambda sample: sample["system"] != REAL)
        clips = [_clip(sample, folder, pixels) for sample in real_first]
        rows.append(
            tag(
                "article",
                tag("h3", shortened(prompt)),
                tag("div", *clips, class_="clips", style=f"--count:{len(clips)}"),
                class_="prompt",
            )
        )
    if len(prompts) > most:
        said = f"{len(prompts) - most} more prompts are in {folder}, left out to keep this page small."
        rows.append(tag("p", said, class_="absent"))
    return tag("div", *rows, style=f"--clip:{int(pixels)}px")
