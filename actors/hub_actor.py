"""HubActor: the event hub, lent to Ray. An event is journalled, then published, then acknowledged.

Nothing here may load torch: a hub that was killed is back within two seconds.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from actors import metrics
from actors.endpoints import here
from actors.readiness import Readiness
from bcaf_stream.errors import JournalError
from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.owners import Claim
from bcaf_stream.loops import exit_on_death, faults, spawn_task, watch_event_loop


class HubConfig(EventHubConfig):
    """The event hub; an owner of a call keeps an event for `retry_s` while the hub cannot take it."""

    retry_s: float = Field(60.0, gt=0)
    label_selector: dict[str, str] = Field(default_factory=dict)  # the nodes on which it may be


class HubActor:
    """Takes events from the owners of the calls and answers when they are on disk and on the wire.

    It is made at once, and ready when its ports and its journal are open. Whatever needs them raises
    NotReadyError before.
    """

    def __init__(self, config: HubConfig) -> None:
        exit_on_death()
        watch_event_loop()
        self._opened: EventHub | None = None
        self._closing = False
        self._recalled = False  # the calls that had no end when it was opened
        self._readiness = Readiness("the event hub")
        self._watch = metrics.Watch(metrics.HUB, self._look)
        spawn_task("hub actor start", self._start(config))

    async def ready(self, first: bool = False) -> dict[str, Any]:
        """Where the hub is reached, once it is open.

        Raises:
            EventError: with `first`: a port or the journal cannot be opened. Without, it is tried for ever.
        """
        await self._readiness.wait(first)
        servers = {"events": self._hub.bus.endpoint, "replay": self._hub.replay.endpoint}
        return {**servers, "endpoints": here("hub", servers.items())}

    async def endpoint(self) -> str:
        return self._hub.bus.endpoint

    async def replay_endpoint(self) -> str:
        return self._hub.replay.endpoint

    async def publish(self, events: Sequence[Event], epoch: int | None = None) -> list[int]:
        """Journal `events`, publish them, and return their offsets. Known ids are stored once.

        Raises:
            EventError: the journal cannot be written; then nothing of it is published.
            SupersededError: the call has another owner than the one of this epoch.
        """
        return await asyncio.wrap_future(self._hub.publish(events, epoch))

    async def claim(self, call: str, owner: str, after: int | None, silent_s: float) -> Claim:
        """Give a call to an owner, and say how far it has got. See CallOwners.claim; raises JournalError."""
        claim = await asyncio.wrap_future(self._hub.claim(call, owner, after, silent_s))
        if not claim.granted:
            return claim
        progress = await asyncio.to_thread(self._hub.progress, call)
        if progress is not None and progress.ended:
            self._hub.owners.ended(call)  # it has been, and nobody runs it
        return claim._replace(progress=progress)

    async def beat(self, owner: str, held: dict[str, int]) -> list[str]:
        """An owner lives; which of the calls that it holds with these epochs are others' by now."""
        return await asyncio.to_thread(self._hub.owners.beat, owner, held)

    async def owner_of(self, call: str) -> str | None:
        """The living owner of a running call."""
        return await asyncio.to_thread(self._hub.owners.owner_of, call)

    async def orphans(self, silent_s: float) -> dict[str, str | None]:
        """The running calls whose owner has been silent for so long, and by which protocol each came in."""
        if not self._recalled:
            await asyncio.to_thread(self._hub.owners.recall)
            self._recalled = True
        return {call: await asyncio.to_thread(self._protocol, call) for call in self._hub.owners.orphans(silent_s)}

    def _protocol(self, call: str) -> str | None:
        try:
            progress = self._hub.progress(call)
        except JournalError:  # whoever claims the call is told
            return None
        return progress.protocol if progress else None

    async def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Whether somebody listens within `timeout_s`, so that a first listener misses nothing."""
        return await asyncio.to_thread(self._hub.bus.wait_for_subscriber, timeout_s)

    async def stats(self) -> dict[str, Any]:
        opened = await asyncio.to_thread(self._opened.stats) if self._opened else {}
        return {**self._readiness.stats, **opened, "faults": faults.counts}

    async def metrics(self) -> metrics.Snapshot:
        return self._watch.snapshot()

    def _look(self) -> None:
        if self._opened is not None and not self._closing:
            last = self._opened.offset
            behind = self._opened.replay.furthest_behind
            metrics.journal_offset.set(last)
            metrics.subscriber_lag.set(0 if behind is None else max(0, last + 1 - behind))
            metrics.subscribers.set(self._opened.bus.subscribers)
            metrics.replays.set(self._opened.replay.running)
            metrics.queue_depth.labels("journal").set(self._opened.waiting)

    async def close(self) -> None:
        """Send what is queued and close the journal."""
        self._closing = True
        if self._opened:
            await asyncio.to_thread(self._opened.close)

    @property
    def _hub(self) -> EventHub:
        self._readiness.check()
        assert self._opened
        return self._opened

    async def _start(self, config: HubConfig) -> None:
        async def opened() -> EventHub:
            return await asyncio.to_thread(EventHub, config)

        self._opened = await self._readiness.attempt(opened)
        self._readiness.done()
