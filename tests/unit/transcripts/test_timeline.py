"""The words that wait in a call: bounded, and each new version costs what its own words cost."""

import time
from dataclasses import replace
from itertools import count

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.transcripts.timeline import LONGEST_WORD, MOST_IN_A_SEGMENT, MOST_UNDECIDED, Timeline
from bcaf_stream.types import SpeechSegment, Words

CHANNELS = ["a", "b"]
WORDS = st.builds(
    lambda start, length, text, channel, id: Words(start, start + length, text, channel, id=id),
    st.integers(0, 20_000),
    st.integers(0, 3000),
    st.sampled_from(["one", "two words", "three of them"]),
    st.sampled_from(["a", "b", None]),
    st.sampled_from([None, "1", "2", "3"]),
)


def segment(channel: str, index: int, start_ms: int, end_ms: int) -> SpeechSegment:
    return SpeechSegment(
        channel, index, start_ms, end_ms, end_ms + 400, np.zeros(1, np.int16), speech_ended_at=0, split=False
    )


def told_apart(messages: list[list[Words]]) -> list[list[Words]]:
    """The same, each word of them a word of its own."""
    numbers = count()
    return [
        [replace(w, text=" ".join(f"{token}-{next(numbers)}" for token in w.text.split())) for w in words]
        for words in messages
    ]


@given(st.lists(st.integers(1, 3 * LONGEST_WORD), min_size=1, max_size=6))
def test_a_word_without_an_end_is_counted_as_the_many_that_it_is(lengths: list[int]):
    timeline, text = Timeline(CHANNELS, 500), " ".join("x" * length for length in lengths)
    timeline.add([Words(0, 1000, text, "a")])
    assert len(timeline) == sum(-(-length // LONGEST_WORD) for length in lengths)
    zone = timeline.zone(segment("a", 0, 0, 2000))
    waiting = timeline.claim(segment("a", 0, 0, 2000), zone)
    assert "".join(waiting) == text.replace(" ", "")


@given(st.lists(st.lists(WORDS, max_size=4), max_size=12), st.sampled_from([2, 1000]))
def test_no_word_is_in_two_places_and_every_id_finds_its_own(messages: list[list[Words]], remember: int):
    timeline = Timeline(CHANNELS, 500, 40, remember=remember)
    keys: list[tuple[str, int]] = []
    said: dict[object, list[str]] = {}  # the words that hold, by their id, or by themselves
    for number, words in enumerate(told_apart(messages)):
        timeline.add(words)
        said |= {w.id or w.text: w.text.split() for w in words}
        for channel in CHANNELS:
            one = segment(channel, number, 1000 * number, 1000 * number + 800)
            timeline.claim(one, timeline.zone(one))
            keys.append((channel, number))
        timeline.advance(1000 * number + 1200)
        placed = [word for key in keys[-remember:] for word in timeline.words_of(key)]
        hold = {word for texts in said.values() for word in texts}
        assert len(placed) == len(set(placed)), "no word is in two segments"
        assert set(placed) <= hold, "and none of a version that was replaced"
        assert len(timeline) <= 40
        assert len(placed) + len(timeline) <= len(hold)
        if remember > len(keys):
            assert len(placed) + len(timeline) + timeline.unpaired >= len(hold), "none is lost uncounted"
    unpaired, waiting = timeline.unpaired, len(timeline)
    timeline.close()
    assert (timeline.unpaired, len(timeline)) == (unpaired + waiting, 0)


def test_a_new_version_costs_what_its_own_words_cost():
    count = 30_000
    timeline = Timeline(CHANNELS, 500, remember=16)

    def say(text: str, id: str, at_ms: int) -> None:
        channel = CHANNELS[at_ms % 3] if at_ms % 3 < 2 else None
        timeline.add([Words(60_000 + at_ms, 60_100 + at_ms, text, channel, id=id)])

    begun = time.process_time()
    for text in ("first", "second"):
        for number in range(count):
            say(text, str(number), number)
    assert len(timeline) == count
    assert time.process_time() - begun < 15  # it took minutes to look at all that wait for each


def test_cues_of_nobody_whose_time_has_come_are_few():
    timeline = Timeline(CHANNELS, 500, remember=16)
    for number in range(3 * MOST_UNDECIDED):
        timeline.add([Words(number, number + 50, "word", None)])
    timeline.advance(3 * MOST_UNDECIDED)
    assert len(timeline) <= MOST_UNDECIDED
    assert len(timeline) + timeline.unpaired == 3 * MOST_UNDECIDED


def test_a_segment_takes_no_more_words_than_it_can_have():
    timeline = Timeline(CHANNELS, 500, remember=16)
    one = segment("a", 0, 0, 1000)
    zone = timeline.zone(one)
    timeline.add([Words(500, 510, "word", "a")] * (MOST_IN_A_SEGMENT + 5))
    assert len(timeline.claim(one, zone)) == MOST_IN_A_SEGMENT
    assert timeline.unpaired == 5
    assert timeline.add([Words(500, 510, "late", "a")] * 7) == set()
    assert timeline.unpaired == 12
    assert len(timeline.words_of(("a", 0))) == MOST_IN_A_SEGMENT


def test_of_two_versions_in_one_message_the_last_one_counts():
    timeline = Timeline(CHANNELS, 500, remember=16)
    timeline.add([Words(0, 100, "wrong", None, id="x"), Words(0, 100, "right", None, id="x")])
    assert len(timeline) == 1
    one = segment("a", 0, 0, 1000)
    timeline.claim(one, timeline.zone(one))
    assert timeline.settle() == {("a", 0)}
    assert timeline.words_of(("a", 0)) == ["right"]
    timeline.add([Words(0, 100, "", None, id="x")])
    assert timeline.words_of(("a", 0)) == []
