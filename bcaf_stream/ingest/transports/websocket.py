"""The sockets of every WebSocket door: who may come in, how many, and how they leave. RFC 6455 by `websockets`.

Answers before the upgrade, each with its cause in a line of text: 401 no valid secret, 403 an address, a name or a
web page that is not allowed, 429 too many connections of one client, 503 too many at all. A connection holds its
place (see admission.py) from its arrival, so TLS is negotiated here and not by the listening socket, which would
count nobody. The library's own log is off: it quotes messages and prints tracebacks.
"""

import asyncio
import http
import logging
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from bcaf_stream import loops
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.security import Access, ServerConfig
from bcaf_stream.ingest.sink import CallSink
from bcaf_stream.ingest.transports.admission import DISPLACED, Place, Stage, admission

CLOSE_S = 2.0  # how long a peer may take to answer the closing of its connection
PING_S, PONG_S = 10.0, 30.0
QUEUE = 4  # frames that wait in memory; then the peer is read no further
RETRY_AFTER_S = 5

NORMAL, GOING_AWAY, POLICY, INTERNAL, TRY_LATER = 1000, 1001, 1008, 1011, 1013  # close codes, RFC 6455 and IANA

UNAVAILABLE = (
    f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: {RETRY_AFTER_S}\r\nConnection: close\r\n\r\n".encode()
)

_SILENT = logging.Logger("websockets", logging.CRITICAL + 1)


class Connection(ServerConnection):
    """A connection that has its place, and its TLS, before the library sees it.

    `place` None: there was none for it, and it is only told why.
    """

    door: "WebSocketServer"
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
        if not self.door.arrived(self):
            transport.abort()
        elif self.door.tls is None:
            self._begin(transport)
        else:
            loops.spawn_task(f"{self.door.name} TLS", self._shake_hands(transport))

    def data_received(self, data: bytes) -> None:
        if self._begun:
            super().data_received(data)
        else:
            self._early += data

    def eof_received(self) -> None:
        if self._begun:
            super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.door.left(self)
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
            loops.spawn_task(f"{self.door.name} closing", self.close(TRY_LATER, DISPLACED))

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
        loop, tls, patience_s = asyncio.get_running_loop(), self.door.tls, self.door.config.first_message_s
        assert tls is not None
        try:
            transport = await loop.start_tls(raw, self, tls, server_side=True, ssl_handshake_timeout=patience_s)
        except OSError:  # includes what TLS raises, and a time-out
            self.door.refused += 1
            raw.abort()
            self.door.left(self)
            return
        if transport is not None and not transport.is_closing():
            self._begin(transport)


class WebSocketServer:
    """A server of one protocol; a subclass says in `converse` what is spoken.

    `refused` counts who was turned away, `displaced` those of them who lost their place to the next one.

    Args:
        clock: unix time in ns, for `received_at`.
    """

    name = "websocket"

    def __init__(self, config: ServerConfig, clock: Callable[[], int] = time.time_ns) -> None:
        self.config = config
        self.clock = clock
        self._access: Access
        self.host: CallSink
        self.tls: ssl.SSLContext | None = None
        self._server: Server | None = None
        self._arrived: set[Connection] = set()
        self._admission = admission(config)
        self.endpoint = ""
        self.refused = 0

    @property
    def displaced(self) -> int:
        return self._admission.displaced

    def counters(self) -> dict[str, int]:
        return {"refused": self.refused, "displaced": self.displaced}

    async def start(self, host: CallSink) -> None:
        """Listen.

        Raises:
            LinkError: the address cannot be bound, or a file of secrets or a certificate cannot be read.
        """
        config = self.config
        self.host = host
        self._access = Access(config)
        self.tls = self._access.tls
        try:
            self._server = await serve(
                self._handle,
                config.host,
                config.port,
                process_request=self.examine,  # type: ignore[arg-type]  # the connections are those of _create
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
        shown = f"[{config.host}]" if ":" in config.host else config.host
        self.endpoint = f"{'wss' if self.tls else 'ws'}://{shown}:{port}"

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

    def may_enter(self, request: Request) -> bool:
        """Whether the request shows what this door asks for."""
        return any(self._access.token_allowed(token) for token in shown_tokens(request))

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
        connection.door = self
        return connection

    def examine(self, connection: Connection, request: Request) -> Response | None:
        """The answer to a request that is not to be upgraded; None lets it in."""
        refusal = self._refusal(connection, request)
        if refusal is None:
            assert connection.place is not None
            connection.place.stage = Stage.GREETED
            return None
        status, cause = refusal
        self.refused += 1
        response = connection.respond(status, f"{cause}\n")
        if status is http.HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = "Bearer"
        if status in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    def _refusal(self, connection: Connection, request: Request) -> tuple[http.HTTPStatus, str] | None:
        if not self._access.address_allowed(connection.address):
            return http.HTTPStatus.FORBIDDEN, "this address is not allowed here"
        if not self.config.asks_for_secret:  # a page from elsewhere, in a browser that can reach this door
            host, origins = only_header(request, "Host"), request.headers.get_all("Origin")
            anybody = self.config.insecure and not origins  # but no page of somebody else's in a browser
            if not anybody and not self._access.host_allowed(host):
                return http.HTTPStatus.FORBIDDEN, "this Host is no name of this server: its hosts say which are"
            if not all(self._access.origin_allowed(each, host) for each in origins):
                return http.HTTPStatus.FORBIDDEN, "this Origin is no page of this server"
        if connection.place is None:
            return http.HTTPStatus.SERVICE_UNAVAILABLE, "all connections are in use by calls; try again later"
        if not self.may_enter(request):
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


def shown_tokens(request: Request) -> list[str | None]:
    """The secrets that a request shows: Authorization: Bearer, X-API-KEY, ?token=; [None] without any."""
    headers = request.headers
    bearer = [value[7:].strip() for value in headers.get_all("Authorization") if value[:7].lower() == "bearer "]
    asked = parse_qs(urlsplit(request.path).query).get("token", [])
    return [*bearer, *headers.get_all("X-API-KEY"), *asked] or [None]


def only_header(request: Request, name: str) -> str | None:
    """A header's value; None where it is not given exactly once."""
    values = request.headers.get_all(name)
    return values[0] if len(values) == 1 else None


def brief(text: str) -> str:
    """A text as the reason of a closing frame, which holds 123 bytes."""
    return text.encode("utf-8", "replace")[:120].decode("utf-8", "ignore")
