"""Events as entries of a Redis stream, with the fields `id`, `call`, `type` and `event` (JSON).

An entry counts as acknowledged when XADD has answered; whether it survives a power cut is the server's setting
(`appendfsync`). With `maxlen` Redis drops the oldest entries, read or not.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import redis.asyncio
import redis.exceptions
from pydantic import Field

from bcaf_stream.bridges.forward import must_be_private
from bcaf_stream.config import Config
from bcaf_stream.errors import DeliveryError, EventError, UsageError
from bcaf_stream.events.codec import to_json
from bcaf_stream.events.event import Event

FOR_EVER = ("WRONGTYPE", "NOPERM", "WRONGPASS", "NOAUTH")  # how such an error begins


class RedisConfig(Config):
    """`url` is redis://, rediss:// (TLS) or unix://; an attempt may take `timeout_s`."""

    url: str
    stream: str
    maxlen: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=10.0, gt=0)
    insecure: bool = False


class Redis:
    """Adds events to a stream; create it inside the running loop.

    Raises:
        UsageError: the address is none, or would send words unencrypted over a network.
    """

    name = "redis"
    batch = 200

    def __init__(self, config: RedisConfig) -> None:
        waits = {"socket_timeout": config.timeout_s, "socket_connect_timeout": config.timeout_s}
        try:
            self._client = redis.asyncio.from_url(config.url, **waits)
        except ValueError:  # it would show the address, in which a password may be
            raise UsageError("redis: not an address: give redis://HOST:PORT, rediss:// or unix://") from None
        connection = self._client.connection_pool.connection_kwargs
        host = str(connection.get("host", "localhost"))
        self._where = f"redis {host} stream {config.stream}"
        must_be_private(self._where, host, config.url.startswith(("rediss:", "unix:")), config.insecure)
        self._stream, self._maxlen = config.stream, config.maxlen

    async def send(self, events: Sequence[Event]) -> None:
        """As Receiver says."""
        pipeline = self._client.pipeline(transaction=False)
        for event in events:
            fields: dict[Any, Any] = {
                "id": event.id,
                "call": event.call,
                "type": event.type,
                "event": to_json(event),
            }
            pipeline.xadd(self._stream, fields, maxlen=self._maxlen)
        try:
            answers = await pipeline.execute(raise_on_error=False)  # raised, one would carry the event's words
        except (redis.exceptions.RedisError, OSError) as error:
            self._fail(error)
        for answer in answers:
            if isinstance(answer, Exception):
                self._fail(answer)

    def _fail(self, error: Exception) -> NoReturn:
        kind = str(error).partition(" ")[0]
        if isinstance(error, redis.exceptions.AuthenticationError) or kind in FOR_EVER:
            way_out = "mend it, and start the bridge again: it goes on with these events"
            raise EventError(f"{self._where}: refused ({type(error).__name__}): {way_out}") from None
        raise DeliveryError(f"{self._where}: not acknowledged ({type(error).__name__})") from None

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.aclose()
