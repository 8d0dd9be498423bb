"""The running web interface refuses other pages, and works in a browser."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.dagster_dvc import toy
from tests.dagster_project.server import Server, free_port, serving, wait_for

pytestmark = pytest.mark.slow

HARMLESS = json.dumps({"query": "{ version }"}).encode()
CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = toy.make(tmp_path_factory.mktemp("toy"))
    toy.dvc(root, "repro")
    with serving(root) as running:
        yield running


def status(server: Server, path: str = "/graphql", body: bytes | None = HARMLESS, **headers: str) -> int:
    given = {"Content-Type": "application/json"} if body else {}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body, given)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_harmless_queries_of_another_host_or_origin_are_refused(server: Server) -> None:
    own = f"http://127.0.0.1:{server.port}"
    assert status(server) == status(server, Origin=own, Sec_Fetch_Site="same-origin") == 200
    assert status(server, Host="rebound.example") == 403
    assert status(server, Origin="http://elsewhere.example") == 403
    assert status(server, Origin="null") == 403
    assert status(server, Sec_Fetch_Site="cross-site") == 403
    assert status(server, Content_Type="text/plain; application/json") == 403
    assert status(server, "/graphql?query=%7Bversion%7D", None) == 403
    assert status(server, "/", None, Host="rebound.example") == 403
    assert status(server, "/server_info", None, Origin="http://elsewhere.example") == 403


def test_a_websocket_opens_for_the_own_page_only(server: Server) -> None:
    async def opened(origin: str | None, **options: Any) -> bool:
        address = f"ws://127.0.0.1:{server.port}/graphql"
        try:
            async with websockets.connect(address, origin=origin, subprotocols=["graphql-ws"], **options) as socket:  # type: ignore[arg-type]
                await socket.send(json.dumps({"type": "connection_init"}))
                return json.loads(await socket.recv())["type"] == "connection_ack"
        except websockets.InvalidStatus as error:
            assert error.response.status_code == 403
            return False

    assert asyncio.run(opened(f"http://127.0.0.1:{server.port}"))
    assert not asyncio.run(opened("http://elsewhere.example"))
    assert not asyncio.run(opened(None))


def test_with_a_token_only_who_has_it_is_answered_and_no_file_of_the_project_holds_it(tmp_path: Path) -> None:
    root, token = toy.make(tmp_path / "toy"), "a-token-that-is-planted-0123456789"
    with serving(root, REEL_UI_TOKEN=token) as server:
        assert f"/?token={token}" in (root / "server.log").read_text()
        assert status(server) == 403
        assert status(server, Authorization=f"Bearer {token}") == 200
        run = server.launch("prepare")
        assert server.finished(run) == "SUCCESS"
    holds = [path for path in root.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert holds == [root / "server.log"]  # where the test put what `reel ui` printed


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[int]:
    """A headless Chromium; yields its DevTools port."""
    port = free_port()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    words = [str(CHROMIUM), *flags, f"--remote-debugging-port={port}", f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(20)


def tabs(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
        return [tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page"]


async def visited(tab: str, address: str, text: str, seconds: float = 60) -> tuple[set[int], list[str], str]:
    """Open a page until it shows `text`: the statuses of its requests, its websockets' first frames, what it shows."""
    statuses, frames, shown = set[int](), list[str](), ""
    async with websockets.connect(tab, max_size=None) as socket:
        for number, (method, params) in enumerate(
            [("Network.enable", {}), ("Page.enable", {}), ("Page.navigate", {"url": address})]
        ):
            await socket.send(json.dumps({"id": number, "method": method, "params": params}))
        look = {"method": "Runtime.evaluate", "params": {"expression": "document.body.innerText"}}
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until and not (text in shown and frames):
            await socket.send(json.dumps({"id": 99, **look}))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    while True:
                        event = json.loads(await socket.recv())
                        if event.get("method") == "Network.responseReceived":
                            statuses.add(event["params"]["response"]["status"])
                        elif event.get("method") == "Network.webSocketFrameReceived":
                            frames.append(event["params"]["response"]["payloadData"])
                        elif event.get("id") == 99:
                            shown = event.get("result", {}).get("result", {}).get("value", "")
    return statuses, frames, shown


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_the_interface_works_in_a_browser_with_its_websocket(server: Server, tmp_path: Path) -> None:
    run = server.launch("prepare")
    server.finished(run)
    with browser(tmp_path) as port:
        wait_for(lambda: tabs(port), "the browser", 30, ignore=(OSError,))
        address = f"http://127.0.0.1:{server.port}/runs/{run}"
        statuses, frames, shown = asyncio.run(visited(tabs(port)[0], address, "repro_prepare"))
    assert "repro_prepare" in shown, shown  # the run's events come over the websocket
    assert any("connection_ack" in frame for frame in frames) and any('"data"' in frame for frame in frames)
    assert 200 in statuses and 403 not in statuses


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_a_page_of_elsewhere_in_the_same_browser_gets_nothing(server: Server, tmp_path: Path) -> None:
    script = f"""<body>waiting<script>
      const form = {{method: 'POST', mode: 'no-cors', body: '{{"query": "{{ version }}"}}'}};
      const socket = new WebSocket('ws://127.0.0.1:{server.port}/graphql', 'graphql-ws');
      socket.onopen = () => document.body.innerText = 'socket open';
      socket.onerror = () => fetch('http://127.0.0.1:{server.port}/graphql', form)
        .then(answer => document.body.innerText = 'ended ' + answer.type);
    </script>"""
    page = tmp_path / "elsewhere.html"
    page.write_text(script)
    with browser(tmp_path / "profile") as port:
        wait_for(lambda: tabs(port), "the browser", 30, ignore=(OSError,))
        statuses, frames, shown = asyncio.run(visited(tabs(port)[0], page.as_uri(), "ended", 20))
    assert frames == [] and "ended" in shown
    assert 403 in statuses and statuses <= {0, 200, 403}  # 200: the file itself
