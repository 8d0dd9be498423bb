"""Files read once, in order, from servers that break off, with and without byte ranges."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest

from pipelines.data import stream
from pipelines.data.stream import ChangedError, open_stream

CONTENT = np.random.default_rng(0).bytes(3 << 20)


class Breaking(SimpleHTTPRequestHandler):
    """Serves one file, and closes the connection after so many bytes of each answer; -1: the whole."""

    answers_ranges = True
    status = 200
    breaks: ClassVar[list[int]] = []
    begun: ClassVar[list[int]] = []
    silence = 0.0
    tag, url = "one", ""

    def do_GET(self) -> None:
        kind = type(self)
        found = re.match(r"bytes=(\d+)-$", self.headers.get("Range", "")) if kind.answers_ranges else None
        start = int(found[1]) if found else 0
        kind.begun.append(start)
        if kind.status != 200:
            self.send_error(kind.status)
            return
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("ETag", kind.tag)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        length = kind.breaks.pop(0) if kind.breaks else -1
        with contextlib.suppress(ConnectionError):  # a reader that gave up
            self.wfile.write(CONTENT[start:] if length < 0 else CONTENT[start : start + length])
        time.sleep(kind.silence if length >= 0 else 0.0)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Breaking]]:
    """A server whose behaviour a test sets; no waiting between tries."""
    monkeypatch.setattr(stream, "PAUSE", 0.0)
    kind: type[Breaking] = type("Here", (Breaking,), {"breaks": [], "begun": []})
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory="/"))
    thread = threading.Thread(target=web.serve_forever, args=(0.01,))
    thread.start()
    kind.url = f"http://user:word@127.0.0.1:{web.server_port}/a.bin?token=secret"
    yield kind
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.mark.parametrize("answers_ranges", [True, False])
def test_a_transfer_that_breaks_goes_on_where_it_stopped(server: type[Breaking], answers_ranges: bool) -> None:
    server.answers_ranges, server.breaks = answers_ranges, [1 << 20, 2 << 20]
    with open_stream(server.url) as file:
        assert file.read() == CONTENT
    assert len(server.begun) == 3 and server.begun == sorted(server.begun)
    assert any(server.begun) == answers_ranges


def test_a_server_that_falls_silent_is_asked_again(server: type[Breaking], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SILENCE", 0.1)
    server.breaks, server.silence = [1 << 20], 0.5
    with open_stream(server.url) as file:
        assert file.read() == CONTENT
    assert len(server.begun) == 2 and server.begun[1] > 0


def test_one_that_never_goes_on_is_given_up_with_its_place(server: type[Breaking]) -> None:
    server.breaks = [1 << 20, 0, 0, 0]
    with open_stream(server.url) as file, pytest.raises(OSError, match=r"\(at byte \d+, 4 times\)") as caught:
        file.read()
    assert "secret" not in str(caught.value) and len(server.begun) == 4


def test_parts_of_two_files_are_not_put_together(server: type[Breaking]) -> None:
    server.breaks = [1 << 20]
    with open_stream(server.url) as file:
        file.read(1000)
        server.tag = "two"
        with pytest.raises(ChangedError, match="changed while it was read"):
            file.read()


@pytest.mark.parametrize(("status", "said", "tries"), [(404, "a.bin", 1), (403, "Forbidden", 1), (503, "503", 4)])
def test_only_what_may_pass_is_tried_again(server: type[Breaking], status: int, said: str, tries: int) -> None:
    server.status = status
    with pytest.raises(Exception, match=said):
        open_stream(server.url)
    assert len(server.begun) == tries


def test_paths_and_other_file_systems_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    with fsspec.open("memory://stream/a.bin", "wb") as file:
        file.write(CONTENT)
    for url in (str(tmp_path / "a.bin"), f"file://{tmp_path}/a.bin", "memory://stream/a.bin"):
        with open_stream(url) as stream_of:
            assert stream_of.read() == CONTENT
    with pytest.raises(FileNotFoundError):
        open_stream(str(tmp_path / "none"))
