"""Names of paths and stages in the letters that Dagster takes: a folder may be called ``Clips (März) @eins``."""

import hashlib
import re
import unicodedata


def word(text: str) -> str:
    """One part of an asset key: ASCII letters, digits, ``_``, ``-`` and ``.``; never empty."""
    return _ascii(text, r"[^A-Za-z0-9_.-]")


def identifier(text: str) -> str:
    """A name of an operation, check or pool: ASCII letters, digits and ``_``; ``@`` becomes ``__``; never empty."""
    return _ascii(text.replace("@", "__"), r"[^A-Za-z0-9_]")


def group(text: str) -> str:
    """A group name: identifiers with ``/`` between them."""
    return "/".join(identifier(part) for part in text.split("/") if part) or identifier(text)


def other(text: str, origin: str) -> str:
    """A name for what would be called like something else: the same with six letters that `origin` decides."""
    return f"{text}_{_digest(origin)}"


def _ascii(text: str, others: str) -> str:
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore").decode()
    found = re.sub(others, "_", plain)
    return found if re.search(r"[A-Za-z0-9]", found) or text == found != "" else f"x_{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()[:6]
