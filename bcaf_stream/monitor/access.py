"""Who may look: what every request passes before anything answers it, and the headers that every answer carries.

A browser keeps no token: the address or the form with it is answered with a cookie that proves that it was shown,
signed by the token itself, so that it ends with the token and needs nothing to be stored here.
"""

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bcaf_stream.ingest.security import Access, read_secrets
from bcaf_stream.monitor.config import MonitorConfig

COOKIE = "bcaf_monitor"
COOKIE_S = 12 * 3600
MOST_WRONG, FORGIVEN_S = 10, 6.0  # wrong tokens of one address, and how long each one counts
MOST_ADDRESSES = 10_000
LOGIN = "/login"
OPEN = (LOGIN, "/static/monitor.css", "/static/icon.svg")  # what the form needs
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(), camera=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware; puts `user` into the request's state.

    Raises:
        LinkError: the file of tokens or the certificate cannot be read.
    """

    def __init__(self, app: ASGIApp, config: MonitorConfig) -> None:
        self._app, self._config = app, config
        self._access = Access(config)
        self._tokens = read_secrets(config.tokens) if config.tokens else []
        self._wrong = WrongTokens()
        self._secure = config.certificate is not None or config.behind_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if self._secure:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        answer = self._refusal(scope) or await self._signed_in(scope, receive)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, address = Headers(scope=scope), (scope.get("client") or ("", 0))[0]
        if not self._access.address_allowed(address):
            return _said(403, "this address is not allowed here")
        host, origins = headers.getlist("host"), headers.getlist("origin")
        if len(host) != 1:
            return _said(400, "one Host is needed")
        trusting = not self._config.asks_for_secret and not self._config.user_header
        # A page from elsewhere, in a browser that can reach this one: no secret would keep it out.
        if trusting and not self._config.insecure and not self._access.host_allowed(host[0]):
            return _said(403, "this Host is no name of this server: its hosts say which are")
        if not all(self._access.origin_allowed(origin, host[0]) for origin in origins):
            return _said(403, "this Origin is no page of this server")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not _is_arrival(scope, headers):
            return _said(403, "another site may not ask this")
        return None

    async def _signed_in(self, scope: Scope, receive: Receive) -> Response | None:
        """The answer to somebody who has not shown who he is; None: he may go on."""
        headers, path = Headers(scope=scope), scope["path"]
        state = scope.setdefault("state", {})
        if self._config.user_header:
            named = headers.getlist(self._config.user_header)
            if len(named) != 1 or not named[0].strip():
                return _said(401, f"the proxy names nobody in {self._config.user_header}")
            state["user"] = named[0].strip()[:200]
            return None
        if not self._config.asks_for_secret:
            state["user"] = "local"
            return None
        bearer = headers.get("authorization", "")
        shown = bearer[7:].strip() if bearer[:7].lower() == "bearer " else None
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])
        by_address = path == "/" and len(asked) == 1 and scope["method"] == "GET"
        by_form = path == LOGIN and scope["method"] == "POST"
        address = (scope.get("client") or ("", 0))[0]
        number = None if shown else self._number_in_cookie(headers.get("cookie", ""))
        if number is None and (shown or by_address or by_form):
            if self._wrong.are_too_many(address):
                return _said(
                    429, f"too many wrong tokens: wait {FORGIVEN_S:.0f} s", {"Retry-After": f"{FORGIVEN_S:.0f}"}
                )
            token = shown or (asked[0] if by_address else await _token_in_form(receive))
            number = self._number_of(token)
            if number is None:
                self._wrong.add(address)
            if not shown:
                return self._answer(number)
        if number is not None:
            state["user"] = f"token {number + 1}"
            return None
        if path in OPEN and scope["method"] == "GET":
            return None
        return RedirectResponse(LOGIN, 303) if path == "/" else _said(401, "a token is needed")

    def _answer(self, number: int | None) -> Response:
        if number is None:
            return RedirectResponse(f"{LOGIN}?wrong", 303)
        answer = RedirectResponse("/", 303)
        until = int(time.time()) + COOKIE_S
        answer.set_cookie(
            COOKIE, f"{number}.{until}.{self._signature(number, until)}", COOKIE_S,
            secure=self._secure, httponly=True, samesite="strict",
        )  # fmt: skip
        return answer

    def _number_of(self, token: str) -> int | None:
        given = token.encode("utf-8", "surrogatepass")
        found = [number for number, known in enumerate(self._tokens) if hmac.compare_digest(given, known)]
        return found[0] if found else None

    def _number_in_cookie(self, header: str) -> int | None:
        try:
            number, until, signature = SimpleCookie(header)[COOKIE].value.split(".")
            at, end = int(number), int(until)
        except (CookieError, KeyError, ValueError):
            return None
        if not 0 <= at < len(self._tokens) or end < time.time():
            return None
        return at if hmac.compare_digest(signature.encode(), self._signature(at, end).encode()) else None

    def _signature(self, number: int, until: int) -> str:
        return hmac.new(self._tokens[number], f"{COOKIE} {number} {until}".encode(), hashlib.sha256).hexdigest()


class WrongTokens:
    """How many wrong tokens came from each address, less one for every FORGIVEN_S since.

    Whoever sent MOST_WRONG is not heard until one is forgiven, right token or not: else the answer would tell. Who
    is signed in stays so. Behind a proxy all have its address, and wait for each other.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def are_too_many(self, address: str, now: float | None = None) -> bool:
        return self._left(address, time.monotonic() if now is None else now) > MOST_WRONG - 1

    def add(self, address: str, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        self._of[address] = (self._left(address, now) + 1, now)
        self._of.move_to_end(address)
        if len(self._of) > MOST_ADDRESSES:
            self._of.popitem(last=False)

    def _left(self, address: str, now: float) -> float:
        count, at = self._of.get(address, (0.0, now))
        return max(0.0, count - (now - at) / FORGIVEN_S)


def _is_arrival(scope: Scope, headers: Headers) -> bool:
    """Somebody follows a link to the page itself, from wherever it stands."""
    return (
        scope["method"] == "GET" and scope["path"] in ("/", LOGIN) and headers.get("sec-fetch-mode") == "navigate"
    )


def _said(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{why}\n", status, headers)


async def _token_in_form(receive: Callable[[], Awaitable[Message]]) -> str:
    body = b""
    while len(body) < 4096:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    return (parse_qs(body[:4096].decode("latin-1")).get("token") or [""])[0]
