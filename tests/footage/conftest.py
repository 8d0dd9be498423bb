import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.footage import overview


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server of the test's folder; it knows no ranges."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{web.server_address[1]}"
        web.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def pictures_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them is drawn, with fewer pixels: with few clips that is most of what the stage does."""
    monkeypatch.setattr(overview, "DPI", 30)
