"""A speaker who turns out to be another: what they said lately is judged again, in a dialogue that knows it."""

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest

from bcaf_stream.audio.turns import AudioConfig
from bcaf_stream.context import Predict
from bcaf_stream.conversation import RENAMED_MS, Conversation
from bcaf_stream.errors import ModelError
from bcaf_stream.events.event import Event
from bcaf_stream.events.progress import progress_of
from bcaf_stream.ingest.media import CallEnd, TextUpdate
from bcaf_stream.resumption import Resumption
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.types import Call, Channel, EmotionPrediction, SpeechSegment, Words

CALL = Call("c1", (Channel("room", "speaker"),))
EVERY_MS = 10_000
SAID = ["S1", "S2", "S1", "S2", "S2", "S1", "S2", "S1", "S1", "S1"]
KNOWN = 8  # with this segment it is known that S2 is S1


def segments(said=SAID, known=KNOWN):
    found = []
    for number, speaker in enumerate(said):
        at = number * EVERY_MS
        segment = SpeechSegment("room", number, at, at + 900, at + 1300, np.full(16, number, np.int16))
        pairs = (("S2", "S1"),) if number == known else ()
        found.append(replace(segment, speaker=speaker, speaker_confidence=0.9, relabelled=pairs))
    return found


def answer(work: Predict):
    """A model that remembers all who spoke."""
    one = work.utterance
    state = (*(work.state or ()), (one.index, one.speaker, one.text))
    joy = (crc32(repr(state).encode()) % 1000 + 1) / 1002
    return EmotionPrediction(("anger", "joy"), (1 - joy, joy), None, None, ("audio",)), state


def run(items, resumption=None, failing=(), words=None) -> list[Event]:
    call = Conversation(
        CALL, AudioConfig(), TextConfig(wait_ms=0), "m", ("audio", "text"),
        words=words, resumption=resumption, clock=lambda: 1,
    )  # fmt: skip
    told = call.begin()
    for item in [*items, CallEnd()]:
        step = call.take([item]) if isinstance(item, SpeechSegment) else call.push(item)
        works = list(step.work)
        told += step.events
        while works:
            work = works.pop(0)
            assert isinstance(work, Predict)
            bad = (work.utterance.index, work.utterance.revision) in failing
            step = call.done(work, ModelError("not finite") if bad else answer(work))
            told += step.events
            works += step.work
    return told


def brief(events):
    return [(e.type, e.utterance, e.revision, e.speaker, e.text) for e in events if e.utterance is not None]


def test_what_was_said_in_the_last_minute_is_judged_again():
    events = run(segments())
    types = [event.type for event in events]
    at = types.index("speaker.relabelled")
    revised = [event for event in events if event.type == "emotion.revised"]
    since_ms = KNOWN * EVERY_MS + 900 - RENAMED_MS
    affected = [n for n, who in enumerate(SAID[:KNOWN]) if who == "S2" and n * EVERY_MS + 900 > since_ms]
    assert affected == [3, 4, 6], "the first one is longer ago"
    assert [(e.utterance, e.revision, e.speaker) for e in revised] == [(n, 1, "S1") for n in affected]
    assert types[at : at + 5] == ["speaker.relabelled", *["emotion.revised"] * 3, "emotion.final"]
    assert len({event.id for event in events}) == len(events)


def test_the_dialogue_is_then_as_if_it_had_been_known():
    said = [who if number < 2 else "S1" for number, who in enumerate(SAID)]
    events, known = run(segments()), run(segments(said, known=None))
    final = {event.utterance: event.probs for event in events if event.emotion}  # the last word on each
    for event in known:
        if event.utterance is not None and event.utterance not in (2, 5, 7):  # these were judged before, and stand
            assert final[event.utterance] == event.probs


def test_words_that_come_later_know_it_too():
    words = Words(40_100, 40_800, "hello", "room", "w1")
    events = run([*segments(), TextUpdate((words,))], words=())
    assert brief(events)[-1] == ("emotion.revised", 4, 2, "S1", "hello")
    assert len({event.id for event in events}) == len(events)


def test_what_cannot_be_judged_again_stands_and_it_is_said():
    events = run(segments(), failing={(4, 1)})
    [failed] = [event for event in events if event.type == "degraded"]
    assert failed.utterance is None
    assert failed.reason == "speakers: what S2 said is not judged again: not finite"
    assert "emotion.revised" not in {event.type for event in events}
    assert [e.utterance for e in events if e.type == "emotion.final"] == list(range(len(SAID)))


@pytest.mark.parametrize("known", range(1, 14))
def test_wherever_its_owner_died_the_call_goes_on_so(known: int):
    whole = run(segments())
    progress = progress_of(whole[:known])
    assert progress is not None
    rest = run(segments(), Resumption(progress, begin=0, rate=8000, resent=True))
    assert rest[0].type == "degraded"
    said = [(e.type, e.utterance, e.revision, e.speaker, e.probs, e.relabelled) for e in rest[1:]]
    assert said == [(e.type, e.utterance, e.revision, e.speaker, e.probs, e.relabelled) for e in whole[known:]]
