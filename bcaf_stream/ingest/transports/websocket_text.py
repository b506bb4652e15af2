"""The door of live text: a client pushes the words of calls whose sound comes by other doors."""

import asyncio
from collections.abc import Callable

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.fields import Reply
from bcaf_stream.ingest.protocols.live_text import CallWords, LiveTextParser
from bcaf_stream.ingest.security import ServerConfig
from bcaf_stream.ingest.transports.admission import Stage
from bcaf_stream.ingest.transports.websocket import POLICY, Connection, WebSocketServer, brief


class LiveTextConfig(ServerConfig):
    """`ack` answers every line that was taken, and not only those that were not."""

    ack: bool = False


class LiveTextServer(WebSocketServer):
    """Hands words to running calls; a line that cannot be taken is answered, and the next one read."""

    name = "live_text"

    def __init__(self, config: LiveTextConfig, **kwargs: Callable[[], int]) -> None:
        super().__init__(config, **kwargs)
        self._ack = config.ack

    async def converse(self, connection: Connection) -> None:
        parser = LiveTextParser(self._ack)
        try:
            async with asyncio.timeout(self.config.first_message_s) as patience:
                async for frame in connection:
                    patience.reschedule(None)
                    for item in parser.push(frame, self.clock()):
                        await self._answer(connection, parser, item)
        except TimeoutError:
            self.refused += 1
            await connection.close(POLICY, "no words came in time")
        except LinkError as error:
            self.refused += 1
            await connection.close(POLICY, brief(str(error)))

    async def _answer(self, connection: Connection, parser: LiveTextParser, item: CallWords | Reply) -> None:
        if isinstance(item, CallWords):
            replies = await self._give(connection, parser, item)
        else:
            self.refused += 1
            replies = [item]
        for reply in replies:
            await connection.send(reply.data)

    async def _give(self, connection: Connection, parser: LiveTextParser, words: CallWords) -> list[Reply]:
        try:
            await self.host.words(words.call, words.message)
        except LinkError as error:
            self.refused += 1
            return parser.refused(words, error)
        if connection.place:
            connection.place.stage = Stage.CALLING
        return parser.taken(words)
