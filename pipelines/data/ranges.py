"""Byte ranges of a bucket's objects, each by one signed request, read straight into the memory where they stay.

fsspec's client for S3 takes several times the processor time of this for a sample of some megabytes: it collects the
answer in pieces and joins them. What is asked for, and as whom, is its own: address, credentials and region. Wherever
that is not enough (a proxy, certificates or options of one's own, a redirect), this stands aside and fsspec reads.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
import urllib.request
from typing import Any
from urllib.parse import SplitResult, urlsplit

SILENCE = 60.0
"""Seconds without an answer after which a connection is given up."""
KEPT_SECONDS = 60.0
"""How long credentials are used before they are asked for again; temporary ones live for longer."""
OPTIONS = ("req_kw", "s3_additional_kwargs", "config_kwargs", "client_kwargs", "version_aware")
"""Attributes of s3fs' file system that are empty where nothing but address and credentials is set."""


class Ranges:
    """Reads parts of objects of one bucket; connections are kept, one for each thread."""

    def __init__(self, files: Any) -> None:
        self._files = files
        self._own = threading.local()
        self._addresses: dict[str, SplitResult] = {}
        self._known: tuple[float, Any] = (-KEPT_SECONDS, None)

    def read(self, path: str, start: int, size: int) -> bytearray:
        """``size`` bytes of the object from ``start``.

        Raises:
            OSError: they did not come; fsspec may know why, or another way.
        """
        address = self._address(path)
        headers = self._signed(address, {"Range": f"bytes={start}-{start + size - 1}"})
        for is_last in (False, True):
            try:
                return self._read(address, headers, size)
            except (OSError, http.client.HTTPException) as error:
                self._leave()
                is_stale = isinstance(error, ConnectionError | http.client.BadStatusLine)  # closed while it was idle
                if is_last or not is_stale:
                    raise OSError(f"{type(error).__name__}: {error}") from None
        raise AssertionError("the last try returns or raises")

    def _read(self, address: SplitResult, headers: dict[str, str], size: int) -> bytearray:
        connection = self._connection(address)
        connection.request("GET", address.path, headers=headers)
        answer = connection.getresponse()
        if answer.status not in (200, 206) or answer.length != size:  # some servers call a part 200, too
            raise OSError(f"status {answer.status}, {answer.length} bytes")
        content = bytearray(size)
        view, at = memoryview(content), 0
        while at < size:
            count = answer.readinto(view[at:])
            if not count:
                raise OSError(f"{at} of {size} bytes came")
            at += count
        answer.read()  # nothing, but the connection is free only then
        return content

    def _connection(self, address: SplitResult) -> http.client.HTTPConnection:
        known = getattr(self._own, "connections", None)
        if known is None:
            known = self._own.connections = {}
        if address.netloc not in known:
            host, port = address.hostname or "", address.port
            known[address.netloc] = (
                http.client.HTTPSConnection(host, port, timeout=SILENCE, context=_trusted())
                if address.scheme == "https"
                else http.client.HTTPConnection(host, port, timeout=SILENCE)
            )
        return known[address.netloc]

    def _leave(self) -> None:
        """Close this thread's connections: what is left of an answer must not be read as the next one."""
        for connection in getattr(self._own, "connections", {}).values():
            connection.close()
        self._own.connections = {}

    def _address(self, path: str) -> SplitResult:
        """Where the object is, as fsspec asks for it: by path, or by the bucket's own host."""
        if path not in self._addresses:
            self._addresses[path] = urlsplit(self._files.url(path))._replace(query="", fragment="")
        return self._addresses[path]

    def _signed(self, address: SplitResult, headers: dict[str, str]) -> dict[str, str]:
        """The headers, with the signature of AWS (version 4) where the file system signs."""
        if self._files.anon:
            return headers
        from botocore.auth import S3SigV4Auth  # type: ignore[import-not-found]  # comes with s3fs
        from botocore.awsrequest import AWSRequest  # type: ignore[import-not-found]

        signer = self._files.s3._request_signer
        region = signer._region_name if signer._region_name not in (None, "aws-global") else "us-east-1"
        request = AWSRequest("GET", address.geturl(), headers=headers)
        S3SigV4Auth(self._credentials(signer), "s3", region).add_auth(request)
        return dict(request.headers.items())

    def _credentials(self, signer: Any) -> Any:
        from fsspec.asyn import sync

        asked, known = self._known
        if time.monotonic() - asked >= KEPT_SECONDS:
            known = sync(self._files.loop, signer._credentials.get_frozen_credentials)
            self._known = (time.monotonic(), known)
        return known


def _trusted() -> ssl.SSLContext:
    """The certificates that botocore trusts."""
    from botocore.httpsession import get_cert_path  # type: ignore[import-not-found]

    return ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or get_cert_path(True))


def ranges(files: Any, path: str) -> Ranges | None:
    """A reader of ranges for a file system of fsspec, to be tried at this path; None where only fsspec will do."""
    known = files.protocol
    if "s3" not in ((known,) if isinstance(known, str) else known) or any(
        getattr(files, name, None) for name in OPTIONS
    ):
        return None
    found = Ranges(files)
    try:
        address = found._address(path)
    except Exception:  # whatever is wrong, fsspec is to say it
        return None
    has_proxy = address.scheme in urllib.request.getproxies()
    return None if has_proxy and not urllib.request.proxy_bypass(address.hostname or "") else found
