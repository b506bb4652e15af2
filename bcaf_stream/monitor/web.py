"""The pages' addresses: files of the package, the stream, search, exports, and what is done about alerts.

Ids and words of calls travel in queries and bodies, and nothing of them is logged; the audit names the call alone.
"""

import asyncio
import json
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bcaf_stream.errors import UsageError
from bcaf_stream.loops import faults
from bcaf_stream.monitor.access import Guard
from bcaf_stream.monitor.audit import Action, Audit
from bcaf_stream.monitor.board import Board
from bcaf_stream.monitor.config import MonitorConfig
from bcaf_stream.monitor.exports import TYPES, export
from bcaf_stream.monitor.follower import Follower
from bcaf_stream.monitor.store import MOST_HITS, Query, Store
from bcaf_stream.monitor.stream import Changes, EventStream

FILE_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
VIEW_AGAIN_S = 600.0  # a page that comes back to its call within this time is the same view
MOST_MUTE_MINUTES = 24 * 60
MAX_BODY_BYTES = 10_000
EMOTIONS = 20  # in one query
MOST_EXPORTED = 100_000  # events of a call, 200 MB of memory while they are written
EXPORTS_AT_ONCE = 2
CLIPS_AT_ONCE = 2


class Site:
    """What is behind the addresses."""

    def __init__(self, config: MonitorConfig, is_ending: Callable[[], bool]) -> None:
        self._config, self._is_ending = config, is_ending
        self._files = {
            file.name: file.read_bytes() for file in files("bcaf_stream.monitor").joinpath("static").iterdir()
        }
        self._views: dict[tuple[str, str, str], float] = {}
        self._exports = asyncio.Semaphore(EXPORTS_AT_ONCE)
        self._clips = asyncio.Semaphore(CLIPS_AT_ONCE)
        self.streams = 0
        if config.sound is not None and not config.sound.is_dir():
            raise UsageError(
                f"sound {config.sound}: there is no such folder: it is FILE.sound beside the journal FILE of a"
                " deployment with ingest.record"
            )
        self.audit = Audit(config.audit)
        self.store, self.board = Store(), Board()
        try:
            self.follower = Follower(config.hub, self.store, self.board)
        except BaseException:
            self.store.close()
            self.audit.close()
            raise

    def close(self) -> None:
        self.follower.close()
        self.store.close()
        self.audit.close()

    def app(self) -> Starlette:
        """The ASGI application; raises LinkError where a file of tokens or a certificate is no good."""
        routes = [
            Route("/", self._page("index.html")),
            Route("/login", self._page("login.html")),
            Route("/static/{name}", self._static),
            Route("/stream", self._stream),
            Route("/search", self._search),
            Route("/export", self._export),
            Route("/alerts", self._alerts, methods=["POST"]),
            Route("/sound", self._sound),
        ]
        guard = Middleware(Guard, config=self._config)
        return Starlette(routes=routes, middleware=[guard], exception_handlers={Exception: _failed})

    def _page(self, name: str) -> Callable[[Request], Any]:
        async def page(_: Request) -> Response:
            return Response(self._files[name], media_type=FILE_TYPES["html"])

        return page

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        kind = FILE_TYPES.get(name.rpartition(".")[2])
        if name not in self._files or kind is None or kind == FILE_TYPES["html"]:
            return PlainTextResponse("there is no such file\n", 404)
        return Response(self._files[name], media_type=kind)

    async def _stream(self, request: Request) -> Response:
        if self.streams >= self._config.max_connections:
            return PlainTextResponse("all pages that may be open at once are open\n", 503)
        if "probe" in request.query_params:  # a page asks whether it may come back
            return Response(status_code=204)
        call = request.query_params.get("call", "")
        after = _whole(request.headers.get("last-event-id") or request.query_params.get("after"), -1)
        if call:
            self._viewed(request, call)
        has_sound = self._config.sound is not None
        changes = Changes(self.follower, self.store, self.board, self.audit, call, after, has_sound)
        return _Counted(self, changes, self._is_ending)

    async def _search(self, request: Request) -> Response:
        asked = request.query_params
        query = Query(
            words=asked.get("words", "")[:500],
            call=asked.get("call", "")[:500],
            emotions=tuple(asked.getlist("emotion")[:EMOTIONS]),
            roles=tuple(asked.getlist("role")[:EMOTIONS]),
            alert=asked.get("alert", "")[:500],
            since=_whole(asked.get("since"), None),
            until=_whole(asked.get("until"), None),
        )
        self._note(request, "search")
        hits = await run_in_threadpool(self.store.search, query)
        return JSONResponse({"hits": hits, "more": len(hits) == MOST_HITS})

    async def _export(self, request: Request) -> Response:
        call, format = request.query_params.get("call", ""), request.query_params.get("format", "")
        if format not in TYPES:
            raise HTTPException(400, f"format must be one of {', '.join(TYPES)}")
        count = self.store.counts.get(call, 0)
        if not count:
            raise HTTPException(404, "nothing is known of this call")
        if count > MOST_EXPORTED:
            most = f"more than {MOST_EXPORTED} events are not exported here: bcaf-stream export does it"
            raise HTTPException(413, most)
        self._note(request, "export", call=call, format=format)
        async with self._exports:
            text = await run_in_threadpool(self._exported, call, format)
        name = quote(call[:100].replace("/", "_"), safe="")
        disposition = f"attachment; filename*=UTF-8''{name}.{format}"
        return Response(text, media_type=TYPES[format], headers={"Content-Disposition": disposition})

    def _exported(self, call: str, format: str) -> str:
        return export([json.loads(data) for _, data in self.store.events(call, limit=MOST_EXPORTED)], format)

    async def _sound(self, request: Request) -> Response:
        """What was said in an utterance that this page knows; the hub's key has decided what that is."""
        asked = request.query_params
        call, channel, number = asked.get("call", ""), asked.get("channel", ""), _whole(asked.get("utterance"), -1)
        said = self.store.utterance(call, channel, number)
        if self._config.sound is None:
            raise HTTPException(404, "no sound is kept here: ingest.record is off")
        if said is None:
            raise HTTPException(404, "nothing is known of this utterance")
        if said.get("redacted"):
            raise HTTPException(403, "its words are redacted, and would be heard")
        from bcaf_stream.evidence import clip  # with FFmpeg, which pages without sound do not need

        span = said["start_ms"], said["end_ms"]
        async with self._clips:
            sound = await run_in_threadpool(clip, self._config.sound, call, channel, *span)
        if sound is None:
            raise HTTPException(404, "no sound of this utterance is kept")
        self._note(request, "play", call=call, channel=channel, utterance=number)
        return Response(sound, media_type="audio/wav")

    async def _alerts(self, request: Request) -> Response:
        """Acknowledge an alert, or mute its rule for some minutes; 0 minutes end that."""
        body = await _body(request)
        match body:
            case {"acknowledge": str(alert), "call": str(call)}:
                self._note(request, "acknowledge", call=call, alert=alert[:200])
            case {"mute": str(rule), "minutes": int(minutes)} if 0 <= minutes <= MOST_MUTE_MINUTES:
                until = time.time_ns() + minutes * 60 * 10**9
                self._note(request, "mute", rule=rule[:200], until_ns=str(until))
            case _:
                raise HTTPException(400, "must be {acknowledge, call} or {mute, minutes}")
        return JSONResponse({})

    def _viewed(self, request: Request, call: str) -> None:
        key = (request.state.user, _address(request), call)
        now = time.monotonic()
        if now - self._views.get(key, -VIEW_AGAIN_S) >= VIEW_AGAIN_S:
            self._note(request, "view", call=call)
            self._views = {k: at for k, at in self._views.items() if now - at < VIEW_AGAIN_S}
        self._views[key] = now

    def _note(self, request: Request, action: Action, **what: object) -> None:
        try:
            self.audit.add(action, request.state.user, _address(request), **what)
        except OSError as error:
            raise HTTPException(503, f"the audit cannot be written: {error.strerror}") from None


class _Counted(EventStream):
    """A stream that counts as an open page."""

    def __init__(self, site: Site, changes: Changes, is_ending: Callable[[], bool]) -> None:
        super().__init__(changes, is_ending)
        self._site = site

    async def __call__(self, *asgi: Any) -> None:
        self._site.streams += 1
        try:
            await super().__call__(*asgi)
        finally:
            self._site.streams -= 1


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _whole(text: str | None, otherwise: Any) -> Any:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 20 else otherwise


async def _body(request: Request) -> Any:
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY_BYTES:
            raise HTTPException(413, "too much")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise HTTPException(400, "must be JSON") from None


async def _failed(_: Request, error: Exception) -> Response:
    faults.count("monitor request", error)
    return PlainTextResponse("something went wrong here\n", 500)
