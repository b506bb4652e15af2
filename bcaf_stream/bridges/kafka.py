"""Events as records of a Kafka topic: the key is the call, so that a call stays in order; header `id` the event's.

The value is the event as JSON. A record counts as acknowledged when all in-sync replicas have it. After an error
the producer is made anew: an idempotent producer that failed for good stays failed.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)
from pydantic import Field

from bcaf_stream.bridges.forward import must_be_private
from bcaf_stream.config import Config
from bcaf_stream.errors import DeliveryError, EventError, UsageError
from bcaf_stream.events.codec import to_json
from bcaf_stream.events.event import Event

FOR_EVER = (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)


class KafkaConfig(Config):
    """`servers` is HOST:PORT, or several with commas; an attempt may take `timeout_s`."""

    servers: str
    topic: str
    tls: bool = False
    timeout_s: float = Field(default=20.0, gt=0)
    insecure: bool = False


class Kafka:
    """Sends events to a topic; create it inside the running loop.

    Raises:
        UsageError: `servers` is no HOST:PORT, or words would go unencrypted over a network.
    """

    name = "kafka"
    batch = 500

    def __init__(self, config: KafkaConfig) -> None:
        for server in config.servers.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdecimal():
                raise UsageError(f"{server}: must be HOST:PORT")
            must_be_private(f"kafka {server}", host, config.tls, config.insecure)
        self._config = config
        self._where = f"kafka {config.servers} topic {config.topic}"
        self._producer: AIOKafkaProducer | None = None

    async def send(self, events: Sequence[Event]) -> None:
        """As Receiver says."""
        try:
            async with asyncio.timeout(self._config.timeout_s):
                producer = self._producer or await self._started()
                sent = [await producer.send(self._config.topic, **_record(event)) for event in events]
                await asyncio.gather(*sent)
        except FOR_EVER as error:
            await self.close()
            way_out = "mend the broker's settings, and start the bridge again: it goes on with these events"
            raise EventError(f"{self._where}: refused ({type(error).__name__}): {way_out}") from None
        except (KafkaError, OSError) as error:  # a TimeoutError is an OSError
            await self.close()
            raise DeliveryError(f"{self._where}: not acknowledged ({type(error).__name__})") from None

    async def close(self) -> None:
        """Ends its connections; what was not acknowledged is given up."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, OSError):
                async with asyncio.timeout(1.0):  # it would wait for what cannot be delivered
                    await producer.stop()

    async def _started(self) -> AIOKafkaProducer:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._config.servers,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=int(self._config.timeout_s * 1000),
            security_protocol="SSL" if self._config.tls else "PLAINTEXT",
            ssl_context=ssl.create_default_context() if self._config.tls else None,
        )
        await self._producer.start()
        return self._producer


def _record(event: Event) -> dict[str, object]:
    headers = [("id", event.id.encode()), ("type", event.type.encode())]
    return {"value": to_json(event).encode(), "key": event.call.encode(), "headers": headers}
