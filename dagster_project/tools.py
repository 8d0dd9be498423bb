"""Commands of `reel` that belong to a room: the platform only knows their module, which runs in a process of its own."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

TOOLS = {
    "generate": ("pipelines.generation.generate", "Clips from prompts with any flow checkpoint."),
    "compare": ("pipelines.representation.compare", "Classes and encoders of two revisions or folders."),
}
"""`reel NAME …` is `python -m MODULE …`: the module parses its own words, with ``prog="reel NAME"``."""


def run(name: str, words: Sequence[str], root: Path) -> int:
    """Replace this process by the tool, in the project's folder; paths in ``words`` are relative to that folder."""
    module, _ = TOOLS[name]
    os.chdir(root)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *words])
