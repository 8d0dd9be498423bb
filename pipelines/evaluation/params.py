"""Parameters of the room: scoring samples, and the page that shows everything."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipelines.params import Count, Params


class ReportParams(Params):
    """How the page looks. What it shows is derived from ``dvc.yaml`` and what the stages wrote."""

    title: Annotated[str, Field(min_length=1)]
    picture_kilobytes: Count
    clip_pixels: Count
