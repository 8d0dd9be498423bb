"""Small pictures of a stage's plots for its page in Dagster. The full ones are in the report."""

import base64
import io
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dvc.events import PICTURE
from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.results import pictures
from dagster_dvc.shown import line

MOST_BYTES = 100_000
"""Of one picture; base64 makes four thirds of it, and it is stored once for each data version and output."""
MOST_PICTURES = 8
WIDTHS = (900, 700, 500, 350)


def thumbnails(project: DvcProject, stage: Stage) -> dict[str, Any]:
    """Up to eight pictures as Markdown under ``picture/<name>``; a file that is no picture is left out."""
    found = {}
    found_first = sorted(pictures(project, stage), key=lambda file: len(file.parts))  # what lies deeper is detail
    for file in found_first[:MOST_PICTURES]:
        data = thumbnail(file)
        if data:
            text = base64.b64encode(data).decode()
            kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
            found[f"{PICTURE}{file.stem}"] = dg.MetadataValue.md(f"![{line(file.stem)}](data:{kind};base64,{text})")
    return found


def thumbnail(file: Path) -> bytes | None:
    """The picture in at most `MOST_BYTES`: the PNG as it is if it fits, else a JPEG with as many pixels as fit."""
    from PIL import Image

    raw = file.read_bytes()
    if file.suffix.lower() == ".png" and len(raw) <= MOST_BYTES:
        return raw
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError):
        return None
    for width in WIDTHS:
        small = (
            picture.resize((width, max(1, round(picture.height * width / picture.width))))
            if picture.width > width
            else picture
        )
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=88, optimize=True)
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    return None
