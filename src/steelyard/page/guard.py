"""What stands before the page: who may ask, how much, and what a browser may do with the answer.

A page on this computer can be reached by every other page the browser shows, and by every name that resolves to the
loopback address (DNS rebinding). So a request must name a host that is bound here, must come from this page or from
nowhere, and the answer runs nothing but the files of this folder.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["MAX_BODY", "MAX_QUERY", "POLICY", "Guard", "names_of"]

#: Largest body of a request and longest query, bytes.
MAX_BODY, MAX_QUERY = 64 * 2**20, 16 * 2**10
#: What a browser may load, run and show of an answer: files of this server, no inline script or style, in no frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
#: Methods that are known; each route takes its own of them.
_METHODS = ("GET", "HEAD", "POST", "DELETE")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def names_of(host: str) -> tuple[str, ...]:
    """Names that a request may call a server by which is bound to ``host``; any address where it is bound to all."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - asked for
        return (*_LOOPBACK, socket.gethostname().lower(), "*")
    return _LOOPBACK if host in _LOOPBACK else (host.lower(), *_LOOPBACK)


class Guard:
    """The door of an application, in ASGI.

    Args:
        app: what is asked when nothing is wrong.
        names: as :func:`names_of` gives them.
        refuse: makes the answer of a refusal: ``(scope, status, message)``.
    """

    def __init__(self, app: _App, names: tuple[str, ...], refuse: Callable[[_Scope, int, str], _App]) -> None:
        self._app, self._names, self._refuse = app, names, refuse

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer, or say why not."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message.get("headers", [])}
                message["headers"] = [
                    *((n, v) for n, v in message.get("headers", []) if n != b"server"),
                    *((n, v) for n, v in _HEADERS if n not in own),
                ]
            await send(message)

        headers = _headers(scope)
        status, why = self._wrong(scope, headers)
        if why:
            await self._refuse(scope, status, why)(scope, receive, guarded)
            return
        await self._app(scope, _limited(receive), guarded)

    def _wrong(self, scope: _Scope, headers: dict[str, str]) -> tuple[int, str]:
        """Status and words of a refusal; no words: nothing is wrong."""
        host = headers.get("host", "")
        if not self._known(_name(host)):
            return 421, "this page answers to localhost only; open it by the address that `steelyard serve` printed"
        origin = headers.get("origin", "")
        if origin and origin != "null" and origin.lower().partition("://")[2] != host.lower():
            return 403, "the request comes from another page"
        cross = headers.get("sec-fetch-site", "") in ("cross-site", "same-site") or origin == "null"
        walks = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest", "document") == "document"
        if cross and not (walks and scope["method"] == "GET"):
            return 403, "the request comes from another page"
        if scope["method"] not in _METHODS:
            return 405, "expected GET, POST or DELETE"
        if len(scope.get("query_string", b"")) > MAX_QUERY:
            return 414, f"the question is longer than {MAX_QUERY // 1024} KiB"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > MAX_BODY:
            return 413, f"at most {MAX_BODY // 2**20} MiB are taken"
        return 0, ""

    def _known(self, name: str) -> bool:
        if name in self._names:
            return True
        if "*" not in self._names:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _headers(scope: _Scope) -> dict[str, str]:
    """The headers by name; one that comes twice is joined, so that it matches nothing."""
    found: dict[str, str] = {}
    for name, value in scope.get("headers", []):
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _name(host: str) -> str:
    """The name of ``localhost:8000`` or ``[::1]:8000``; empty where it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower() if "@" not in host and "/" not in host else ""
    except ValueError:
        return ""


class TooLarge(Exception):
    """A body went on beyond the limit."""


def _limited(receive: _Receive) -> _Receive:
    """The same stream, which ends in :class:`TooLarge` where a body without a length goes on."""
    seen = 0

    async def read() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise TooLarge
        return message

    return read
