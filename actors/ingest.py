"""IngestActor: the doors for live calls, and the calls themselves. Frames never leave this process."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.calls import Calls
from actors.config import ServeConfig
from actors.history import Answer
from actors.overload import Overload
from actors.pool import EmotionPool
from bcaf_stream.errors import BcafError, BusyError, JournalError
from bcaf_stream.events.messages import Event
from bcaf_stream.events.progress import Progress
from bcaf_stream.ingest.doors import make_doors
from bcaf_stream.ingest.udp import RtpDoor
from bcaf_stream.model.state import DialogueState
from bcaf_stream.transcripts.asr import load_transcriber
from bcaf_stream.types import Modality, Utterance

log = logging.getLogger(__name__)

HUB_REST_S = 0.2  # between two tries


class IngestActor:
    """Owns the calls that come in by its doors.

    Args:
        emotions: names of the EmotionActors in this Ray namespace.
        hub: name of the HubActor. Names, because a restarted actor can look them up again.

    Raises (at creation): LinkError, AsrError.
    """

    def __init__(self, config: ServeConfig, emotions: Sequence[str], hub: str) -> None:
        self._config = config
        self._hub = ray.get_actor(hub, config.name)
        self.model_id = ""
        self.modalities: tuple[Modality, ...] = ()
        self.transcriber = load_transcriber(config.analyzer.text.asr)
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="asr")
        self._pool = EmotionPool([ray.get_actor(name, config.name) for name in emotions], config.emotion.retry_s)
        self._doors = make_doors(config.ingest)
        self._open = False
        self.overload = Overload(config.ingest.overload)
        self._calls = Calls(config.analyzer, config.ingest, self, self.overload)
        self._retried = 0  # times that the hub did not take events

    async def endpoint(self) -> str:
        """Where `bcaf-stream send` goes."""
        return self._doors[0].endpoint  # the link's

    async def predict(self, state: DialogueState | None, utterance: Utterance, urgent: bool = True) -> Answer:
        return await self._pool.predict(state, utterance, urgent)

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

    async def progress(self, call: str) -> Progress | None:
        """How far the journal says that the call has got; raises BusyError while nobody can say."""
        try:
            progress: Progress | None = await self._hub.progress.remote(call)
        except RayActorError:
            raise BusyError("busy: the event hub is starting again; try again in a few seconds") from None
        return progress

    async def serve(self, model_id: str, modalities: tuple[Modality, ...]) -> None:
        """Answer senders for ever; `model_id` is what the events say of the model, `modalities` what it knows."""
        await self.open_doors(model_id, modalities)
        await asyncio.gather(self._calls.tend(), self._bury())

    async def open_doors(self, model_id: str, modalities: tuple[Modality, ...]) -> dict[str, str]:
        """Listen, with that model behind the doors; return where each door is reached.

        Raises:
            LinkError: one cannot be opened.
        """
        self.model_id, self.modalities = model_id, modalities
        if not self._open:
            self._open = True
            for door in self._doors:
                await door.start(self._calls)
        names = dict.fromkeys(door.name for door in self._doors)
        return {name: ", ".join(d.endpoint for d in self._doors if d.name == name) for name in names}

    async def _bury(self) -> None:
        """End what died with the last IngestActor, after its senders had time to come back."""
        try:
            names = await self._hub.unfinished.remote()
            await asyncio.sleep(self._config.ingest.live.grace_s)
            await self._calls.bury(names)
        except (BcafError, RayActorError) as error:
            log.warning("calls without an end stay without one: %s", type(error).__name__)

    async def stats(self) -> dict[str, Any]:
        rtp = [door for door in self._doors if isinstance(door, RtpDoor)]
        return {
            **self._calls.stats(),
            "serving": bool(self.model_id),
            "refused": sum(door.refused for door in self._doors),
            "failovers": self._pool.failovers,
            "retried": self._retried,
            **{door.endpoint: asdict(door.counts) | {"dropped": door.dropped} for door in rtp},
        }

    async def drain(self) -> None:
        """Let the running calls end at once, with what was heard of them, and hang up."""
        await self._calls.drain()
        for door in self._doors:
            await door.close()
