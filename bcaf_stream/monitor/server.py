"""The monitor as a program: its socket, uvicorn, and its end."""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from bcaf_stream.addresses import in_url
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.security import Access
from bcaf_stream.monitor.config import MonitorConfig
from bcaf_stream.monitor.web import Site

log = logging.getLogger(__name__)

GONE_MS = 60_000  # a peer that takes nothing for so long is cut off by the kernel


class _MakesRoom(H11Protocol):
    """A connection that asks for nothing at the moment leaves when there are too many: the oldest first."""

    since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self.limit_concurrency is not None and len(self.connections) + 1 >= self.limit_concurrency:
            idle = [one for one in self.connections if isinstance(one, _MakesRoom) and one.is_idle]
            if idle:
                min(idle, key=lambda one: one.since_s).leave()
        self.since_s = self.loop.time()
        super().connection_made(transport)

    @property
    def is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def leave(self) -> None:
        self.connections.discard(self)  # now: the next one comes before the loss is told
        self.transport.abort()


class Monitor:
    """Serves the page, from the main thread or another one.

    Raises:
        BcafError: an address cannot be bound, or a file (key, tokens, certificate, audit) is no good.
    """

    def __init__(self, config: MonitorConfig) -> None:
        self._config = config
        self._socket = _bound(config)
        port = self._socket.getsockname()[1]
        shown = in_url(config.host)
        self.address = f"{'https' if config.certificate else 'http'}://{shown}:{port}/"
        try:
            tls = Access(config).tls  # what is wrong with the certificate is one line
            self.site = Site(config, lambda: self._server.should_exit)
            self._server = uvicorn.Server(
                uvicorn.Config(
                    self.site.app(),
                    http=_MakesRoom,
                    log_config=None,
                    log_level=logging.CRITICAL,
                    access_log=False,  # addresses here hold ids of calls
                    server_header=False,
                    proxy_headers=False,
                    ws="none",
                    lifespan="off",
                    limit_concurrency=4 * config.max_connections,
                    timeout_graceful_shutdown=2,
                    h11_max_incomplete_event_size=16_384,
                    ssl_certfile=str(config.certificate) if tls else None,
                    ssl_keyfile=str(config.key) if tls else None,
                )
            )
        except BaseException:
            self._socket.close()
            raise

    def run(self, ready: Callable[[str], None]) -> None:
        """Serve until SIGINT, SIGTERM or `stop`; `ready` is told the address."""
        ready(self.address)
        try:
            self._server.run([self._socket])
        finally:
            self.site.close()
            self._socket.close()

    def stop(self) -> None:
        """From another thread: end soon."""
        self._server.should_exit = True


def _bound(config: MonitorConfig) -> socket.socket:
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        bound = socket.create_server(family[4][:2], family=family[0], reuse_port=False)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LinkError(f"monitor: {config.host} port {config.port} cannot be bound: {reason}") from None
    if sys.platform == "linux":
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_MS)
    return bound
