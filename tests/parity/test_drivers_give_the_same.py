"""One conversation, any driver: whenever work is done, and whatever fails of it, the events are the same.

`analyze` asks for no interim results, and a deployment does, so that these and the numbering are left out.
"""

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.call_session import CallSession
from actors.watchdog import LiveConfig
from bcaf_stream.analyzer import AnalyzerConfig, ConversationAnalyzer
from bcaf_stream.audio.speakers.config import SpeakerConfig, Speakers
from bcaf_stream.audio.turns import AudioConfig
from bcaf_stream.context import Answer, Predict
from bcaf_stream.conversation import Conversation, Result, Step, Work
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.errors import AsrError, ModelError
from bcaf_stream.events.codec import encode
from bcaf_stream.events.event import Event
from bcaf_stream.ingest.media import CallEnd, CallStart, Degraded, TextUpdate
from bcaf_stream.ingest.sink import CallHandle
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.transcripts.stage import Transcribe
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import (
    AudioChunk,
    Call,
    EmotionPrediction,
    Features,
    Gap,
    PcmN,
    SpeechSegment,
    TextSource,
    Utterance,
    Words,
)
from tests.calls import watching
from tests.same import assert_same_events
from tests.unit.actors.local_runtime import (
    CHANNELS,
    RATE,
    SHARED,
    LocalRuntime,
    demo_chunks,
    mono_chunks,
    play,
    send,
)
from tests.waiting import elapsing

CALL = Call("c1", CHANNELS)
LABELS = ("anger", "joy")
Failing = frozenset[tuple[str, int]]


# Pure: any order of the work


@st.composite
def calls(draw: st.DrawFn) -> list[SpeechSegment | Gap | TextUpdate | Degraded]:
    """What comes of a call after it is cut: segments of both channels in their order, and things in between."""
    found: list[SpeechSegment | Gap | TextUpdate | Degraded] = []
    index = dict.fromkeys(("customer", "agent"), 0)
    for number in range(draw(st.integers(1, 8))):
        channel = draw(st.sampled_from(sorted(index)))
        start = 2000 * number
        samples = np.full(16, number, np.int16)
        found.append(SpeechSegment(channel, index[channel], start, start + 900, start + 1300, samples))
        index[channel] += 1
        if draw(st.booleans()):
            found.append(Gap(channel, 16 * (start + 1300), 16 * (start + 1400), "lost", 16_000))
        if draw(st.booleans()):
            found.append(Degraded(f"note {number}"))
        if draw(st.booleans()):
            words = Words(start, start + 900, f"word {number}", channel, f"w{number % 3}")
            found.append(TextUpdate((words,)))
    return found


def predicted(work: Predict) -> Answer:
    """A model that remembers everything: any change of order or context changes its answers."""
    heard = (work.utterance.channel, work.utterance.index, work.utterance.text)
    state = (*(work.state or ()), heard)
    joy = (hash(state) % 1000 + 1) / 1002
    return EmotionPrediction(LABELS, (1 - joy, joy), None, None, ("audio",)), state


def result_of(work: Work, failing: Failing) -> Result:
    if isinstance(work, Transcribe):
        key = (f"hear {work.segment.channel}", work.segment.index)
        heard = f"heard {work.segment.index}"
        return AsrError("it broke") if key in failing else Transcription(heard, 0.9)
    key = (work.utterance.channel, work.utterance.index)
    return ModelError("not finite") if key in failing else predicted(work)


def run(items: Sequence[object], text: TextSource, failing: Failing, order: Sequence[int]) -> list[Event]:
    """Drive a call; `order` chooses again and again whether to push on or which work to do."""
    words = () if text == "given" else None
    config = TextConfig(wait_ms=3000)
    call = Conversation(
        CALL,
        AudioConfig(),
        config,
        "m",
        ("audio", "text"),
        recognises=text == "asr",
        words=words,
        alerts=watching(),
        clock=lambda: 1,
    )
    events, works, left = call.begin(), list[Work](), [*items, CallEnd()]

    def take(step: Step) -> None:
        events.extend(step.events)
        works.extend(step.work)

    for turn in [*order, *[0] * 1000]:
        choice = turn % (len(works) + bool(left)) if works or left else -1
        if choice < 0:
            break
        if choice < len(works):
            work = works.pop(choice)
            take(call.done(work, result_of(work, failing)))
        else:
            item = left.pop(0)
            take(call.take([item]) if isinstance(item, SpeechSegment | Gap) else call.push(item))  # type: ignore[arg-type]
    assert call.ended
    assert not works
    return events


KEYS = st.tuples(st.sampled_from(["customer", "agent", "hear customer", "hear agent"]), st.integers(0, 4))


@settings(max_examples=150, deadline=None)
@given(
    calls(),
    st.sampled_from(["asr", "given", "none"]),
    st.frozensets(KEYS, max_size=4),
    st.lists(st.integers(0, 10), max_size=60),
)
def test_whatever_is_done_when_gives_the_same_events(
    items: list, text: TextSource, failing: Failing, order: list[int]
):
    expected = run(items, text, failing, [])
    found = run(items, text, failing, order)
    assert found == expected
    assert [event.seq for event in found] == list(range(len(found)))
    assert len({event.id for event in found}) == len(found)
    assert found[0].type == "call.start"
    assert found[-1].type == "call.end"
    told = {(e.channel, e.utterance) for e in found if e.utterance is not None}
    assert told == {(s.channel, s.index) for s in items if isinstance(s, SpeechSegment)}  # each one, somehow


@given(calls(), st.integers(0, 20), st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_call_that_is_given_up_says_what_is_lost_and_ends_once(items: list, pushed: int, hears: bool):
    call = Conversation(
        CALL,
        AudioConfig(),
        TextConfig(),
        "m",
        ("audio", "text"),
        recognises=hears,
        words=None,
        alerts=watching(),
        clock=lambda: 1,
    )
    events, works = call.begin(), list[Work]()
    for item in items[:pushed]:
        step = call.take([item]) if isinstance(item, SpeechSegment | Gap) else call.push(item)
        events += step.events
        works += step.work
    events += call.give_up("the model hangs", "failed")
    assert call.give_up("again", "failed") == []
    for work in works:  # too late
        assert call.done(work, result_of(work, frozenset())) == Step([], [])
    assert [event.seq for event in events] == list(range(len(events)))
    assert [event.type for event in events].count("call.end") == 1
    assert events[-1].type == "call.end"
    assert not open_alerts(events)


# Real: analyze, and a live call's session, with interim results and failures


class FailingEngine(EmotionEngine):
    """The real engine, for which the encoders give no numbers for some utterances."""

    failing: Failing = frozenset()

    def encode(self, utterances: Sequence[Utterance]) -> list[Features]:
        features = super().encode(utterances)
        for number, utterance in enumerate(utterances):
            if (utterance.channel, utterance.index) in self.failing:
                audio = None if features[number].audio is None else np.full_like(features[number].audio, np.nan)
                features[number] = dataclasses.replace(features[number], audio=audio)
        return features


class Hearing:
    """Hears how long it was, and cannot hear what has a length that ends in a certain digit."""

    name = "hearing"

    def __init__(self, failing: int) -> None:
        self._failing = failing

    def transcribe(self, samples: PcmN) -> Transcription:
        if len(samples) // 320 % 5 == self._failing:
            raise AsrError("too hard")
        return Transcription("hello " * (len(samples) // 16_000 + 1), 0.9)

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def engine(tiny: Path) -> FailingEngine:
    return FailingEngine(ModelConfig(checkpoint=str(tiny), threads=1))


@pytest.fixture(scope="module")
def audio() -> list[AudioChunk]:
    return demo_chunks()


def open_alerts(events: Sequence[Event]) -> list[tuple[str | None, str]]:
    last = {(event.rule, event.channel): event.state for event in events if event.type == "alert"}
    return [key for key, state in last.items() if state not in ("resolved", "retracted")]


def settled(events: Sequence[Event]) -> list[Event]:
    return [dataclasses.replace(event, seq=0) for event in events if event.type != "emotion.interim"]


@pytest.mark.parametrize("seed", range(4))
def test_analyze_and_a_live_call_give_the_same_whatever_fails(
    engine: FailingEngine, audio: list[AudioChunk], seed: int
):
    dice = np.random.default_rng(seed)
    engine.failing = frozenset(
        (channel.name, int(index)) for channel in CHANNELS for index in dice.choice(4, seed, replace=False)
    )
    hearing = Hearing(failing=seed)
    config = AnalyzerConfig(alerts=watching())
    analyzer = ConversationAnalyzer(CALL, config, engine, hearing)
    here = [event for chunk in audio for event in analyzer.push(chunk)] + analyzer.flush()
    runtime = LocalRuntime(engine, hearing)

    async def script(session: CallSession, line: CallHandle) -> None:
        for chunk in audio:
            line.accept(chunk)
            await line.room()
            await elapsing(float(dice.choice([0, 0.001, 0.01], p=[0.5, 0.45, 0.05])), "audio comes at any pace")
        line.end()

    play(lambda: runtime.session("asr", LiveConfig(), config), script)
    assert_same_events(settled(runtime.events), settled(here))
    assert [event.seq for event in runtime.events] == list(range(len(runtime.events)))
    assert runtime.of("emotion.interim")
    assert {"firing", "resolved"} <= {event.state for event in runtime.of("alert")}
    assert not open_alerts(here)
    failed = [event for event in here if event.type == "degraded"]
    assert len(failed) == sum((e.channel, e.utterance) in engine.failing for e in here)
    assert all("not finite" in (event.reason or "") for event in failed)


def test_a_call_of_two_parties_has_the_events_of_speakers_off_to_the_byte(engine: FailingEngine):
    engine.failing, sound = frozenset(), demo_chunks()

    def events(speakers: Speakers) -> bytes:
        config = AnalyzerConfig(audio=AudioConfig(speakers=speakers))
        analyzer = ConversationAnalyzer(CALL, config, engine, Hearing(failing=2), clock=lambda: 1)
        found = [event for chunk in sound for event in analyzer.push(chunk)] + analyzer.flush()
        return b"".join(encode(event) for event in found)

    assert events("auto") == events("off") == events(SpeakerConfig(max=2))


def test_a_call_that_several_share_is_the_same_and_keeps_nobody_waiting(engine: FailingEngine):
    """Its sound is cut elsewhere: a call of two parties ends while that cannot go on."""
    engine.failing, sound, free = frozenset(), mono_chunks(), threading.Event()
    analyzer = ConversationAnalyzer(Call("c1", SHARED), AnalyzerConfig(), engine, Hearing(failing=9))
    here = [event for chunk in sound for event in analyzer.push(chunk)] + analyzer.flush()
    runtime, parties = LocalRuntime(engine, Hearing(failing=9)), LocalRuntime(engine)
    parties.cutting = runtime.cutting

    async def script(session: CallSession, line: CallHandle) -> None:
        runtime.cutting.submit(free.wait)
        for chunk in sound:
            line.accept(chunk)
        line.end()
        other = parties.session()
        handle = other.attach(CallStart("c1", CHANNELS, RATE))
        running = asyncio.create_task(other.run())
        await send(handle, demo_chunks())
        handle.end()
        await running
        assert runtime.types == ["call.start"]
        free.set()

    play(lambda: runtime.session("asr", LiveConfig(), channels=SHARED), script)
    assert_same_events(settled(runtime.events), settled(here))
    assert {event.speaker for event in here if event.emotion} == {"S1", "S2"}
    assert {event.speaker for event in runtime.of("emotion.interim")} <= {"S1", "S2", None}
    assert parties.types[-1] == "call.end"


def test_a_failure_in_a_batch_is_its_utterances_alone(engine: FailingEngine, audio: list[AudioChunk]):
    """As `analyze` does it: many segments are encoded together, and one of them is bad."""

    def analysed(failing: Failing) -> list[Event]:
        engine.failing = failing
        analyzer = ConversationAnalyzer(CALL, AnalyzerConfig(), engine)
        found = [segment for chunk in audio for segment in analyzer.cut(chunk)]
        return analyzer.analyze(found) + analyzer.flush()

    good, bad = analysed(frozenset()), analysed(frozenset({("customer", 1)}))
    assert [event.type for event in good].count("emotion.final") >= 5
    changed = [(a.type, b.type) for a, b in zip(good, bad, strict=True) if a.type != b.type]
    assert changed == [("emotion.final", "degraded")]
    assert [event.seq for event in bad] == list(range(len(bad)))
    assert bad[-1].type == "call.end"
