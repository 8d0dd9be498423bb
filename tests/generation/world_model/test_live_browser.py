"""The live page in a real browser: keys that are pressed arrive, and the picture goes on."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from pipelines.generation.world_model.live import LiveServer, World
from pipelines.generation.world_model.player import Player, load_world
from tests.generation.world_model.toy import Toy, params

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--window-size=700,800")
SECONDS = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    toy = Toy(tmp_path_factory.mktemp("world"))
    folder = toy.train(params("world_model_autoregressive", rollouts=None, curriculum=None, own_errors=None), "world")
    player = Player(load_world(folder, "cpu", None, None), toy.autoencoder, toy.picture())
    made = LiveServer(World(player, 0), 0)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


class Page:
    """A tab, spoken to over the DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.number = socket, 0

    async def call(self, method: str, **values: Any) -> dict:
        self.number += 1
        await self.socket.send(json.dumps({"id": self.number, "method": method, "params": values}))
        while True:
            answer = json.loads(await self.socket.recv())
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    async def value(self, expression: str) -> Any:
        return (await self.call("Runtime.evaluate", expression=expression))["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The value of an expression once it is true."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            found = await self.value(expression)
            if found:
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {expression}; the page says {await self.value(STATUS)!r}")

    async def key(self, kind: str, letter: str) -> None:
        code = {"key": letter, "code": f"Key{letter.upper()}", "windowsVirtualKeyCode": ord(letter.upper())}
        await self.call("Input.dispatchKeyEvent", type=kind, **code)


STATUS = "document.getElementById('status').textContent"


def started(folder: Path) -> tuple[subprocess.Popen, int]:
    """Chromium, and the port of its DevTools."""
    words = [str(CHROMIUM), *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + SECONDS
    while not (folder / "DevToolsActivePort").is_file() or not (folder / "DevToolsActivePort").read_text().strip():
        assert process.poll() is None and time.monotonic() < deadline, "Chromium did not start"
        threading.Event().wait(0.05)
    return process, int((folder / "DevToolsActivePort").read_text().split()[0])


def tab(port: int, url: str) -> str:
    """A new tab's address for DevTools."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?{url}", method="PUT")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.load(answer)["webSocketDebuggerUrl"]


def test_keys_and_mouse_of_a_person_drive_the_world_and_a_second_page_takes_over(server: LiveServer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        process, port = started(Path(folder))
        try:
            asyncio.run(driven(server, port))
        finally:
            process.terminate()
            process.wait(30)


async def driven(server: LiveServer, port: int) -> None:
    """A person presses W, lets go, moves the mouse; then opens the page again."""
    url, held = f"http://127.0.0.1:{server.server_port}/", server.world
    async with websockets.connect(tab(port, url), max_size=None) as one:
        page = Page(one)
        await page.until("window.framesShown > 9")
        assert "frames a second made" in await page.value(STATUS)
        await page.key("keyDown", "w")
        await page.until("document.querySelector('#keys .down')?.textContent == 'W'")
        await seen(lambda: held.held[0] == 1.0)
        await page.key("keyUp", "w")
        await seen(lambda: held.held[0] == 0.0)
        for x in (200, 260, 320, 380):
            await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=300)
        await seen(lambda: held.held[4] > 0)
        picture = await page.value("document.getElementById('picture').toDataURL()")
        assert len(base64.b64decode(picture.split(",")[1])) > 200
        async with websockets.connect(tab(port, url), max_size=None) as two:
            other = Page(two)
            await other.until(f"{STATUS}.includes('another page drives')")
            await other.value("document.getElementById('take').click()")
            await other.until("window.framesShown > 3")
            await page.until(f"{STATUS}.includes('took over')")
            assert await page.value("!document.getElementById('take').hidden")


async def seen(true: Any) -> None:
    """Wait until something is so in the server."""
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, "never seen by the server"
        await asyncio.sleep(0.02)
