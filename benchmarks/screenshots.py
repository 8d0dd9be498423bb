"""Pictures of the web interface for docs/, by a headless Chromium: ``python -m benchmarks.screenshots --port 3000``.

`reel ui` must be running, and stages must have run. Chromium is spoken to over its DevTools protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import websockets

WIDTH, HEIGHT = 1400, 900
DEVTOOLS = 9377
QUIET = "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"
CLICK = "[...document.querySelectorAll('button, a, span')].find(node => node.innerText == {text!r})?.click()"
WITHOUT_SIDEBARS = """document.querySelectorAll('button:has([aria-label="panel_show_right"])').forEach(
  button => button.click())"""
SCROLL = """[...document.querySelectorAll('td')].find(
  node => node.innerText == {text!r})?.scrollIntoView({{block: 'center'}})"""
OPEN = "representation", "anchored_flow", "evaluation"
"""Groups whose assets the lineage shows; all twenty do not fit on a picture that can be read."""
RUNS = """query { runsOrError(limit: 30) { ... on Runs {
  results { runId status stats { ... on RunStatsSnapshot { startTime endTime } } } } } }"""


@dataclass(frozen=True)
class Shot:
    """One picture: the page, where it goes, texts to click on first, whether a graph is to fill it, the row to show."""

    page: str
    file: str
    clicks: tuple[str, ...] = ()
    fits: bool = False
    row: str = ""


def shots(port: int, asset: str, gate: str) -> list[Shot]:
    """The pictures that docs/dagster.md shows."""
    expanded = ",".join(f"global@global:{group}" for group in OPEN)
    found = [
        Shot(f"/asset-groups?expanded={expanded}", "dagster_lineage.png", fits=True),
        Shot(f"/assets/{asset}", "dagster_asset.png"),
        Shot(f"/assets/{asset}", "dagster_changed.png", row="changed since the one before"),
        Shot(f"/assets/{gate}?view=checks", "dagster_check.png"),
    ]
    run = longest_run(port)
    return [*found, Shot(f"/runs/{run}", "dagster_run.png")] if run else found


def ask(port: int, query: str) -> Any:
    """The answer of the web server to a GraphQL query."""
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["data"]


def longest_run(port: int) -> str | None:
    """The run that is going on, or else the one that took longest: the one with something to see."""
    runs = ask(port, RUNS)["runsOrError"]["results"]

    def seconds(run: dict[str, Any]) -> float:
        began, ended = (run["stats"].get(name) for name in ("startTime", "endTime"))
        return (ended or time.time()) - began if began else 0.0

    return max(runs, key=lambda run: (run["status"] == "STARTED", seconds(run)))["runId"] if runs else None


async def take(address: str, wanted: list[Shot], folder: Path) -> None:
    """Take every picture, one after the other, in one tab."""
    chromium = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if chromium is None:
        raise SystemExit("no chromium here; apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile, _browser(chromium, profile):
        async with websockets.connect(_tab(), max_size=None) as socket:
            count = 0

            async def call(method: str, **params: Any) -> dict[str, Any]:
                nonlocal count
                count += 1
                await socket.send(json.dumps({"id": count, "method": method, "params": params}))
                while True:
                    answer = json.loads(await socket.recv())
                    if answer.get("id") == count:
                        return answer.get("result", {})

            size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            await call("Emulation.setDeviceMetricsOverride", **size)
            for shot in wanted:
                await call("Page.navigate", url=address + shot.page)
                await asyncio.sleep(8)
                for text in ("Skip", *shot.clicks):
                    await call("Runtime.evaluate", expression=CLICK.format(text=text))
                    await asyncio.sleep(2)
                if shot.fits:
                    await call("Runtime.evaluate", expression=WITHOUT_SIDEBARS)
                    await asyncio.sleep(3)
                if shot.row:
                    await call("Runtime.evaluate", expression=SCROLL.format(text=shot.row))
                    await asyncio.sleep(1)
                picture = await call("Page.captureScreenshot", format="png")
                (folder / shot.file).write_bytes(base64.b64decode(picture["data"]))
                print(folder / shot.file, flush=True)


@contextlib.contextmanager
def _browser(chromium: str, profile: str):
    words = [f"--remote-debugging-port={DEVTOOLS}", f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}"]
    command = [
        chromium,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        *words,
        "about:blank",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _tab() -> str:
    for _ in range(100):
        with contextlib.suppress(OSError):
            tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{DEVTOOLS}/json", timeout=5))
            pages = [tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"]
            if pages:
                return pages[0]
        time.sleep(0.2)
    raise SystemExit("chromium did not start")


def main() -> None:
    """Take the pictures of docs/dagster.md."""
    parser = argparse.ArgumentParser(description="Pictures of the web interface for docs/.")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--asset", default="autoencoder", help="the asset whose page is shown")
    parser.add_argument("--gate", default="diagnostics", help="the asset whose checks are shown")
    parser.add_argument("--folder", type=Path, default=Path("docs/pictures"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    wanted = shots(arguments.port, arguments.asset, arguments.gate)
    asyncio.run(take(f"http://127.0.0.1:{arguments.port}", wanted, arguments.folder))


if __name__ == "__main__":
    main()
