"""What a bridge hands on, and what it passes over."""

import asyncio
from collections.abc import Sequence

from bcaf_stream.bridges.forward import forward
from bcaf_stream.events.codec import decode, encode
from bcaf_stream.events.event import EVENT_TYPES, Event, EventType


def event(seq: int, type: EventType, notify: tuple[str, ...] | None = None) -> Event:
    made = Event(type=type, id=f"a-{seq}", call="a", channel="left", seq=seq, emitted_at=1, notify=notify)
    return decode(encode(made))  # as a bridge gets it


EVENTS = (
    event(0, "call.start"),
    event(1, "emotion.final"),
    event(2, "alert", ("page", "webhook")),
    event(3, "alert", ("kafka",)),
    event(4, "alert", ()),
    event(5, "alert"),
)


class Given:
    """A subscriber that has these events, as many at a time as are asked for, and then none."""

    def __init__(self) -> None:
        self.left, self.kept = list(EVENTS), 0

    async def receive_many(self, most: int) -> list[Event]:
        events, self.left = self.left[:most], self.left[most:]
        if not events:
            await asyncio.Event().wait()
        return events

    def done(self) -> None:
        self.kept += 1


class Kept:
    name = "webhook"
    batch = 2

    def __init__(self) -> None:
        self.got: list[int] = []

    async def send(self, events: Sequence[Event]) -> None:
        assert events, "nothing to send is not sent"
        self.got += [event.seq for event in events]

    async def close(self) -> None: ...


def handed_on(types: Sequence[EventType]) -> list[int]:
    async def run() -> list[int]:
        subscriber, receiver = Given(), Kept()
        task = asyncio.create_task(forward(subscriber, receiver, types))  # type: ignore[arg-type]
        while subscriber.kept < len(EVENTS) / receiver.batch:
            assert not task.done(), task.exception()
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return receiver.got

    return asyncio.run(run())


def test_an_alert_goes_to_the_bridges_that_its_rule_names():
    assert handed_on(EVENT_TYPES) == [0, 1, 2, 5]


def test_events_of_other_types_are_passed_over_and_the_place_moves_on():
    assert handed_on(("alert",)) == [2, 5]
    assert handed_on(("audio.gap",)) == []
