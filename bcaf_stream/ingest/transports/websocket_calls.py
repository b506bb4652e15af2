"""The doors of the platforms that send their calls over WebSockets: Twilio and its kin, Genesys AudioHook.

A call that cannot be taken now gets its protocol's own answer: Twilio and its kin the close code 1013 (try again
later), AudioHook a `disconnect`.
"""

import base64
import binascii
from collections.abc import Callable
from functools import partial
from pathlib import Path

from websockets.http11 import Request

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.legs import LegMerger
from bcaf_stream.ingest.protocols.audiohook import AudioHookParser, SessionConfig
from bcaf_stream.ingest.protocols.twilio import StreamConfig, TwilioParser
from bcaf_stream.ingest.security import read_secrets
from bcaf_stream.ingest.signatures import UsedSignatures, is_audiohooks, is_twilios
from bcaf_stream.ingest.sink import CallSink
from bcaf_stream.ingest.transports.websocket import only_header
from bcaf_stream.ingest.transports.websocket_session import CallServer, CallServerConfig, Parser

SINGLE_USE_S = 86_400.0  # how long the signature of an address is remembered, which holds no time itself


class TwilioConfig(StreamConfig, CallServerConfig):
    """Twilio Media Streams, and Telnyx's.

    `auth_token` is a file (mode 600) with the account's token: every request must then carry Twilio's signature
    of the address it was sent to. Behind a proxy `public_url` is that address, as the <Stream> names it. The
    signature of an address never changes: with `single_use: true` each is taken once, and the <Stream> of each
    call must name an address of its own (a random last part of its path).
    """

    auth_token: Path | None = None
    public_url: str | None = None
    single_use: bool = False

    @property
    def asks_for_secret(self) -> bool:
        return super().asks_for_secret or self.auth_token is not None


class TwilioServer(CallServer):
    """The door of Twilio Media Streams; the call's id is its callSid."""

    name = "twilio"

    def __init__(self, config: TwilioConfig, **kwargs: Callable[[], int]) -> None:
        super().__init__(config, **kwargs)
        self._twilio = config
        self._keys: list[bytes] = []
        self._used = UsedSignatures()
        self._heard: dict[tuple[str, ...], int] = {}

    async def start(self, host: CallSink) -> None:
        path = self._twilio.auth_token
        self._keys = read_secrets(path) if path else []
        channels = [channel.channel for channel in self._twilio.channels.values()]
        # Streams of one track each, with the same callSid, are the sides of one call.
        joins = len(channels) > 1 and self._twilio.call_id == "call"
        await super().start(LegMerger(host, channels) if joins else host)

    def parser(self, request: Request) -> Parser:
        return TwilioParser(self._twilio, self._twilio.text, self._heard)

    def may_enter(self, request: Request) -> bool:
        return super().may_enter(request) and (not self._keys or self._is_signed(request))

    def _is_signed(self, request: Request) -> bool:
        shown = only_header(request, "X-Twilio-Signature") or ""
        if not is_twilios(shown, self._signed_urls(request), self._keys):
            return False
        now = self.clock() / 1e9
        return not self._twilio.single_use or self._used.take(shown.encode(), now + SINGLE_USE_S, now)

    def _signed_urls(self, request: Request) -> list[str]:
        if self._twilio.public_url:
            urls = [self._twilio.public_url]
        else:
            host = only_header(request, "Host")
            urls = [f"{scheme}://{host}{request.path}" for scheme in ("wss", "https", "ws")]
        # Twilio is known to sign with and without the slash at the end.
        return [*urls, *(url[:-1] if url.endswith("/") else f"{url}/" for url in urls)]


class AudioHookConfig(SessionConfig, CallServerConfig):
    """Genesys AudioHook; `tokens` holds the API keys that Genesys shows in X-API-KEY.

    `client_secret` is a file (mode 600) with the client secrets, in base64 as Genesys is given them, one per line:
    every request must then be signed with one of them.
    """

    client_secret: Path | None = None

    @property
    def asks_for_secret(self) -> bool:
        return super().asks_for_secret or self.client_secret is not None


class AudioHookServer(CallServer):
    """The door of Genesys AudioHook; the call's id is its conversation's."""

    name = "audiohook"

    def __init__(self, config: AudioHookConfig, **kwargs: Callable[[], int]) -> None:
        super().__init__(config, **kwargs)
        self._audiohook = config
        self._secrets: list[bytes] = []
        self._used = UsedSignatures()
        self._heard: dict[str, int] = {}

    async def start(self, host: CallSink) -> None:
        path = self._audiohook.client_secret
        self._secrets = _decoded(path) if path else []
        await super().start(host)

    def parser(self, request: Request) -> Parser:
        return AudioHookParser(self._audiohook, self._audiohook.text, self._heard)

    def may_enter(self, request: Request) -> bool:
        return super().may_enter(request) and (not self._secrets or self._is_signed(request))

    def _is_signed(self, request: Request) -> bool:
        header = partial(only_header, request)
        return is_audiohooks(header, request.path, self._secrets, self.clock() / 1e9, self._used)


def _decoded(path: Path) -> list[bytes]:
    try:
        return [base64.b64decode(secret, validate=True) for secret in read_secrets(path)]
    except binascii.Error:
        raise LinkError(f"{path}: a client secret must be written in base64") from None
