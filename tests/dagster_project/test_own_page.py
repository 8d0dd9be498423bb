"""Whom the web interface answers: its own page, by Host, Origin, Sec-Fetch-Site, content and token."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from dagster_project.own_page import OwnPageOnly, refusal
from dagster_project.web import started_as

JSON = "application/json"


def request(method: str = "POST", path: str = "/graphql", query: str = "", **headers: str) -> dict[str, Any]:
    """An HTTP request to the server on port 3000; a header's underscores are hyphens, an empty one is left out."""
    given = {"host": "127.0.0.1:3000", **({"content_type": JSON} if method == "POST" else {}), **headers}
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items() if value]
    server = ("127.0.0.1", 3000)
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": lines,
        "server": server,
    }


def websocket(**headers: str) -> dict[str, Any]:
    return {**request("GET", **headers), "type": "websocket"}


OWN = {"origin": "http://127.0.0.1:3000", "sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"}
LINK = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}


@pytest.mark.parametrize(
    "scope",
    [
        request(**OWN),
        request(),  # a program of this user: curl, the tests
        request(host="localhost:3000", origin="http://localhost:3000"),
        request(host="LocalHost:8123", origin="http://localhost:8123"),  # through ssh -L
        request(host="[::1]:3000", origin="http://[::1]:3000"),
        request(host="127.0.0.1"),
        request(content_type="application/json; charset=utf-8"),
        request("GET", "/", sec_fetch_site="none", sec_fetch_mode="navigate", sec_fetch_dest="document"),
        request("GET", "/assets", query="view=checks", **LINK),  # a link in a chat opens a page, which asks nothing
        request("GET", "/graphql"),
        websocket(**OWN),
    ],
)
def test_the_own_page_and_programs_of_this_machine_are_answered(scope: dict[str, Any]) -> None:
    assert refusal(scope) is None


@pytest.mark.parametrize(
    ("scope", "why"),
    [
        (request(host="rebound.example:3000", origin="http://rebound.example:3000"), "Host"),
        (request(host="127.0.0.1.rebound.example"), "Host"),
        (request(host="127.0.0.1:3000@rebound.example"), "Host"),
        (request(host="192.168.1.4:3000"), "Host"),
        (request(host=""), "Host"),
        (request(origin="http://elsewhere.example"), "Origin"),
        (request(origin="http://127.0.0.1:8888"), "Origin"),  # another server of this machine
        (request(origin="http://localhost:3000"), "Origin"),  # another origin to a browser
        (request(origin="null"), "Origin"),  # a sandboxed frame, a file
        (request(origin="http://127.0.0.1:3000.elsewhere.example"), "Origin"),
        (request(sec_fetch_site="cross-site"), "Sec-Fetch-Site"),
        (request(sec_fetch_site="same-site"), "Sec-Fetch-Site"),
        (request("GET", "/", **{**LINK, "sec_fetch_dest": "iframe"}), "Sec-Fetch-Site"),
        (request("GET", "/graphql", **LINK), "Sec-Fetch-Site"),
        (request("GET", "//logs/1/2.out", **LINK), "Sec-Fetch-Site"),
        (request("POST", "/", **LINK), "Sec-Fetch-Site"),
        (request(content_type="text/plain"), "JSON"),
        (request(content_type="text/plain; application/json"), "JSON"),  # what Dagster itself takes for JSON
        (request(content_type="application/x-www-form-urlencoded"), "JSON"),
        (request(content_type=""), "JSON"),
        (request("POST", "/report_asset_materialization/train", query="data_version=1", content_type=""), "JSON"),
        (request("PUT", "/"), "JSON"),
        (request("GET", "/graphql", query="query={version}"), "address"),
        (request("GET", "/graphql/", query="query={version}"), "address"),
        (websocket(), "without Origin"),
        (websocket(origin="http://elsewhere.example"), "Origin"),
        (websocket(host="rebound.example:3000", origin="http://rebound.example:3000"), "Host"),
    ],
)
def test_everyone_else_is_refused_with_the_reason(scope: dict[str, Any], why: str) -> None:
    found = refusal(scope)
    assert found is not None and why in found


def test_two_hosts_or_origins_are_no_host_or_origin() -> None:
    twice = request()
    twice["headers"].append((b"host", b"127.0.0.1:3000"))
    assert refusal(twice) is not None
    twice = request(**OWN)
    twice["headers"].append((b"origin", b"http://127.0.0.1:3000"))
    assert refusal(twice) is not None


def answers(scope: dict[str, Any], token: str | None = None) -> list[dict[str, Any]]:
    """What the layer sends, in front of an application that answers 200."""
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(OwnPageOnly(application, token)(scope, receive, send))
    return sent


def test_a_refusal_is_a_403_in_words_and_a_websocket_is_closed_before_it_opens() -> None:
    start, body = answers(request(origin="http://elsewhere.example"))
    assert start["status"] == 403 and body["body"] == b"403: Origin is another page.\n"
    (close,) = answers(websocket(origin="http://elsewhere.example"))
    assert close["type"] == "websocket.close"


def test_no_other_page_may_show_it_in_a_frame() -> None:
    (start,) = answers(request("GET", "/"))
    assert (b"x-frame-options", b"DENY") in start["headers"]


def test_where_a_token_is_set_only_who_has_it_is_answered() -> None:
    assert answers(request(**OWN), "s3")[0]["status"] == 403
    assert answers(request(**OWN, authorization="Bearer s3"), "s3")[0]["status"] == 200
    assert answers(request(**OWN, authorization="Bearer s4"), "s3")[0]["status"] == 403
    assert answers(request(**OWN, cookie="other=1; reel_ui_3000=s3"), "s3")[0]["status"] == 200
    assert answers(request(**OWN, cookie="reel_ui_3001=s3"), "s3")[0]["status"] == 403
    assert answers(websocket(**OWN), "s3")[0]["type"] == "websocket.close"
    assert refusal(websocket(**OWN, cookie="reel_ui_3000=s3"), "s3") is None


def test_the_printed_address_turns_the_token_into_a_cookie_and_leaves_it_out_of_the_next() -> None:
    start = answers(request("GET", "//elsewhere.example/a b", query="token=s3&view=x"), "s3")[0]
    headers = dict(start["headers"])
    assert start["status"] == 303
    assert headers[b"location"] == b"/elsewhere.example/a%20b?view=x"  # a path of this server
    assert headers[b"set-cookie"] == b"reel_ui_3000=s3; Path=/; HttpOnly; SameSite=Strict"
    assert answers(request("GET", "/", query="token=s4"), "s3")[0]["status"] == 403
    assert answers(request("GET", "/", query="token=s3", host="rebound.example"), "s3")[0]["status"] == 403


def test_no_service_of_dagster_is_started_that_the_layer_does_not_know() -> None:
    assert started_as(["python", "-m", "dagster_webserver", "--port", "1"])[1:4] == [
        "-m",
        "dagster_project.web",
        "serve",
    ]
    assert started_as(["python", "-m", "dagster._daemon", "run"])[2:] == ["dagster_project.web", "daemon", "run"]
    assert started_as(["python", "-m", "dagster", "code-server", "start"])[3:] == ["code-server", "start"]
    with pytest.raises(SystemExit, match="which `reel ui` does not know"):
        started_as(["python", "-m", "dagster_webserver2"])
    with pytest.raises(SystemExit, match="which `reel ui` does not know"):
        started_as(["python", "-m", "dagster", "api", "grpc"])


@pytest.mark.costly
def test_services_look_round_less_often_than_dagster_would() -> None:
    """In a process of its own: the intervals are Dagster's, whoever imports it."""
    code = (
        "import importlib\nfrom dagster_project.web import SECONDS, calm\n"
        "of = lambda: {key: getattr(importlib.import_module(key[0]), key[1]) for key in SECONDS}\n"
        "before = of(); calm(); assert of() == SECONDS and all(before[key] < SECONDS[key] for key in SECONDS)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
