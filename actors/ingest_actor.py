"""IngestActor: the servers for live calls, and the calls themselves. Frames never leave this process."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from actors import metrics, tracing
from actors.call_registry import CallRegistry
from actors.config import ServeConfig
from actors.dialogues import EmotionPool
from actors.endpoints import here
from actors.ownership import Ownership, in_time, is_final
from actors.policy import rest_s
from actors.readiness import NotReadyError, Readiness
from actors.recognition import Recognition, on_thread
from actors.replica_pool import ReplicaPool
from actors.sound_recording import SoundRecording
from bcaf_stream.audio.speakers.config import SpeakerConfig, require_voices, with_voices
from bcaf_stream.context import Answer, State
from bcaf_stream.errors import BcafError, JournalError
from bcaf_stream.events.event import Event
from bcaf_stream.events.owners import Claim
from bcaf_stream.ingest.media import CallStart, TextUpdate
from bcaf_stream.ingest.servers import make_servers, named
from bcaf_stream.ingest.sink import IngestServer
from bcaf_stream.loops import exit_on_death, faults, start_task, watch_event_loop
from bcaf_stream.transcripts.asr import load_transcriber
from bcaf_stream.types import Modality, Role, Utterance

log = logging.getLogger(__name__)

HUB_REST_S = 0.2  # between two tries
LEAST_GRACE_S = 0.5  # between two looks for calls that nobody owns

T = TypeVar("T")


class IngestActor:
    """Owns the calls that come in by its servers. It is made at once; its servers open when the model is known.

    Args:
        name: its own in this Ray namespace.
        hub: name of the HubActor in this Ray namespace. Names, because a restarted actor can look them up again.
        emotions: of the EmotionActors.
        transcribers: of the TranscriberActors; without any, speech is recognised here.
    """

    def __init__(
        self, config: ServeConfig, name: str, hub: str, emotions: Sequence[str], transcribers: Sequence[str] = ()
    ) -> None:
        exit_on_death()
        watch_event_loop()
        tracing.start(config.tracing)
        self._config, self._name = config, name
        self._names = hub, emotions, transcribers
        self._hub: Any = None
        self.model_id = ""
        self.modalities: tuple[Modality, ...] = ()
        self.recognition: Recognition | None = None
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="start")
        self.cutting = ThreadPoolExecutor(cutting_threads(), thread_name_prefix="cutting")
        self._servers: list[IngestServer] = []
        self._recording = _recording(config)
        self._calls = CallRegistry(config.analyzer, config.ingest, self, self._recording)
        self._emotions: EmotionPool
        self._transcribers: ReplicaPool
        self._ownership: Ownership
        self._readiness = Readiness("the ingest actor")
        self._retried = 0  # times that the hub did not take events
        self._watch = metrics.Watch(metrics.INGEST, self._calls.look)
        self._running = start_task("ingest actor", self._run())

    async def ready(self, first: bool = False) -> dict[str, Any]:
        """Where each server is reached, once all of them are open.

        Raises:
            BcafError: with `first`: why one cannot be opened, or what else is in the way. Without, it is tried
                for ever.
        """
        await self._readiness.wait(first)
        bound = [(server.name, server.endpoint) for server in self._servers]
        return {"bound": bound, "endpoints": here(self._name, bound, self._config.ingest.advertise)}

    async def endpoint(self) -> str:
        """Where `bcaf-stream send` goes."""
        self._readiness.check()
        return self._servers[0].endpoint  # the link's

    async def predict(self, state: State | None, utterance: Utterance, urgent: bool = True) -> Answer:
        with metrics.timed("emotion"):
            return await self._emotions.predict(state, utterance, urgent)

    async def publish(self, events: Sequence[Event], epoch: int) -> object:
        """Hand a call's events over, and keep them until they are acknowledged: the hub drops what it knows.

        Meanwhile their call waits, and its sender with it, for no credit is given. Raises EventError, RayError or
        TimeoutError when the hub could not take them for `hub.retry_s`; SupersededError when the call is not this
        process's any more.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._config.hub.retry_s
        while True:
            try:
                with metrics.timed("journal"):
                    offsets = await in_time(self._hub.publish.remote(list(events), epoch))
                metrics.count_events(events, time.time_ns())
                return offsets
            except (RayError, JournalError, NotReadyError, TimeoutError) as error:
                if loop.time() > give_up or is_final(error):
                    raise
                self._retried += 1
                await asyncio.sleep(HUB_REST_S)

    async def claim(self, begin: CallStart) -> Claim:
        """Make a call this process's. Raises as Ownership.claim."""
        return await self._ownership.claim(begin)

    async def claim_orphan(self, call: str) -> Claim | None:
        return await self._ownership.claim_orphan(call, self._config.ingest.live.grace_s)

    def release(self, call: str, epoch: int) -> None:
        self._ownership.release(call, epoch)

    async def forward(self, call: str, message: TextUpdate) -> None:
        """Give words to a call that runs elsewhere. Raises LinkError."""
        await self._ownership.forward(call, message)

    async def take_words(self, call: str, message: TextUpdate) -> None:
        """Words that came to another replica. Raises LinkError."""
        self._calls.take_words(call, message)

    async def let_go(self, begin: CallStart) -> None:
        """The sender of a call of this process came to another replica: that one goes on with it.

        Raises:
            LinkError: it is not that sender, or it is here.
        """
        await self._calls.let_go(begin)

    async def stats(self) -> dict[str, Any]:
        counted = {
            server.endpoint: {name: n for name, n in server.counters().items() if n} for server in self._servers
        }
        return {
            **self._readiness.stats,
            **self._calls.stats(),
            **({"draining": True} if self._calls.hands_over or not self._calls.takes_new else {}),
            **({"model": self.model_id} if self.model_id else {}),
            "refused": sum(server.refused for server in self._servers),
            "failovers": self._emotions.replicas.failovers + self._transcribers.failovers if self._hub else 0,
            "retried": self._retried,
            "faults": faults.counts,
            **{endpoint: counters for endpoint, counters in counted.items() if counters},
        }

    async def metrics(self) -> metrics.Snapshot:
        return self._watch.snapshot()

    async def use_model(self, model_id: str) -> None:
        """Judge by this one from now on; a running call's dialogue is made anew of what it has heard."""
        if self._hub:
            self.model_id = self._emotions.model = model_id

    async def use_emotions(self, names: Sequence[str]) -> None:
        """Ask these emotion actors from now on; raises ValueError where one does not exist (any more)."""
        if self._hub:
            replicas = self._emotions.replicas
            replicas.use(names, await self._handles([name for name in names if name not in replicas.names]))

    async def take_new_calls(self, taken: bool, hands_over: bool = False) -> None:
        """False: calls that have begun go on, also when their senders come back, and no other begins.

        With `hands_over` none comes back either, and those that can go on at another replica do.
        """
        self._calls.takes_new = taken
        self._calls.hand_over(hands_over)

    async def drain(self) -> None:
        """Let the running calls end at once, with what was heard of them, and hang up."""
        await self._calls.drain()
        if self._recording:
            await self._recording.drain()
        for server in self._servers:
            await server.close()
        self._running.cancel()

    async def _run(self) -> None:
        """Open the servers, and follow the load for ever."""
        attempt = self._readiness.attempt
        await attempt(self._find_actors)
        if self._recording:
            await attempt(self._recording.open)
        self.recognition = await attempt(self._make_recognition)
        await attempt(lambda: self._on_thread(self._read_voices))
        self._servers = await attempt(self._make_servers)
        described = await attempt(self._emotions.replicas.describe)
        self.modalities = described["modalities"]
        await self.use_model(self._emotions.model or described["model"])
        work = [self._open_servers(), self._calls.monitor_load(), self._close_orphans()]
        if self._recording:
            work.append(self._recording.delete_old())
        await asyncio.gather(*work)

    async def _find_actors(self) -> None:
        hub, emotions, transcribers = self._names

        found = await self._on_thread(lambda: ray.get_actor(hub, self._config.name))
        replicas = ReplicaPool("emotion", await self._handles(emotions), self._config.emotion.retry_s)
        self._emotions = EmotionPool(replicas)
        retry_s = self._config.recognition.retry_s
        self._transcribers = ReplicaPool("recognition", await self._handles(transcribers), retry_s)
        self._ownership = Ownership(self._name, self._config.name, found, self._calls.lost)
        self._hub = found

    async def _handles(self, names: Sequence[str]) -> dict[str, Any]:
        """Raises ValueError where one does not exist."""
        return await self._on_thread(lambda: {name: ray.get_actor(name, self._config.name) for name in names})

    async def _make_recognition(self) -> Recognition | None:
        asr, replicas = self._config.analyzer.text.asr, self._config.recognition.replicas
        if replicas:
            at_once = (await self._transcribers.describe())["at_once"]
            return Recognition(partial(self._transcribers.ask, "transcribe"), replicas * at_once)
        transcriber = await self._on_thread(lambda: load_transcriber(asr))
        return Recognition(on_thread(transcriber)) if transcriber else None

    def _read_voices(self) -> None:
        """Those that are enrolled, for all calls and for those of one server: a bad file is known at once."""
        speakers = self._config.analyzer.audio.speakers
        if isinstance(speakers, SpeakerConfig):
            require_voices(speakers.enrol, "analyzer.audio.speakers.enrol")
        for key, server in named(self._config.ingest):
            with_voices(speakers, server.enrol, f"ingest.{key}.enrol")
            require_voices(server.enrol, f"ingest.{key}.enrol")

    async def _make_servers(self) -> list[IngestServer]:
        return make_servers(self._config.ingest)

    async def _open_servers(self) -> None:
        """A server that cannot be opened now is tried again, and the others are open meanwhile."""

        def opening(server: IngestServer, enrol: Mapping[Role, Path]) -> Awaitable[None]:
            return self._readiness.attempt(lambda: server.start(self._calls.behind(server.name, enrol)))

        enrolled = [server.enrol for _, server in named(self._config.ingest)]
        await asyncio.gather(*map(opening, self._servers, enrolled))
        self._readiness.done()

    async def _close_orphans(self) -> None:
        """End what died with an IngestActor, after its senders had time to come back."""
        live, loop = self._config.ingest.live, asyncio.get_running_loop()
        since: dict[str, float] = {}
        while True:
            await asyncio.sleep(max(LEAST_GRACE_S, live.grace_s))
            orphans = await self._until_answered(lambda: in_time(self._hub.orphans.remote(live.grace_s)))
            now = loop.time()
            since = {call: since.get(call, now - live.grace_s) for call in orphans}
            patience = {call: live.patience_s(protocol == "link") for call, protocol in orphans.items()}
            due = [call for call in orphans if now - since[call] >= patience[call]]
            await self._until_answered(partial(self._calls.close_orphans, due))

    async def _until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        for failures in count(1):
            try:
                return await ask()
            except (BcafError, RayError, TimeoutError) as error:
                faults.count("calls without an end", error)
            await asyncio.sleep(rest_s(failures))
        raise AssertionError

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.executor, work)


def cutting_threads() -> int:
    """Half of the cores: the other half is for the servers, and for what else runs here."""
    return max(1, (os.cpu_count() or 1) // 2)


def _recording(config: ServeConfig) -> SoundRecording | None:
    record, folder = config.ingest.record, config.hub.journal.sound_folder
    if record and folder:
        return SoundRecording(record, folder)
    if folder and folder.exists():
        log.warning("sound of earlier calls stays in %s: nothing deletes it while ingest.record is off", folder)
    return None
