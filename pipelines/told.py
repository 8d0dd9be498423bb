"""A module's docstring as ``--help`` tells it: sentences, without the marks that a docstring has."""

from __future__ import annotations

import re

OWN_COMMAND = re.compile(r"^``[^`]*``: ")
"""What a module of a command begins with; the line of usage says it."""
OWN_HELP = re.compile(r":? ?``reel [\w-]+ --help``(\. )?")
PLACE = re.compile(r"\s*\(:\w+:`[^`]*`\)")
"""Where something stands in the code."""


def plain(docstring: str | None) -> str:
    """The docstring's sentences for somebody who reads no code."""
    text = OWN_HELP.sub("", OWN_COMMAND.sub("", (docstring or "").strip()))
    text = re.sub(r"\n\n\.?\s*", "\n\n", PLACE.sub("", text)).strip()
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("`", "")
    return text[:1].upper() + text[1:]
