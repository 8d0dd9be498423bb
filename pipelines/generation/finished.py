"""The last steps of every clip that a command writes: a watermark before it is coded, chain and credentials after."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import chain, origin
from pipelines.stage import StageError
from pipelines.standards import content_credentials

WATERMARK = "REEL_WATERMARK"
"""Variable ``package.module:function``: given frames, uint8 [T, H, W, 3], it returns them marked."""


def watermark() -> Callable[[np.ndarray], np.ndarray]:
    """What marks frames: the function that the user names, or none that changes anything.

    Raises:
        StageError: there is no such function, or (when called) it returns something else than such frames.
    """
    named = os.environ.get(WATERMARK, "")
    if not named:
        return lambda frames: frames
    module, _, name = named.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise StageError(f"{WATERMARK}={named}: no such function ({error}); it is package.module:function.") from None

    def marked(frames: np.ndarray) -> np.ndarray:
        found = function(frames.copy())
        if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != (frames.shape, np.dtype(np.uint8)):
            raise StageError(f"{WATERMARK}={named}: must return frames, uint8 of shape {frames.shape}.")
        return found

    return marked


def finish(clip: Path, command: str, params: Mapping[str, Any], read: Mapping[str, Path]) -> None:
    """Put into a written clip where it came from, and content credentials where they are installed."""
    told = {"stage": command, "path": clip.name, "params": dict(params), "environment": origin.environment()}
    made = chain.embed(clip, told, read, {name: origin.inside(path) for name, path in read.items()})
    problem = content_credentials.stamp(clip, made, os.environ.get(WATERMARK) or None)
    if problem is not None:
        print(f"warning: {problem}", file=sys.stderr, flush=True)
