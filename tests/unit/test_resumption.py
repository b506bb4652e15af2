"""A call whose owner died, and whose sound is sent again: the events are those of an undisturbed run."""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from zlib import crc32

import numpy as np
import pytest

from bcaf_stream.audio.turns import AudioConfig, CallCutter
from bcaf_stream.context import Predict
from bcaf_stream.conversation import Conversation, Item, Result, Work
from bcaf_stream.errors import AsrError, ModelError
from bcaf_stream.events.event import Event
from bcaf_stream.events.progress import progress_of
from bcaf_stream.ingest.media import CallEnd, TextUpdate
from bcaf_stream.resumption import Resumption, resend_from_ms
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import AudioChunk, Call, Channel, EmotionPrediction, SpeechSegment, TextSource, Words
from tests.calls import watching
from tests.unit.actors.local_runtime import CHANNELS, RATE, demo_chunks, joined

CALL = Call("c1", CHANNELS)
RIGHT = Words(5600, 10_400, "hello there", "customer", "w1")
REACH = 4  # utterances that the model remembers


def predicted(work: Predict, model: int) -> tuple[EmotionPrediction, object]:
    """What one of many models says, which remember what was said in the last utterances, and when."""
    utterance = work.utterance
    state = (*(work.state or ()), (utterance.channel, utterance.index, utterance.text, utterance.end_ms))[-REACH:]
    joy = (crc32(repr((model, state)).encode()) % 1000 + 1) / 1002
    return EmotionPrediction(("anger", "joy"), (1 - joy, joy), None, None, ("audio",)), state


def result_of(work: Work, model: int) -> Result:
    if isinstance(work, Predict):
        failing = (work.utterance.channel, work.utterance.index) == ("agent", 1)
        return ModelError("not finite") if failing else predicted(work, model)
    if work.segment.index == 1:
        return AsrError("too hard")
    return Transcription(f"heard {len(work.segment.samples)}", 0.9)


def run(
    items: Sequence[Item],
    text: TextSource,
    resumption: Resumption | None = None,
    model: int = 0,
    call: Call = CALL,
) -> list[Event]:
    return [event for events in steps(items, text, resumption, model, call) for event in events]


def steps(
    items: Sequence[Item],
    text: TextSource,
    resumption: Resumption | None = None,
    model: int = 0,
    call: Call = CALL,
) -> list[list[Event]]:
    """The events of each step: those are journalled together."""
    conversation = Conversation(
        call,
        AudioConfig(),
        TextConfig(wait_ms=0),
        "m",
        ("audio", "text"),
        recognises=text == "asr",
        words=() if text == "given" else None,
        interim_ms=1000,
        resumption=resumption,
        alerts=watching(),
        clock=lambda: 1,
    )
    told = [conversation.begin()]
    for item in items:
        step = conversation.push(item)
        works = list(step.work)
        told.append(step.events)
        while works:
            step = conversation.done(work := works.pop(0), result_of(work, model))
            told.append(step.events)
            works += step.work
    conversation.close()
    return [events for events in told if events]


@cache
def sound() -> tuple[AudioChunk, ...]:
    return tuple(demo_chunks())


def sent(text: TextSource, start: int = 0, corrected: bool = False) -> list[Item]:
    """What the sender sends, from a sample on: words come late, and are then corrected, if they are not by now."""
    found: list[Item] = []
    for number, chunk in enumerate(sound()):
        if text == "given" and number == 300 and not corrected:
            found.append(TextUpdate((Words(5600, 10_400, "yellow bear", "customer", "w1", final=False),)))
        if text == "given" and number == 400:
            found.append(TextUpdate((RIGHT,)))
        if chunk.start >= start:
            found.append(chunk)
    return [*found, CallEnd()]


@pytest.mark.parametrize("model", range(3))
@pytest.mark.parametrize("text", ["none", "asr", "given"])
def test_wherever_it_died_the_rest_is_as_if_nothing_had_happened(text: TextSource, model: int):
    told = steps(sent(text), text, model=model)
    whole = [event for events in told for event in events]
    assert {"emotion.interim", "emotion.final", "degraded"} <= {event.type for event in whole}
    assert ("emotion.revised" in {event.type for event in whole}) == (text == "given")
    ends = list(accumulate(len(events) for events in told))
    for known in ends[6 * model : -1 : 18]:  # a journal has all events of a step, or none
        journal = whole[:known]
        progress = progress_of(journal)
        assert progress is not None
        corrected = any(event.text == RIGHT.text for event in journal)
        rest = run(sent(text, 0, corrected), text, Resumption(progress, 0, RATE, resent=True), model)
        assert [event.seq for event in rest] == list(range(known, known + len(rest)))
        assert not {event.id for event in rest} & {event.id for event in journal}
        assert (rest[0].type, rest[0].utterance) == ("degraded", None)
        assert rest[0].reason == (
            f"the analysis was interrupted: it goes on from {progress.end_ms / 1000:.1f} s "
            "with the sound that its sender has kept"
        )
        assert plain([*journal, *rest[1:]]) == plain(whole)
        missing = {e.id for e in whole if e.type == "emotion.interim"} - {e.id for e in (*journal, *rest)}
        assert not missing


def plain(events: Sequence[Event]) -> list[tuple]:
    """What is said in the end, without numbers of order."""
    return [
        (e.type, e.channel, e.utterance, e.revision, e.start_ms, e.end_ms, e.text, dict(e.probs), e.reason)
        for e in events
        if e.type != "emotion.interim"
    ]


def test_from_the_middle_of_a_call_utterances_are_found_again_by_their_time():
    """What is sent again begins within the call: the same utterances, the same numbers, the same context."""
    whole = run(sent("none"), "none")
    finals = [event for event in whole if event.type in ("emotion.final", "degraded")]
    known = whole.index(finals[-2])  # two utterances are missing
    progress = progress_of(whole[:known])
    assert progress is not None
    start_ms = resend_from_ms(progress, 15_000)
    assert 0 < start_ms < 15_000
    start = start_ms * RATE // 1000 // 800 * 800
    rest = run(sent("none", start), "none", Resumption(progress, start, RATE, resent=True))
    again = [(e.channel, e.utterance, e.text) for e in rest[1:] if e.type in ("emotion.final", "degraded")]
    assert again == [(e.channel, e.utterance, e.text) for e in finals[-2:]]
    assert not {event.id for event in rest} & {event.id for event in whole[:known]}
    assert [event.seq for event in rest] == list(range(known, known + len(rest)))


def test_sound_that_its_sender_could_not_keep_is_a_gap():
    whole = run(sent("none"), "none")
    known = next(n for n, event in enumerate(whole) if event.type == "emotion.final") + 1
    progress = progress_of(whole[:known])
    assert progress is not None
    rest = run(sent("none", 20 * RATE), "none", Resumption(progress, 20 * RATE, RATE, resent=True))
    assert [event.type for event in rest[:3]] == ["degraded", "audio.gap", "audio.gap"]
    assert {(e.start_ms, e.end_ms) for e in rest[1:3]} == {(progress.end_ms, 20_000)}


def test_without_the_sound_the_call_goes_on_where_the_clock_is():
    whole = run(sent("none"), "none")
    known = next(n for n, event in enumerate(whole) if event.type == "emotion.final") + 1
    progress = progress_of(whole[:known])
    assert progress is not None
    start = 20 * RATE
    rest = run(sent("none", start), "none", Resumption(progress, start, RATE, resent=False))
    assert [event.type for event in rest[:3]] == ["degraded", "audio.gap", "audio.gap"]
    assert "begins anew" in (rest[0].reason or "")
    assert {(e.start_ms, e.end_ms) for e in rest[1:3]} == {(progress.end_ms, 20_000)}
    assert all((e.start_ms or 0) >= 19_000 for e in rest if e.emotion)
    assert not {event.id for event in rest} & {event.id for event in whole[:known]}


def test_a_call_that_has_no_events_yet_is_asked_for_from_its_first_sample():
    [start] = run([], "none")
    progress = progress_of([start])
    assert progress is not None
    assert resend_from_ms(progress, 120_000) == 0
    assert np.all([spoken == {} for spoken in progress.spoken.values()])


SHARED = Call("c1", (Channel("room", "speaker"),))


def mixed(start: int = 0) -> list[Item]:
    """Both parties on one channel, from a sample on."""
    one, other = (joined(sound(), channel.name) for channel in CHANNELS)
    samples = np.clip(one.astype(np.int32) + other, -32768, 32767).astype(np.int16)
    chunks = [AudioChunk("room", at, RATE, samples[at : at + 800], 0) for at in range(start, len(samples), 800)]
    return [*chunks, CallEnd()]


def who(events: Sequence[Event]) -> list[tuple[int | None, str | None]]:
    return [(e.utterance, e.speaker) for e in events if e.type == "emotion.final"]


@cache
def shared_call() -> tuple[Event, ...]:
    return tuple(run(mixed(), "none", call=SHARED))


@cache
def parties() -> tuple[SpeechSegment, ...]:
    cutter = CallCutter(CALL)
    return (*(segment for chunk in sound() for segment in cutter.push(chunk)), *cutter.flush())


def spoken_ms(event: Event) -> dict[str, int]:
    """How long each party speaks in it."""
    found = {channel.name: 0 for channel in CHANNELS}
    for turn in parties():
        found[turn.channel] += max(
            0, min(turn.end_ms, event.end_ms or 0) - max(turn.start_ms, event.start_ms or 0)
        )
    return found


def test_speakers_of_a_shared_channel_keep_their_names():
    whole = shared_call()
    assert {name for _, name in who(whole)} == {"S1", "S2"}
    for known in (len(whole) // 3, 2 * len(whole) // 3):
        progress = progress_of(whole[:known])
        assert progress is not None
        rest = run(mixed(), "none", Resumption(progress, 0, RATE, resent=True), call=SHARED)
        assert who([*whole[:known], *rest]) == who(whole)


def test_from_the_middle_of_a_call_nobody_is_given_the_name_of_another():
    whole, told_as = shared_call(), {"agent": "S1", "customer": "S2"}
    finals = [n for n, event in enumerate(whole) if event.type == "emotion.final"]
    for known in finals[len(finals) // 2 :: 2]:
        progress = progress_of(whole[:known])
        assert progress is not None
        start = resend_from_ms(progress, 10_000) * RATE // 1000 // 800 * 800
        assert start
        resumption = Resumption(progress, start, RATE, resent=True)
        later = [e for e in run(mixed(start), "none", resumption, call=SHARED) if e.type == "emotion.final"]
        for event in later:
            party, other = sorted(spoken_ms(event).items(), key=lambda item: -item[1])
            if other[1] < 500:  # of one person alone
                assert event.speaker in (told_as[party[0]], "S3", "S4"), (known, event.utterance)


def test_without_the_sound_speakers_are_new_ones():
    whole = shared_call()
    known = next(n for n, event in enumerate(whole) if event.speaker == "S2") + 1
    progress = progress_of(whole[:known])
    assert progress is not None
    start = 15 * RATE
    rest = run(mixed(start), "none", Resumption(progress, start, RATE, resent=False), call=SHARED)
    names = {name for _, name in who(rest)}
    assert names
    assert not names & {"S1", "S2"}
