"""Places for the longest of one's own captions: those that stand in params.yaml are of the rendered clips' prompts."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pipelines.footage.fitting import FittedValue

TOKEN = re.compile(r"\w+|[^\w\s]+")
"""As the ``embedded`` text encoder takes captions apart."""
BESIDE = 2
"""Tokens that are no words: the end of the text, and the class."""


def fitted_text(values: Mapping[str, Any], captions: Collection[str], is_all: bool) -> Iterator[FittedValue]:
    """Every ``text_length`` that the captions do not fit into, raised; ``is_all``: there are no further captions.

    Nothing is known of a pretrained encoder's tokens, nor may a pretrained denoiser's length be changed.
    """
    text = values.get("latent_shards", {}).get("text") or {}
    most = text.get("max_length")
    if text.get("kind") != "embedded" or not isinstance(most, int) or not captions:
        return
    longest = min(max(len(TOKEN.findall(caption)) for caption in captions) + BESIDE, most + 1)
    for name, section in values.items():
        for block in ("denoiser", "refiner"):
            sizes = section.get(block) if isinstance(section, Mapping) else None
            stated = sizes.get("text_length") if isinstance(sizes, Mapping) and "heads" in sizes else None
            if isinstance(stated, int) and stated < longest:
                value = longest if is_all else most + 1
                reason = "tokens of the longest caption" if is_all else "the longest that latent_shards.text leaves"
                yield FittedValue((name, block, "text_length"), value, reason)
