"""A bridge: what a hub publishes is handed on to another system, in order, each event at least once.

A receiver returns from `send` when the other side has acknowledged; only then does the subscriber's place move on.
So a bridge that dies goes on with what was not acknowledged, and the other side drops what it knows by the `id`.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import Field

from bcaf_stream.addresses import is_local
from bcaf_stream.config import Config
from bcaf_stream.errors import DeliveryError, UsageError
from bcaf_stream.events.event import EVENT_TYPES, Event, EventType
from bcaf_stream.events.subscriber import AsyncEventSubscriber

log = logging.getLogger(__name__)


class Receiver(Protocol):
    """The other side of a bridge: `name` is what a rule calls it, `batch` how many events it takes at once."""

    name: str
    batch: int

    async def send(self, events: Sequence[Event]) -> None:
        """Returns when all of them are acknowledged.

        Raises:
            DeliveryError: they may be taken later: the bridge tries again, for ever.
            EventError: they never will be: the bridge ends, and begins with them when it is started again.
        """

    async def close(self) -> None: ...


class BackOff(Config):
    """Seconds before the second attempt and, doubling each time, before the later ones."""

    first_s: float = Field(default=0.5, gt=0)
    longest_s: float = Field(default=60.0, gt=0)


async def forward(
    subscriber: AsyncEventSubscriber,
    receiver: Receiver,
    types: Collection[EventType] = EVENT_TYPES,
    back_off: BackOff = BackOff(),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Hand on what the subscriber gets until this is cancelled; raises EventError when it cannot go on.

    Events of other `types` are passed over, and alerts whose rule does not name the receiver in `notify`.
    """
    while True:
        events = await subscriber.receive_many(receiver.batch)
        wanted = [event for event in events if event.type in types and _is_for(event, receiver.name)]
        if wanted:
            await _deliver(wanted, receiver, back_off, sleep)
        subscriber.done()
        _heed_cancellation()


def _is_for(event: Event, receiver: str) -> bool:
    return event.notify is None or receiver in event.notify


async def _deliver(
    events: Sequence[Event],
    receiver: Receiver,
    back_off: BackOff,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    wait = back_off.first_s
    while True:
        try:
            await receiver.send(events)
            return
        except DeliveryError as error:
            pause = max(wait * random.uniform(0.5, 1.0), error.not_before_s)
            log.warning("%s; tried again in %.1f s", error, pause)
        _heed_cancellation()
        await sleep(pause)
        wait = min(back_off.longest_s, wait * 2)


def _heed_cancellation() -> None:
    """End if somebody asked for it: a client library may swallow that, by asyncio.wait_for of Python 3.11."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def must_be_private(where: str, host: str, encrypted: bool, insecure: bool) -> None:
    """Words of calls leave this machine encrypted or not at all, unless told otherwise; raises UsageError."""
    if not encrypted and not insecure and not is_local(f"tcp://{host}:0"):
        raise UsageError(f"{where}: words of calls would leave this machine unencrypted: TLS, or --insecure")


def has_secret(address: str) -> bool:
    """Whether an address carries a password, or a query, where tokens stand."""
    try:
        parts = urlsplit(address)
        return bool(parts.password or parts.query)
    except ValueError:
        return False
