"""What an operator's tools ask of a deployment: `/metrics` (Prometheus), `/livez` and `/readyz` (probes)."""

import threading
from collections.abc import Callable, Iterable, Iterator
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
from bcaf_stream.loops import start_thread

REQUEST_S = 5.0  # for a client to send its request
AT_ONCE = 16  # requests


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
            answer: Iterable[bytes] = self._metrics(environ, respond)
            return answer
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
    """A few requests at a time: whoever connects and is silent keeps nobody out for longer than REQUEST_S."""

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(timeout=REQUEST_S):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, *_: object) -> None:
        """Probes come every few seconds."""
