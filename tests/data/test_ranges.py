"""Parts of objects by requests of our own: the same bytes, or an OSError so that fsspec is asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipelines.data.ranges import Ranges, ranges

CONTENT = bytes(range(256)) * 40


class Bucket(BaseHTTPRequestHandler):
    """Answers byte ranges of one object; ``how`` says what it does badly."""

    protocol_version = "HTTP/1.1"
    how = ""
    connections: set[Any]

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        self.connections.add(self.client_address)
        start, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())  # type: ignore[union-attr]
        part = CONTENT if self.how == "whole" else CONTENT[start : end + 1]
        self.send_response({"called 200": 200, "whole": 200, "elsewhere": 307}.get(self.how, 206))
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[:10] if self.how == "breaks off" else part)
        if self.how in ("breaks off", "leaves"):
            self.close_connection = True


class Files:
    """What is asked of s3fs' file system: where an object is, and how it is set up."""

    protocol, anon = ("s3", "s3a"), True

    def __init__(self, port: int, **options: Any) -> None:
        self.port = port
        self.__dict__ |= options

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}?X-Amz-Signature=0"


@pytest.fixture
def bucket() -> Iterator[tuple[type[Bucket], int]]:
    handler = type("Own", (Bucket,), {"connections": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield handler, server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("how", ["", "called 200", "leaves"])
def test_the_bytes_of_every_range_come_whatever_the_server_calls_them(bucket: Any, how: str) -> None:
    handler, port = bucket
    handler.how = how
    reader = Ranges(Files(port))
    for start, size in ((0, 1), (0, len(CONTENT)), (77, 5000), (len(CONTENT) - 3, 3), (300, 300)):
        assert bytes(reader.read("lab/a.tar", start, size)) == CONTENT[start : start + size]
    assert len(handler.connections) == (5 if how == "leaves" else 1)
    reader._leave()


@pytest.mark.parametrize("how", ["whole", "elsewhere", "breaks off"])
def test_anything_else_is_an_error_that_leaves_the_way_to_fsspec(bucket: Any, how: str) -> None:
    handler, port = bucket
    handler.how = how
    reader = Ranges(Files(port))
    with pytest.raises(OSError, match=r"status (200|307)|of 5000 bytes|IncompleteRead"):
        reader.read("lab/a.tar", 77, 5000)
    handler.how = ""
    assert bytes(reader.read("lab/a.tar", 5, 9)) == CONTENT[5:14]  # nothing of the bad answer is left
    reader._leave()


@pytest.mark.parametrize(
    "options", [{"client_kwargs": {"verify": False}}, {"req_kw": {"RequestPayer": "requester"}}, {"protocol": "memory"}]
)
def test_where_more_than_an_address_is_set_only_fsspec_will_do(options: dict[str, Any]) -> None:
    assert ranges(Files(1, **options), "lab/a.tar") is None and ranges(Files(1), "lab/a.tar") is not None


def test_a_proxy_is_not_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "")
    assert ranges(Files(1), "lab/a.tar") is None
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert ranges(Files(1), "lab/a.tar") is not None
