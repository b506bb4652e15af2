"""Events per second on this machine: plain ZeroMQ and msgpack, then our bus, then the hub with its journal.

Run by hand: python -m tests.benchmarks.bus_throughput [EVENTS [EVENTS AT REST [ROUNDS]]] [--postgresql]
With --postgresql the hub's journal is on a PostgreSQL server that is started for it, with its default settings.
The listener is a process of its own. Nothing is lost: each run counts what arrived. On a machine that is not quiet
only the ratios say something: each is taken against the plain run of the same round, and the median is printed.
"""

import contextlib
import gc
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import msgpack
import zmq

from bcaf_stream.events.codec import decode, encode, to_map
from bcaf_stream.events.event import Event, event_id, topic, topic_prefix
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.publisher import BusConfig, EventPublisher
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.events.subscriber import EventSubscriber
from tests.postgres import PostgresServer, running_server

LABELS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
IN_FLIGHT = 256  # batches that wait for their acknowledgement; the owners of calls have that many together
Address = "multiprocessing.Queue[str]"
server: PostgresServer | None = None  # with --postgresql


def make_event(seq: int, call: str = "bench") -> Event:
    probs, audio, text = ({label: _share(seq, n + k) for n, label in enumerate(LABELS)} for k in (0, 9, 18))
    return Event(
        type="emotion.final",
        id=event_id(call, "left", seq, "emotion.final", 0),
        call=call,
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
        audio_probs=audio,
        text_probs=text,
        modalities=("audio", "text"),
        model="benchmark",
    )


def _share(seq: int, n: int) -> float:
    """A number of six decimals that looks like a probability; each event has others."""
    return (seq * 7919 + n * 104_729) % 999_983 / 1e6


def plain_listener(endpoint: str, count: int, done: Address) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.SUBSCRIBE, b"emo.v1.")
        socket.connect(endpoint)
        for _ in range(count):
            msgpack.unpackb(socket.recv_multipart()[1])
        done.put("0")


def our_listener(endpoint: str, count: int, done: Address) -> None:
    with EventSubscriber(endpoint, None) as listener:
        for _ in range(count):
            assert listener.receive(60) is not None
        done.put(str(listener.missed))


def timed(
    listener: Callable[..., None], endpoint: str, count: int, ready: Callable[[], object], send: Callable
) -> float:
    """Events per second."""
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
    return count / seconds


def plain(events: list[Event]) -> float:
    maps = [(topic(e).encode(), to_map(e)) for e in events]
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.bind("tcp://127.0.0.1:0")

        def send() -> None:
            for name, fields in maps:
                socket.send_multipart([name, msgpack.packb(fields)])

        endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        return timed(plain_listener, endpoint, len(events), socket.recv, send)


def ours(events: list[Event]) -> float:
    config = BusConfig(bind="tcp://127.0.0.1:0", when_full="block", block_s=60)
    with EventPublisher(config) as publisher:

        def send() -> None:
            for event in events:
                publisher.publish(event)

        return timed(
            our_listener, publisher.endpoint, len(events), lambda: publisher.wait_for_subscriber(60), send
        )


def hub_config(folder: str, durability: str) -> EventHubConfig:
    return EventHubConfig(
        journal=journal_config(folder, durability),
        bus=BusConfig(bind="tcp://127.0.0.1:*", when_full="block", block_s=60),
        replay=ReplayConfig(bind="tcp://127.0.0.1:*"),
    )


def journal_config(folder: str, durability: str) -> JournalConfig:
    if server is None:
        return JournalConfig(path=Path(folder) / "events.sqlite", durability=durability)
    return JournalConfig(url=server.url(), namespace=f"b{abs(hash(folder))}", durability=durability)


def size_of(config: JournalConfig) -> int:
    if config.file is not None:
        return config.file.stat().st_size
    assert server is not None
    return int(str(server.query(f"SELECT pg_total_relation_size('{config.namespace}.events')")[0][0]))


def journalled(events: list[Event], durability: str, batch: int) -> tuple[float, float]:
    """Through the hub, each batch acknowledged; then replayed to another reader."""
    with tempfile.TemporaryDirectory() as folder, EventHub(hub_config(folder, durability)) as hub:

        def send() -> None:
            waiting: deque[Future[list[int]]] = deque()
            for at in range(0, len(events), batch):
                waiting.append(hub.publish(events[at : at + batch]))
                if len(waiting) > IN_FLIGHT:
                    waiting.popleft().result(60)

        bus = hub.bus
        live = timed(our_listener, bus.endpoint, len(events), lambda: bus.wait_for_subscriber(60), send)
        ready: Address = multiprocessing.Queue()
        process = multiprocessing.Process(
            target=replay_reader, args=(bus.endpoint, hub.replay.endpoint, len(events), ready)
        )
        process.start()
        seconds = float(ready.get(timeout=300))
        process.join()
        return live, len(events) / seconds


def replay_reader(live: str, replay: str, count: int, done: Address) -> None:
    begin = time.perf_counter()
    with EventSubscriber(live, replay, start="start") as subscriber:
        for _ in range(count):
            assert subscriber.receive(60) is not None
    done.put(str(time.perf_counter() - begin))


def added_latency(count: int, per_second: int) -> str:
    """From `publish` to the event in a listener of another thread, one event at a time."""
    arrived: list[int] = []
    with tempfile.TemporaryDirectory() as folder, EventHub(hub_config(folder, "power_loss")) as hub:

        def listen() -> None:
            with EventSubscriber(hub.bus.endpoint, None) as listener:
                for _ in range(count):
                    event = listener.receive(60)
                    assert event is not None
                    arrived.append(time.time_ns() - event.emitted_at)

        listener = threading.Thread(target=listen)
        listener.start()
        hub.bus.wait_for_subscriber(60)
        begin = time.monotonic()
        for n in range(count):
            time.sleep(max(0.0, begin + n / per_second - time.monotonic()))
            hub.publish([make_event(n)])
        listener.join()
    milliseconds = sorted(ns / 1e6 for ns in arrived)
    return f"p50 {milliseconds[count // 2]:.1f} ms, p99 {milliseconds[count * 99 // 100]:.1f} ms"


def at_rest(count: int) -> str:
    """What `count` events cost on disk, and how soon the first event of one call comes back."""
    with tempfile.TemporaryDirectory() as folder:
        config = journal_config(folder, "crash")
        with Journal(config) as journal:
            for at in range(0, count, 1000):
                journal.store([make_event(n, f"call-{n // 100}") for n in range(at, at + 1000)])
        size = size_of(config)
        with EventHub(hub_config(folder, "crash")) as hub:
            begin = time.perf_counter()
            topics = [topic_prefix(f"call-{count // 200}")]
            with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, topics, "start") as subscriber:
                assert subscriber.receive(60) is not None
                first = time.perf_counter() - begin
    return f"{size / 1e6:.0f} MB, first event of a call after {first * 1000:.1f} ms"


def per_event(work: Callable[[], object], count: int) -> str:
    begin = time.perf_counter()
    work()
    return f"{(time.perf_counter() - begin) / count * 1e6:10.1f} us each"


def main() -> None:
    global server
    numbers = [int(argument) for argument in sys.argv[1:] if argument != "--postgresql"]
    count, resting, rounds = [*numbers, *(20_000, 1_000_000, 7)[len(numbers) :]]
    with contextlib.ExitStack() as stack:
        if "--postgresql" in sys.argv:
            server = stack.enter_context(running_server(settings=()))
        run(count, resting, rounds)


def run(count: int, resting: int, rounds: int) -> None:
    events = [make_event(n) for n in range(count)]
    gc.freeze()  # no hub holds all its events at once, to be looked through again and again
    data = [encode(e) for e in events]
    print(f"{count} events of {len(data[0])} bytes")
    print(f"encode                                  {per_event(lambda: [encode(e) for e in events], count)}")
    print(f"decode                                  {per_event(lambda: [decode(d) for d in data], count)}")
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        base = plain(events)
        results = {"pyzmq + msgpack, nothing checked": base, "publish -> listen": ours(events)}
        for durability in ("crash", "power_loss"):
            name = f"hub ({durability}, 16 at once)"
            results[f"{name} -> listen"], results[f"{name}: replay"] = journalled(events, durability, 16)
        for name, rate in results.items():
            found.setdefault(name, []).append((rate, rate / base))
    for name, pairs in found.items():
        rate, ratio = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name:<40}{rate:10,.0f} events/s, {ratio:.2f} of plain")
    print(f"added at 1,000 events/s                 {added_latency(10_000, 1000)}")
    print(f"{resting} events in the journal        {at_rest(resting)}")


if __name__ == "__main__":
    main()
