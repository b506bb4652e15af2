"""What an operator's tools ask of a deployment: `/metrics` (Prometheus), `/livez` and `/readyz` (probes)."""

import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from pydantic import Field, ValidationInfo, field_validator

from bcaf_stream.addresses import is_local
from bcaf_stream.config import Config
from bcaf_stream.errors import DeploymentError
from bcaf_stream.loops import faults, start_thread

REQUEST_S = 5.0  # for a client to send its request, and to take the answer
CONNECTIONS = 64
COLLECTIONS = 4  # at the same time, each of which asks all actors


class MetricsConfig(Config):
    """`port` None: nothing is served. Metrics hold no words and no call ids, but tell how much is going on."""

    insecure: bool = False  # above `bind`, whose check looks at it
    bind: str = "127.0.0.1"
    port: int | None = Field(None, ge=0, le=65535)

    @field_validator("bind")
    @classmethod
    def _stays_on_this_machine(cls, bind: str, info: ValidationInfo) -> str:
        if not is_local(f"tcp://{bind}:1") and not info.data.get("insecure"):
            raise ValueError("only this machine's addresses, unless insecure: true (inside a private network)")
        return bind


class MetricsServer:
    """Serves until `close`; everything is asked anew for each request.

    Args:
        collect: the samples of all actors.
        trouble: what keeps the deployment from working; None: nothing.

    Raises:
        DeploymentError: the address cannot be bound.
    """

    def __init__(
        self,
        config: MetricsConfig,
        collect: Callable[[], Iterable[Metric]],
        trouble: Callable[[], str | None],
    ) -> None:
        assert config.port is not None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Samples(collect))
        self._metrics, self._trouble = make_wsgi_app(registry), trouble
        self._collections = threading.BoundedSemaphore(COLLECTIONS)
        try:
            self._server = make_server(config.bind, config.port, self._answer, _Server, _Handler)
        except OSError as error:
            where = f"{config.bind}:{config.port}"
            raise DeploymentError(f"metrics: {where} cannot be bound: {error.strerror}") from None
        self.endpoint = f"http://{config.bind}:{self._server.server_port}/metrics"
        self._thread = start_thread("metrics", self._serve)

    def check(self) -> None:
        """Raises LoopError when nothing is served any more."""
        self._thread.check()

    def close(self) -> None:
        self._thread.ending.set()
        self._server.shutdown()
        self._thread.end()
        self._server.server_close()

    def _serve(self, _: threading.Event) -> None:
        self._server.serve_forever(poll_interval=0.2)

    def _answer(self, environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _plain(respond, "405 Method Not Allowed", "GET only")
        if path == "/metrics":
            if not self._collections.acquire(blocking=False):
                return _plain(respond, "503 Service Unavailable", f"{COLLECTIONS} others are being answered")
            try:
                answer: Iterable[bytes] = self._metrics(environ, respond)
                return answer
            finally:
                self._collections.release()
        if path == "/livez":
            return _plain(respond, "200 OK", "ok")
        if path == "/readyz":
            trouble = self._trouble()
            return _plain(respond, "503 Service Unavailable" if trouble else "200 OK", trouble or "ok")
        return _plain(respond, "404 Not Found", "there is /metrics, /livez and /readyz")


def _plain(respond: Callable[..., Any], status: str, text: str) -> list[bytes]:
    respond(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
    return [text.encode() + b"\n"]


class _Samples(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        yield from self._collect()


class _Server(ThreadingMixIn, WSGIServer):
    """Takes everybody at once; with one connection too many the oldest goes that has asked for nothing yet, and
    where all have asked, the oldest."""

    daemon_threads = True
    request_queue_size = 2 * CONNECTIONS

    def __init__(self, *args: Any) -> None:
        self._lock = threading.Lock()
        self._has_asked: dict[socket.socket, bool] = {}  # in the order of arrival
        super().__init__(*args)

    def asked(self, connection: socket.socket) -> None:
        with self._lock:
            if connection in self._has_asked:
                self._has_asked[connection] = True

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._has_asked) >= CONNECTIONS:
                oldest = min(self._has_asked, key=self._has_asked.__getitem__)
                del self._has_asked[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread ends by that
            self._has_asked[request] = False
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._has_asked.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):  # one: the client is gone, or too slow
            faults.count("metrics request", error)


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S
    server: _Server

    def parse_request(self) -> bool:
        complete = super().parse_request()
        self.server.asked(self.connection)
        return complete

    def log_message(self, *_: object) -> None:
        """Probes come every few seconds."""
