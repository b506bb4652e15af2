"""The sockets of every WebSocket door: who may come in, how many, and how they leave. RFC 6455 by `websockets`.

Answers before the upgrade: 401 no valid secret, 403 an address or a web page that is not allowed, 429 too many
connections of one client, 503 too many at all. The library's own log is off: it quotes messages and prints
tracebacks.
"""

import http
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.access import Access, DoorConfig
from bcaf_stream.ingest.live import Host

CLOSE_S = 2.0  # how long a peer may take to answer the closing of its connection
PING_S, PONG_S = 10.0, 30.0
QUEUE = 16  # frames that wait in memory; then the peer is read no further
RETRY_AFTER_S = 5

NORMAL, GOING_AWAY, POLICY, INTERNAL, TRY_LATER = 1000, 1001, 1008, 1011, 1013  # close codes, RFC 6455 and IANA

_SILENT = logging.Logger("websockets", logging.CRITICAL + 1)
_log = logging.getLogger(__name__)


class WebSocketDoor:
    """A server of one protocol; a subclass says in `converse` what is spoken.

    Args:
        clock: unix time in ns, for `received_at`.
    """

    name = "websocket"

    def __init__(self, config: DoorConfig, clock: Callable[[], int] = time.time_ns) -> None:
        self.config = config
        self.clock = clock
        self._access: Access
        self.host: Host
        self._server: Server | None = None
        self._arrived: weakref.WeakSet[ServerConnection] = weakref.WeakSet()
        self._admitted: weakref.WeakKeyDictionary[ServerConnection, str] = weakref.WeakKeyDictionary()
        self.endpoint = ""
        self.refused = 0

    async def start(self, host: Host) -> None:
        """Listen.

        Raises:
            LinkError: the address cannot be bound, or a file of secrets or a certificate cannot be read.
        """
        config = self.config
        self.host = host
        self._access = Access(config)
        tls = self._access.tls
        try:
            self._server = await serve(
                self._handle,
                config.host,
                config.port,
                ssl=tls,
                process_request=self.examine,
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
        self.endpoint = f"{'wss' if tls else 'ws'}://{shown}:{port}"

    async def close(self) -> None:
        """Stop listening and hang up; returns when no task and no socket is left."""
        if self._server is None:
            return
        self._server.close(code=GOING_AWAY, reason="the server stops")
        for connection in self._arrived:
            if connection.state is State.CONNECTING and hasattr(connection, "transport"):
                connection.transport.abort()  # it has not asked for anything yet
        await self._server.wait_closed()
        self._server = None

    async def converse(self, connection: ServerConnection) -> None:
        """Serve one connection, from its upgrade to its end.

        Raises:
            ConnectionClosed: it is gone.
        """
        raise NotImplementedError

    def may_enter(self, request: Request) -> bool:
        """Whether the request shows what this door asks for."""
        return any(self._access.token_allowed(token) for token in shown_tokens(request))

    @property
    def asks_for_secret(self) -> bool:
        """Whether only who knows a secret comes in."""
        return self.config.tokens is not None

    def _create(self, *args: Any, **kwargs: Any) -> ServerConnection:
        connection = ServerConnection(*args, **kwargs)
        self._arrived.add(connection)
        return connection

    def examine(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to a request that is not to be upgraded; None lets it in."""
        address = address_of(connection)
        status = self._refusal(address, request)
        if status is None:
            self._admitted[connection] = address  # at once: others may be asking while it is being answered
            return None
        self.refused += 1
        response = connection.respond(status, f"{status.phrase}\n")
        if status is http.HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = "Bearer"
        if status in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    def _refusal(self, address: str, request: Request) -> http.HTTPStatus | None:
        if not self._access.address_allowed(address):
            return http.HTTPStatus.FORBIDDEN
        if not self.asks_for_secret and not is_same_origin(request):
            return http.HTTPStatus.FORBIDDEN  # a page from elsewhere, in a browser that may reach this door
        if not self.may_enter(request):
            return http.HTTPStatus.UNAUTHORIZED
        open_ones = [whose for each, whose in self._admitted.items() if each.state is not State.CLOSED]
        if len(open_ones) >= self.config.max_connections:
            return http.HTTPStatus.SERVICE_UNAVAILABLE
        if open_ones.count(address) >= self.config.max_calls_per_client:
            return http.HTTPStatus.TOO_MANY_REQUESTS
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        try:
            await self.converse(connection)
        except ConnectionClosed:
            pass
        except Exception as error:
            # One line, and only the kind of error: a traceback could show what was said.
            _log.error("%s: a connection failed: %s", self.name, type(error).__name__)
            await connection.close(INTERNAL, "internal error")


def address_of(connection: ServerConnection) -> str:
    """The peer's address, without its port; empty when it is gone already."""
    remote = connection.remote_address
    return str(remote[0]) if remote else ""


def shown_tokens(request: Request) -> list[str | None]:
    """The secrets that a request shows: Authorization: Bearer, X-API-KEY, ?token=; [None] without any."""
    headers = request.headers
    bearer = [value[7:].strip() for value in headers.get_all("Authorization") if value[:7].lower() == "bearer "]
    asked = parse_qs(urlsplit(request.path).query).get("token", [])
    return [*bearer, *headers.get_all("X-API-KEY"), *asked] or [None]


def is_same_origin(request: Request) -> bool:
    """Whether the request comes from no browser's page, or from one of this server's own (RFC 6455, 10.2)."""
    origins = request.headers.get_all("Origin")
    host = (only_header(request, "Host") or "").lower()
    return all(origin.lower().partition("://")[2] == host for origin in origins)


def only_header(request: Request, name: str) -> str | None:
    """A header's value; None where it is not given exactly once."""
    values = request.headers.get_all(name)
    return values[0] if len(values) == 1 else None


def brief(text: str) -> str:
    """A text as the reason of a closing frame, which holds 123 bytes."""
    return text.encode("utf-8", "replace")[:120].decode("utf-8", "ignore")
