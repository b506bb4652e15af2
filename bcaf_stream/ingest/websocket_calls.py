"""The doors that live calls come in by over WebSockets: one connection is one call, or a part of one.

A call that cannot be taken now gets its protocol's own answer: Twilio and its kin the close code 1013 (try again
later), AudioHook a `disconnect`. A peer that breaks its protocol gets 1008, and only its own call is lost.
"""

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request

from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.access import DoorConfig
from bcaf_stream.ingest.access import _read_tokens as read_secrets
from bcaf_stream.ingest.audiohook import AudioHookParser, SessionConfig
from bcaf_stream.ingest.live import Begin, End, Host, LiveCall
from bcaf_stream.ingest.parsing import Item, Reply
from bcaf_stream.ingest.signatures import is_audiohooks, is_twilios
from bcaf_stream.ingest.twilio import StreamConfig, TwilioParser
from bcaf_stream.ingest.websocket import NORMAL, POLICY, TRY_LATER, WebSocketDoor, brief, only_header

LINGER_S = 1.0  # how long the peer may take to hang up after its call is over


class Parser(Protocol):
    """What a protocol needs to be served by a CallDoor."""

    def push(self, data: str | bytes, received_at: int) -> list[Item]: ...

    def began(self) -> list[Reply]:
        """The answer to an opening that was taken."""

    def farewell(self, reason: LinkError | None) -> list[Reply]:
        """What is said before hanging up: for an error, or because the call is over here."""


class CallDoor(WebSocketDoor):
    """Serves calls; a subclass makes the parser of a connection."""

    def __init__(self, config: DoorConfig, **kwargs: Callable[[], int]) -> None:
        super().__init__(config, **kwargs)
        self._conversations: set[_Conversation] = set()

    def parser(self, request: Request) -> Parser:
        raise NotImplementedError

    async def converse(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        conversation = _Conversation(self, connection, self.parser(connection.request))
        self._conversations.add(conversation)
        try:
            await conversation.run()
        finally:
            self._conversations.discard(conversation)

    async def close(self) -> None:
        for conversation in self._conversations:
            conversation.end("server stopped")
        await super().close()


class _Conversation:
    """One connection and its call."""

    def __init__(self, door: CallDoor, connection: ServerConnection, parser: Parser) -> None:
        self._door = door
        self._connection = connection
        self._parser = parser
        self._call: LiveCall | None = None
        self._over = False  # the call has ended, or was refused: only what is left to say is said
        self._last_words = (NORMAL, "")

    async def run(self) -> None:
        watch: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._door.config.first_message_s) as self._patience:
                async for message in self._connection:
                    await self._push(message)
                    if self._call and not self._over:
                        watch = watch or asyncio.create_task(self._watch(self._call))
                        await self._call.room()
        except TimeoutError:
            if not self._over:
                self._door.refused += 1
                self._last_words = POLICY, "no call began in time"
            await self._connection.close(*self._last_words)
        finally:
            if self._call and not self._over:
                self._over = True
                self._call.lost()
            if watch:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)

    def end(self, reason: str) -> None:
        if self._call and not self._over:
            self._over = True
            self._call.end(reason)

    async def _push(self, message: str | bytes) -> None:
        try:
            for item in self._parser.push(message, self._door.clock()):
                await self._take(item)
        except LinkError as error:
            await self._refuse(error)

    async def _take(self, item: Item) -> None:
        if isinstance(item, Reply):
            await self._connection.send(item.data)
        elif self._over:
            pass
        elif isinstance(item, Begin):
            self._patience.reschedule(None)
            self._call = await self._door.host.open(item)
            await self._say(self._parser.began())
        elif self._call is None:
            raise LinkError("media came before its call")
        elif isinstance(item, End):
            self.end(item.reason)
            self._linger()
        else:
            self._call.accept(item)

    async def _refuse(self, error: LinkError) -> None:
        self._door.refused += 1
        if self._call and not self._over:
            self._call.lost()
        code = TRY_LATER if isinstance(error, BusyError) else POLICY
        await self._hang_up(code, str(error), error)

    async def _watch(self, call: LiveCall) -> None:
        ended = await call.ended()
        if not self._over:
            with contextlib.suppress(ConnectionClosed):
                await self._hang_up(NORMAL, ended.reason, None)

    async def _hang_up(self, code: int, reason: str, error: LinkError | None) -> None:
        again, self._over = self._over, True
        self._last_words = code, brief(reason)
        farewell = [] if again else self._parser.farewell(error)
        await self._say(farewell)
        if farewell:
            self._linger()
        else:
            await self._connection.close(*self._last_words)

    async def _say(self, replies: list[Reply]) -> None:
        for reply in replies:
            await self._connection.send(reply.data)

    def _linger(self) -> None:
        self._patience.reschedule(asyncio.get_running_loop().time() + LINGER_S)


class TwilioConfig(StreamConfig, DoorConfig):
    """Twilio Media Streams, and Telnyx's.

    `auth_token` is a file (mode 600) with the account's token: every request must then carry Twilio's signature
    of the address it was sent to. Behind a proxy `public_url` is that address, as the <Stream> names it.
    """

    auth_token: Path | None = None
    public_url: str | None = None

    @property
    def open_to_all(self) -> bool:
        return super().open_to_all and self.auth_token is None


class TwilioDoor(CallDoor):
    """The door of Twilio Media Streams; the call's id is its callSid."""

    name = "twilio"

    def __init__(self, config: TwilioConfig, **kwargs: Callable[[], int]) -> None:
        super().__init__(config, **kwargs)
        self._twilio = config
        self._keys: list[bytes] = []

    async def start(self, host: Host) -> None:
        path = self._twilio.auth_token
        self._keys = read_secrets(path) if path else []
        await super().start(host)

    def parser(self, request: Request) -> Parser:
        return TwilioParser(self._twilio, self._twilio.text)

    def may_enter(self, request: Request) -> bool:
        return super().may_enter(request) and (not self._keys or self._is_signed(request))

    def _is_signed(self, request: Request) -> bool:
        shown = only_header(request, "X-Twilio-Signature") or ""
        return is_twilios(shown, self._signed_urls(request), self._keys)

    def _signed_urls(self, request: Request) -> list[str]:
        if self._twilio.public_url:
            urls = [self._twilio.public_url]
        else:
            host = only_header(request, "Host")
            urls = [f"{scheme}://{host}{request.path}" for scheme in ("wss", "https", "ws")]
        # Twilio is known to sign with and without the slash at the end.
        return [*urls, *(url[:-1] if url.endswith("/") else f"{url}/" for url in urls)]


class AudioHookConfig(SessionConfig, DoorConfig):
    """Genesys AudioHook; `tokens` holds the API keys that Genesys shows in X-API-KEY.

    `client_secret` is a file (mode 600) with the client secrets, in base64 as Genesys is given them, one per line:
    every request must then be signed with one of them.
    """

    client_secret: Path | None = None

    @property
    def open_to_all(self) -> bool:
        return super().open_to_all and self.client_secret is None


class AudioHookDoor(CallDoor):
    """The door of Genesys AudioHook; the call's id is its conversation's."""

    name = "audiohook"

    def __init__(self, config: AudioHookConfig, **kwargs: Callable[[], int]) -> None:
        super().__init__(config, **kwargs)
        self._audiohook = config
        self._secrets: list[bytes] = []
        self._heard: dict[str, int] = {}

    async def start(self, host: Host) -> None:
        path = self._audiohook.client_secret
        self._secrets = _decoded(path) if path else []
        await super().start(host)

    def parser(self, request: Request) -> Parser:
        return AudioHookParser(self._audiohook, self._audiohook.text, self._heard)

    def may_enter(self, request: Request) -> bool:
        return super().may_enter(request) and (not self._secrets or self._is_signed(request))

    def _is_signed(self, request: Request) -> bool:
        header = partial(only_header, request)
        return is_audiohooks(header, request.path, self._secrets, self.clock() / 1e9)


def _decoded(path: Path) -> list[bytes]:
    try:
        return [base64.b64decode(secret, validate=True) for secret in read_secrets(path)]
    except binascii.Error:
        raise LinkError(f"{path}: a client secret must be written in base64") from None
