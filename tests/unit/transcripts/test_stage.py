"""The text stage: what is asked of a recogniser, and an order that does not depend on when it answers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.transcripts.stage import TextStage, Transcribe
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import Call, Channel, SpeechSegment, Utterance, Words

CALL = Call("c1", (Channel("customer", "customer"), Channel("agent", "agent")))
OFF = TextConfig(policy={"agent": "off"})


def segment(index: int, channel: str = "customer") -> SpeechSegment:
    start = 2000 * index
    return SpeechSegment(channel, index, start, start + 1000, start + 1400, np.zeros(16, np.int16))


def stage(
    config: TextConfig | None = None, recognises: bool = True, words: list[Words] | None = None
) -> TextStage[str]:
    return TextStage(CALL, config or TextConfig(), recognises, words, refused=lambda reason: reason)


def ready(found: TextStage[str]) -> list[Utterance | str]:
    return [what for _, what in found.take()]


def test_words_are_asked_for_where_the_policy_permits_it():
    text = stage(OFF)
    text.push(segment(0, "agent"))
    text.push(segment(1))
    [work] = text.take_work()
    assert (work.segment.channel, ready(text)) == ("customer", [])
    text.done(work, Transcription(" hello ", 0.75))
    [heard] = ready(text)
    assert isinstance(heard, Utterance)
    assert (heard.text, heard.text_source, heard.text_confidence) == ("hello", "asr", 0.75)
    assert list(text.unsettled) == [("customer", 1)]  # until its event is out; the agent's has none


def test_a_failing_recogniser_leaves_the_sound_and_is_said(caplog):
    text = stage()
    text.push(segment(0))
    [work] = text.take_work()
    text.done(work, AsrError("switched off"))
    [alone] = ready(text)
    assert isinstance(alone, Utterance)
    assert (alone.text, alone.degraded, text.failures, alone.samples is not None) == (None, ("asr",), 1, True)
    assert "switched off" in caplog.text
    text.hear_again()
    assert text.take_work() == []  # it would fail again


def test_without_recognition_every_segment_goes_out_at_once_on_audio_alone():
    text = stage(recognises=False)
    text.push(segment(0, "agent"))
    [alone] = ready(text)
    assert isinstance(alone, Utterance)
    assert (alone.text, alone.text_source, alone.role, alone.degraded) == (None, "none", "agent", ())


def test_words_that_do_not_belong_here_are_refused_in_their_place():
    text = stage(recognises=False)
    text.push(segment(0))
    text.push_words([Words(0, 1, "secret", "customer")], last=True, at_ms=0)
    text.mark("after", 0)
    first, refused, after = ready(text)
    assert isinstance(first, Utterance)
    assert "opened without given text" in str(refused)
    assert "secret" not in str(refused)
    assert after == "after"


def test_what_was_shed_is_heard_again_as_its_next_revision():
    text = stage()
    for index in range(2):
        text.push(segment(index))
    works = text.take_work()
    text.done(works[0], None)
    text.done(works[1], Transcription("second"))
    first, second = ready(text)
    assert isinstance(first, Utterance)
    assert isinstance(second, Utterance)
    assert [(u.text, u.degraded, u.revision) for u in (first, second)] == [(None, ("asr",), 0), ("second", (), 0)]
    assert text.may_change
    text.hear_again()
    [again] = text.take_work()
    text.hear_again()
    assert text.take_work() == []  # asked for once
    text.done(again, Transcription("first"))
    [revised] = ready(text)
    assert isinstance(revised, Utterance)
    assert (revised.index, revised.text, revised.revision, revised.degraded) == (0, "first", 1, ())
    assert not text.may_change


def test_what_is_shed_is_bounded_and_what_is_shed_twice_stays():
    text = stage(TextConfig(revisable=2))
    for index in range(5):
        text.push(segment(index))
    for work in text.take_work():
        text.done(work, None)
    text.take()
    text.hear_again()
    works = text.take_work()
    assert [work.segment.index for work in works] == [3, 4]
    for work in works:
        text.done(work, None)
    assert ready(text) == []  # said already
    text.hear_again()
    assert len(text.take_work()) == 2


def test_a_text_only_role_gets_its_utterance_when_it_is_heard_late():
    text = stage(TextConfig(policy={"customer": "text_only"}))
    text.push(segment(0))
    [work] = text.take_work()
    text.done(work, None)
    assert ready(text) == []
    text.hear_again()
    [work] = text.take_work()
    text.done(work, Transcription("late"))
    [heard] = ready(text)
    assert isinstance(heard, Utterance)
    assert (heard.text, heard.revision, heard.samples) == ("late", 0, None)


def test_the_end_waits_for_what_is_heard_again():
    text = stage()
    text.push(segment(0))
    [work] = text.take_work()
    text.done(work, None)
    text.take()
    text.flush(5000)
    text.mark("end", 5000)
    [again] = text.take_work()
    assert ready(text) == []
    text.done(again, Transcription("late"))
    revised, end = ready(text)
    assert isinstance(revised, Utterance)
    assert (revised.revision, end) == (1, "end")


RESULTS = st.sampled_from([Transcription("yes"), Transcription(""), AsrError("broken")])


@given(st.lists(RESULTS, min_size=1, max_size=6), st.randoms())
def test_the_order_of_the_answers_changes_nothing(results: list, random):
    def outcome(order: list[int]) -> list:
        text = stage()
        for index in range(len(results)):
            text.push(segment(index))
            text.mark(f"after {index}", 2000 * index)
        works: list[Transcribe] = text.take_work()
        found: list[Utterance | str] = []
        for number in order:
            text.done(works[number], results[number])
            found += ready(text)
        return [what if isinstance(what, str) else (what.index, what.text, what.degraded) for what in found]

    order = list(range(len(results)))
    expected = outcome(order)
    random.shuffle(order)
    assert outcome(order) == expected
    assert len(expected) == 2 * len(results)


def with_three_shed() -> TextStage[str]:
    text = stage()
    for index in range(3):
        text.push(segment(index))
    for work in text.take_work():
        text.done(work, None)
    text.take()
    return text


def test_what_is_heard_again_does_not_set_the_call_back():
    """How far a call is analysed never falls: a sender has been given its credit."""
    text = with_three_shed()
    text.hear_again()
    assert text.next_ms == segment(2).closed_ms


def test_what_is_heard_again_one_at_a_time_lets_others_speak_between():
    text = with_three_shed()
    for _ in range(3):  # asked for often, while it is being heard
        text.hear_again(1)
    (first,) = text.take_work()
    assert (first.segment.index, first.again) == (0, True)
    text.push(segment(3))
    (fresh,) = text.take_work()
    text.done(fresh, Transcription("at once"))
    assert ready(text) == []  # to be judged after it
    text.done(first, Transcription("late"))
    found = [(one.index, one.text) for one in ready(text) if isinstance(one, Utterance)]
    assert found == [(0, "late"), (3, "at once")]
    text.hear_again(1)
    assert [work.segment.index for work in text.take_work()] == [1]
    text.flush(9000)
    assert [work.segment.index for work in text.take_work()] == [2]
