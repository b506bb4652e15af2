"""Calls of Twilio Media Streams over real sockets, played by a real WebSocket client."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager

import pytest
from websockets.asyncio.client import ClientConnection, connect

from bcaf_stream.codecs import decode_ulaw
from bcaf_stream.ingest.protocols.twilio import TwilioConfig
from bcaf_stream.ingest.servers import make_server
from bcaf_stream.ingest.transports import websocket_session
from bcaf_stream.ingest.transports.websocket_session import WebSocketServer
from tests.collecting_sink import CollectingSink
from tests.stream_messages import twilio_frames, twilio_media, twilio_session, twilio_start, twilio_stop
from tests.waiting import eventually
from tests.websocket_clients import closing, listening, noise, run


def twilio(sink: CollectingSink, **options: object) -> AbstractAsyncContextManager[WebSocketServer]:
    return listening(make_server(TwilioConfig(port=0, **options)), sink)


def test_a_call_arrives_as_it_was_sent():
    inbound, outbound = noise(2.0, 1), noise(2.0, 2)

    async def test() -> None:
        sink = CollectingSink()
        async with twilio(sink, text="none") as server, connect(server.endpoint) as client:
            for message in twilio_session({"inbound": inbound, "outbound": outbound}):
                await client.send(message)
            call = await sink.until("CA1", "ended")
        assert call.begins[0].text == "none"
        assert [(c.name, c.role) for c in call.begins[0].channels] == [
            ("customer", "customer"),
            ("agent", "agent"),
        ]
        assert call.reason == "complete"
        assert call.gaps == []
        assert call.sound("customer").tolist() == decode_ulaw(inbound).tolist()
        assert call.sound("agent").tolist() == decode_ulaw(outbound).tolist()
        assert server.refused == 0

    run(test)


@pytest.mark.parametrize("first", ["inbound", "outbound"])
def test_two_streams_of_one_call_are_its_sides(first: str):
    """Two <Stream>s with track="inbound_track" and "outbound_track": one callSid, a streamSid for each."""
    second = {"inbound": "outbound", "outbound": "inbound"}[first]
    data = {"inbound": noise(1.0, 1), "outbound": noise(1.0, 2)}

    async def test() -> None:
        sink = CollectingSink()
        async with twilio(sink) as server, connect(server.endpoint) as one, connect(server.endpoint) as two:
            for number, (client, track) in enumerate(((one, first), (two, second))):
                await client.send(twilio_start("CA1", [track], stream=f"MZ{number}"))
                for message in twilio_frames({track: data[track]}):
                    await client.send(message)
                await (await client.ping())
            await one.send(twilio_stop())
            assert (await closing(one))[0] == 1000
            assert sink.calls["CA1"].state == "running"
            await two.send(twilio_stop())
            call = await sink.until("CA1", "ended")
        [begin] = call.begins
        assert [channel.name for channel in begin.channels] == ["customer", "agent"]
        for track, channel in (("inbound", "customer"), ("outbound", "agent")):
            assert call.sound(channel).tolist()[-8000:] == decode_ulaw(data[track]).tolist()
        assert server.refused == 0

    run(test)


def test_a_side_that_begins_with_silence_or_comes_back_stays_in_step():
    clock = [1_700_000_000 * 10**9]

    async def test() -> None:
        sink = CollectingSink()
        server = make_server(TwilioConfig(port=0), clock=lambda: clock[0])
        async with listening(server, sink), connect(server.endpoint) as one:
            await one.send(twilio_start("CA1", ["inbound"]))
            for ms in range(500, 2500, 20):  # nothing was sent for the first half second of the stream
                clock[0] += 20 * 10**6
                await one.send(twilio_media("inbound", ms // 20, ms, noise(0.02)))
                await (await one.ping())
            async with connect(server.endpoint) as two:
                await two.send(twilio_start("CA1", ["outbound"]))
                await two.send(twilio_media("outbound", 1, 700, noise(0.02)))
                await (await two.ping())
                two.transport.abort()
            await eventually(lambda: len(server.connections) == 1)
            clock[0] += 1000 * 10**6
            async with connect(server.endpoint) as two:
                await two.send(twilio_start("CA1", ["outbound"]))
                await two.send(twilio_media("outbound", 86, 1720, noise(0.02)))
                await two.send(twilio_stop())
                await closing(two)
            await one.send(twilio_stop())
            call = await sink.until("CA1", "ended")
        customer, agent = len(call.sound("customer")), len(call.sound("agent"))
        assert customer == 2500 * 8
        assert abs(agent - customer - 1000 * 8) <= 60 * 8, "where the clock of the wall is"
        assert len(call.begins) == 1

    run(test)


def test_a_side_that_is_there_already_is_refused_with_the_reason():
    async def test() -> None:
        async with (
            twilio(CollectingSink()) as server,
            connect(server.endpoint) as one,
            connect(server.endpoint) as two,
        ):
            for client in (one, two):
                await client.send(twilio_start("CA1", ["inbound"]))
                await (await client.ping())
            assert await closing(two) == (1008, "call CA1: its channel customer has a connection already")

    run(test)


def test_a_silent_side_does_not_lose_its_place_to_the_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(websocket_session, "STALE_S", 0.0)

    async def test() -> None:
        sink = CollectingSink()
        async with twilio(sink) as server, connect(server.endpoint) as one, connect(server.endpoint) as two:
            await one.send(twilio_start("CA1", ["inbound"]))
            await (await one.ping())
            await two.send(twilio_start("CA1", ["outbound"]))
            await (await two.ping())
            await one.send(twilio_media("inbound", 1, 0, noise(0.02)))
            await one.send(twilio_stop())
            await two.send(twilio_stop())
            call = await sink.until("CA1", "ended")
        assert len(call.sound("customer")) == 160

    run(test)


@pytest.mark.parametrize(("first_ms", "missed"), [(5_000, 0), (0, None)])
def test_a_call_that_loses_its_connection_goes_on_in_the_next_one(first_ms: int, missed: int | None):
    async def test() -> None:
        sink = CollectingSink()
        first, second = noise(2.0, 1), noise(1.0, 2)
        async with twilio(sink) as server:
            async with connect(server.endpoint) as client:
                await client.send(twilio_start("CA7", ["inbound"]))
                for message in twilio_frames({"inbound": first}):
                    await client.send(message)
                await (await client.ping())  # all before it has arrived
                client.transport.abort()  # without a word
            await sink.until("CA7", "lost")
            async with connect(server.endpoint) as client:
                await client.send(twilio_start("CA7", ["inbound"]))
                for message in twilio_frames({"inbound": second}, first_ms=first_ms):
                    await client.send(message)
                await client.send(twilio_stop("CA7"))
                call = await sink.until("CA7", "ended")
        heard = call.sound("customer").tolist()
        before, after = decode_ulaw(first).tolist(), decode_ulaw(second).tolist()
        # Where the clock of the stream went on, it says what was missed; elsewhere that is the sink's to tell.
        assert heard == before + [0] * (24_000 if missed == 0 else 0) + after
        assert [begin.missed for begin in call.begins] == [None, missed]
        assert [gap.reason for gap in call.gaps] == (["connection lost"] if missed == 0 else [])

    run(test)


def test_what_waited_for_its_predecessor_is_heard_before_the_call_is_lost():
    async def test() -> None:
        sink = CollectingSink()
        frames = list(twilio_frames({"inbound": noise(0.2)}))
        async with twilio(sink) as server:
            async with connect(server.endpoint) as client:
                await client.send(twilio_start("CA1", ["inbound"]))
                for frame in [*frames[:4], frames[4], frames[4], *frames[6:]]:  # one twice, one never
                    await client.send(frame)
            call = await sink.until("CA1", "lost")
        assert len(call.sound("customer")) == 1600
        assert [(gap.start, gap.end) for gap in call.gaps] == [(800, 960)]
        assert server.late == 1

    run(test)


def test_a_full_server_answers_try_again_later():
    async def test() -> None:
        sink = CollectingSink(capacity=1)
        async with twilio(sink) as server, connect(server.endpoint) as one, connect(server.endpoint) as two:
            await one.send(twilio_start("CA1"))
            await sink.until("CA1", "running")
            await two.send(twilio_start("CA2"))
            assert (await closing(two))[0] == 1013
            assert server.refused == 1
            assert sink.calls["CA1"].state == "running"
            await one.send(twilio_stop())
            await sink.until("CA1", "ended")

    run(test)


def test_a_broken_client_is_hung_up_on_and_disturbs_nobody():
    async def test() -> None:
        sink = CollectingSink()
        sound = noise(1.0)
        frames = list(twilio_frames({"inbound": sound}))
        bad = ["no json", "[]", twilio_media("inbound", 1, 0, b"x"), b"\x00\xff", json.dumps({"event": "start"})]
        async with twilio(sink) as server, connect(server.endpoint) as good:
            await good.send(twilio_start("CA1", ["inbound"]))
            for number, message in enumerate(bad):
                for frame in frames[number * 10 : (number + 1) * 10]:
                    await good.send(frame)
                async with connect(server.endpoint) as client:
                    await client.send(message)
                    code, reason = await closing(client)
                    assert code == 1008
                    assert reason.startswith(("stream:", "message:"))
            await good.send(twilio_stop())
            call = await sink.until("CA1", "ended")
        assert call.sound("customer").tolist() == decode_ulaw(sound).tolist()
        assert server.refused == len(bad)
        assert list(sink.calls) == ["CA1"]

    run(test)


def test_a_call_whose_sender_breaks_the_protocol_is_lost_and_may_return():
    async def test() -> None:
        sink = CollectingSink()
        async with twilio(sink) as server, connect(server.endpoint) as client:
            await client.send(twilio_start())
            await sink.until("CA1", "running")
            await client.send("{")
            assert (await closing(client))[0] == 1008
            assert sink.calls["CA1"].state == "lost"

    run(test)


def test_the_sink_ends_a_call_and_its_connection_with_it():
    async def test() -> None:
        sink = CollectingSink()
        async with twilio(sink) as server, connect(server.endpoint) as client:
            await client.send(twilio_start())
            await sink.until("CA1", "running")
            sink.finish("CA1", "failed")
            assert await closing(client) == (1000, "failed")

    run(test)


def test_a_server_reads_no_faster_than_the_sink_takes():
    async def test() -> None:
        sink = CollectingSink()
        async with twilio(sink) as server, connect(server.endpoint) as client:
            await client.send(twilio_start("CA1", ["inbound"]))
            await sink.until("CA1", "running")
            sink.may_read.clear()
            frames = list(twilio_frames({"inbound": noise(600.0)}))
            sending = asyncio.create_task(send_all(client, frames))
            done, _ = await asyncio.wait([sending], timeout=0.5)
            assert not done, "all of it was read, though the sink had no room"
            assert len(sink.calls["CA1"].sound("customer")) <= 320
            sink.may_read.set()
            await sending
            await client.send(twilio_stop())
            call = await sink.until("CA1", "ended")
        assert len(call.sound("customer")) == 600 * 8000

    run(test)


async def send_all(client: ClientConnection, messages: list[str]) -> None:
    for message in messages:
        await client.send(message)


def test_a_reader_that_waits_for_room_notices_the_end():
    async def test() -> None:
        sink = CollectingSink()
        async with twilio(sink) as server:
            async with connect(server.endpoint) as client:
                await client.send(twilio_start("CA1"))
                await sink.until("CA1", "running")
                sink.may_read.clear()  # and never set again
                sending = asyncio.create_task(send_all(client, list(twilio_frames({"inbound": noise(1.0)}))))
                sink.finish("CA1", "failed")
                assert (await closing(client))[0] in (1000, 1006)
                await asyncio.gather(sending, return_exceptions=True)
            client = await connect(server.endpoint)
            await client.send(twilio_start("CA2"))
            await sink.until("CA2", "running")
            await client.send(twilio_media("inbound", 1, 0, b"\x00"))
        assert sink.calls["CA2"].reason == "server stopped"
        assert (await closing(client))[0] == 1001

    run(test)


def test_a_silent_connection_gives_its_call_to_the_next(monkeypatch):
    async def test() -> None:
        sink = CollectingSink()
        async with twilio(sink) as server, connect(server.endpoint) as old, connect(server.endpoint) as new:
            await old.send(twilio_start("CA1"))
            await sink.until("CA1", "running")
            async with connect(server.endpoint) as hasty:
                await hasty.send(twilio_start("CA1"))
                assert await closing(hasty) == (1008, "CA1: this call is running already")
            monkeypatch.setattr(websocket_session, "STALE_S", 0.0)  # and no time passes in this test
            await new.send(twilio_start("CA1"))
            assert (await closing(old))[0] == 1006
            await new.send(twilio_media("inbound", 1, 0, b"\x00" * 80))
            await new.send(twilio_stop())
            call = await sink.until("CA1", "ended")
        assert len(call.begins) == 2
        assert len(call.sound("customer")) == 80

    run(test)
