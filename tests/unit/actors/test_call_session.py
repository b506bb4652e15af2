"""A call's session without Ray: order, clocks, connections, and failures that never become an emotion."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors import call_session
from actors.call_session import CallSession
from actors.load_shedding import Lags
from actors.watchdog import LiveConfig
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.errors import DeploymentError, LinkError
from bcaf_stream.events.owners import Claim
from bcaf_stream.ingest.media import CallStart, Degraded, TextUpdate
from bcaf_stream.ingest.sink import CallHandle
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import AudioChunk, Gap, TextSource, Words
from tests.unit.actors.local_runtime import CHANNELS, RATE, LocalRuntime, demo_chunks, play, send, stream
from tests.waiting import elapse, elapsing, eventually

QUIET = LiveConfig(interim_ms=0)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> EmotionEngine:
    return EmotionEngine(ModelConfig(checkpoint=str(tiny), threads=1))


@pytest.fixture
def runtime(engine: EmotionEngine) -> LocalRuntime:
    return LocalRuntime(engine)


@pytest.fixture(scope="module")
def audio() -> list[AudioChunk]:
    return demo_chunks()


def told(runtime: LocalRuntime) -> list[tuple]:
    """What is said of utterances, without clocks and numbers."""
    return [
        (e.type, e.channel, e.utterance, e.start_ms, e.end_ms, e.text, e.probs)
        for e in runtime.events
        if e.type in ("emotion.final", "emotion.revised")
    ]


def test_a_call_from_opening_to_end(runtime: LocalRuntime, audio: list[AudioChunk]):
    async def script(session: CallSession, line: CallHandle) -> None:
        await send(line, audio)
        line.end()

    session = play(runtime.session, script)
    assert runtime.types[0] == "call.start"
    assert runtime.types[-1] == "call.end"
    assert runtime.types.count("emotion.final") >= 5
    assert [event.seq for event in runtime.events] == list(range(len(runtime.events)))
    assert session.ended.result().reason == "complete"
    assert session.ended.result().utterances == runtime.types.count("emotion.final")
    assert session.inbox.queued_ms == 0


def test_what_a_protocol_cannot_hear_is_told_in_its_place(runtime: LocalRuntime, audio: list[AudioChunk]):
    async def script(session: CallSession, line: CallHandle) -> None:
        await send(line, audio)
        line.accept(Degraded("RTP: payload type 9 has no format here"))
        line.end()

    play(runtime.session, script)
    [event] = runtime.of("degraded")
    assert event.reason == "RTP: payload type 9 has no format here"
    assert runtime.types[-1] == "call.end"


def test_credit_follows_the_analysis(runtime: LocalRuntime, audio: list[AudioChunk]):
    credits: list[int] = []

    async def both() -> None:
        session = runtime.session()
        line = session.attach(CallStart("c1", CHANNELS, RATE), credits.append)
        running = asyncio.create_task(session.run())
        await send(line, audio)
        line.end()
        await running

    asyncio.run(both())
    assert credits == sorted(credits)
    assert credits[-1] > 29_000


def test_words_sent_before_the_audio_are_paired(runtime: LocalRuntime, audio: list[AudioChunk]):
    async def script(session: CallSession, line: CallHandle) -> None:
        line.accept(TextUpdate((Words(5600, 10400, "hello there", "customer"),), last=True))
        await send(line, audio[:300])
        line.end()

    play(lambda: runtime.session("given"), script)
    spoken = runtime.of("emotion.final")
    assert [event.text for event in spoken if event.channel == "customer"] == ["hello there"]
    assert {event.text_source for event in spoken if event.channel == "agent"} == {"none"}


def test_an_utterance_that_fails_is_said_to_have_failed(runtime: LocalRuntime, audio: list[AudioChunk]):
    runtime.failing = {2}

    async def script(session: CallSession, line: CallHandle) -> None:
        await send(line, audio)
        line.end()

    play(runtime.session, script)
    [failed] = runtime.of("degraded")
    assert failed.emotion is None
    assert "not finite" in (failed.reason or "")
    assert runtime.types[2] == "degraded"
    assert runtime.types[3] == "emotion.final"


def test_what_does_not_continue_the_call_is_refused(runtime: LocalRuntime, audio: list[AudioChunk]):
    async def script(session: CallSession, line: CallHandle) -> None:
        await send(line, audio[:300])
        wrong = [audio[302], replace(audio[300], channel="bot"), replace(audio[300], rate=16_000)]
        for item, says in zip(wrong, ("not contiguous", "no channel 'bot'", "from 8000 to 16000 Hz"), strict=True):
            with pytest.raises(LinkError, match=says):
                line.accept(item)
        line.end("audio is not contiguous")

    play(runtime.session, script)
    assert "emotion.final" in runtime.types
    assert runtime.events[-1].reason == "audio is not contiguous"


def test_a_sender_far_ahead_is_told_to_wait_and_then_refused(runtime: LocalRuntime):
    second = AudioChunk("customer", 0, RATE, np.zeros(RATE, np.int16))

    async def script(session: CallSession, line: CallHandle) -> None:
        minutes = [replace(second, start=number * RATE) for number in range(122)]
        for chunk in minutes[:121]:  # never waits
            line.accept(chunk)
        with pytest.raises(LinkError, match="far beyond"):
            line.accept(minutes[121])
        assert not session.room.is_set()
        await line.room()
        line.end()

    play(runtime.session, script)
    assert runtime.events[-1].reason == "complete"


def test_a_silent_sender_is_given_up(runtime: LocalRuntime, audio: list[AudioChunk]):
    async def script(session: CallSession, line: CallHandle) -> None:
        await send(line, audio[:240])

    play(lambda: runtime.session(live=LiveConfig(idle_s=0.3)), script)
    assert runtime.types[-2:] == ["emotion.final", "call.end"]
    assert runtime.events[-1].reason == "sender lost"


def test_a_stalled_channel_ends_its_utterance_and_the_other_goes_on(
    runtime: LocalRuntime, audio: list[AudioChunk]
):
    customer = [c for c in audio if c.channel == "customer"][:90]  # stops in the middle of an utterance

    async def script(session: CallSession, line: CallHandle) -> None:
        await send(line, customer)
        await eventually(lambda: runtime.of("emotion.final"))
        assert runtime.events[-1].channel == "customer"
        assert runtime.events[-1].end_ms <= 9000
        line.end()

    play(lambda: runtime.session(live=LiveConfig(interim_ms=0, stall_s=0.2)), script)
    assert runtime.events[-1].reason == "complete"


def test_a_call_that_comes_back_goes_on(runtime: LocalRuntime, audio: list[AudioChunk]):
    """What the connection lost is silence, and said to be missing."""

    async def script(session: CallSession, line: CallHandle) -> None:
        await send(line, audio[:240])
        with pytest.raises(LinkError, match="running already"):
            session.attach(CallStart("c1", CHANNELS, RATE))
        line.lost()
        await elapsing(0.05, "how long it is away")
        with pytest.raises(LinkError, match="the channels and the rate"):
            session.attach(CallStart("c1", CHANNELS[:1], RATE))
        again = session.attach(CallStart("c1", CHANNELS, RATE, missed=800))
        with pytest.raises(LinkError, match="another connection"):
            line.accept(audio[240])
        line.lost()  # of no consequence any more
        await send(again, [replace(c, start=c.start - 121 * 800) for c in audio[242:]])
        again.end()

    play(runtime.session, script)
    gaps = runtime.of("audio.gap")
    assert {(e.channel, e.start_ms, e.end_ms, e.reason) for e in gaps} == {
        ("customer", 12_000, 12_100, "connection lost"),
        ("agent", 12_000, 12_100, "connection lost"),
    }
    assert runtime.types.count("call.start") == runtime.types.count("call.end") == 1
    assert runtime.events[-1].reason == "complete"
    assert runtime.of("emotion.final")[-1].end_ms > 20_000


def test_a_call_that_does_not_come_back_ends(runtime: LocalRuntime, audio: list[AudioChunk]):
    async def script(session: CallSession, line: CallHandle) -> None:
        await send(line, audio[:240])
        line.lost()

    play(lambda: runtime.session(live=LiveConfig(interim_ms=0, grace_s=0.2)), script)
    assert runtime.events[-1].reason == "sender lost"
    assert "emotion.final" in runtime.types


def test_a_gap_is_told_and_is_silence(engine: EmotionEngine, audio: list[AudioChunk]):
    runtimes = LocalRuntime(engine), LocalRuntime(engine)
    lost = audio[150:160]  # 500 ms of both channels
    items = [Gap(c.channel, c.start, c.start + len(c.samples), "lost") for c in lost]
    silent = [replace(c, samples=np.zeros_like(c.samples)) for c in lost]
    for one, middle in zip(runtimes, (items, silent), strict=True):

        async def script(session: CallSession, line: CallHandle, middle: list = middle) -> None:
            await send(line, [*audio[:150], *middle, *audio[160:]])
            line.end()

        play(one.session, script)
    assert told(runtimes[0]) == told(runtimes[1])
    assert len(runtimes[0].of("audio.gap")) == 10
    assert runtimes[1].of("audio.gap") == []


def test_interim_events_come_while_somebody_speaks_and_leave_no_trace(
    engine: EmotionEngine, audio: list[AudioChunk]
):
    looked, plain = LocalRuntime(engine), LocalRuntime(engine)

    async def script(session: CallSession, line: CallHandle) -> None:
        await stream(line, audio)
        line.end()

    play(lambda: looked.session(live=LiveConfig(interim_ms=500)), script)
    play(lambda: plain.session(live=QUIET), script)
    assert told(looked) == told(plain)
    assert [e.seq for e in looked.events] == list(range(len(looked.events)))
    interim = looked.of("emotion.interim")
    assert len(interim) >= 10
    finals = {(e.channel, e.utterance): looked.events.index(e) for e in looked.of("emotion.final")}
    for event in interim:
        final = looked.events[finals[event.channel, event.utterance]]
        assert looked.events.index(event) < finals[event.channel, event.utterance]
        assert event.start_ms == final.start_ms
        assert event.end_ms - event.start_ms >= 500 * event.revision
    assert len({e.id for e in looked.events}) == len(looked.events)


def test_a_role_that_is_off_is_never_looked_at(runtime: LocalRuntime, audio: list[AudioChunk]):
    config = AnalyzerConfig(text=TextConfig(policy={"agent": "off"}))

    async def script(session: CallSession, line: CallHandle) -> None:
        await stream(line, audio)
        line.end()

    play(lambda: runtime.session(live=LiveConfig(interim_ms=500), config=config), script)
    assert {utterance.channel for utterance in runtime.asked} == {"customer"}
    assert runtime.events[0].reason == "policy agent: off"
    assert {event.channel for event in runtime.events} == {"", "customer"}


@pytest.mark.parametrize("when", ["late", "changed"])
def test_words_that_come_later_end_as_if_they_had_been_there(
    engine: EmotionEngine, audio: list[AudioChunk], when: str
):
    """The dialogue's state, too, is that of a run which had the words from the start."""
    there, later = LocalRuntime(engine), LocalRuntime(engine)
    config = AnalyzerConfig(text=TextConfig(wait_ms=0))
    right = Words(5600, 10_400, "hello there", "customer", "w1")
    states = []

    async def at_once(session: CallSession, line: CallHandle) -> None:
        line.accept(TextUpdate((right,)))
        await send(line, audio)
        line.end()

    async def afterwards(session: CallSession, line: CallHandle) -> None:
        if when == "changed":
            line.accept(TextUpdate((replace(right, text="yellow bear", final=False),)))
        await send(line, audio)
        line.accept(TextUpdate((right,)))
        line.end()

    for one, script in ((there, at_once), (later, afterwards)):
        session = play(lambda one=one: one.session("given", config=config), script)
        states.append(session.conversation._context.state)
    assert states[0].cache_BKW.equal(states[1].cache_BKW)
    [revised] = later.of("emotion.revised")
    assert (revised.revision, revised.text, revised.channel) == (1, "hello there", "customer")
    [first] = [e for e in there.of("emotion.final") if e.text]
    assert (revised.utterance, revised.probs) == (first.utterance, first.probs)
    [before] = [e for e in later.of("emotion.final") if (e.channel, e.utterance) == ("customer", first.utterance)]
    assert before.modalities == (("audio",) if when == "late" else ("audio", "text"))


class Repeater:
    """Hears the same in everything."""

    name = "repeater"

    def transcribe(self, samples: np.ndarray) -> Transcription:
        return Transcription("hello")

    def close(self) -> None: ...


def test_overload_stops_interim_results_then_speech_recognition_but_no_final(
    engine: EmotionEngine, audio: list[AudioChunk]
):
    runtimes = []
    for lag_ms in (0, 1000, 2500):
        runtime = LocalRuntime(engine, Repeater())
        runtimes.append(runtime)

        async def script(
            session: CallSession, line: CallHandle, lag_ms: int = lag_ms, runtime: LocalRuntime = runtime
        ) -> None:
            for step in runtime.shedding.look(Lags(sound=lag_ms), 0.0):
                session.tell(f"overload: {step}")
            await stream(line, audio)
            line.end()

        play(lambda runtime=runtime: runtime.session("asr", LiveConfig(interim_ms=500)), script)
    free, some, much = runtimes
    assert free.of("emotion.interim")
    assert some.of("emotion.interim") == much.of("emotion.interim") == []
    assert [e.reason for e in some.of("degraded")] == ["overload: no interim results"]
    assert [e.reason for e in much.of("degraded")] == [
        "overload: no interim results",
        "overload: no speech recognition",
    ]
    finals = [runtime.of("emotion.final") for runtime in runtimes]
    assert [(e.start_ms, e.end_ms) for e in finals[0]] == [(e.start_ms, e.end_ms) for e in finals[2]]
    assert {(e.text, e.degraded) for e in finals[1]} == {("hello", None)}
    assert {(e.text, e.text_source, e.degraded) for e in finals[2]} == {(None, "none", ("asr",))}


def test_a_stall_of_this_process_cuts_no_utterance(runtime: LocalRuntime, audio: list[AudioChunk]):
    """The event loop stands still in the middle of an utterance, for longer than a channel may."""
    whole = LocalRuntime(runtime.engine)

    async def at_once(session: CallSession, line: CallHandle) -> None:
        await send(line, audio)
        line.end()

    async def with_a_stall(session: CallSession, line: CallHandle) -> None:
        await stream(line, audio[:141])  # 7 s: the customer speaks from 5.6 to 10.4 s
        await eventually(lambda: not session.inbox.queued_ms)
        elapse(1.2, "nothing else runs, as when the process is stopped")
        await elapsing(0.3, "what was sent meanwhile comes a little later")
        await stream(line, audio[141:])
        line.end()

    live = LiveConfig(interim_ms=0, stall_s=1.0)
    play(lambda: whole.session(live=live), at_once)
    play(lambda: runtime.session(live=live), with_a_stall)
    assert told(runtime) == told(whole)
    assert runtime.types == whole.types


def test_a_model_that_is_late_cuts_no_utterance_and_costs_no_words(runtime: LocalRuntime, audio: list[AudioChunk]):
    """An outage in the middle of a call, while its sender has to wait: for longer than a channel may be silent."""
    heard, late = LocalRuntime(runtime.engine, Repeater()), LocalRuntime(runtime.engine, Repeater())
    live = LiveConfig(interim_ms=0, stall_s=0.5, window_ms=4000)

    async def at_once(session: CallSession, line: CallHandle) -> None:
        await send(line, audio)
        line.end()

    async def with_an_outage(session: CallSession, line: CallHandle) -> None:
        late.hangs.set()
        sending = asyncio.create_task(send(line, audio))
        await eventually(lambda: not session.room.is_set() and late.asked)
        await elapsing(1.5, "how long the model is away")
        assert not sending.done()
        late.hangs.clear()
        late.resumes.set()
        await sending
        line.end()

    play(lambda: heard.session("asr", live), at_once)
    play(lambda: late.session("asr", live), with_an_outage)
    assert told(late) == told(heard)
    assert late.types == heard.types


def test_the_end_of_a_call_does_not_wait_for_ever_for_a_hung_model(runtime: LocalRuntime, audio: list[AudioChunk]):
    async def script(session: CallSession, line: CallHandle) -> None:
        runtime.hangs.set()
        await send(line, audio[:240])
        line.end()

    async def both() -> None:
        session = runtime.session(live=LiveConfig(interim_ms=0, finish_s=0.5))
        line = session.attach(CallStart("c1", CHANNELS, RATE))
        running = asyncio.create_task(session.run())
        await script(session, line)
        with pytest.raises(DeploymentError, match=r"no result has come for 0\.5 s"):
            await running
        await session.fail("no result has come", "failed: DeploymentError")
        session.close()

    asyncio.run(both())
    assert set(runtime.types[1:-1]) == {"degraded"}
    assert [runtime.types[0], runtime.types[-1]] == ["call.start", "call.end"]
    assert {event.reason for event in runtime.of("degraded")} == {"no result has come"}


def test_given_words_do_not_wait_for_the_recognition_of_other_calls(
    runtime: LocalRuntime, audio: list[AudioChunk]
):
    """Another call's recogniser is stuck; this one's words are there already."""
    stuck = threading.Event()

    class Stuck(Repeater):
        def transcribe(self, samples: np.ndarray) -> Transcription:
            stuck.wait(30)
            return super().transcribe(samples)

    runtime.transcriber = Stuck()

    async def both() -> None:
        recognition = runtime.recognition
        assert recognition is not None

        def session(name: str, text: TextSource) -> CallSession:
            live, begin = LiveConfig(interim_ms=0), CallStart(name, CHANNELS, RATE, text)
            return CallSession(begin, AnalyzerConfig(), live, runtime, runtime.shedding, Claim(True, 0, "here"))

        other, mine = session("other", "asr"), session("mine", "given")
        lines = [one.attach(CallStart(one.call.id, CHANNELS, RATE)) for one in (other, mine)]
        runs = [asyncio.create_task(one.run()) for one in (other, mine)]
        for line in lines:
            await send(line, audio[:240])
        await eventually(lambda: other.lags.recognition or recognition.waiting)
        lines[1].end()
        await runs[1]
        assert recognition.waiting
        stuck.set()
        lines[0].end()
        await runs[0]

    asyncio.run(both())
    assert {event.call for event in runtime.of("emotion.final")} == {"other", "mine"}


def test_what_was_shed_is_heard_and_judged_again_when_there_is_time(
    runtime: LocalRuntime, audio: list[AudioChunk]
):
    """The dialogue is then the one that there would be without any overload."""
    free, shed = LocalRuntime(runtime.engine, Repeater()), LocalRuntime(runtime.engine, Repeater())
    states = []

    async def quietly(session: CallSession, line: CallHandle) -> None:
        await send(line, audio)
        line.end()

    async def overloaded(session: CallSession, line: CallHandle) -> None:
        shed.shedding.look(Lags(recognition=9000), 0.0)
        await send(line, audio[:360])
        await eventually(
            lambda: shed.of("emotion.final") and session.lags == Lags() and not session.inbox.queued_ms
        )
        for now_s in (1.0, 9.0):
            shed.shedding.look(Lags(), now_s)
        await eventually(
            lambda: not (session.catch_up() or session.lags != Lags() or session.conversation.waiting)
        )
        await send(line, audio[360:])
        line.end()

    for one, script in ((free, quietly), (shed, overloaded)):
        session = play(lambda one=one: one.session("asr", QUIET), script)
        states.append(session.conversation._context.state)
    first = [(e.channel, e.utterance) for e in shed.of("emotion.final") if e.degraded == ("asr",)]
    assert first
    assert [(e.channel, e.utterance) for e in shed.of("emotion.revised")] == first
    last = {(e.channel, e.utterance): (e.text, e.probs) for e in shed.events if e.emotion}
    assert last == {(e.channel, e.utterance): (e.text, e.probs) for e in free.of("emotion.final")}
    assert states[0].cache_BKW.equal(states[1].cache_BKW)


def test_a_flood_of_words_is_refused_before_it_is_even_taken(runtime: LocalRuntime):
    async def script(session: CallSession, line: CallHandle) -> None:
        message = TextUpdate(tuple(Words(n, n + 1, "x" * 10_000, "customer") for n in range(50)))
        for _ in range(3):
            line.accept(message)
        with pytest.raises(LinkError, match="words were sent far beyond"):
            line.accept(message)
        line.end()

    play(lambda: runtime.session("given"), script)
    assert runtime.types[-1] == "call.end"


def test_no_more_words_wait_for_their_sound_than_may(runtime: LocalRuntime):
    async def script(session: CallSession, line: CallHandle) -> None:
        words = tuple(Words(10**6 + n, 10**6 + n + 1, "a b c", "customer", str(n)) for n in range(100))
        for _ in range(5):  # new versions of the same ones
            line.accept(TextUpdate(words))
            await eventually(lambda: session.inbox.empty)
        await eventually(lambda: session.conversation.pending_words >= 300)
        more = TextUpdate(tuple(replace(word, id=None) for word in words))
        line.accept(more)
        line.accept(more)
        with pytest.raises(LinkError, match="more than 1000 words wait for their sound"):
            line.accept(more)
        line.end()

    config = AnalyzerConfig(text=TextConfig(max_words=1000))
    play(lambda: runtime.session("given", config=config), script)
    assert runtime.types[-1] == "call.end"


def test_new_versions_of_words_wait_where_they_are_bounded(
    runtime: LocalRuntime, audio: list[AudioChunk], monkeypatch: pytest.MonkeyPatch
):
    """Each of them is one more utterance to be judged: more than the model can judge are left unread."""
    most = 100  # as 500, in a fifth of the time
    monkeypatch.setattr(call_session, "MOST_WAITING", most)
    config = AnalyzerConfig(text=TextConfig(wait_ms=0))

    async def script(session: CallSession, line: CallHandle) -> None:
        await send(line, audio[:300])
        await eventually(lambda: runtime.of("emotion.final"))
        runtime.hangs.set()
        before = session.inbox.received["agent"]
        for number in range(2 * most):
            line.accept(TextUpdate((Words(5600, 10_400, f"hello {number}", "customer", "w1"),)))
            if number % 20 == 0:
                await asyncio.sleep(0)
        await eventually(lambda: session.conversation.waiting > most)
        await elapsing(0.1, "time in which too many could be read")
        assert session.conversation.waiting <= most + 10
        assert not session.inbox.empty
        assert session.inbox.received["agent"] == before
        runtime.hangs.clear()
        runtime.resumes.set()
        line.end()

    play(lambda: runtime.session("given", config=config), script)
    assert runtime.types[-1] == "call.end"
    assert runtime.of("emotion.revised")[-1].text == f"hello {2 * most - 1}"


def test_an_outage_of_the_model_does_not_look_like_an_overload_of_recognition(
    runtime: LocalRuntime, audio: list[AudioChunk]
):
    """The speaker is a minute ahead of the analysis, and all that is behind is the model: nobody loses words."""
    late = LocalRuntime(runtime.engine, Repeater())
    worst = Lags()

    async def script(session: CallSession, line: CallHandle) -> None:
        nonlocal worst
        session._began_s -= 60  # so that sound which waits is late
        late.hangs.set()
        sending = asyncio.create_task(send(line, audio))
        await eventually(lambda: not session.room.is_set() and late.asked)
        for tick in range(40):
            await elapsing(0.05, "the outage lasts for 20 of them")
            if tick == 20:
                late.hangs.clear()
                late.resumes.set()
            worst = worst.longest(session.lags)
        await sending
        line.end()

    play(lambda: late.session("asr", LiveConfig(interim_ms=0, window_ms=4000)), script)
    assert worst.emotion >= 800
    assert worst.sound < 30_000  # sound that waits for the model is a minute late
    assert worst.recognition < 500
