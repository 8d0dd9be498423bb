"""Text as people's programs save it: encoding told by its first bytes, lines by line feeds and returns alone."""

from __future__ import annotations

import codecs
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
RICH = b"{\\rtf"
REMEDY = "save it as UTF-8 (spreadsheets: `CSV UTF-8`; Windows' Notepad: encoding UTF-8)"


class TextError(ValueError):
    """Bytes are not text: what was found, and what to do."""


def decoded(content: bytes) -> str:
    """The text of a file's bytes: UTF-8 with or without its mark, UTF-16 and UTF-32 with theirs.

    Raises:
        TextError: it is none of them, or looks like rich text.
    """
    encoding, rest = next(((name, content[len(mark) :]) for mark, name in MARKS if content.startswith(mark)), ("", b""))
    try:
        text = rest.decode(encoding) if encoding else content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"is not {encoding or 'UTF-8'} text (byte {error.start}); {REMEDY}") from None
    if "\0" in text:
        raise TextError(f"holds zero bytes, so it is no UTF-8 text (UTF-16 without its mark?); {REMEDY}")
    if text.startswith(RICH.decode()):
        raise TextError("is rich text (RTF); save it as plain text")
    return text


def read_text(path: Path) -> str:
    """As :func:`decoded`, of a file.

    Raises:
        TextError: it is no text. OSError: it cannot be read.
    """
    return decoded(path.read_bytes())


def lines_in(path: Path) -> Iterator[str]:
    """The lines of a file as :func:`lines_of` gives them, read one after another: tables have millions.

    Raises:
        TextError: it is no text. OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        first = stream.read(8)
    encoding = next((name for mark, name in MARKS if first.startswith(mark)), "utf-8")
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding[:6]  # which pass over the mark
    try:
        if first.startswith(RICH):
            decoded(first)
        with path.open(encoding=encoding, newline=None) as text:
            for line in text:
                if "\0" in line:
                    decoded(line.encode("utf-8", "replace"))
                yield line
    except UnicodeDecodeError:
        decoded(path.read_bytes())  # says at which byte of the file
        raise


def lines_of(text: str) -> list[str]:
    """Lines, each with its line feed: ``\\n``, ``\\r\\n`` or a lone ``\\r`` end one, nothing else does.

    ``str.splitlines`` would end lines at U+2028, U+0085, vertical tabs and form feeds too, which captions hold.
    """
    return list(io.StringIO(text, newline=None))


def storable_text(text: str) -> str:
    """Text as files and tables can hold it: half a surrogate pair (of JSON, or of a file's name) is U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def one_line(text: str) -> str:
    """Text in one line, as it can be stored and drawn: white space of any kind is one space, controls are left out.

    A byte order mark within text is left out.
    """
    whole = storable_text(text)
    if not whole.isprintable():
        whole = "".join(
            one for one in whole if one.isspace() or (one != "\ufeff" and unicodedata.category(one) != "Cc")
        )
    return " ".join(whole.split())
