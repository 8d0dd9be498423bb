"""A page on this machine where a person drives a world model: ``reel play --live``.

The page asks for a chunk and says what is held; the answer is the chunk's frames. It asks as late as its picture can
wait, and at once when a key goes down or up; frames that were made before are then shown faster. So the picture that
shows what a key does comes in less than one chunk's time where a chunk is made in less than half of the time that it
plays, else after the chunk in the making and its own. Nothing is computed while nobody looks. The server listens on
loopback only and answers its own page only: another ``Host`` (a name that was pointed here) or another ``Origin`` gets
403.

One page drives at a time. A page that is opened later is told so and may take over; the world goes on where it was.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from pipelines.data.actions import kinds_of
from pipelines.generation.world_model.player import Player

PAGE = "live.html"
MOST_BYTES = 16_384
"""Of a request."""
IDLE_SECONDS = 5.0
"""After so long without a question a page no longer drives, and another may without asking."""
POLICY = "default-src 'none'; img-src data:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"


class RefusedRequest(Exception):
    """A request that is answered with a status and one line."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class World:
    """The world that is driven: one for all pages, one driver at a time."""

    def __init__(self, player: Player, seed: int) -> None:
        self.player, self.seed = player, seed
        self.lock = threading.Lock()
        self.driver, self.asked_at = "", 0.0
        self.held = np.zeros(len(player.facts.names), np.float32)
        self.frames = self._begun()

    def _begun(self) -> Iterator[np.ndarray]:
        def rows(start: int, stop: int) -> np.ndarray:
            return np.tile(self.held, (stop - start, 1))

        return self.player.play(rows, self.seed)

    def facts(self) -> dict[str, Any]:
        """What the page needs to know."""
        known = self.player.facts
        keys, _ = kinds_of(known)
        return {
            "keys": [known.names[place] for place in keys],
            "axes": [name for name, kind in zip(known.names, known.kinds, strict=True) if kind == "mouse"],
            "width": self.player.width,
            "height": self.player.height,
            "frame_rate": self.player.frame_rate,
            "chunk_frames": self.player.chunk_frames,
            "name": self.player.world.name,
        }

    def start(self, take: bool, anew: bool) -> dict[str, Any]:
        """A page wants to drive; ``take`` even if another does, ``anew`` from the first picture.

        Raises:
            Refused: another page drives.
        """
        with self.lock:
            busy = self.driver and time.monotonic() - self.asked_at < IDLE_SECONDS
            if busy and not take:
                raise RefusedRequest(
                    HTTPStatus.CONFLICT, "another page drives this world; take over, or close this one"
                )
            self.driver, self.asked_at = secrets.token_urlsafe(16), time.monotonic()
            if anew:
                self.frames = self._begun()
            return {"driver": self.driver, **self.facts()}

    def next(self, driver: str, held: dict[str, Any]) -> dict[str, Any]:
        """The next chunk under what is held, as PNG pictures, and how long it took.

        Raises:
            Refused: the page no longer drives, or names an unknown key.
        """
        row = self._row(held)
        with self.lock:
            if driver != self.driver:
                raise RefusedRequest(HTTPStatus.CONFLICT, "another page took over")
            self.held, began = row, time.perf_counter()
            made = next(self.frames)
            took, self.asked_at = time.perf_counter() - began, time.monotonic()
        return {"frames": [_png(frame) for frame in made], "seconds": took, "rate": len(made) / max(took, 1e-9)}

    def _row(self, held: dict[str, Any]) -> np.ndarray:
        names = self.player.facts.names
        row = np.zeros(len(names), np.float32)
        for name, value in held.items():
            if (
                name not in names
                or isinstance(value, bool)
                or not isinstance(value, int | float)
                or not -1 <= value <= 1
            ):
                text = f"{name[:20]!r}: {str(value)[:20]}; known are {', '.join(names)}, from -1 to 1"
                raise RefusedRequest(HTTPStatus.BAD_REQUEST, text)
            place = names.index(name)
            row[place] = float(value > 0.5) if self.player.facts.kinds[place] == "key" else value
        return row


def _png(frame: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "PNG", compress_level=1)
    return base64.b64encode(stream.getvalue()).decode()


class Handler(BaseHTTPRequestHandler):
    """Answers the page: ``GET /``, ``POST /start``, ``POST /next``."""

    server: LiveServer
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line per chunk says nothing."""

    def _check(self) -> None:
        """Raises: Refused: the request is not of our own page on this machine."""
        own = {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}
        if self.headers.get("Host") not in own:
            raise RefusedRequest(HTTPStatus.FORBIDDEN, "this page answers on 127.0.0.1 only")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{name}" for name in own}:
            raise RefusedRequest(HTTPStatus.FORBIDDEN, "a page of another origin may not drive this world")
        if self.headers.get("Sec-Fetch-Site") not in (None, "same-origin", "none"):
            raise RefusedRequest(HTTPStatus.FORBIDDEN, "a page of another site may not drive this world")

    def do_GET(self) -> None:
        """The page itself."""
        try:
            self._check()
            if self.path != "/":
                raise RefusedRequest(HTTPStatus.NOT_FOUND, "there is one page: /")
            page = resources.files("pipelines.generation.world_model").joinpath(PAGE).read_bytes()
            self._send(HTTPStatus.OK, page, "text/html; charset=utf-8")
        except RefusedRequest as refused:
            self._refuse(refused)

    def do_POST(self) -> None:
        """Begin to drive, or the next chunk."""
        try:
            self._check()
            asked = self._asked()
            if self.path == "/start":
                answer = self.server.world.start(asked.get("take") is True, asked.get("anew") is True)
            elif self.path == "/next":
                held = asked.get("held")
                answer = self.server.world.next(str(asked.get("driver")), held if isinstance(held, dict) else {})
            else:
                raise RefusedRequest(HTTPStatus.NOT_FOUND, "there are /start and /next")
            self._send(HTTPStatus.OK, json.dumps(answer).encode(), "application/json")
        except RefusedRequest as refused:
            self._refuse(refused)

    def _asked(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Content-Type") != "application/json" or not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True
            raise RefusedRequest(HTTPStatus.BAD_REQUEST, f"a question is JSON of at most {MOST_BYTES} bytes")
        try:
            asked = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise RefusedRequest(HTTPStatus.BAD_REQUEST, "this is no JSON") from None
        if not isinstance(asked, dict):
            raise RefusedRequest(HTTPStatus.BAD_REQUEST, "this is no JSON object")
        return asked

    def _refuse(self, refused: RefusedRequest) -> None:
        if refused.status == HTTPStatus.FORBIDDEN:
            self.close_connection = True  # what it sent is not read
        self._send(refused.status, json.dumps({"error": str(refused)}).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        told = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store"}
        told |= {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class LiveServer(ThreadingHTTPServer):
    """The server of one world, on loopback."""

    daemon_threads = True

    def __init__(self, world: World, port: int) -> None:
        self.world = world
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that was closed during its answer is no news; anything else is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve(player: Player, port: int, seed: int) -> None:
    """Serve the page until ctrl-C.

    Raises:
        OSError: the port is taken.
    """
    try:
        server = LiveServer(World(player, seed), port)
    except OSError as error:
        raise OSError(f"--port {port}: {error.strerror}; take another, or 0 for any free one.") from None
    print(f"drive it at http://127.0.0.1:{server.server_port} (stop with ctrl-C)", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()
