"""Bridges from a real hub to real servers: what fails, hangs and dies on the other side costs no event.

HTTP: a server in this process. Redis: `redis-server`, where the machine has it. Kafka: no broker comes from a
package registry, so the one inside librdkafka (its "mock cluster", which speaks the protocol over TCP) stands in.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bcaf_stream.bridges.forward import BackOff, Receiver, forward
from bcaf_stream.bridges.kafka import Kafka, KafkaConfig
from bcaf_stream.bridges.redis import Redis, RedisConfig
from bcaf_stream.bridges.webhook import Webhook, WebhookConfig, read_secret, signed
from bcaf_stream.errors import DeliveryError, EventError, UsageError
from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.events.subscriber import AsyncEventSubscriber
from tests.commands import hears_interrupts
from tests.components import require
from tests.deployed import free_address
from tests.waiting import eventually, until

WAIT_S = 60.0  # only a failing test waits that long
QUICK = BackOff(first_s=0.02, longest_s=0.1)
COUNT = 40


def event(seq: int, call: str = "a") -> Event:
    return Event(type="alert", id=f"{call}-{seq}", call=call, channel="left", seq=seq, emitted_at=1, text="só")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[EventHub]:
    journal = JournalConfig(path=tmp_path / "events.sqlite", durability="crash")
    bind = {"bus": BusConfig(bind="tcp://127.0.0.1:*"), "replay": ReplayConfig(bind="tcp://127.0.0.1:*")}
    with EventHub(EventHubConfig(journal=journal, **bind)) as running:
        running.publish([event(n) for n in range(COUNT)]).result(WAIT_S)
        yield running


def bridge(hub: EventHub, make: Callable[[], Receiver], place: Path, arrived: Callable[[], bool]) -> None:
    """Run a bridge until the other side has what is waited for; then cancel it."""

    async def run() -> None:
        receiver = make()
        try:
            async with AsyncEventSubscriber(
                hub.bus.endpoint, hub.replay.endpoint, start="start", position=place
            ) as subscriber:
                task = asyncio.create_task(forward(subscriber, receiver, back_off=QUICK))
                await eventually(lambda: arrived() or task.done(), WAIT_S, what="the other side has it")
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if not task.cancelled():
                    task.result()
        finally:
            await receiver.close()

    asyncio.run(run())


def first_times(ids: list[str]) -> list[str]:
    return list(dict.fromkeys(ids))


class HttpServer:
    """Answers by script: a status, "hang", or "drop"; then 204. Keeps what it acknowledged."""

    def __init__(self, port: int = 0, script: tuple[object, ...] = ()) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.acknowledged: list[str] = []
        self.script = list(script)
        self.ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.requests.append((dict(self.headers), body))
                step = outer.script.pop(0) if outer.script else 204
                if step == "hang":
                    outer.ended.wait(WAIT_S)
                if step in ("hang", "drop"):
                    self.close_connection = True
                    return
                if step == 204:
                    outer.acknowledged.append(self.headers["webhook-id"])
                self.send_response(int(str(step)))
                self.send_header("retry-after", "0")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self) -> "HttpServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    return path


def webhook(port: int, secret_file: Path) -> Callable[[], Webhook]:
    config = WebhookConfig(url=f"http://127.0.0.1:{port}/in", secret_file=secret_file, timeout_s=0.3)
    return lambda: Webhook(config)


def test_a_webhook_that_fails_hangs_drops_and_dies_gets_every_event_in_order(
    hub: EventHub, tmp_path: Path, secret_file: Path
):
    place, got = tmp_path / "place.json", []
    with HttpServer(script=(503, "drop", 204, 429, "hang", 204, 500)) as server:
        port = server.port
        bridge(hub, webhook(port, secret_file), place, lambda: len(server.acknowledged) >= COUNT // 2)
        assert len(server.requests) >= len(server.acknowledged) + 4
        got += server.acknowledged
    back = threading.Timer(0.3, lambda: servers.append(HttpServer(port)))  # nobody listens for a while
    servers: list[HttpServer] = []
    back.start()
    bridge(
        hub,
        webhook(port, secret_file),
        place,
        lambda: bool(servers) and f"a-{COUNT - 1}" in servers[0].acknowledged,
    )
    got += servers[0].acknowledged
    servers[0].__exit__()
    assert first_times(got) == [f"a-{n}" for n in range(COUNT)]
    assert len(got) <= COUNT + 1  # at least once, and the place kept nearly all from being sent twice


def test_a_posted_event_is_signed_and_whole(hub: EventHub, tmp_path: Path, secret_file: Path):
    with HttpServer() as server:
        bridge(hub, webhook(server.port, secret_file), tmp_path / "p", lambda: len(server.acknowledged) == COUNT)
    headers, body = server.requests[3]
    sent_at = float(headers["webhook-timestamp"])
    assert abs(time.time() - sent_at) < 60
    wanted = signed("a-3", sent_at, body, read_secret(secret_file))
    assert {name: headers[name] for name in wanted} == wanted
    assert headers["content-type"] == "application/json"
    assert (json.loads(body)["id"], json.loads(body)["offset"], json.loads(body)["text"]) == ("a-3", 4, "só")


@pytest.mark.parametrize("status", [301, 400, 401, 410, 413])
def test_a_refusal_ends_the_bridge_and_skips_nothing(
    hub: EventHub, tmp_path: Path, secret_file: Path, status: int
):
    place = tmp_path / "place.json"
    with HttpServer(script=(204, 204, status)) as server:
        with pytest.raises(
            EventError, match=f"refused event a-2 with status {status}: .* goes on with this event"
        ):
            bridge(hub, webhook(server.port, secret_file), place, lambda: False)
        bridge(hub, webhook(server.port, secret_file), place, lambda: len(server.acknowledged) >= COUNT)
        assert server.acknowledged == [f"a-{n}" for n in range(COUNT)]


def test_the_command_killed_and_started_again_loses_nothing(hub: EventHub, tmp_path: Path, secret_file: Path):
    with HttpServer() as server:
        command = [
            sys.executable,
            "-m",
            "bcaf_stream.cli.main",
            "bridge",
            "webhook",
            f"http://127.0.0.1:{server.port}/",
        ]
        options = ["--secret-file", secret_file, "--position", tmp_path / "place.json", "--from", "start"]
        where = ["--connect", hub.bus.endpoint, "--replay", hub.replay.endpoint]
        for sign, wanted in ((signal.SIGKILL, COUNT), (signal.SIGINT, COUNT + 10)):
            whole = [*command, *map(str, options), *where]
            run = {"stderr": subprocess.PIPE, "preexec_fn": hears_interrupts}
            with subprocess.Popen(whole, **run) as process:
                last = f"a-{wanted - 1}"
                until(lambda last=last: last in server.acknowledged, WAIT_S, what="the last one's acknowledgement")
                assert process.poll() is None, process.stderr and process.stderr.read()
                process.send_signal(sign)
                process.wait(WAIT_S)
            hub.publish([event(n) for n in range(wanted, wanted + 10)]).result(WAIT_S)
        assert process.returncode == 0
        assert first_times(server.acknowledged) == [f"a-{n}" for n in range(COUNT + 10)]


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    require("redis-server")
    port = int(free_address().rpartition(":")[2])
    process = start_redis(port, tmp_path)
    yield port
    process.kill()
    process.wait()


def start_redis(port: int, folder: Path) -> "subprocess.Popen[bytes]":
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes"]
    process = subprocess.Popen(["redis-server", *options, "--appendfsync", "always"], stdout=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listens, WAIT_S, what="the start of redis-server")
    return process


def entries(port: int, stream: str = "emotions") -> list[dict[str, str]]:
    import redis

    with redis.Redis(port=port, decode_responses=True) as client:
        return [fields for _, fields in client.xrange(stream)]


def redis_bridge(port: int, **fields: object) -> Callable[[], Redis]:
    config = RedisConfig(url=f"redis://127.0.0.1:{port}", stream="emotions", timeout_s=2.0, **fields)
    return lambda: Redis(config)


def test_a_redis_stream_gets_every_event_in_order(hub: EventHub, tmp_path: Path, redis_port: int):
    place = tmp_path / "place.json"
    bridge(hub, redis_bridge(redis_port), place, lambda: len(entries(redis_port)) >= COUNT)
    hub.publish([event(n) for n in range(COUNT, COUNT + 5)]).result(WAIT_S)
    bridge(hub, redis_bridge(redis_port), place, lambda: len(entries(redis_port)) >= COUNT + 5)
    found = entries(redis_port)
    assert [fields["id"] for fields in found] == [f"a-{n}" for n in range(COUNT + 5)]
    assert (found[7]["call"], found[7]["type"], json.loads(found[7]["event"])["offset"]) == ("a", "alert", 8)


def test_a_redis_server_that_dies_and_comes_back(hub: EventHub, tmp_path: Path, redis_port: int):
    servers = []

    def revived() -> bool:
        found = {fields["id"] for fields in entries(redis_port)} if servers else set()
        return f"a-{COUNT - 1}" in found

    import redis

    with redis.Redis(port=redis_port) as client:
        client.shutdown(nosave=True)
    back = threading.Timer(0.5, lambda: servers.append(start_redis(redis_port, tmp_path)))
    back.start()
    bridge(hub, redis_bridge(redis_port), tmp_path / "place.json", revived)
    assert first_times([fields["id"] for fields in entries(redis_port)]) == [f"a-{n}" for n in range(COUNT)]
    servers[0].kill()
    servers[0].wait()


def test_a_redis_stream_is_kept_short_and_a_wrong_key_ends_the_bridge(
    hub: EventHub, tmp_path: Path, redis_port: int
):
    import redis

    hub.publish([event(n) for n in range(COUNT, 1000)]).result(WAIT_S)

    def arrived() -> bool:
        found = entries(redis_port)
        return bool(found) and found[-1]["id"] == "a-999"

    bridge(hub, redis_bridge(redis_port, maxlen=100), tmp_path / "place.json", arrived)
    assert 100 <= len(entries(redis_port)) < 300
    with redis.Redis(port=redis_port) as client:
        client.set("emotions", "a string")
    with pytest.raises(EventError, match=r"redis 127\.0\.0\.1 stream emotions: refused"):
        bridge(hub, redis_bridge(redis_port), tmp_path / "other.json", lambda: False)


def test_kafka_gets_every_event_in_order_keyed_by_its_call(hub: EventHub, tmp_path: Path):
    import confluent_kafka as confluent

    cluster = confluent.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(cluster.list_topics(timeout=WAIT_S).brokers.values()))
    servers, place = f"{broker.host}:{broker.port}", tmp_path / "place.json"
    reader = confluent.Consumer({"bootstrap.servers": servers, "group.id": "g", "auto.offset.reset": "earliest"})
    reader.subscribe(["emotions"])
    found = []

    def arrived() -> int:
        message = reader.poll(0)
        found.extend([message] if message and not message.error() else [])
        return len(found)

    config = KafkaConfig(servers=servers, topic="emotions")
    for _ in range(2):
        bridge(hub, lambda: Kafka(config), place, lambda: arrived() >= hub.journal.last_offset)
        hub.publish([event(n) for n in range(COUNT, COUNT + 5)]).result(WAIT_S)
    reader.close()
    assert [dict(message.headers())["id"].decode() for message in found] == [f"a-{n}" for n in range(COUNT + 5)]
    assert {message.key() for message in found} == {b"a"}
    assert json.loads(found[7].value())["offset"] == 8


@pytest.mark.parametrize("listening", [False, True])
def test_a_kafka_broker_that_is_not_there_or_never_answers(listening: bool):
    async def attempt(port: int) -> None:
        kafka = Kafka(KafkaConfig(servers=f"127.0.0.1:{port}", topic="emotions", timeout_s=0.5))
        try:
            await kafka.send([event(0)])
        finally:
            await kafka.close()

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen()
        with pytest.raises(DeliveryError, match=r"kafka 127\.0\.0\.1:.* topic emotions: not acknowledged"):
            asyncio.run(attempt(server.getsockname()[1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Kafka(KafkaConfig(servers="broker", topic="t")), "broker: must be HOST:PORT"),
        (lambda: Kafka(KafkaConfig(servers="e.org:9092", topic="t")), "unencrypted"),
        (lambda: Redis(RedisConfig(url="http://user:pass@x", stream="s")), "give redis://"),
        (lambda: Redis(RedisConfig(url="redis://user:pass@e.org", stream="s")), r"redis e\.org .*unencrypted"),
    ],
)
def test_addresses_that_are_none_or_open(make: Callable[[], Receiver], message: str):
    with pytest.raises(UsageError, match=message) as refused:
        make()
    assert "pass" not in str(refused.value)


@pytest.mark.parametrize(("module", "extra"), [("aiokafka", "kafka"), ("redis", "redis")])
def test_a_missing_extra_is_named(module: str, extra: str, tmp_path: Path):
    code = f"import sys; sys.modules[{module!r}] = None; from bcaf_stream.cli.main import main; main()"
    target = {"kafka": ["localhost:9092", "--topic", "t"], "redis": ["redis://localhost", "--stream", "s"]}[extra]
    command = [sys.executable, "-c", code, "bridge", extra, *target, "--position", str(tmp_path / "p")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert done.stderr.strip().endswith(f"{module} is not installed: pip install 'bcaf-stream[{extra}]'")
    assert len(done.stderr.strip().splitlines()) == 1
