"""Server-Sent Events, one stream for each open page: rows of the list, events of one call, alerts.

Everything that changed within a tick is one message. Its `id` is the journal's offset up to which the events of
the call that is looked at were sent, so that a browser that comes back (`Last-Event-ID`) is given what it missed
and nothing is left out; rows and alerts are states, and are sent whole at first. A browser that takes nothing for
SEND_S is given up: it comes back when it wakes up. Source: HTML Living Standard, section 9.2.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bcaf_stream.loops import beside
from bcaf_stream.monitor.audit import Audit
from bcaf_stream.monitor.board import Board
from bcaf_stream.monitor.follower import Follower
from bcaf_stream.monitor.store import Store

log = logging.getLogger(__name__)

TICK_S = 0.2
SIGN_OF_LIFE_S = 5.0
SEND_S = 15.0
RETRY_MS = 1500
PAGE = 500  # events of the call in one message


class Changes:
    """What one page has not been sent yet.

    Args:
        call: the one that it looks at, or "".
        after: the offset up to which it has that call's events.
        has_sound: whether utterances may be played.
    """

    def __init__(
        self,
        follower: Follower,
        store: Store,
        board: Board,
        audit: Audit,
        call: str,
        after: int = -1,
        has_sound: bool = False,
    ) -> None:
        self._has_sound = has_sound
        self._follower, self._store, self._board, self._audit = follower, store, board, audit
        self._call, self._after, self._arrived = call, after, 0
        self.has_more = False
        self._generation = follower.generation
        self._version = self._audited = -1
        self._forgotten = follower.forgotten_count
        self._status = ""

    def take(self) -> str | None:
        """The next message, or None when nothing has changed."""
        with self._follower.lock:
            parts = self._parts()
            reached = self._follower.reached
        if not parts:
            return None
        parts.append(f'"now":"{time.time_ns()}"')
        data = f"data: {{{','.join(parts)}}}\n\n"
        return data if self.has_more else f"id: {reached}\n{data}"

    def _parts(self) -> list[str]:
        follower, parts = self._follower, []
        untold = follower.forgotten_count - self._forgotten
        self._forgotten = follower.forgotten_count
        if self._generation != follower.generation or untold > len(follower.forgotten):
            untold = 0
            self._generation, self._version = follower.generation, -1
            self._after, self._arrived = -1, 0
            parts.append('"reset":true')
        rows = self._board.since(self._version)
        if rows or self._version < 0:
            parts.append(f'"rows":[{",".join(row.text for row in rows)}]')
        self._version = self._board.version
        if untold:
            parts.append(f'"gone":{json.dumps(list(follower.forgotten)[-untold:])}')
        events = self._store.events(self._call, self._after, self._arrived, PAGE) if self._call else []
        self.has_more = len(events) == PAGE
        if events:
            self._arrived = events[-1][0]
            parts.append(f'"events":[{",".join(text for _, text in events)}]')
        if self._audited != self._audit.version:
            self._audited = self._audit.version
            muted = {rule: str(until) for rule, until in self._audit.muted.items()}
            parts.append(f'"acknowledged":{json.dumps(self._audit.acknowledged)},"muted":{json.dumps(muted)}')
        more = {"journal": follower.journal, "more": self.has_more, "sound": self._has_sound}
        status = json.dumps({**follower.status(), **more})
        if status != self._status:
            self._status = status
            parts.append(f'"status":{status}')
        return parts


class EventStream(Response):
    """Sends messages until the browser is gone, frozen, or the server ends."""

    def __init__(self, changes: Changes, is_ending: Callable[[], bool]) -> None:
        super().__init__(media_type="text/event-stream; charset=utf-8")
        self.headers["X-Accel-Buffering"] = "no"
        del self.headers["content-length"]
        self._changes, self._is_ending = changes, is_ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with beside("monitor stream", gone()) as leaving:
            try:
                async for message in self._messages():
                    if leaving.done():
                        return
                    async with asyncio.timeout(SEND_S):
                        await send({"type": "http.response.body", "body": message.encode(), "more_body": True})
            except TimeoutError:
                log.info("a page that took nothing for %g s was given up", SEND_S)
                return  # an unfinished answer: the server closes the connection, where an end of it would wait too
            if not leaving.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _messages(self) -> AsyncIterator[str]:
        yield f"retry: {RETRY_MS}\n\n"
        last = time.monotonic()
        while not self._is_ending():
            message = await run_in_threadpool(self._changes.take)
            now = time.monotonic()
            if message is not None:
                last = now
                yield message
            elif now - last > SIGN_OF_LIFE_S:
                last = now
                yield "data: {}\n\n"
            if not self._changes.has_more:
                await asyncio.sleep(TICK_S)
