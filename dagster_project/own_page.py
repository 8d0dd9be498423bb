"""The layer in front of Dagster's web server: it answers its own page, and nobody who merely knows the port.

Dagster asks for no password and checks no origin: any page in the same browser could send it queries (a POST of
``text/plain`` needs no preflight, a websocket none at all), and a name that an attacker points at 127.0.0.1 makes its
page "same-origin". Here a request passes only if

* ``Host`` is a loopback name (against rebound names);
* ``Origin``, where there is one, is this very server, and a websocket has one;
* ``Sec-Fetch-Site``, where the browser says it, is the page's own; a plain link from elsewhere may open a page, which
  asks for nothing by itself, but not an address that answers with data;
* a body is JSON by its media type, and ``/graphql`` takes no query from the address;
* on a machine with other users, it has the token of :data:`TOKEN`, in a cookie or as ``Authorization: Bearer``.

Everything else gets 403 (for a websocket: before it opens). Pure ASGI; knows nothing of Dagster but its addresses.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]

TOKEN = "REEL_UI_TOKEN"
"""The variable by which `reel ui` hands the token to the web server; no other process gets it."""
LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
ANSWERS = ("/graphql", "/logs", "/notebook", "/dagit", "/download_debug", "/report_asset_", "/server_info")
"""Addresses of Dagster that answer with data or do something; every other one is a page or a part of it."""
SAFE = ("GET", "HEAD")


def refusal(scope: Scope, token: str | None = None) -> str | None:
    """Why a request is refused, in words for who sent it; None if it is one of the own page.

    Args:
        scope: the ASGI scope of an HTTP request or websocket.
        token: what the request must have where the machine has other users.
    """
    return next(filter(None, _complaints(scope, token)), None)


def _complaints(scope: Scope, token: str | None) -> Iterator[str | None]:
    hosts = _all(scope, "host")
    if len(hosts) != 1 or not LOOPBACK.fullmatch(hosts[0]):
        yield "Host is no loopback name: open the address that `reel ui` printed (from elsewhere: ssh -L)"
        return
    yield _origin(scope, hosts[0])
    yield _site(scope)
    if scope["type"] == "http":
        yield _body(scope)
    if token is not None and not _has_token(scope, token):
        yield "the token is missing: open the address that `reel ui` printed, or send Authorization: Bearer"


def _origin(scope: Scope, host: str) -> str | None:
    origins = _all(scope, "origin")
    if not origins:
        return "a websocket without Origin" if scope["type"] == "websocket" else None
    own = {f"http://{host}".lower(), f"https://{host}".lower()}
    return None if [origin.lower() in own for origin in origins] == [True] else "Origin is another page"


def _site(scope: Scope) -> str | None:
    sites = _all(scope, "sec-fetch-site")
    if all(site in ("same-origin", "none") for site in sites):
        return None
    modes, ends = _all(scope, "sec-fetch-mode"), _all(scope, "sec-fetch-dest")
    is_link = scope["type"] == "http" and scope["method"] in SAFE and modes == ["navigate"] and ends == ["document"]
    return None if is_link and not _answers(scope) else "Sec-Fetch-Site is another page"


def _answers(scope: Scope) -> bool:
    return re.sub("/+", "/", scope["path"]).startswith(ANSWERS)


def _body(scope: Scope) -> str | None:
    if scope["method"] in SAFE:
        has_query = bool(scope.get("query_string")) and scope["path"].rstrip("/") == "/graphql"
        return "a query in the address: send it as JSON" if has_query else None
    kinds = [kind.partition(";")[0].strip().lower() for kind in _all(scope, "content-type")]
    return None if kinds == ["application/json"] else "the content is not JSON (Content-Type: application/json)"


def _has_token(scope: Scope, token: str) -> bool:
    given = [text.removeprefix("Bearer ") for text in _all(scope, "authorization")]
    for text in _all(scope, "cookie"):
        try:
            cookies = SimpleCookie(text)
        except CookieError:
            continue
        given += [morsel.value for name, morsel in cookies.items() if name == _cookie(scope)]
    return any(hmac.compare_digest(one.encode(), token.encode()) for one in given)


def _cookie(scope: Scope) -> str:
    """The cookie's name; browsers keep one jar for all ports of a host."""
    return f"reel_ui_{(scope.get('server') or ('', 0))[1]}"


def _all(scope: Scope, name: str) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name.encode()]


class OwnPageOnly:
    """ASGI middleware; see the module's first lines."""

    def __init__(self, app: App, token: str | None = None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        entry = self._entry(scope)
        if entry is not None and refusal(scope) is None:
            await _answer(send, 303, b"", entry)
            return
        why = refusal(scope, self._token)
        if why is None:
            await self._app(scope, receive, _unframed(send))
        elif scope["type"] == "websocket":
            await receive()  # the handshake; refused before it opens, the server says 403
            await send({"type": "websocket.close", "code": 1008, "reason": why})
        else:
            await _answer(send, 403, f"403: {why}.\n".encode(), [(b"content-type", b"text/plain; charset=utf-8")])

    def _entry(self, scope: Scope) -> list[tuple[bytes, bytes]] | None:
        """The headers that turn the printed address, with its ``?token=``, into a cookie; None for other requests."""
        if self._token is None or scope["type"] != "http" or scope["method"] != "GET" or _answers(scope):
            return None
        words = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        given = dict(words).get("token")
        if given is None or not hmac.compare_digest(given.encode(), self._token.encode()):
            return None
        rest = urlencode([(name, value) for name, value in words if name != "token"])
        path = "/" + quote(scope["path"].lstrip("/"))  # never "//host", nor a line of a header
        cookie = f"{_cookie(scope)}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        return [(b"set-cookie", cookie.encode()), (b"location", f"{path}{'?' if rest else ''}{rest}".encode())]


def _unframed(send: Send) -> Send:
    """Answers that no other page may show in a frame."""

    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), (b"x-frame-options", b"DENY")]}
        await send(message)

    return sent


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    fixed = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *fixed]})
    await send({"type": "http.response.body", "body": body})
