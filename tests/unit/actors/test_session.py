"""A call's session without Ray: order, credit, broken senders, and failures that never become an emotion."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from actors.session import Answer, CallSession
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.audio.sources import FileSource
from bcaf_stream.demo import CALL
from bcaf_stream.engine import EmotionEngine, ModelConfig
from bcaf_stream.errors import ModelError
from bcaf_stream.events.messages import Event
from bcaf_stream.ingest.link import Accepted, Audio, Close, Closed, Credit, Open, Refused, WordsMessage
from bcaf_stream.model.state import DialogueState
from bcaf_stream.types import Channel, Utterance, Words

CHANNELS = (Channel("customer", "customer"), Channel("agent", "agent"))


class House:
    """The services of a session: a real engine, and lists in place of the journal and the socket."""

    model_id = "tiny"
    transcriber = None

    def __init__(self, engine: EmotionEngine) -> None:
        self.engine = engine
        self.executor = ThreadPoolExecutor(1)
        self.events: list[Event] = []
        self.replies: list[Accepted | Credit | Closed | Refused] = []
        self.failing: set[int] = set()
        self.predicted = 0

    async def predict(self, state: DialogueState | None, utterance: Utterance) -> Answer:
        self.predicted += 1
        if self.predicted in self.failing:
            raise ModelError("the model gave numbers that are not finite")
        features = self.engine.encode([utterance])
        predictions, states = self.engine.step([state or self.engine.initial_state()], features)
        return predictions[0], states[0]

    async def publish(self, events: Sequence[Event]) -> None:
        self.events.extend(events)

    async def reply(self, message: Accepted | Credit | Closed | Refused) -> bool:
        self.replies.append(message)
        return True

    def session(self, text: str = "none", idle_s: float = 30.0) -> CallSession:
        opening = Open("c1", CHANNELS, 8000, text)  # type: ignore[arg-type]
        return CallSession(opening, AnalyzerConfig(), self, self.reply, 10_000, idle_s)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> EmotionEngine:
    return EmotionEngine(ModelConfig(checkpoint=str(tiny), threads=1))


@pytest.fixture
def house(engine: EmotionEngine) -> House:
    return House(engine)


@pytest.fixture(scope="module")
def audio() -> list[Audio]:
    """The first 30 s of the demo call, in messages of 100 ms."""
    with FileSource(CALL) as source:
        chunks = list(source)[: 2 * 300]
    pairs = zip(chunks[::2], chunks[1::2], strict=True)
    return [Audio(i, a.start, np.stack([a.samples, b.samples], axis=1), 0) for i, (a, b) in enumerate(pairs)]


Script = Callable[[CallSession], Awaitable[None]]


def play(house: House, session: CallSession, script: Script) -> None:
    async def both() -> None:
        running = asyncio.create_task(session.run())
        await script(session)
        await running

    asyncio.run(both())
    session.close()


def types(house: House) -> list[str]:
    return [event.type for event in house.events]


def test_a_call_from_opening_to_end(house: House, audio: list[Audio]):
    async def script(session: CallSession) -> None:
        for message in audio:
            session.accept(message)
            while session.lag_ms > 5000:
                await asyncio.sleep(0)
        session.accept(Close())

    play(house, house.session(), script)
    assert types(house)[0] == "call.start"
    assert types(house)[-1] == "call.end"
    assert types(house).count("emotion.final") >= 5
    assert [event.seq for event in house.events] == list(range(len(house.events)))
    assert isinstance(house.replies[0], Accepted)
    assert house.replies[-1] == Closed(types(house).count("emotion.final"), "complete")
    credits = [reply.upto_ms for reply in house.replies if isinstance(reply, Credit)]
    assert credits == sorted(credits)
    assert credits[-1] > 30_000


def test_words_sent_before_the_audio_are_paired(house: House, audio: list[Audio]):
    async def script(session: CallSession) -> None:
        session.accept(WordsMessage((Words(5600, 10400, "hello there", "customer"),), last=True))
        for message in audio[:150]:
            session.accept(message)
        session.accept(Close())

    play(house, house.session("given"), script)
    spoken = [event for event in house.events if event.type == "emotion.final"]
    assert [event.text for event in spoken if event.channel == "customer"] == ["hello there"]
    assert {event.text_source for event in spoken if event.channel == "agent"} == {"none"}


def test_an_utterance_that_fails_is_said_to_have_failed(house: House, audio: list[Audio]):
    house.failing = {2}

    async def script(session: CallSession) -> None:
        for message in audio:
            session.accept(message)
        session.accept(Close())

    play(house, house.session(), script)
    failed = [event for event in house.events if event.type == "degraded"]
    assert len(failed) == 1
    assert failed[0].emotion is None
    assert "not finite" in (failed[0].reason or "")
    assert types(house)[2] == "degraded"
    assert types(house)[3] == "emotion.final"


@pytest.mark.parametrize("fault", ["gap", "credit"])
def test_a_sender_that_breaks_the_rules_ends_its_call_and_keeps_what_was_heard(
    house: House, audio: list[Audio], fault: str
):
    async def script(session: CallSession) -> None:
        if fault == "gap":
            for message in audio[:150] + audio[151:]:
                session.accept(message)
        else:
            for message in audio:  # all at once: beyond twice the window
                session.accept(message)

    play(house, house.session(), script)
    assert types(house)[-1] == "call.end"
    assert "emotion.final" in types(house)
    expected = "not contiguous" if fault == "gap" else "beyond the credit"
    assert expected in (house.events[-1].reason or "")
    assert isinstance(house.replies[-1], Refused)


def test_a_repeated_message_is_ignored(house: House, audio: list[Audio]):
    async def script(session: CallSession) -> None:
        for message in audio[:120]:
            session.accept(message)
            session.accept(message)
        session.accept(Close())

    play(house, house.session(), script)
    assert types(house)[-1] == "call.end"
    assert house.events[-1].reason == "complete"


def test_a_silent_sender_is_given_up(house: House, audio: list[Audio]):
    async def script(session: CallSession) -> None:
        for message in audio[:120]:
            session.accept(message)

    play(house, house.session(idle_s=0.3), script)
    assert types(house)[-2:] == ["emotion.final", "call.end"]
    assert house.events[-1].reason == "sender lost"
