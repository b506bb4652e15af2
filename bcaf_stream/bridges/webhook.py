"""Events as HTTP POSTs, signed as the Standard Webhooks specification says (standardwebhooks.com).

One POST of one event as JSON; any 2xx acknowledges it. The headers `webhook-id` (the event's id),
`webhook-timestamp` (unix seconds of this attempt) and `webhook-signature` ("v1," and the base64 of HMAC-SHA256
over "id.timestamp.body") let the receiver check who sent it and drop what it knows. 408, 425, 429, 5xx, silence
and a lost connection are tried again; another 4xx or a redirect ends the bridge, because it would stay as it is.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx2
from pydantic import Field

from bcaf_stream.bridges.forward import must_be_private
from bcaf_stream.config import Config
from bcaf_stream.errors import DeliveryError, EventError, UsageError
from bcaf_stream.events.codec import to_json
from bcaf_stream.events.event import Event
from bcaf_stream.files import read_private

TRY_AGAIN = (408, 425, 429)
MAX_ANSWER_BYTES = 65_536  # of which nothing is used
MAX_RETRY_AFTER_S = 3600.0
_PREFIX = "whsec_"


class WebhookConfig(Config):
    """`secret_file` holds `whsec_` and base64; an attempt may take `timeout_s`, however slowly it is answered."""

    url: str
    secret_file: Path
    timeout_s: float = Field(default=10.0, gt=0)
    insecure: bool = False


class Webhook:
    """Posts events to an address.

    Args:
        clock: unix time in seconds.

    Raises:
        UsageError: the address is none, or would send words unencrypted over a network.
        EventError: the secret cannot be read, or is none.
    """

    name = "webhook"
    batch = 1

    def __init__(self, config: WebhookConfig, clock: Callable[[], float] = time.time) -> None:
        try:
            self._url = httpx2.URL(config.url)
        except httpx2.InvalidURL:
            self._url = httpx2.URL("")
        if self._url.scheme not in ("http", "https") or not self._url.host:
            # It would show the address, which may hold a token in its path or query: only the host is ever shown.
            raise UsageError("webhook: not an address: give https://HOST/PATH")
        self._where = f"webhook {self._url.host}"
        must_be_private(self._where, self._url.host, self._url.scheme == "https", config.insecure)
        self._secret = read_secret(config.secret_file)
        self._timeout_s, self._clock = config.timeout_s, clock
        self._client = httpx2.AsyncClient(follow_redirects=False, timeout=config.timeout_s, trust_env=False)

    async def send(self, events: Sequence[Event]) -> None:
        """As Receiver says."""
        for event in events:
            body = to_json(event).encode()
            headers = {"content-type": "application/json", **signed(event.id, self._clock(), body, self._secret)}
            try:
                async with asyncio.timeout(self._timeout_s):
                    status, retry_after = await self._post(body, headers)
            except (httpx2.TransportError, TimeoutError) as error:
                raise DeliveryError(f"{self._where}: not reached ({type(error).__name__})") from None
            self._judge(event.id, status, retry_after)

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.aclose()

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
            read = 0
            async for part in response.aiter_raw():  # a connection can be used again when all is read
                read += len(part)
                if read > MAX_ANSWER_BYTES:
                    break
            return response.status_code, response.headers.get("retry-after", "")

    def _judge(self, id: str, status: int, retry_after: str) -> None:
        if 200 <= status < 300:
            return
        if status in TRY_AGAIN or status >= 500:
            error = DeliveryError(f"{self._where}: answered {status}")
            error.not_before_s = min(MAX_RETRY_AFTER_S, float(retry_after)) if retry_after.isdecimal() else 0.0
            raise error
        way_out = "mend the receiver or the address, and start the bridge again: it goes on with this event"
        raise EventError(f"{self._where}: refused event {id} with status {status}: {way_out}")


def signed(id: str, now: float, body: bytes, secret: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks for an attempt at `now` (unix seconds)."""
    content = f"{id}.{int(now)}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()
    return {"webhook-id": id, "webhook-timestamp": str(int(now)), "webhook-signature": f"v1,{signature}"}


def read_secret(path: Path) -> bytes:
    """The bytes of a signing secret.

    Raises:
        EventError: it cannot be read, others may read it too, or it is none.
    """
    make = f"(umask 077; echo {_PREFIX}$(openssl rand -base64 32) > {path})"
    try:
        secret = base64.b64decode(read_private(path, "secret", make).removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise EventError(f"{path}: not {_PREFIX} and base64: make one: {make}") from None
    if not 24 <= len(secret) <= 64:
        raise EventError(f"{path}: a secret has 24 to 64 bytes: make one: {make}")
    return secret
