"""Addresses of files elsewhere, and what is said when they cannot be reached."""

from __future__ import annotations

import errno
from urllib.parse import urlsplit

from pipelines.credentials import without_credentials

NETWORK = ("aiohttp", "asyncio", "botocore", "fsspec", "gcsfs", "s3fs")
"""Packages whose errors are about reaching a file."""
GIVE_UP = (FileNotFoundError, PermissionError, ImportError)
"""Errors that another try would not mend."""
TRIES = 4
PAUSE = 1.0
"""Seconds before the second try; doubled for each further one."""


def shown(url: str) -> str:
    """An address without what follows ``?``, where tokens are, and without a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else url


def refusal(url: str, error: Exception) -> str | None:
    """In a few words why a file could not be read, when that is what the error is about; None for every other error."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return None  # of this disk, not of the file
    about_files = isinstance(error, OSError | ValueError | ImportError | EOFError)
    if not about_files and type(error).__module__.partition(".")[0] not in NETWORK:
        return None
    if isinstance(error, FileNotFoundError):
        return "not found, or no answer"
    said = without_credentials(str(error).replace(url, shown(url))).splitlines()
    return said[0] if said else type(error).__name__
