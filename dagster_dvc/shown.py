"""Texts of anybody on Dagster's pages: captions, names in parameters and metrics, the last lines of a log.

Dagster renders Markdown and keeps whatever it is given, for every materialization. So what a stage says reaches its
pages short, with control characters written out, and in Markdown as text that means nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

import dagster as dg

MOST_NAME, MOST_CELL, MOST_TEXT, MOST_MARKDOWN = 120, 300, 2_000, 20_000
MOST_ROWS = 500
SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$&:@])")
"""What may mean something in Markdown; a backslash before it makes it a character."""


def visible(text: str, most: int = MOST_TEXT, kept: str = "") -> str:
    """At most ``most`` characters, and then how many there are; none that a reader cannot see but those ``kept``."""
    whole, text = len(text), text[:most]
    told = "".join(one if one.isprintable() or one in kept else one.encode("unicode_escape").decode() for one in text)
    return told if whole <= most else f"{told}… ({whole} characters)"


def line(text: str, most: int = MOST_CELL) -> str:
    """A text in a line of Markdown, as it stands."""
    return SPECIAL.sub(r"\\\1", visible(text, most))


def block(text: str, most: int = MOST_MARKDOWN) -> str:
    """A text as a block of code in Markdown; nothing in it ends the block. Of a long one the end is shown."""
    told = visible(text[-most:], most, "\n\t")
    fence = "`" * (1 + max([2, *(len(run) for run in re.findall("`+", told))]))
    return f"{fence}\n{told}\n{fence}"


def tamed(metadata: Mapping[str, Any], whole: tuple[str, ...] = ()) -> dict[str, Any]:
    """Metadata of an event with names and texts of a size that a page can show; names that begin with one of ``whole``
    keep their values (pictures, what a program reads again)."""
    return {
        visible(name, MOST_NAME): value if name.startswith(whole or "\0") else _tamed(value)
        for name, value in metadata.items()
    }


def _tamed(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value, kept="\n\t")
    if isinstance(value, dg.TextMetadataValue):
        return dg.MetadataValue.text(visible(value.text or "", kept="\n\t"))
    if isinstance(value, dg.MarkdownMetadataValue):
        return dg.MetadataValue.md(visible(value.md_str or "", MOST_MARKDOWN, "\n\t"))
    if isinstance(value, dg.JsonMetadataValue):
        return dg.MetadataValue.json(_cells(value.data))
    if isinstance(value, dg.TableMetadataValue):
        rows = [dg.TableRecord(_cells(dict(row.data))) for row in value.records[:MOST_ROWS]]
        return dg.MetadataValue.table(rows, value.schema)
    return value


def _cells(value: Any) -> Any:
    """The same with every text, names too, of a cell's length."""
    if isinstance(value, Mapping):
        return {visible(str(name), MOST_NAME): _cells(part) for name, part in list(value.items())[:MOST_ROWS]}
    if isinstance(value, list | tuple):
        return [_cells(part) for part in value[:MOST_ROWS]]
    return visible(value, MOST_CELL) if isinstance(value, str) else value
