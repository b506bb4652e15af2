"""What tests of the WebSocket servers share: a loop that leaves nothing behind, an open server, a client's end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bcaf_stream.ingest.sink import CallSink
from bcaf_stream.ingest.transports.websocket_session import WebSocketServer

WAIT_S = 10.0  # only a failing test waits that long

D = TypeVar("D", bound=WebSocketServer)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test in a loop of its own; no task may be left in it."""

    async def within() -> None:
        async with asyncio.timeout(WAIT_S * 2):
            await test()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"a server left {len(left)} tasks behind"

    asyncio.run(within())


@contextlib.asynccontextmanager
async def listening(server: D, sink: CallSink) -> AsyncIterator[D]:
    await server.start(sink)
    try:
        yield server
    finally:
        await server.close()


def noise(seconds: float, seed: int = 0, channels: int = 1) -> bytes:
    """Bytes that are mu-law sound."""
    size = round(seconds * 8000) * channels
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


async def closing(client: ClientConnection) -> tuple[int, str]:
    """The code and the reason with which a connection is closed."""
    with contextlib.suppress(ConnectionClosed):
        async for _ in client:
            pass
    assert client.close_code is not None
    return client.close_code, client.close_reason or ""


async def status(
    server: WebSocketServer, path: str = "/", headers: dict[str, str] | None = None, host: str | None = None
) -> int:
    """The HTTP status of an attempt to come in; `host` is what the client takes the server's name to be."""
    address = urlsplit(server.endpoint.replace("http", "ws"))
    try:
        async with connect(
            f"{address.scheme}://{host or address.netloc}{path}",
            host=address.hostname,
            port=address.port,
            additional_headers=headers,
        ):
            return 101
    except InvalidStatus as error:
        return error.response.status_code
