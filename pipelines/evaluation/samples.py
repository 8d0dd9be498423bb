"""The samples of the evaluation as rows of playable clips: one row per prompt, one clip per system."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipelines.evaluation.markup import Html, data_uri, tag

COLUMNS = {"system", "prompt", "file"}


def read_samples(folder: Path) -> pd.DataFrame | None:
    """``samples.parquet``; None when the evaluation has not run or wrote no such table."""
    path = folder / "samples.parquet"
    if not path.is_file():
        return None
    samples = pd.read_parquet(path)
    return samples if set(samples.columns) >= COLUMNS else None


def factors(samples: pd.DataFrame) -> list[str]:
    """Names of the factors that the prompt fixes and a probe read in the sample."""
    named = [name.removeprefix("factor_") for name in samples.columns if name.startswith("factor_")]
    return [name for name in named if f"probe_{name}" in samples.columns]


def _readings(row: pd.Series, names: list[str]) -> list[Html]:
    """What the probe read in the sample, factor by factor: as the prompt says, or else what it saw."""
    shown = []
    for name in names:
        wanted, seen = row[f"factor_{name}"], row[f"probe_{name}"]
        if pd.isna(wanted) or pd.isna(seen):
            continue
        is_right = wanted == seen
        mark, kind = ("✓", "right") if is_right else ("✗", "wrong")
        title = f"{name}: the prompt says {wanted}, the probe reads {seen}"
        shown.append(tag("span", f"{mark} {seen if name != 'none' else name}", class_=f"reading {kind}", title=title))
    return shown


def _clip(row: pd.Series, folder: Path, pixels: int, names: list[str]) -> Html:
    """One clip, enlarged without smoothing; the script gives it its data when it comes into view."""
    path = folder / str(row["file"])
    if path.is_file():
        shown = tag("video", data_src=data_uri(path.read_bytes(), ".mp4"), width=pixels, height=pixels, muted="muted",
                    loop="loop", playsinline="playsinline", preload="none",
                    aria_label=f"{row['system']}: {row['prompt']}")  # fmt: skip
    else:
        shown = tag("p", f"{row['file']} is missing", class_="absent")
    caption = tag("figcaption", tag("b", str(row["system"]).replace("_", " ")))
    return tag("figure", caption, shown, tag("div", *_readings(row, names), class_="readings"), class_="clip")


def clip_rows(samples: pd.DataFrame, folder: Path, pixels: int) -> Html:
    """A row of clips for each prompt that has files."""
    names, rows = factors(samples), []
    for prompt, clips in samples[samples["file"].notna()].groupby("prompt", sort=False):
        clips = clips.drop_duplicates("system")
        shown = [_clip(row, folder, pixels, names) for _, row in clips.iterrows()]
        rows.append(tag("article", tag("h3", prompt), tag("div", *shown, class_="clips"), class_="prompt"))
    return tag("div", *rows, style=f"--clip:{int(pixels)}px")
