"""Events per second through the bus on this machine: plain ZeroMQ and msgpack, then ours, then with the journal.

Run by hand: python tests/benchmarks/bus_throughput.py [EVENTS]
The listener is a process of its own. Nothing is lost: each run counts what arrived.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgpack
import zmq

from bcaf_stream.events.bus import BusConfig, EventListener, EventPublisher
from bcaf_stream.events.codec import decode, encode, to_map
from bcaf_stream.events.journal import Journal, JournalConfig
from bcaf_stream.events.messages import Event, event_id, topic

LABELS = ("anger", "excitement", "frustration", "happiness", "neutral", "sadness")
Address = "multiprocessing.Queue[str]"


def make_event(seq: int) -> Event:
    probs = {label: round(1 / 6, 6) for label in LABELS}
    return Event(
        type="emotion.final",
        id=event_id("bench", "left", seq, "emotion.final", 0),
        call="bench",
        channel="left",
        role="customer",
        utterance=seq,
        seq=seq,
        start_ms=seq * 1000,
        end_ms=seq * 1000 + 900,
        speech_ended_at=time.time_ns(),
        emitted_at=time.time_ns(),
        text="I would like to know what happened to my order",
        text_source="asr",
        emotion="neutral",
        confidence=probs["neutral"],
        probs=probs,
        audio_probs=probs,
        text_probs=probs,
        modalities=("audio", "text"),
        model="benchmark",
    )


def plain_listener(endpoint: str, count: int, done: Address) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.SUBSCRIBE, b"emo.v1.")
        socket.connect(endpoint)
        for _ in range(count):
            msgpack.unpackb(socket.recv_multipart()[1])
        done.put("0")


def our_listener(endpoint: str, count: int, done: Address) -> None:
    with EventListener(endpoint) as listener:
        for _ in range(count):
            assert listener.receive(60) is not None
        done.put(str(listener.missed))


def timed(
    listener: Callable[..., None], endpoint: str, count: int, ready: Callable[[], object], send: Callable
) -> str:
    done: Address = multiprocessing.Queue()
    process = multiprocessing.Process(target=listener, args=(endpoint, count, done))
    process.start()
    ready()
    begin = time.perf_counter()
    send()
    missed = done.get(timeout=300)
    seconds = time.perf_counter() - begin
    process.join()
    assert missed == "0"
    return f"{count / seconds:10,.0f} events/s"


def plain(events: list[Event]) -> str:
    maps = [(topic(e).encode(), to_map(e)) for e in events]
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.bind("tcp://127.0.0.1:0")

        def send() -> None:
            for name, fields in maps:
                socket.send_multipart([name, msgpack.packb(fields)])

        endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        return timed(plain_listener, endpoint, len(events), socket.recv, send)


def ours(events: list[Event], journal: JournalConfig | None = None, batch: int = 1) -> str:
    config = BusConfig(bind="tcp://127.0.0.1:0", when_full="block", block_s=60)
    with EventPublisher(config) as publisher:

        def send() -> None:
            if journal is None:
                for event in events:
                    publisher.publish(event)
                return
            with Journal(journal) as opened:
                for at in range(0, len(events), batch):
                    for event in opened.append(events[at : at + batch]):
                        publisher.publish(event)

        return timed(
            our_listener, publisher.endpoint, len(events), lambda: publisher.wait_for_subscriber(60), send
        )


def per_event(work: Callable[[], object], count: int) -> str:
    begin = time.perf_counter()
    work()
    return f"{(time.perf_counter() - begin) / count * 1e6:10.1f} us each"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    events = [make_event(n) for n in range(count)]
    data = [encode(e) for e in events]
    print(f"{count} events of {len(data[0])} bytes")
    print(f"encode                                  {per_event(lambda: [encode(e) for e in events], count)}")
    print(f"decode                                  {per_event(lambda: [decode(d) for d in data], count)}")
    print(f"pyzmq + msgpack, nothing checked        {plain(events)}")
    print(f"publish -> listen                       {ours(events)}")
    with tempfile.TemporaryDirectory() as folder:
        for batch in (1, 16):
            for durability in ("crash", "power_loss"):
                config = JournalConfig(path=Path(folder) / f"{durability}-{batch}", durability=durability)
                few = [replace(e, offset=None) for e in events[: count // 4]]
                label = f"journal ({durability}, {batch} at once) -> publish -> listen"
                print(f"{label:55} {ours(few, config, batch)}")


if __name__ == "__main__":
    main()
