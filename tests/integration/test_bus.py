"""Real sockets on free ports of this machine. What has to be waited for is waited for, never slept for."""

import asyncio
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import zmq

from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError, EventError
from bcaf_stream.events.event import Event, topic_prefix, topics_of
from bcaf_stream.events.publisher import BusConfig, EventPublisher
from bcaf_stream.events.subscriber import AsyncEventSubscriber, EventGap, EventSubscriber

FREE = BusConfig(bind="tcp://127.0.0.1:0")
WAIT_S = 10.0  # only a failing test waits that long


def event(seq: int, call: str = "a", channel: str = "left", **fields: object) -> Event:
    return Event(type="alert", id=f"{call}{seq}", call=call, channel=channel, seq=seq, emitted_at=1, **fields)


def end(seq: int, call: str = "a") -> Event:
    return replace(event(seq, call, ""), type="call.end")


def until_end(listener: EventSubscriber) -> list[Event]:
    events = []
    for e in listener.events(WAIT_S):
        events.append(e)
        if e.type == "call.end":
            return events
    raise AssertionError("no call.end came")


def test_a_listener_gets_every_event_in_order():
    sent = [event(n, text="sécret") for n in range(500)] + [end(500)]
    with EventPublisher(FREE) as publisher, EventSubscriber(publisher.endpoint, None) as listener:
        assert publisher.wait_for_subscriber(WAIT_S)
        for e in sent:
            publisher.publish(e)
        assert until_end(listener) == sent
        assert (listener.gaps, listener.missed, listener.broken) == (0, 0, 0)


def test_a_call_or_a_channel_can_be_chosen():
    sent = [event(0, "7"), event(0, "77"), event(1, "7", "right"), event(2, "7"), end(3, "7"), end(1, "77")]
    with (
        EventPublisher(FREE) as publisher,
        EventSubscriber(publisher.endpoint, None, [topic_prefix("7")]) as call,
        EventSubscriber(publisher.endpoint, None, topics_of("7", "left")) as channel,
    ):
        wait_for_subscribers(publisher, 2)
        for e in sent:
            publisher.publish(e)
        assert until_end(call) == [sent[0], sent[2], sent[3], sent[4]]
        assert until_end(channel) == [sent[0], sent[3], sent[4]]
        assert channel.gaps == 0


def wait_for_subscribers(publisher: EventPublisher, count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while publisher.subscribers != count:
        assert time.monotonic() < deadline, f"{publisher.subscribers} subscribers, {count} expected"


def test_subscribers_are_counted_as_they_come_and_go():
    with EventPublisher(FREE) as publisher:
        assert publisher.subscribers == 0
        assert not publisher.wait_for_subscriber(0)
        with EventSubscriber(publisher.endpoint, None), EventSubscriber(publisher.endpoint, None):
            wait_for_subscribers(publisher, 2)
            with EventSubscriber(publisher.endpoint, None, [topic_prefix("7")], heartbeats=True):
                wait_for_subscribers(publisher, 3)
            wait_for_subscribers(publisher, 2)
        wait_for_subscribers(publisher, 0)


def test_a_thread_may_wait_for_the_first_subscriber_while_another_publishes():
    with EventPublisher(FREE) as publisher:
        found: list[bool] = []
        waiting = threading.Thread(target=lambda: found.append(publisher.wait_for_subscriber(WAIT_S)))
        waiting.start()
        with EventSubscriber(publisher.endpoint, None):
            seq = 0
            while waiting.is_alive():
                publisher.publish(event(seq))
                seq += 1
        waiting.join()
        assert found == [True]


def test_a_late_listener_knows_what_it_missed():
    gaps: list[EventGap] = []
    with EventPublisher(FREE) as publisher:
        publisher.publish(event(0))
        publisher.publish(event(1))
        with EventSubscriber(publisher.endpoint, None, on_gap=gaps.append) as listener:
            assert publisher.wait_for_subscriber(WAIT_S)
            publisher.publish(event(2))
            publisher.publish(end(3))
            assert [e.seq for e in until_end(listener)] == [2, 3]
            assert (listener.gaps, listener.missed, gaps) == (1, 2, [EventGap("a", 0, 1)])


def test_a_gap_is_told_when_the_event_after_it_is_delivered_and_not_before():
    told: list[tuple[EventGap, int, int]] = []
    got: list[int] = []
    with EventPublisher(FREE) as publisher:

        def tell(gap: EventGap) -> None:
            told.append((gap, len(got), listener.missed))

        with EventSubscriber(publisher.endpoint, None, on_gap=tell) as listener:
            assert publisher.wait_for_subscriber(WAIT_S)
            for seq in (*range(500), *range(501, 1000)):
                publisher.publish(event(seq))
            publisher.publish(end(1000))
            while not got or got[-1] < 1000:
                e = listener.receive(WAIT_S)
                assert listener.missed == (e.seq > 500), "what is missing before later events counts with these"
                got.append(e.seq)
    assert told == [(EventGap("a", 500, 500), 500, 1)]


def test_a_slow_listener_loses_events_knows_how_many_and_holds_up_nobody():
    config = FREE.model_copy(update={"high_water_mark": 4})
    with (
        EventPublisher(config) as publisher,
        EventSubscriber(publisher.endpoint, None, high_water_mark=4) as slow,
        EventSubscriber(publisher.endpoint, None) as quick,
    ):
        wait_for_subscribers(publisher, 2)
        seq, got_quick = 0, []
        while publisher.overflows == 0 or seq < 50:  # the sockets' own buffers take a few megabytes
            publisher.publish(event(seq, text="x" * 300_000))
            got_quick.append(quick.receive(WAIT_S).seq)
            seq += 1
            assert seq < 1000
        received, last = 0, None
        while last is None or last.text is not None:
            publisher.publish(event(seq))  # until one finds room again
            seq += 1
            last = slow.receive(WAIT_S)
            received += 1
        assert received + slow.missed == last.seq + 1
        assert slow.missed > 0
        assert got_quick == list(range(len(got_quick)))
        assert quick.gaps == 0


def test_blocking_instead_of_dropping_ends_in_an_error_that_says_so():
    config = FREE.model_copy(update={"high_water_mark": 4, "when_full": "block", "block_s": 0.2, "linger_s": 0.0})
    with EventPublisher(config) as publisher, EventSubscriber(publisher.endpoint, None, high_water_mark=4) as slow:
        assert publisher.wait_for_subscriber(WAIT_S)
        sent = 0
        with pytest.raises(EventError, match=r"took nothing for 0\.2 s: .*when_full: drop"):  # noqa: PT012
            for seq in range(1000):
                publisher.publish(event(seq, text="x" * 300_000))
                sent += 1
        received = [slow.receive(WAIT_S) for _ in range(sent)]
        assert [e.seq for e in received] == list(range(sent))
        assert slow.gaps == publisher.overflows == 0


def test_what_was_published_last_survives_the_end_of_the_publisher():
    with EventPublisher(FREE) as publisher, EventSubscriber(publisher.endpoint, None) as listener:
        assert publisher.wait_for_subscriber(WAIT_S)
        for seq in range(2000):
            publisher.publish(event(seq, text="x" * 1000))
        publisher.publish(end(2000))
        publisher.close()
        assert [e.seq for e in until_end(listener)] == list(range(2001))


def test_a_publishing_process_that_ends_at_once_loses_nothing_and_does_not_hang():
    script = (
        "from bcaf_stream.events.publisher import *; from bcaf_stream.events.event import Event\n"
        "with EventPublisher(BusConfig(bind='tcp://127.0.0.1:0')) as p:\n"
        "    print(p.endpoint, flush=True)\n"
        "    assert p.wait_for_subscriber(30)\n"
        "    for n in range(300):\n"
        "        p.publish(Event(type='alert', id=str(n), call='a', seq=n, emitted_at=1, text='x' * 1000))\n"
        "    p.publish(Event(type='call.end', id='end', call='a', seq=300, emitted_at=1))\n"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with EventSubscriber(process.stdout.readline().strip(), None) as listener:
            assert len(until_end(listener)) == 301
        assert process.wait(WAIT_S) == 0
        assert process.stderr.read() == ""


def test_closing_does_not_wait_longer_than_allowed_for_a_listener_that_takes_nothing():
    config = FREE.model_copy(update={"linger_s": 0.1})
    publisher = EventPublisher(config)
    with EventSubscriber(publisher.endpoint, None, high_water_mark=1):
        assert publisher.wait_for_subscriber(WAIT_S)
        for seq in range(200):
            publisher.publish(event(seq, text="x" * 300_000))
        before = time.monotonic()
        publisher.close()
        assert time.monotonic() - before < 2
    publisher.close()
    with pytest.raises(EventError, match="closed"):
        publisher.publish(event(0))


def test_a_listener_finds_the_publisher_that_comes_later_and_comes_again():
    with EventPublisher(FREE) as first:
        endpoint = first.endpoint
    with EventSubscriber(endpoint, None) as listener:
        for seq in range(2):
            with EventPublisher(BusConfig(bind=endpoint)) as publisher:
                while not publisher.wait_for_subscriber(0):
                    assert listener.receive(0.02) is None  # ZeroMQ subscribes again from inside a receive
                publisher.publish(event(seq))
                assert listener.receive(WAIT_S) == event(seq)


def test_heartbeats_tell_the_last_offset_to_those_who_asked():
    with (
        EventPublisher(FREE) as publisher,
        EventSubscriber(publisher.endpoint, None, [topic_prefix("7")], heartbeats=True) as listener,
        EventSubscriber(publisher.endpoint, None) as other,
    ):
        wait_for_subscribers(publisher, 2)
        first = publisher.heartbeat(now=5)
        publisher.publish(event(0, offset=12))
        second = publisher.heartbeat(now=6)
        publisher.publish(end(1))
        assert (first.offset, first.emitted_at, second.offset, second.seq) == (None, 5, 12, 1)
        assert [listener.receive(WAIT_S) for _ in range(2)] == [first, second]
        assert [e.type for e in until_end(other)] == ["alert", "call.end"]
        assert other.gaps == 0


def test_foreign_messages_are_skipped():
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.bind("tcp://127.0.0.1:0")
        with EventSubscriber(socket.getsockopt_string(zmq.LAST_ENDPOINT), None) as listener:
            assert socket.poll(WAIT_S * 1000)
            socket.send_multipart([b"emo.v1.a.left.alert", b"\x00\xff"])
            socket.send(b"emo.v1.")
            assert listener.receive(0.2) is None
            while listener.broken < 2:
                assert listener.receive(0.2) is None


def test_asyncio_and_a_cancelled_receive():
    async def run() -> list[Event]:
        async with AsyncEventSubscriber(publisher.endpoint, None) as listener:
            assert await asyncio.to_thread(publisher.wait_for_subscriber, WAIT_S)
            assert await listener.receive(0.01) is None
            waiting = asyncio.create_task(listener.receive())
            await asyncio.sleep(0)  # lets it begin
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            for seq in range(3):
                publisher.publish(event(seq))
            publisher.publish(end(3))
            got = []
            async for e in listener:
                got.append(e)
                if e.type == "call.end":
                    break
            return got

    with EventPublisher(FREE) as publisher:
        assert [e.seq for e in asyncio.run(run())] == [0, 1, 2, 3]


def test_a_port_in_use_is_named_with_the_way_out():
    with EventPublisher(FREE) as first, pytest.raises(EventError, match=rf"{first.endpoint}: the port is in use"):
        EventPublisher(BusConfig(bind=first.endpoint))


@pytest.mark.parametrize("endpoint", ["nowhere", "tcp://", "smoke://x"])
def test_addresses_that_are_none(endpoint: str):
    with pytest.raises(EventError, match=endpoint):
        EventSubscriber(endpoint, None)
    with pytest.raises(EventError, match=endpoint):
        EventPublisher(BusConfig(bind=endpoint, insecure=True))


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:5561", "tcp://*:5561", "tcp://10.1.2.3:1", "tcp://[::]:1", "x"])
def test_events_stay_on_this_machine_unless_told_otherwise(bind: str):
    with pytest.raises(ConfigError, match=r"bind: .* insecure: true"):
        load_config(BusConfig, overrides=[f"bind='{bind}'"])
    assert load_config(BusConfig, overrides=["insecure=true", f"bind='{bind}'"]).bind == bind


@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1", "ipc:///run/x.sock"])
def test_addresses_of_this_machine(bind: str):
    assert load_config(BusConfig, overrides=[f"bind='{bind}'"]).bind == bind
