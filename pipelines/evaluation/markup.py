"""HTML that is escaped by construction: plain text is always escaped, only what :func:`tag` made is not."""

from __future__ import annotations

import base64
import html
import unicodedata
from collections.abc import Iterable
from pathlib import Path

VOID = frozenset({"img", "meta", "br", "hr", "col", "path", "line", "rect", "circle", "polyline"})
"""Elements without children. Those of SVG are written ``<path …/>``, which HTML parsers accept inside ``<svg>``."""

KINDS = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp", ".mp4": "video/mp4"}


class Html(str):
    """Markup that is already escaped."""

    __slots__ = ()


def text(value: object) -> Html:
    """Escape anything but markup; control characters and what turns the direction of writing are written out."""
    return value if isinstance(value, Html) else Html(html.escape(visible(str(value)), quote=True))


def visible(words: str) -> str:
    """A text in which every character shows, or is a space or the end of a line."""
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() or c in "\n\t" else _written_out(c) for c in words)


def _written_out(c: str) -> str:
    if unicodedata.category(c) == "Zs":
        return c
    return " " if c.isspace() else c.encode("unicode_escape").decode()


def shortened(value: object, most: int = 300) -> str:
    """A text of anybody's making in one line that cannot fill the page: control characters written out, cut."""
    cut = str(value)[: most + 1]
    shown = "".join(c if c.isprintable() else " " if c.isspace() else _written_out(c) for c in cut)
    return shown if len(cut) <= most else f"{shown[:most]}… ({len(str(value)):,} characters)"


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after another, each escaped unless it is markup."""
    return Html(html.escape(between).join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """One element. ``None`` children and attributes are left out; ``class_`` and ``data_src`` lose or change ``_``."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    words = "".join(f' {key}="{text(value)}"' for key, value in given.items())
    if name in VOID:
        return Html(f"<{name}{words}/>")
    return Html(f"<{name}{words}>{join(child for child in children if child is not None)}</{name}>")


def data_uri(content: bytes, suffix: str) -> Html:
    """The bytes of a picture or clip as an address that needs no request."""
    return Html(f"data:{KINDS[suffix]};base64,{base64.b64encode(content).decode('ascii')}")


def beside(name: str) -> str:
    """The text of a file that stands beside this module (style sheet, script)."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def video(uri: str, label: str, pixels: int) -> Html:
    """A square clip, enlarged without smoothing; the script gives it its data when it comes into view."""
    return tag(
        "video",
        data_src=uri,
        width=pixels,
        height=pixels,
        muted="muted",
        loop="loop",
        playsinline="playsinline",
        preload="none",
        aria_label=label,
    )


def player(uri: str, label: str, pixels: int) -> Html:
    """A clip under its name."""
    return tag("figure", tag("figcaption", tag("b", label)), video(uri, label, pixels), class_="clip")
