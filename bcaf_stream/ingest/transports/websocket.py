"""The sockets of every WebSocket server: who may come in, how many, and how they leave. RFC 6455 by `websockets`.

Answers before the upgrade, each with its cause in a line of text: 401 no valid secret, 403 an address, a name or a
web page that is not allowed, 429 too many connections of one client, 503 too many at all. A connection holds its
place (see admission.py) from its arrival, so TLS is negotiated here and not by the listening socket, which would
count nobody. The library's own log is off: it quotes messages and prints tracebacks.
"""

import asyncio
import base64
import binascii
import http
import logging
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol

from bcaf_stream import loops
from bcaf_stream.addresses import in_url
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.protocol import Clock, Request, WebSocketProtocol
from bcaf_stream.ingest.security import Access
from bcaf_stream.ingest.sink import CallSink
from bcaf_stream.ingest.transports.admission import DISPLACED, Place, Stage, admission

CLOSE_S = 2.0  # how long a peer may take to answer the closing of its connection
PING_S, PONG_S = 10.0, 30.0
QUEUE = 4  # frames that wait in memory; then the peer is read no further
RETRY_AFTER_S = 5

NORMAL, GOING_AWAY, NO_CODE, POLICY, INTERNAL, TRY_LATER = 1000, 1001, 1005, 1008, 1011, 1013  # RFC 6455 and IANA

UNAVAILABLE = (
    f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: {RETRY_AFTER_S}\r\nConnection: close\r\n\r\n".encode()
)

PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:;"
    " connect-src 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}

_SILENT = logging.Logger("websockets", logging.CRITICAL + 1)


class Connection(ServerConnection):
    """A connection that has its place, and its TLS, before the library sees it.

    `place` None: there was none for it, and it is only told why.
    """

    listener: "WebSocketListener"
    place: Place | None = None
    address = ""
    _raw: asyncio.Transport | None = None
    _early = b""  # what came behind the last bytes of the TLS handshake
    _begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        if not self.listener.arrived(self):
            transport.abort()
        elif self.listener.tls is None:
            self._begin(transport)
        else:
            loops.spawn_task(f"{self.listener.name} TLS", self._shake_hands(transport))

    def data_received(self, data: bytes) -> None:
        if self._begun:
            super().data_received(data)
        else:
            self._early += data

    def eof_received(self) -> None:
        if self._begun:
            super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.listener.left(self)
        if self._begun:
            super().connection_lost(exc)

    @property
    def is_greeted(self) -> bool:
        """Whether it was let in, and is not leaving."""
        return self.place is not None and self.place.stage is not Stage.SILENT and self.state is not State.CLOSED

    def displace(self) -> None:
        """Hang up: somebody else needs the place."""
        if not self._begun:
            self.abort()
        elif self.state is State.CONNECTING:
            with suppress(RuntimeError):  # it was refused, and nothing more can be said to it
                self.transport.write(UNAVAILABLE)
            self.transport.close()
        else:
            loops.spawn_task(f"{self.listener.name} closing", self.close(TRY_LATER, DISPLACED))

    def abort(self) -> None:
        """Leave without a word."""
        if self._raw is not None:
            self._raw.abort()

    def _begin(self, transport: asyncio.Transport) -> None:
        self._begun = True
        super().connection_made(transport)
        if self._early:
            super().data_received(self._early)
            self._early = b""

    async def _shake_hands(self, raw: asyncio.Transport) -> None:
        loop, tls, patience_s = asyncio.get_running_loop(), self.listener.tls, self.listener.config.first_message_s
        assert tls is not None
        try:
            transport = await loop.start_tls(raw, self, tls, server_side=True, ssl_handshake_timeout=patience_s)
        except OSError:  # includes what TLS raises, and a time-out
            self.listener.refused += 1
            raw.abort()
            self.listener.left(self)
            return
        if transport is not None and not transport.is_closing():
            self._begin(transport)


class WebSocketListener:
    """Listens for the connections of one protocol; `WebSocketServer` says in `converse` what is done with them.

    `refused` counts who was turned away, `displaced` those of them who lost their place to the next one.

    Args:
        clock: unix time in ns, for `received_at`.
    """

    def __init__(self, protocol: WebSocketProtocol, clock: Clock = time.time_ns) -> None:
        self.name = protocol.name
        self.protocol = protocol
        self.config = config = protocol.config
        self.clock = clock
        self._access: Access
        self.sink: CallSink
        self.tls: ssl.SSLContext | None = None
        self._server: Server | None = None
        self._arrived: set[Connection] = set()
        self._admission = admission(config)
        self.endpoint = ""
        self.refused = 0

    @property
    def displaced(self) -> int:
        return self._admission.displaced

    @property
    def connections(self) -> frozenset[Connection]:
        """Those that have come and not left, calls or not."""
        return frozenset(self._arrived)

    def counters(self) -> dict[str, int]:
        return {"refused": self.refused, "displaced": self.displaced}

    async def start(self, sink: CallSink) -> None:
        """Listen.

        Raises:
            LinkError: the address cannot be bound, or a file of secrets or a certificate cannot be read.
        """
        config = self.config
        self.protocol.load()
        self.sink = self.protocol.behind(sink)
        self._access = Access(config)
        self.tls = self._access.tls
        try:
            self._server = await serve(
                self._handle,
                config.host,
                config.port,
                select_subprotocol=self._subprotocol,
                process_request=self._examine,  # type: ignore[arg-type]  # the connections are those of _create
                create_connection=self._create,  # type: ignore[arg-type]
                compression=None,  # nothing here gets smaller by it, and a bomb could grow
                open_timeout=config.first_message_s,
                ping_interval=PING_S,
                ping_timeout=PONG_S,
                close_timeout=CLOSE_S,
                max_size=config.max_message_bytes,
                max_queue=QUEUE,
                server_header=None,
                logger=_SILENT,
            )
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise LinkError(f"{self.name}: {config.host} port {config.port} cannot be bound: {reason}") from None
        port = self._server.sockets[0].getsockname()[1]
        shown = in_url(config.host)
        scheme = "http" if self.protocol.page else "ws"  # a page knows the rest
        self.endpoint = f"{scheme}{'s' if self.tls else ''}://{shown}:{port}{'/' if self.protocol.page else ''}"

    async def close(self) -> None:
        """Stop listening and hang up; returns when no task and no socket is left."""
        if self._server is None:
            return
        self._server.close(code=GOING_AWAY, reason="the server stops")
        for connection in list(self._arrived):
            if connection.state is State.CONNECTING:
                connection.abort()  # it has not asked for anything yet
        await self._server.wait_closed()
        self._server = None

    async def converse(self, connection: Connection) -> None:
        """Serve one connection, from its upgrade to its end.

        Raises:
            ConnectionClosed: it is gone.
        """
        raise NotImplementedError

    def arrived(self, connection: Connection) -> bool:
        """Give a connection its place; whether it may stay, be it only to be told why it has none."""
        if self._access.address_allowed(connection.address):
            connection.place = self._admission.enter(connection.address, connection.displace)
        if connection.place is None and len(self._arrived) >= 2 * self.config.max_connections:
            self.refused += 1
            return False
        self._arrived.add(connection)
        return True

    def left(self, connection: Connection) -> None:
        self._arrived.discard(connection)
        self._admission.leave(connection.place)

    def _create(self, *args: Any, **kwargs: Any) -> Connection:
        connection = Connection(*args, **kwargs)
        connection.listener = self
        return connection

    def _subprotocol(self, _: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        chosen = self.protocol.subprotocol(offered)
        return None if chosen is None else Subprotocol(chosen)

    def _examine(self, connection: Connection, request: HttpRequest) -> Response | None:
        """The answer to a request that is not to be upgraded; None lets it in."""
        asked = plain(request)
        refusal = self._refusal(connection, asked)
        if refusal is None:
            assert connection.place is not None
            connection.place.stage = Stage.GREETED
            return self._show(connection, asked) if self.protocol.page else None
        status, cause = refusal
        self.refused += 1
        response = connection.respond(status, f"{cause}\n")
        if status is http.HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = "Bearer"
        if status in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    def _show(self, connection: Connection, request: Request) -> Response | None:
        """The page, for a browser that asks for it; None for a request to be upgraded."""
        page = self.protocol.page or b""
        if request.header("Upgrade") is not None:
            return None
        if urlsplit(request.target).path != "/":
            return connection.respond(http.HTTPStatus.NOT_FOUND, "only / is here\n")
        headers = Headers(PAGE_HEADERS, **{"Content-Length": str(len(page))})
        return Response(http.HTTPStatus.OK.value, "OK", headers, page)

    def _refusal(self, connection: Connection, request: Request) -> tuple[http.HTTPStatus, str] | None:
        if not self._access.address_allowed(connection.address):
            return http.HTTPStatus.FORBIDDEN, "this address is not allowed here"
        if not self.config.asks_for_secret:  # a page from elsewhere, in a browser that can reach us
            host, origins = request.header("Host"), request.all("Origin")
            anybody = self.config.insecure and not origins  # but no page of somebody else's in a browser
            if not anybody and not self._access.host_allowed(host):
                return http.HTTPStatus.FORBIDDEN, "this Host is no name of this server: its hosts say which are"
            if not all(self._access.origin_allowed(each, host) for each in origins):
                return http.HTTPStatus.FORBIDDEN, "this Origin is no page of this server"
        if connection.place is None:
            return http.HTTPStatus.SERVICE_UNAVAILABLE, "all connections are in use by calls; try again later"
        known = any(self._access.token_allowed(token) for token in shown_tokens(request))
        if not (known and self.protocol.may_enter(request, self.clock() / 1e9)):
            return http.HTTPStatus.UNAUTHORIZED, "a valid token or signature is needed"
        mine = [other for other in self._arrived if other.address == connection.address and other.is_greeted]
        room = len(mine) < self.config.max_calls_per_client or self.config.behind_proxy
        if not room and not self._admission.displace_one_of(connection.address, connection.place):
            return http.HTTPStatus.TOO_MANY_REQUESTS, "too many connections of this address"
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Connection)
        try:
            await self.converse(connection)
        except ConnectionClosed:
            pass
        except Exception as error:
            # The boundary of one connection: whatever broke in it, the others go on.
            loops.faults.count(f"{self.name} connection", error)
            await connection.close(INTERNAL, "internal error")


def plain(request: HttpRequest) -> Request:
    """The request without the library's types."""
    return Request(request.path, tuple(request.headers.raw_items()))


def shown_tokens(request: Request) -> list[str | None]:
    """The secrets that a request shows: Bearer, the password of Basic, X-API-KEY, ?token=; [None] without any."""
    bearer: list[str | None] = []
    for value in request.all("Authorization"):
        scheme, _, shown = value.partition(" ")
        if scheme.lower() == "bearer":
            bearer.append(shown.strip())
        elif scheme.lower() == "basic":
            bearer.append(_password(shown.strip()))
    return [*bearer, *request.all("X-API-KEY"), *request.query.get("token", [])] or [None]


def _password(shown: str) -> str | None:
    try:
        return base64.b64decode(shown, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return None


def brief(text: str) -> str:
    """A text as the reason of a closing frame, which holds 123 bytes."""
    return text.encode("utf-8", "replace")[:120].decode("utf-8", "ignore")
