"""IngestActor: the audio sockets and, for each call, its session. Frames never leave this process."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.config import ServeConfig
from actors.pool import EmotionPool
from actors.session import Answer, CallSession, Reply
from bcaf_stream.errors import BcafError, JournalError, LinkError
from bcaf_stream.events.messages import Event
from bcaf_stream.ingest.link import LinkServer, Open, Refused
from bcaf_stream.model.state import DialogueState
from bcaf_stream.transcripts.asr import load_transcriber
from bcaf_stream.types import Utterance

log = logging.getLogger(__name__)

HUB_REST_S = 0.2  # between two tries


class IngestActor:
    """Owns the calls that are sent to its socket.

    Args:
        emotions: names of the EmotionActors in this Ray namespace.
        hub: name of the HubActor. Names, because a restarted actor can look them up again.

    Raises (at creation): LinkError, AsrError.
    """

    def __init__(self, config: ServeConfig, emotions: Sequence[str], hub: str) -> None:
        self._config = config
        self._hub = ray.get_actor(hub, config.name)
        self.model_id = ""
        self.transcriber = load_transcriber(config.analyzer.text.asr)
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="asr")
        self._pool = EmotionPool([ray.get_actor(name, config.name) for name in emotions], config.emotion.retry_s)
        self._server = LinkServer(config.ingest.link)
        self._sessions: dict[bytes, CallSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._finished = 0
        self._refused = 0
        self._retried = 0  # times that the hub did not take events

    async def endpoint(self) -> str:
        return self._server.endpoint

    async def predict(self, state: DialogueState | None, utterance: Utterance) -> Answer:
        return await self._pool.predict(state, utterance)

    async def publish(self, events: Sequence[Event]) -> object:
        """Hand events over and keep them until they are acknowledged: the hub drops what it knows already.

        Meanwhile their call waits, and its sender with it, for no credit is given. Raises EventError or
        RayActorError when the hub could not take them for `hub.retry_s`.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._config.hub.retry_s
        while True:
            try:
                return await self._hub.publish.remote(list(events))
            except (RayActorError, JournalError):
                if loop.time() > give_up:
                    raise
                self._retried += 1
                await asyncio.sleep(HUB_REST_S)

    async def serve(self, model_id: str) -> None:
        """Answer senders for ever; `model_id` is what the events say of the model."""
        self.model_id = model_id
        while True:
            client, message = await self._server.receive()
            try:
                if isinstance(message, Open):
                    await self._open(client, message)
                elif client in self._sessions:
                    self._sessions[client].accept(message)
                else:
                    raise LinkError("the call is over here")
            except LinkError as error:
                self._refused += 1
                await self._server.send(client, Refused(str(error)))

    async def stats(self) -> dict[str, Any]:
        lag = max((s.lag_ms for s in self._sessions.values()), default=0)
        return {
            "serving": bool(self.model_id),
            "calls": len(self._sessions),
            "finished": self._finished,
            "refused": self._refused + self._server.refused,
            "lag_ms": lag,
            "failovers": self._pool.failovers,
            "retried": self._retried,
        }

    async def drain(self) -> None:
        """Let the running calls end at once, with what was heard of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server.close()

    async def _open(self, client: bytes, opening: Open) -> None:
        ingest = self._config.ingest
        if any(session.call.id == opening.call for session in self._sessions.values()):
            raise LinkError(f"call {opening.call} is running already; choose another --call")
        if len(self._sessions) >= ingest.max_calls:
            raise LinkError(f"busy: {ingest.max_calls} calls are running; try again later")
        if opening.text == "asr" and self.transcriber is None:
            raise LinkError(
                "this deployment has no speech recognition; send with --transcript FILE or --text none"
            )
        try:
            ended = await self._hub.has_ended.remote(opening.call)
        except RayActorError:
            raise LinkError("busy: the event hub is starting again; try again in a few seconds") from None
        if ended:
            raise LinkError(f"call {opening.call} is in the journal already; choose another --call")

        reply = partial(self._server.send, client)
        session = CallSession(opening, self._config.analyzer, self, reply, ingest.link.window_ms, ingest.idle_s)
        self._sessions[client] = session
        task = asyncio.create_task(self._run(client, session, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, client: bytes, session: CallSession, reply: Reply) -> None:
        try:
            await session.run()
            self._finished += 1
        except asyncio.CancelledError:
            await session.fail("the deployment is going down")
            await reply(Refused("the deployment is going down"))
        except Exception as error:
            # The boundary of one call: whatever broke in it, the others go on, and its sender is told.
            log.error("call %s failed: %s", session.call.id, type(error).__name__)
            message = str(error) if isinstance(error, BcafError) else type(error).__name__
            await reply(Refused(f"the call cannot be analysed: {message.splitlines()[-1]}"))
            await session.fail(type(error).__name__)
        finally:
            session.close()
            del self._sessions[client]
