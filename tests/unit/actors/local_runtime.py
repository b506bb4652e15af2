"""The runtime of live calls for their tests: a real engine, and a list in place of the journal."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from actors.call_session import CallSession
from actors.load_shedding import LoadShedding, OverloadConfig
from actors.recognition import Recognition, on_thread
from actors.watchdog import LiveConfig
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.audio.sources import FileSource
from bcaf_stream.context import Answer, State
from bcaf_stream.demo import CALL
from bcaf_stream.emotion_model import EmotionEngine
from bcaf_stream.errors import JournalError, LinkError, ModelError, SupersededError
from bcaf_stream.events.event import Event
from bcaf_stream.events.owners import Claim
from bcaf_stream.events.progress import progress_of
from bcaf_stream.ingest.media import CallStart, TextUpdate
from bcaf_stream.ingest.sink import CallHandle
from bcaf_stream.transcripts.transcriber import Transcriber
from bcaf_stream.types import AudioChunk, Channel, Gap, TextSource, Utterance
from tests.waiting import elapsing

CHANNELS = (Channel("customer", "customer"), Channel("agent", "agent"))
SHARED = (Channel("room", "speaker"),)
RATE = 8000


class LocalRuntime:
    def __init__(self, engine: EmotionEngine, transcriber: Transcriber | None = None) -> None:
        self.engine = engine
        self.model_id = engine.model_id
        self.modalities = engine.modalities
        self.transcriber = transcriber
        self.cutting = ThreadPoolExecutor(1, thread_name_prefix="cutting")
        self._recognition: Recognition | None = None
        self.shedding = LoadShedding(OverloadConfig())  # of the sessions that stand alone
        self.events: list[Event] = []
        self.failing: set[int] = set()
        self.breaking: set[str] = set()  # calls on which something breaks that nobody thought of
        self.asked: list[Utterance] = []
        self.damaged: set[str] = set()  # calls of which the journal cannot be read
        self.epochs: Counter[str] = Counter()
        self.released: list[tuple[str, int]] = []
        self.hangs = asyncio.Event()  # set: the model answers nobody; until `resumes`
        self.resumes = asyncio.Event()

    @property
    def recognition(self) -> Recognition | None:
        if self._recognition is None and self.transcriber is not None:
            self._recognition = Recognition(on_thread(self.transcriber))
        return self._recognition

    async def predict(self, state: State | None, utterance: Utterance, urgent: bool = True) -> Answer:
        self.asked.append(utterance)
        if len(self.asked) in self.failing:
            raise ModelError("the model gave numbers that are not finite")
        if utterance.call in self.breaking:
            raise ZeroDivisionError
        await asyncio.sleep(0)  # as the real one, it lets others go on
        if self.hangs.is_set():
            await self.resumes.wait()
        features = self.engine.encode([utterance])
        predictions, states = self.engine.step([state or self.engine.initial_state()], features)
        return predictions[0], states[0]

    async def publish(self, events: Sequence[Event], epoch: int) -> None:
        if epoch != self.epochs[events[0].call]:
            raise SupersededError("the call belongs to another process by now")
        self.events.extend(events)

    async def claim(self, begin: CallStart) -> Claim:
        return await self.claim_orphan(begin.call)

    async def claim_orphan(self, call: str) -> Claim:
        await asyncio.sleep(0)
        if call in self.damaged:
            raise JournalError("journal events.sqlite: an event cannot be read")
        self.epochs[call] += 1
        progress = progress_of(event for event in self.events if event.call == call)
        return Claim(True, self.epochs[call], "here", progress)

    def release(self, call: str, epoch: int) -> None:
        self.released.append((call, epoch))

    async def forward(self, call: str, message: TextUpdate) -> None:
        raise LinkError("no such call is running: begin its audio first, with text: given")

    def session(
        self,
        text: TextSource = "none",
        live: LiveConfig | None = None,
        config: AnalyzerConfig | None = None,
        channels: tuple[Channel, ...] = CHANNELS,
    ) -> CallSession:
        live = live or LiveConfig(interim_ms=0)
        begin = CallStart("c1", channels, RATE, text)
        return CallSession(begin, config or AnalyzerConfig(), live, self, self.shedding, Claim(True, 0, "here"))

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    def of(self, type: str) -> list[Event]:
        return [event for event in self.events if event.type == type]


def demo_chunks(seconds: int = 30) -> list[AudioChunk]:
    """The beginning of the demo call, in chunks of 100 ms, both channels in turn."""
    with FileSource(CALL) as source:
        found = list(source)[: 2 * 10 * seconds]
    names = {found[0].channel: "customer", found[1].channel: "agent"}
    return [AudioChunk(names[c.channel], c.start, c.rate, c.samples, 0) for c in found]


def mono_chunks(seconds: int = 30) -> list[AudioChunk]:
    """The same as one channel, on which both speak."""
    customer, agent = (joined(demo_chunks(seconds), name).astype(np.int32) for name in ("customer", "agent"))
    both, size = np.clip(customer + agent, -32768, 32767).astype(np.int16), RATE // 10
    return [AudioChunk("room", at, RATE, both[at : at + size], 0) for at in range(0, len(both), size)]


def joined(chunks: Sequence[AudioChunk], channel: str) -> np.ndarray:
    return np.concatenate([c.samples for c in chunks if c.channel == channel])


Script = Callable[[CallSession, CallHandle], Awaitable[None]]


def play(make: Callable[[], CallSession], script: Script) -> CallSession:
    """Run a session, and what a server does with it, to the end of both."""

    async def both() -> CallSession:
        session = make()
        line = session.attach(CallStart("c1", session.call.channels, RATE))
        running = asyncio.create_task(session.run())
        await script(session, line)
        session.ended.set_result(await running)
        session.close()
        return session

    return asyncio.run(both())


async def stream(line: CallHandle, items: Sequence[AudioChunk | Gap]) -> None:
    """Send without waiting for room, but slowly enough for the session to see each chunk by itself."""
    for item in items:
        line.accept(item)
        await elapsing(0.001, "the pace of the sender")


async def send(line: CallHandle, items: Sequence[AudioChunk | Gap]) -> None:
    for item in items:
        line.accept(item)
        await line.room()
