"""Who may ask the studio anything: checked once, before every route and page alike; there are no sockets.

A page of another site can make a browser send requests here, and a name of its own can point here (DNS rebinding): so the Host must
be one of ours, and an Origin, where a browser names one, too. `null` is the origin of a page that hides its own.
"""

import hmac
from collections.abc import Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "reverie-token"
LONGEST = 200_000_000
"""Bytes of one request."""
SAID: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}


def own_hosts(address: str, port: int) -> frozenset[str]:
    """What a Host header may say of a server at this address; of loopback all its names."""
    names = {"127.0.0.1", "localhost", "[::1]"} | ({address} if address not in ("0.0.0.0", "::") else set())
    return frozenset({f"{name}:{port}" for name in names} | ({*names} if port == 80 else set()))


class Guard:
    """ASGI. hosts: none = any, which only a token makes safe. token: what every request must know; "" = nobody is asked."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] | None, token: str = "") -> None:
        self.app, self.token = app, token
        self.hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        wrong = self.wrong(Headers(scope=scope), scope)
        if wrong is not None:
            status, said = wrong
            await JSONResponse({"error": {"message": said}}, status, dict(SAID))(scope, receive, send)
            return
        if self._said(scope) is not None:
            await self._let_in(scope, receive, send)
            return
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > LONGEST else message

        async def said_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAID.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, limited, said_with)

    def wrong(self, headers: Headers, scope: Scope) -> tuple[int, str] | None:
        """(status, why) of a request that is refused."""
        host, origins = headers.getlist("host"), headers.getlist("origin")
        if len(host) != 1 or (self.hosts is not None and host[0].lower() not in self.hosts):
            return 421, "this name is not the studio's: open it at the address that it printed"
        if any(not self._ours(origin, host[0]) for origin in origins):
            return 403, "a page of another site may not ask this one"
        if not (length := headers.get("content-length", "0")).isdecimal() or int(length) > LONGEST:
            return 413, f"a request has at most {LONGEST} bytes"
        if self.token and not self._knows(headers) and not self._right(self._said(scope)):
            return 401, "say the token: as a header Authorization: Bearer TOKEN, or open the address that was printed"
        return None

    def _said(self, scope: Scope) -> str | None:
        """The token of the address that was printed, which is opened once."""
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token") if self.token else None
        return given[0] if given and scope.get("path") == "/" else None

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Keeps the token as a cookie that no script reads, and shows an address without it."""
        answer = RedirectResponse("/", 303, dict(SAID))
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        await answer(scope, receive, send)

    def _right(self, said: str | None) -> bool:
        return said is not None and hmac.compare_digest(said.encode(), self.token.encode())

    def _ours(self, origin: str, host: str) -> bool:
        scheme, _, name = origin.lower().partition("://")
        return scheme in ("http", "https") and name == host.lower()

    def _knows(self, headers: Headers) -> bool:
        said = headers.get("authorization", "").removeprefix("Bearer ").strip()
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        given = [said, cookie.value if cookie is not None else ""]
        return any(map(self._right, given))
