"""The door of the browser's microphone: a page that sends it, and the WebSocket that it sends it to."""

import http
from collections.abc import Callable
from importlib.resources import files
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.protocols.browser import BrowserParser
from bcaf_stream.ingest.sink import CallSink
from bcaf_stream.ingest.transports.websocket import Connection, only_header
from bcaf_stream.ingest.transports.websocket_session import CallServer, CallServerConfig, Parser

PAGE = "browser.html"
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:;"
    " connect-src 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}


class BrowserConfig(CallServerConfig):
    """http://HOST:PORT/ in a browser; beyond this machine a browser gives its microphone to TLS alone."""


class BrowserServer(CallServer):
    """Answers a browser's first request with the page, and the page's own with a call."""

    name = "microphone"

    def __init__(self, config: BrowserConfig, **kwargs: Callable[[], int]) -> None:
        super().__init__(config, **kwargs)
        self._page = b""

    async def start(self, host: CallSink) -> None:
        try:
            self._page = files("bcaf_stream.ingest.protocols").joinpath(PAGE).read_bytes()
        except OSError:
            raise LinkError(f"{self.name}: {PAGE} is missing from the installed package") from None
        await super().start(host)
        self.endpoint = self.endpoint.replace("ws", "http", 1) + "/"  # of the page, which knows the rest

    def parser(self, request: Request) -> Parser:
        return BrowserParser(self.config.text)

    def examine(self, connection: Connection, request: Request) -> Response | None:
        refusal = super().examine(connection, request)
        if refusal is not None or only_header(request, "Upgrade") is not None:
            return refusal
        if urlsplit(request.path).path != "/":
            return connection.respond(http.HTTPStatus.NOT_FOUND, "only / is here\n")
        headers = Headers(HEADERS, **{"Content-Length": str(len(self._page))})
        return Response(http.HTTPStatus.OK.value, "OK", headers, self._page)
