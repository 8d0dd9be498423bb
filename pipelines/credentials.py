"""Credentials that stand in an address: found, refused in what is committed, cut out of what is written.

``params.yaml`` and ``dvc.yaml`` are committed, and their values go on into ``dvc.lock``, records, checkpoints, reports
and DVC's remote; a secret there is out for good. What needs one reads it from where only this machine has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>|]+", re.IGNORECASE)
SIGNS = re.compile(
    r"(^|[-_.])(sig|sign|signature|sas|key|(auth|rl)key|pwd|auth|authorization|jwt|ticket|hmac|hdn(ts|ea|tl)"
    r"|session(id)?)$|token|secret|passw|credential|api[-_]?key|access[-_]?key"
    r"|^x-(amz|goog|oss|cos|obs)-",
    re.IGNORECASE,
)
"""Names of query parameters that let their holder in: signatures of S3, Google, Azure and others, tokens, passwords."""
NAMED_BUCKETS = ("abfs", "abfss", "wasb", "wasbs", "ssh", "sftp", "git+ssh", "hdfs", "webhdfs")
"""Schemes that name a container or an account before ``@``; with them only a password is a credential."""
REMEDY = (
    "keep it out of this file: fsspec's configuration (~/.config/fsspec/conf.json), ~/.netrc, or the environment "
    "variables of the storage's own client hold credentials, and the address stays without"
)
KNOWN = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|A(?:KIA|SIA)[A-Z0-9]{16}"
    r"|sk-[A-Za-z0-9_-]{32,}|xox[abprs]-[\w-]{20,}|AIza[\w-]{35}|ya29\.[\w-]{20,}|npm_[A-Za-z0-9]{36}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*)|-----BEGIN [A-Z ]*PRIVATE KEY-----.*"
)
"""Tokens that are known by their looks, wherever they stand."""
HANDED = re.compile(
    r"\b(?:authorization|proxy-authorization|cookie|[\w-]*(?:api-?key|token|secret)) *: *(?P<header>[^\s'\"][^'\"\n]*)"
    r"|(?<=\s)(?:-u|--user|--proxy-user|--password|--http-password)(?: +|=)(?P<word>['\"]?[^\s'\"$]+)"
    r"|\b[A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|API_?KEY|ACCESS_?KEY)[A-Z0-9_]*=(?P<value>[^\s'\"$]+)",
    re.IGNORECASE,
)
"""What a command hands over: a header, a user with a password, a variable; not what it takes from one (``$NAME``)."""
COMMAND = re.compile(r"\b(curl|wget|aws|gsutil|http|rclone|gcloud|az|ssh|s5cmd)\s|^pipe:")


def credential(text: str) -> str | None:
    """What in a text lets its reader in, by name and never by value; None where nothing does."""
    for found in ADDRESS.findall(text):
        told = _in_address(found)
        if told is not None:
            return told
    if any(_handed(text)):
        return "a password or token that a command hands over"
    return "a token" if KNOWN.search(text) else None


def _handed(text: str) -> Iterator[str]:
    """The passwords and tokens that stand in a command line."""
    for found in HANDED.finditer(text) if COMMAND.search(text) else ():
        value = found["header"] or found["word"] or found["value"]
        if not {"$", "…"} & set(value):
            yield value


def _in_address(address: str) -> str | None:
    for one in address.split("::"):  # fsspec chains addresses
        try:
            parts = urlsplit(one)
        except ValueError:
            continue
        user, at, _ = parts.netloc.rpartition("@")
        if at and (":" in user or parts.scheme.lower() not in NAMED_BUCKETS):
            return "a user or password before @"
        _, _, beside = parts.path.partition(";")
        for part in re.split("[&;]", f"{parts.query}&{parts.fragment}&{beside}"):
            name, equals, value = part.partition("=")
            if equals and value and SIGNS.search(unquote(name)):
                return f"{unquote(name)}="
    return None


def without_credentials(text: str) -> str:
    """A text whose addresses have neither users nor queries, where those let in, and no token, known or handed over."""
    for value in sorted(_handed(text), key=len, reverse=True):
        text = text.replace(value, "…")
    return KNOWN.sub("…", ADDRESS.sub(lambda found: _cut(found.group()), text))


def _cut(address: str) -> str:
    if _in_address(address) is None:
        return address
    try:
        chain = [urlsplit(one) for one in address.split("::")]
        return "::".join(
            urlunsplit((p.scheme, p.netloc.rpartition("@")[2], p.path.partition(";")[0], "", "")) for p in chain
        )
    except ValueError:
        return "…"


def credentials(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """(place, what lets in) for every text of a document that holds a credential, keys included."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from ((place, told) for told in [credential(str(name))] if told)
            yield from credentials(below, (*place, name))
    elif isinstance(value, list | tuple):
        for number, below in enumerate(value):
            yield from credentials(below, (*place, number))
    elif isinstance(value, str) and (told := credential(value)):
        yield place, told
