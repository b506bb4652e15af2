"""The calls of one process: who may begin one, who gets words, and what is shed for all of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from actors.call_registry import CallRegistry
from actors.config import IngestConfig
from actors.load_shedding import Lags
from actors.watchdog import LiveConfig
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.errors import BusyError, LinkError
from bcaf_stream.ingest.media import CallStart, TextUpdate
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.types import Words
from tests.unit.actors.local_runtime import (
    CHANNELS,
    RATE,
    SHARED,
    LocalRuntime,
    demo_chunks,
    joined,
    mono_chunks,
    send,
)
from tests.unit.audio.signals import write_wav
from tests.unit.audio.test_voices import shared_ms
from tests.waiting import eventually


@pytest.fixture
def runtime(tiny: Path) -> LocalRuntime:
    return LocalRuntime(EmotionEngine(ModelConfig(checkpoint=str(tiny), threads=1)))


def run(
    runtime: LocalRuntime,
    script: Callable[[CallRegistry], Awaitable[None]],
    max_calls: int = 2,
    analyzer: AnalyzerConfig | None = None,
) -> CallRegistry:
    async def whole() -> CallRegistry:
        config = IngestConfig(max_calls=max_calls, live=LiveConfig(interim_ms=0, grace_s=0.1, finish_s=20))
        calls = CallRegistry(analyzer or AnalyzerConfig(), config, runtime)
        await script(calls)
        await calls.drain(10)
        return calls

    return asyncio.run(whole())


def begin(call: str, text: str = "none") -> CallStart:
    return CallStart(call, CHANNELS, RATE, text)  # type: ignore[arg-type]


def test_busy_is_said_as_busy_and_counted(runtime: LocalRuntime):
    async def script(calls: CallRegistry) -> None:
        lines = [await calls.open(begin(name)) for name in "ab"]
        with pytest.raises(BusyError, match="2 calls are running"):
            await calls.open(begin("c"))
        lines[0].end()
        await lines[0].ended()
        await calls.open(begin("c"))
        calls.shedding.look(Lags(sound=10_000), 0)
        lines[1].end()
        await lines[1].ended()
        with pytest.raises(BusyError, match="all that can be analysed"):
            await calls.open(begin("d"))

    nothing = dict.fromkeys(Lags._fields, 0)
    assert run(runtime, script).stats() | {"lag_ms": 0, "lags_ms": nothing} == {
        "calls": 0, "finished": 3, "failed": 0, "busy": 2, "lag_ms": 0, "lags_ms": nothing, "overload": 3,
        "shed": [1, 1, 1], "refused_words": 0,
    }  # fmt: skip


def test_while_it_drains_calls_go_on_and_none_begins(runtime: LocalRuntime):
    async def script(calls: CallRegistry) -> None:
        running = await calls.open(begin("a"))
        await send(running, demo_chunks(2))
        calls.takes_new = False
        with pytest.raises(BusyError, match="draining"):
            await calls.open(begin("b"))
        running.end()
        assert (await running.ended()).reason == "complete"
        calls.takes_new = True
        (await calls.open(begin("b"))).end()

    assert run(runtime, script).busy == 1
    assert runtime.types.count("call.start") == 2


def test_a_call_that_has_begun_goes_on_elsewhere_while_it_drains(runtime: LocalRuntime):
    async def first(calls: CallRegistry) -> None:
        await send(await calls.open(replace(begin("a"), resume=0)), demo_chunks(2))

    async def second(calls: CallRegistry) -> None:
        calls.takes_new = False
        runtime.events[:] = [event for event in runtime.events if event.type != "call.end"]  # it died before
        again = await calls.open(replace(begin("a"), resume=0))
        again.end()
        await again.ended()

    run(runtime, first)
    assert run(runtime, second).busy == 0
    assert runtime.types[-1] == "call.end"


def test_a_call_runs_once_and_is_over_once(runtime: LocalRuntime):
    async def script(calls: CallRegistry) -> None:
        both = await asyncio.gather(*(calls.open(begin("a")) for _ in range(2)), return_exceptions=True)
        assert [type(one).__name__ for one in both] == ["CallConnection", "LinkError"]
        over = await calls.open(begin("b"))
        over.end()
        await over.ended()
        with pytest.raises(LinkError, match="in the journal already"):
            await calls.open(begin("b"))
        with pytest.raises(LinkError, match="no speech recognition"):
            await calls.open(begin("c", "asr"))

    run(runtime, script)
    assert sorted(runtime.types) == ["call.end", "call.end", "call.start", "call.start"]
    assert runtime.events[-1].reason == "the deployment is going down"


def test_a_lost_call_is_found_again_by_its_name(runtime: LocalRuntime):
    chunks = demo_chunks(2)

    async def script(calls: CallRegistry) -> None:
        first = await calls.open(begin("a"))
        await send(first, chunks)
        first.lost()
        second = await calls.open(begin("a"))
        second.end()
        assert (await second.ended()).reason == "complete"
        third = await calls.open(begin("b"))
        third.lost()
        assert (await third.ended()).reason == "sender lost"

    run(runtime, script)
    assert runtime.types.count("call.start") == 2


def test_words_find_their_call(runtime: LocalRuntime):
    async def script(calls: CallRegistry) -> None:
        message = TextUpdate((Words(5600, 10_400, "hello there", "customer", "w1"),))
        with pytest.raises(LinkError, match="no such call is running"):
            await calls.words("a", message)
        connection = await calls.open(begin("a", "given"))
        await calls.words("a", message)
        await send(connection, demo_chunks(12))
        connection.end()
        await connection.ended()

    run(runtime, script)
    assert "hello there" in [event.text for event in runtime.of("emotion.final")]


def test_words_for_a_call_that_takes_none_are_said_to_be_misplaced(runtime: LocalRuntime):
    async def script(calls: CallRegistry) -> None:
        connection = await calls.open(begin("a"))
        await calls.words("a", TextUpdate((Words(0, 1, "secret", "customer"),)))
        connection.end()
        await connection.ended()

    run(runtime, script)
    [degraded] = runtime.of("degraded")
    assert "opened without given text" in (degraded.reason or "")
    assert "secret" not in str(runtime.events)


def test_one_broken_call_does_not_disturb_another(runtime: LocalRuntime):
    async def script(calls: CallRegistry) -> None:
        runtime.breaking = {"bad"}
        good, bad = [await calls.open(begin(name)) for name in ("good", "bad")]
        for connection in (good, bad):
            await send(connection, demo_chunks(12))
        assert (await bad.ended()).reason == "the call cannot be analysed: ZeroDivisionError"
        with pytest.raises(LinkError, match="is over here"):
            bad.accept(TextUpdate(()))
        good.end()
        assert (await good.ended()).reason == "complete"

    assert run(runtime, script).failed == 1
    ends = {event.call: event.reason for event in runtime.of("call.end")}
    assert ends["good"] == "complete"
    assert ends["bad"] == "failed: ZeroDivisionError"


def test_a_call_goes_on_after_the_process_that_ran_it_died(runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch):
    """The next process knows it from the journal alone: numbers go on, and what nobody heard is a gap."""
    chunks = demo_chunks(24)
    now = time.time_ns()

    async def first(calls: CallRegistry) -> None:
        connection = await calls.open(begin("a"))
        await send(connection, chunks[:240])
        await eventually(lambda: runtime.of("emotion.final"))

    run(runtime, first)
    assert runtime.events.pop().type == "call.end"  # a dead process says nothing
    before = list(runtime.events)
    monkeypatch.setattr("time.time_ns", lambda: now + 14_000_000_000)

    async def second(calls: CallRegistry) -> None:
        connection = await calls.open(begin("a"))
        await send(connection, [replace(chunk, start=chunk.start - 112_000) for chunk in chunks[280:]])
        connection.end()
        await connection.ended()
        assert max(calls.lags) == 0

    run(runtime, second)
    after = runtime.events[len(before) :]
    assert [event.seq for event in runtime.events] == list(range(len(runtime.events)))
    assert len({event.id for event in runtime.events}) == len(runtime.events)
    assert [event.type for event in after[:3]] == ["degraded", "audio.gap", "audio.gap"]
    assert after[1].start_ms == max(event.end_ms or 0 for event in before)
    assert after[1].end_ms == pytest.approx(14_000, abs=100)
    assert all(event.start_ms >= 13_000 for event in after if event.emotion)
    assert after[-1].type == "call.end"
    assert [event.emotion for event in after if event.emotion]


def test_a_call_says_by_which_protocol_it_came(runtime: LocalRuntime):
    async def script(calls: CallRegistry) -> None:
        line = await calls.behind("twilio").open(begin("a"))
        line.end()
        await line.ended()

    run(runtime, script)
    assert [event.protocol for event in runtime.events] == ["twilio", *[None] * (len(runtime.events) - 1)]


def test_whose_voice_a_server_knows_has_the_policy_of_the_role_on_one_channel(
    runtime: LocalRuntime, tmp_path: Path
):
    voice = write_wav(tmp_path / "agent.wav", joined(demo_chunks(15), "agent"))

    async def script(calls: CallRegistry) -> None:
        line = await calls.behind("pcm", {"agent": voice}).open(replace(begin("a"), channels=SHARED))
        await send(line, mono_chunks())
        line.end()
        await line.ended()

    run(runtime, script, analyzer=AnalyzerConfig(text=TextConfig(policy={"agent": "off"})))
    judged = runtime.of("emotion.final")
    assert len(judged) >= 3
    assert all(shared_ms(event) < 0.3 * (event.end_ms - event.start_ms) for event in judged), "the agent is judged"


def test_a_call_that_nobody_goes_on_with_is_ended(runtime: LocalRuntime):
    async def open_both(calls: CallRegistry) -> None:
        for name in "ab":
            await calls.open(begin(name))
        await eventually(lambda: len(runtime.of("call.start")) == 2)

    run(runtime, open_both)
    runtime.events = [event for event in runtime.events if event.type == "call.start"]

    async def close_both(calls: CallRegistry) -> None:
        connection = await calls.open(begin("b"))
        await calls.close_orphans(["a", "b"])
        assert [(e.call, e.seq, e.reason) for e in runtime.of("call.end")] == [("a", 1, "sender lost")]
        connection.end()
        await connection.ended()
        await calls.close_orphans(["a", "b"])

    run(runtime, close_both)
    assert len(runtime.of("call.end")) == 2


def test_no_more_calls_than_allowed_are_opened_at_once(runtime: LocalRuntime):
    async def script(calls: CallRegistry) -> None:
        opened = await asyncio.gather(*(calls.open(begin(str(n))) for n in range(10)), return_exceptions=True)
        assert [type(one).__name__ for one in opened] == ["CallConnection"] * 2 + ["BusyError"] * 8
        assert calls.stats()["calls"] == 2

    run(runtime, script)


def test_a_call_that_the_journal_cannot_tell_of_is_refused_alone(runtime: LocalRuntime):
    async def script(calls: CallRegistry) -> None:
        runtime.damaged = {"bad"}
        with pytest.raises(LinkError, match="call bad: its events in the journal cannot be read"):
            await calls.open(begin("bad"))
        await calls.open(begin("good"))
        await calls.close_orphans(["bad", "orphan"])  # the others are ended all the same
        runtime.damaged = set()
        await calls.open(begin("bad"))

    async def leave(calls: CallRegistry) -> None:
        await calls.open(begin("orphan"))
        await eventually(lambda: any(event.call == "orphan" for event in runtime.of("call.start")))

    run(runtime, leave)
    runtime.events = [event for event in runtime.events if event.type == "call.start"]
    run(runtime, script)
    assert [event.call for event in runtime.of("call.end")].count("orphan") == 1


def test_going_down_publishes_what_is_being_said(runtime: LocalRuntime):
    """Two seconds into an utterance: its interim results went out, and so does its final."""
    chunks = demo_chunks(8)  # the customer speaks from 5.6 to 10.4 s

    async def script(calls: CallRegistry) -> None:
        connection = await calls.open(begin("a"))
        await send(connection, chunks)
        assert "customer" not in {event.channel for event in runtime.of("emotion.final")}
        await calls.drain()
        assert (await connection.ended()).reason == "the deployment is going down"
        with pytest.raises(BusyError):
            await calls.open(begin("b"))

    run(runtime, script)
    [final] = [event for event in runtime.of("emotion.final") if event.channel == "customer"]
    assert (final.channel, final.end_ms) == ("customer", 8000)
    assert [(event.type, event.reason) for event in runtime.events[-1:]] == [
        ("call.end", "the deployment is going down")
    ]


def test_going_down_takes_bounded_time_with_a_hung_model(runtime: LocalRuntime):
    async def script(calls: CallRegistry) -> None:
        connection = await calls.open(begin("a"))
        runtime.hangs.set()
        await send(connection, demo_chunks(12))
        await calls.drain(timeout_s=0.5)

    run(runtime, script)
    end = runtime.events[-1]
    assert {event.reason for event in runtime.of("degraded")} == {"the deployment is going down"}
    assert (end.type, end.reason) == ("call.end", "failed: the deployment is going down")


def test_a_call_whose_sender_comes_back_elsewhere_goes_on_there(runtime: LocalRuntime):
    """What cannot be sent again is analysed first; no end is published, and nothing is told twice."""
    chunks = demo_chunks(12)

    async def script(here: CallRegistry) -> None:
        elsewhere = CallRegistry(AnalyzerConfig(), IngestConfig(live=LiveConfig(interim_ms=0)), runtime)
        connection = await here.open(begin("a"))
        await send(connection, chunks)
        with pytest.raises(LinkError, match="running already"):
            await here.let_go(begin("a"))
        connection.lost()
        with pytest.raises(LinkError, match="goes on with the channels"):
            await here.let_go(replace(begin("a"), rate=16_000))
        await here.let_go(begin("a"))
        assert (await connection.ended()).reason.startswith("busy: the call goes on at another process")
        assert (runtime.types[-1], "call.end" in runtime.types) == ("emotion.final", False)
        assert here.stats()["handed_over"] == 1
        again = await elsewhere.open(begin("a"))
        again.end()
        assert (await again.ended()).reason == "complete"
        await here.let_go(begin("a"))  # which it has not

    run(runtime, script)
    assert [event.seq for event in runtime.events] == list(range(len(runtime.events)))
    assert len({event.id for event in runtime.events}) == len(runtime.events)
    assert runtime.types[-1] == "call.end"


def test_who_has_lost_a_call_publishes_nothing_more_of_it(runtime: LocalRuntime):
    async def script(here: CallRegistry) -> None:
        connection, other = [await here.open(begin(name)) for name in "ab"]
        await eventually(lambda: runtime.types.count("call.start") == 2)
        await runtime.claim_orphan("a")  # by another process, while this one stood still
        await send(connection, demo_chunks(12))
        assert (await connection.ended()).reason.startswith("busy: ")
        await runtime.claim_orphan("b")
        here.lost("b")
        assert (await other.ended()).reason.startswith("busy: ")

    calls = run(runtime, script)
    assert runtime.types == ["call.start"] * 2
    assert (calls.failed, calls.handed_over) == (0, 2)
    assert sorted(runtime.released) == [("a", 1), ("b", 1)]


def test_a_replica_that_hands_over_keeps_only_what_cannot_go_on_elsewhere(runtime: LocalRuntime):
    async def script(calls: CallRegistry) -> None:
        movable, fixed = [await calls.open(one) for one in (replace(begin("a"), sender="me"), begin("b"))]
        calls.hand_over(True)
        assert (await movable.ended()).reason.startswith("busy: ")
        for call in "ac":
            with pytest.raises(BusyError, match="hands its calls over"):
                await calls.open(begin(call))
        fixed.end()
        assert (await fixed.ended()).reason == "complete"
        calls.hand_over(False)
        again = await calls.open(begin("a"))
        again.end()
        await again.ended()

    assert run(runtime, script).handed_over == 1
    assert [event.call for event in runtime.of("call.end")] == ["b", "a"]
