"""bcaf-stream bridge: events handed on to a webhook, to Kafka or to Redis, each at least once."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcaf_stream.console import stderr_note
from bcaf_stream.errors import UsageError
from bcaf_stream.events.event import EVENT_TYPES, EventType, topic_prefix
from bcaf_stream.files import read_private

if TYPE_CHECKING:
    from bcaf_stream.bridges.forward import Receiver

bridge_app = typer.Typer(no_args_is_help=True, help="Hand events on to another system, each at least once.")

Place = Annotated[Path, typer.Option("--position", help="keeps the place, so that a restart goes on from it")]
Connect = Annotated[str, typer.Option(help="where the deployment publishes events")]
Replay = Annotated[str, typer.Option(help="where it replays them")]
Events = Annotated[list[str] | None, typer.Option(help="these alone: a prefix of topics, e.g. emo.v1.CALL.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="TYPE", help="events of this type alone, e.g. alert; repeatable"),
]
From = Annotated[str, typer.Option("--from", help="start|new|OFFSET|TIME, while there is no position file")]
Key = Annotated[Path | None, typer.Option(help="the key file, when the deployment asks for one")]
Insecure = Annotated[bool, typer.Option("--insecure", help="words may leave this machine unencrypted")]
UrlFile = Annotated[
    Path | None, typer.Option(help="holds the address instead, where it has a password or token; mode 600")
]
LIVE, PAST = "tcp://127.0.0.1:5561", "tcp://127.0.0.1:5562"


@bridge_app.command()
def webhook(
    *,
    url: Annotated[
        str | None, typer.Argument(help="https://HOST/PATH", envvar="BCAF_WEBHOOK_URL", show_envvar=True)
    ] = None,
    url_file: UrlFile = None,
    secret_file: Annotated[Path, typer.Option(help="signs: whsec_ and base64; mode 600")],
    position: Place,
    connect: Connect = LIVE,
    replay: Replay = PAST,
    events: Events = None,
    only: Only = None,
    from_: From = "new",
    key: Key = None,
    insecure: Insecure = False,
) -> None:
    """POST each event as JSON, signed as Standard Webhooks says, until Ctrl-C."""
    from bcaf_stream.bridges.webhook import Webhook, WebhookConfig

    config = WebhookConfig(url=_address("webhook", url, url_file), secret_file=secret_file, insecure=insecure)
    _run(lambda: Webhook(config), connect, replay, events, only, from_, position, key)


@bridge_app.command()
def kafka(
    servers: Annotated[str, typer.Argument(metavar="HOST:PORT", help="of the broker")],
    topic: Annotated[str, typer.Option(help="the topic in Kafka")],
    position: Place,
    tls: Annotated[bool, typer.Option("--tls", help="the broker speaks TLS")] = False,
    connect: Connect = LIVE,
    replay: Replay = PAST,
    events: Events = None,
    only: Only = None,
    from_: From = "new",
    key: Key = None,
    insecure: Insecure = False,
) -> None:
    """Send each event to a Kafka topic, keyed by its call, until Ctrl-C."""
    with _extra("aiokafka", "kafka"):
        from bcaf_stream.bridges.kafka import Kafka, KafkaConfig

    config = KafkaConfig(servers=servers, topic=topic, tls=tls, insecure=insecure)
    _run(lambda: Kafka(config), connect, replay, events, only, from_, position, key)


@bridge_app.command()
def redis(
    *,
    url: Annotated[
        str | None,
        typer.Argument(help="redis://HOST:PORT, rediss:// or unix://", envvar="BCAF_REDIS_URL", show_envvar=True),
    ] = None,
    url_file: UrlFile = None,
    stream: Annotated[str, typer.Option(help="the stream's key")],
    position: Place,
    maxlen: Annotated[int | None, typer.Option(min=1, help="about how many entries Redis keeps")] = None,
    connect: Connect = LIVE,
    replay: Replay = PAST,
    events: Events = None,
    only: Only = None,
    from_: From = "new",
    key: Key = None,
    insecure: Insecure = False,
) -> None:
    """Add each event to a Redis stream, until Ctrl-C."""
    with _extra("redis", "redis"):
        from bcaf_stream.bridges.redis import Redis, RedisConfig

    config = RedisConfig(url=_address("redis", url, url_file), stream=stream, maxlen=maxlen, insecure=insecure)
    _run(lambda: Redis(config), connect, replay, events, only, from_, position, key)


def _address(bridge: str, url: str | None, file: Path | None) -> str:
    """The address from a file, the environment or the command line, which others on this machine can read.

    Raises:
        UsageError: there is none, or more than one.
        EventError: the file cannot be read, or others may read it too.
    """
    if file is not None:
        if url is not None:
            raise UsageError(f"bridge {bridge}: the address and --url-file: give one of them")
        return read_private(file, "address")
    if url is None:
        variable = f"BCAF_{bridge.upper()}_URL"
        raise UsageError(f"bridge {bridge}: give the address, --url-file FILE, or {variable} in the environment")
    from bcaf_stream.bridges.forward import has_secret  # as every bridge: loaded by the command that runs it

    if has_secret(url) and url in sys.argv:
        stderr_note(
            f"bcaf-stream: others on this machine can read the secret in this address in the list of processes: "
            f"give it by --url-file or BCAF_{bridge.upper()}_URL"
        )
    return url


def _run(
    make: "Callable[[], Receiver]",
    connect: str,
    replay: str,
    events: list[str] | None,
    only: list[str] | None,
    start: str,
    position: Path,
    key: Path | None,
) -> None:
    from bcaf_stream.bridges.forward import forward
    from bcaf_stream.events.subscriber import AsyncEventSubscriber

    types = _types(only)

    async def bridge() -> None:
        receiver = make()
        try:
            wanted = events or [topic_prefix()]
            async with AsyncEventSubscriber(connect, replay, wanted, start, position, key) as subscriber:
                stderr_note(f"bcaf-stream: handing on what {connect} publishes; the place is kept in {position}")
                await forward(subscriber, receiver, types)
        finally:
            await receiver.close()

    with suppress(KeyboardInterrupt):  # the way to leave
        asyncio.run(bridge())


def _types(only: list[str] | None) -> tuple[EventType, ...]:
    unknown = sorted(set(only or ()) - set(EVENT_TYPES))
    if unknown:
        raise UsageError(f"--only {unknown[0]}: no type of event; there are {', '.join(EVENT_TYPES)}")
    return EVENT_TYPES if only is None else tuple(type for type in EVENT_TYPES if type in only)


@contextmanager
def _extra(module: str, name: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module:
            raise
        raise UsageError(f"bridge {name}: {module} is not installed: pip install 'bcaf-stream[{name}]'") from None
