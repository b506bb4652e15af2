"""What a client may cost the hub: credit, pace, frames that are too large or foreign, readers that hang."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from bcaf_stream.events.codec import encode
from bcaf_stream.events.event import Event, topic
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.journal.retention import erase
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.running import QUIET_S
from bcaf_stream.events.replay.server import (
    MAX_REQUEST_BYTES,
    REFRESH_S,
    ReplayConfig,
    ReplayServer,
)
from bcaf_stream.events.replay.socket import MAX_FRAME_BYTES
from bcaf_stream.events.subscriber import EventSubscriber
from bcaf_stream.loops import faults
from tests.deployed import free_address
from tests.hub_process import HubProcess
from tests.waiting import elapse, until
from tests.zmtp_flood import Flood, connected, frame

WAIT_S = 20.0


def event(seq: int, size: int = 10) -> Event:
    return Event(type="alert", id=f"a-{seq}", call="a", seq=seq, emitted_at=time.time_ns(), text="x" * size)


class Clock:
    """Stands still unless it is told."""

    now = 1_000 * 10**9

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def config(tmp_path: Path) -> EventHubConfig:
    return EventHubConfig(
        journal=JournalConfig(path=tmp_path / "events.sqlite", durability="crash"),
        bus=BusConfig(bind=free_address()),
        replay=ReplayConfig(bind=free_address(), page=50, per_second=5),
        heartbeat_s=0.2,
    )


@pytest.fixture
def hub(config: EventHubConfig, clock: Clock) -> Iterator[EventHub]:
    with EventHub(config, clock=clock) as running:
        yield running


class Dealer:
    """A client of the replay socket that is none of ours."""

    def __init__(self, socket: "zmq.Socket[Any]") -> None:
        self.socket = socket

    def ask(self, **fields: Any) -> None:
        self.socket.send(msgpack.packb({"v": 1, "id": 1, "topics": ["emo.v1."], **fields}))

    def answers(self, quiet_s: float = 0.4) -> list[tuple[str, int]]:
        """Kind and number of events of each answer, until none comes."""
        found = []
        while self.socket.poll(quiet_s * 1000):
            header, *frames = self.socket.recv_multipart()
            found.append((msgpack.unpackb(header)["kind"], len(frames) // 2))
        return found

    def events(self, quiet_s: float = 0.4) -> int:
        return sum(n for _, n in self.answers(quiet_s))


@pytest.fixture
def dealer(hub: EventHub) -> Iterator[Dealer]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, 1)
        socket.connect(hub.replay.endpoint)
        yield Dealer(socket)


def test_a_replay_gives_as_much_as_was_asked_for_and_stops_when_told(hub: EventHub, dealer: Dealer):
    hub.publish([event(n) for n in range(1000)]).result(WAIT_S)
    dealer.ask(ask="replay", credit=300, **{"from": "start"})
    assert dealer.events() == 300
    dealer.ask(ask="credit", n=120)
    assert dealer.answers() == [("events", 50), ("events", 50), ("events", 20)]
    assert hub.replay.running == 1
    dealer.ask(ask="cancel")
    dealer.ask(ask="credit", n=120)
    assert dealer.answers() == []
    assert hub.replay.running == 0
    dealer.ask(ask="replay", credit=5000, **{"from": {"offset": 999}})
    assert dealer.answers() == [("events", 2), ("end", 0)]


def test_a_replay_whose_credit_is_used_up_exactly_gets_its_end(hub: EventHub, dealer: Dealer):
    hub.publish([event(n) for n in range(100)]).result(WAIT_S)
    for credit in (50, 100):  # a page, and two
        dealer.ask(ask="replay", credit=credit, id=credit, **{"from": {"offset": 101 - credit}})
        assert dealer.answers() == [*[("events", 50)] * (credit // 50), ("end", 0)]
    dealer.ask(ask="replay", credit=0, id=2, topics=["emo.v1.b."], **{"from": "start"})
    assert dealer.answers() == [("end", 0)], "what is not asked for costs no credit"
    assert hub.replay.running == 0


def test_replays_that_want_nothing_any_more_make_room_and_are_forgotten(config: EventHubConfig):
    limits = replace_config(config.replay, per_second=1000, max_replays=8, max_replays_each=4, idle_s=2.0)
    with EventHub(config.model_copy(update={"replay": limits})) as hub, zmq.Context() as context:
        hub.publish([event(n) for n in range(10)]).result(WAIT_S)
        sockets = [context.socket(zmq.DEALER) for _ in range(3)]
        dealers = [Dealer(socket) for socket in sockets]
        for dealer in dealers:
            dealer.socket.connect(hub.replay.endpoint)
        for dealer in dealers[:2]:
            for id in range(5):
                dealer.ask(ask="replay", credit=1, id=id, **{"from": "start"})
            assert dealer.answers() == [*[("events", 1)] * 4, ("busy", 0)], "four for each"
        assert hub.replay.running == 8
        sockets[0].close(0)  # as if it were killed
        until(lambda: hub.replay.running <= 4)
        dealers[2].ask(ask="replay", credit=100, **{"from": "start"})
        assert dealers[2].answers() == [("events", 10), ("end", 0)]
        until(lambda: not hub.replay.running)
        assert dealers[1].answers() == [("busy", 0)] * 4, "told, so that it may ask again"
        assert hub.replay.given_up == 4
        for socket in sockets:
            socket.close(0)


def test_a_client_that_is_gone_holds_no_place(config: EventHubConfig):
    limits = replace_config(config.replay, max_replays=4)
    with EventHub(config.model_copy(update={"replay": limits})) as hub, zmq.Context() as context:
        hub.publish([event(n) for n in range(10)]).result(WAIT_S)
        for _ in range(3):
            with context.socket(zmq.DEALER) as socket:
                socket.setsockopt(zmq.LINGER, 0)
                socket.connect(hub.replay.endpoint)
                gone = Dealer(socket)
                for id in range(4):
                    gone.ask(ask="replay", credit=1, id=id, **{"from": "start"})
                assert gone.answers() == [("events", 1)] * 4
            until(lambda: not hub.replay.running, QUIET_S / 2, what="sooner than for a quiet client: no replay")


def test_few_clients_with_many_replays_that_seem_alive_keep_nobody_out(config: EventHubConfig):
    limits = replace_config(config.replay, per_second=1000, max_replays=8, max_replays_each=8)
    with EventHub(config.model_copy(update={"replay": limits})) as hub, zmq.Context() as context:
        hub.publish([event(n) for n in range(10)]).result(WAIT_S)
        with context.socket(zmq.DEALER) as socket, context.socket(zmq.DEALER) as other:
            for one in (socket, other):
                one.setsockopt(zmq.LINGER, 0)
                one.connect(hub.replay.endpoint)
            greedy, reader = Dealer(socket), Dealer(other)
            for id in range(8):
                greedy.ask(ask="replay", credit=0, id=id, **{"from": "start"})
            for id in range(8):
                greedy.ask(ask="credit", n=0, id=id)
            until(lambda: hub.replay.running == 8)
            reader.ask(ask="replay", credit=100, **{"from": "start"})
            assert reader.answers() == [("events", 10), ("end", 0)]
            assert greedy.answers() == [("busy", 0)], "one of its replays, which it may ask for again"


def test_an_answer_for_which_there_was_no_room_comes_when_there_is(hub: EventHub, dealer: Dealer):
    for at in range(0, 3000, 100):
        hub.publish([event(n, 10_000) for n in range(at, at + 100)]).result(WAIT_S)
    dealer.ask(ask="replay", credit=10_000, **{"from": "start"})
    until(lambda: hub.replay.held)
    dealer.ask(ask="count", id=2, after=0, to=10_000)
    dealer.ask(ask="nothing", id=3)
    until(lambda: hub.stats()["refused"])
    kinds = [kind for kind, _ in dealer.answers(quiet_s=1.0)]
    assert [kinds.count(kind) for kind in ("count", "error", "end")] == [1, 1, 1]


def test_a_reader_whose_replay_was_given_up_asks_again_and_misses_nothing(config: EventHubConfig):
    impatient = config.model_copy(update={"replay": replace_config(config.replay, idle_s=0.1)})
    with EventHub(impatient) as hub:
        for at in range(0, 9000, 500):
            hub.publish([event(n) for n in range(at, at + 500)]).result(WAIT_S)
        with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as reader:
            assert [reader.receive(WAIT_S).seq for _ in range(50)] == list(range(50))
            until(lambda: hub.replay.given_up)
            assert [reader.receive(WAIT_S).seq for _ in range(8950)] == list(range(50, 9000))


BAD = [{}, {"ask": "replay"}, {"ask": ["replay"]}, {"ask": "credit"}, {"ask": "count", "after": None}, {"v": []}]
BAD += [
    {"ask": "replay", "credit": 1, "from": start} for start in (None, {}, {"offset": 2**64 - 1}, {"time": -1}, [])
]
BAD += [{"ask": "replay", "credit": 1, "from": "start", "speed": speed} for speed in (1e-310, 0, "1", [1], -1.0)]


def test_no_request_ends_the_replay_for_others(hub: EventHub, dealer: Dealer, caplog: pytest.LogCaptureFixture):
    hub.publish([event(0)]).result(WAIT_S)
    for fields in BAD:
        dealer.ask(**fields)
        assert dealer.answers(0.1) == [("error", 0)], fields
    assert hub.stats()["refused"] == len(BAD)
    dealer.ask(ask="replay", credit=10, **{"from": "start"})
    assert dealer.answers() == [("events", 1), ("end", 0)]
    assert caplog.text.count("replay: refused: request: ") >= 1


def test_a_fault_of_ours_costs_one_request_and_is_counted_without_content(
    hub: EventHub, dealer: Dealer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    hub.publish([event(n) for n in range(3)]).result(WAIT_S)
    for name, ask in (("topics", "count"), ("page", "replay")):
        with monkeypatch.context() as broken:
            broken.setattr(hub.replay._journal, name, lambda *_: {}["secret words"])
            dealer.ask(ask=ask, id=3, after=0, to=9, credit=9, **{"from": "start"})
            assert dealer.answers() == [("error", 0)]
        dealer.ask(ask="replay", credit=9, **{"from": "start"})
        assert dealer.answers() == [("events", 3), ("end", 0)]
    assert {"replay request", "replay"} <= faults.counts.keys()
    assert "secret" not in caplog.text


def test_a_damaged_event_is_told_to_those_who_ask_for_it_and_the_replay_goes_on(hub: EventHub, dealer: Dealer):
    hub.publish([event(n) for n in range(120)]).result(WAIT_S)
    hub.journal.query("UPDATE events SET payload = x'c1' WHERE offset IN (7, 50, 51)")
    dealer.ask(ask="replay", credit=500, **{"from": "start"})
    assert dealer.answers() == [("events", 50), ("events", 50), ("events", 20), ("end", 0)]
    with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as reader:
        got = [reader.receive(WAIT_S) for _ in range(120)]
        hub.publish([event(120)]).result(WAIT_S)
        assert reader.receive(WAIT_S).seq == 120
    assert [e.seq for e in got] == list(range(120))
    assert [e.offset for e in got if e.type == "degraded"] == [7, 50, 51]


def test_what_a_replay_has_read_ahead_of_a_call_that_is_erased_is_not_sent(hub: EventHub, dealer: Dealer):
    both = [replace(event(n), call=call, id=f"{call}-{n}") for n in range(10) for call in ("secret", "other")]
    hub.publish(both).result(WAIT_S)
    dealer.ask(ask="replay", credit=1, **{"from": "start"})
    assert dealer.answers() == [("events", 1)]
    with Journal(hub.journal.config, maintenance=True) as beside:
        erase(beside, "secret", now=1)
    elapse(REFRESH_S, "how soon an erased call is noticed")
    dealer.ask(ask="credit", n=100)
    assert dealer.answers(1.0) == [("events", 10), ("end", 0)]
    assert hub.publish([replace(event(11), call="secret", id="later")]).result(WAIT_S) == [0]
    assert hub.progress("secret").ended
    assert hub.stats()["erased"] == 1


def test_a_replay_in_original_time_is_never_early(hub: EventHub, dealer: Dealer, clock: Clock):
    for seq in range(3):
        hub.publish([event(seq)]).result(WAIT_S)
        clock.now += 300_000_000
    begun = time.monotonic()
    dealer.ask(ask="replay", credit=10, speed=1, **{"from": "start"})
    assert dealer.events(quiet_s=2.0) == 3
    assert time.monotonic() - begun >= 0.6 + 2.0
    begun = time.monotonic()
    dealer.ask(ask="replay", credit=10, speed=0.5, id=2, **{"from": "start"})
    times = []
    while len(times) < 3:
        assert dealer.socket.poll(WAIT_S * 1000)
        dealer.socket.recv_multipart()
        times.append(time.monotonic() - begun)
    assert [at >= due for at, due in zip(times, (0.0, 0.6, 1.2), strict=True)] == [True] * 3


def test_who_asks_too_often_is_told_to_wait_and_others_are_not(hub: EventHub, dealer: Dealer):
    hub.publish([event(n) for n in range(10)]).result(WAIT_S)
    for id in range(30):
        dealer.ask(ask="count", id=id, after=0, to=100)
    kinds = [kind for kind, _ in dealer.answers()]
    assert len(kinds) == 30
    assert 10 <= kinds.count("count") <= 14
    assert set(kinds) == {"count", "busy"}
    with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as subscriber:
        assert subscriber.receive(WAIT_S).seq == 0


def test_a_subscriber_that_is_told_to_wait_waits_and_gets_all(config: EventHubConfig, tmp_path: Path):
    slow = config.model_copy(update={"replay": replace_config(config.replay, per_second=0.5)})
    with EventHub(slow) as hub, EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as reader:
        hub.publish([event(0)]).result(WAIT_S)
        assert reader.receive(WAIT_S).seq == 0
        for _ in range(3):  # as if something were missing again and again
            reader._follower.interrupted()
            reader.receive(0.1)
        hub.publish([event(1)]).result(WAIT_S)
        assert reader.receive(WAIT_S).seq == 1


def replace_config(config: ReplayConfig, **fields: Any) -> ReplayConfig:
    return config.model_copy(update=fields)


def test_a_client_that_asks_for_all_and_does_not_read_gets_it_later(hub: EventHub, dealer: Dealer):
    for at in range(0, 3000, 100):
        hub.publish([event(n, 10_000) for n in range(at, at + 100)]).result(WAIT_S)
    dealer.ask(ask="replay", credit=10_000, **{"from": "start"})
    until(lambda: hub.replay.held)
    assert hub.publish([event(3000)]).result(WAIT_S) == [3001]  # nobody else waits
    answers = dealer.answers(quiet_s=1.0)
    assert sum(n for _, n in answers) == 3001
    assert answers[-1][0] == "end"


@pytest.mark.parametrize("size", [MAX_REQUEST_BYTES + 1, MAX_FRAME_BYTES + 1])
def test_a_request_that_is_too_large_harms_nobody(hub: EventHub, dealer: Dealer, size: int):
    hub.publish([event(0)]).result(WAIT_S)
    dealer.socket.send(b"\xdb" + os.urandom(size - 1))
    if size <= MAX_FRAME_BYTES:
        assert dealer.answers() == [("error", 0)]
        assert hub.stats()["refused"] == 1
    with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as subscriber:
        assert subscriber.receive(WAIT_S).seq == 0


def test_what_is_sent_to_the_live_socket_and_is_no_subscription_is_counted_and_told_without_content(
    hub: EventHub, caplog: pytest.LogCaptureFixture
):
    with zmq.Context() as context, context.socket(zmq.XSUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(hub.bus.endpoint)
        for frame in (b"", b"\x02secret words", b"hello secret", b"\x01emo.v1."):
            socket.send(frame)
        assert hub.bus.wait_for_subscriber(WAIT_S)
        socket.send(b"\x01" + b"x" * 100_000)  # too large: the connection ends, and comes back
        hub.publish([event(0)]).result(WAIT_S)
        with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as subscriber:
            assert subscriber.receive(WAIT_S).seq == 0
    assert hub.stats()["refused"] == 3
    assert "live: refused: what is no subscription" in caplog.text
    assert "secret" not in caplog.text


TOGGLES = frame(b"\x01emo.v1.a.") + frame(b"\x00emo.v1.a.")
FLOODS: dict[
    str, Callable[[int], bytes]
] = {  # the benchmark flood_events has more, and says how long each holds up
    "toggles": lambda _: TOGGLES * 5000,
    "names": lambda n: b"".join(frame(b"\x01%d." % k) for k in range(n * 1000, n * 1000 + 1000)),
    "no subscription": lambda _: frame(b"\x07something else") * 5000,
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_subscriptions_is_dropped_and_holds_up_nobody(config: EventHubConfig, kind: str):
    process = HubProcess(config)
    assert process.wait_ready()
    with EventSubscriber(config.bus.bind, config.replay.bind, start="start") as reader:
        assert process.publish([event(0)])
        assert reader.receive(WAIT_S).seq == 0
        before = resident_bytes(process.process.pid)
        attacker = Flood(config.bus.bind, FLOODS[kind])
        try:
            slowest = 0.0
            for n in range(1, 151):
                begun = time.monotonic()
                assert process.publish([event(n)])
                assert reader.receive(WAIT_S).seq == n
                slowest = max(slowest, time.monotonic() - begun)
                elapse(0.01, "the pace of the events")
        finally:
            attacker.end()
        grown = resident_bytes(process.process.pid) - before
        assert reader.gaps == 0
    process.kill()
    process.end()
    assert attacker.connections > 1, "it was dropped, and came back"
    assert slowest < 10.0, "without limits the hub stood still for as long as this went on"
    assert grown < 100e6


def test_a_subscriber_survives_a_hub_that_talks_nonsense(caplog: pytest.LogCaptureFixture):
    good = replace(event(0), offset=1)
    frames = [topic(good).encode(), encode(good)]
    with zmq.Context() as context, context.socket(zmq.XPUB) as live, context.socket(zmq.ROUTER) as replay:
        for socket in (live, replay):
            socket.bind("tcp://127.0.0.1:0")
        addresses = [socket.getsockopt_string(zmq.LAST_ENDPOINT) for socket in (live, replay)]
        with EventSubscriber(*addresses, start="start") as subscriber:
            assert subscriber.receive(0.2) is None
            client, request = replay.recv_multipart()
            id = msgpack.unpackb(request)["id"]
            head = {"v": 1, "id": id, "journal": "j", "epoch": 1}
            for answer in (b"\xc1", b"", b"\x93abc", msgpack.packb({"id": id}), msgpack.packb({"kind": []})):
                replay.send_multipart([client, answer])
            replay.send_multipart([client, msgpack.packb({**head, "kind": "end", "reached": "far"})])
            replay.send_multipart(
                [client, msgpack.packb({**head, "kind": "events"}), *frames, b"x", b"\xc1", b"odd"]
            )
            live.recv()
            for message in ([b"emo.v1.a"], [b"emo.v1.a..alert", b"\xc1"], [b"emo.v1.b..alert", frames[1]]):
                live.send_multipart(message)
            assert subscriber.receive(WAIT_S) == good
            assert subscriber.receive(0.3) is None
            assert subscriber.broken == 6 + 1 + 3


def test_a_slow_reader_is_warned(hub: EventHub, caplog: pytest.LogCaptureFixture):
    with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, max_age_s=5.0) as subscriber:
        subscriber.receive(0.2)
        hub.publish([event(0)]).result(WAIT_S)
        assert subscriber.receive(WAIT_S).seq == 0
        assert subscriber.late == 0
        hub.publish([replace(event(n), emitted_at=time.time_ns() - 6 * 10**9) for n in (1, 2)]).result(WAIT_S)
        assert [subscriber.receive(WAIT_S).seq for _ in range(2)] == [1, 2]
        assert subscriber.late == 2
    assert caplog.text.count("this reader is slow: it takes events that are 6.0 s old") == 1


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_requests_that_nobody_has_answered_yet_wait_with_their_senders(
    hub: EventHub, monkeypatch: pytest.MonkeyPatch
):
    """A replay socket that is read no further takes little, from many who send as much as they may and go."""
    may_go_on, take = threading.Event(), ReplayServer._take

    def stuck(server: ReplayServer) -> None:
        may_go_on.wait(WAIT_S)
        take(server)

    monkeypatch.setattr(ReplayServer, "_take", stuck)
    requests = frame(bytes(MAX_REQUEST_BYTES)) * 50  # 3 MB
    before = resident_bytes(os.getpid())
    with contextlib.ExitStack() as stack:
        stack.callback(may_go_on.set)
        for _ in range(20):
            connection = stack.enter_context(connected(hub.replay.endpoint, b"DEALER"))
            connection.settimeout(0.3)
            with contextlib.suppress(OSError):  # it is read no further
                connection.sendall(requests)
        assert resident_bytes(os.getpid()) - before < 20 * 3_000_000 // 2


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_hung_subscriber_costs_the_hub_a_bounded_queue_and_others_nothing(config: EventHubConfig):
    limit = config.model_copy(update={"bus": config.bus.model_copy(update={"high_water_mark": 500})})
    process = HubProcess(limit)
    assert process.wait_ready()
    with zmq.Context() as context, context.socket(zmq.SUB) as hung:
        hung.setsockopt(zmq.RCVHWM, 1)
        hung.subscribe(b"")
        hung.connect(config.bus.bind)  # and never reads
        with EventSubscriber(config.bus.bind, config.replay.bind, start="start") as reader:
            sent, slowest, sizes = 0, 0.0, []
            for _ in range(12):
                for _ in range(10):
                    assert process.publish([event(sent + n, 20_000) for n in range(50)])
                    begun = time.monotonic()
                    got = [reader.receive(WAIT_S).seq for _ in range(50)]
                    slowest = max(slowest, time.monotonic() - begun)
                    assert got == list(range(sent, sent + 50))
                    sent += 50
                sizes.append(resident_bytes(process.process.pid))
            assert reader.gaps == 0
    process.kill()
    process.end()
    # 120 MB went by. The queue of the hung one is 10 MB; SQLite keeps 32 MB of pages.
    assert sizes[-1] - sizes[0] < 60e6, sizes
    assert slowest < 5
