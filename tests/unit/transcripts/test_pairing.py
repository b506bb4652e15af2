"""Every word ends in exactly one utterance or is counted; order and result do not depend on arrival."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.pairing import Pairing, TextConfig
from bcaf_stream.transcripts.sources import read_transcript
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import Call, Channel, SpeechSegment, Utterance, Words
from tests.benchmarks.cue_attribution import beforehand, live, load, score
from tests.components import needs

HARPERVALLEY = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "calls" / "harpervalley"
CALL = Call("c1", (Channel("customer", "customer"), Channel("agent", "agent")))
DEFAULT = TextConfig()
NOTHING = Words(0, 0, "", None)  # a transcript known up front, though nothing is said in it


def segment(channel: str, index: int, start: int, end: int, split: bool = False) -> SpeechSegment:
    closed = end if split else end + 400
    return SpeechSegment(
        channel, index, start, end, closed, np.zeros(16, np.int16), speech_ended_at=end, split=split
    )


def key(u: Utterance) -> tuple[str, int, str | None, str]:
    return u.channel, u.index, u.text, u.text_source


def pair_all(words: list[Words], segments: list[SpeechSegment], config: TextConfig = DEFAULT):
    pairing = Pairing(CALL, config, words or [NOTHING])
    done = [u for s in segments for u in pairing.push(s)]
    return pairing, done + pairing.flush()


@st.composite
def calls(draw) -> list[SpeechSegment]:
    segments = []
    for channel in ("customer", "agent"):
        at = 0
        for index in range(draw(st.integers(0, 6))):
            split = draw(st.booleans())
            start = at + draw(st.integers(0, 2000))
            end = start + draw(st.integers(100, 5000))
            segments.append(segment(channel, index, start, end, split))
            at = end if split else end + 140
    order = {"customer": 0, "agent": 1}
    return sorted(segments, key=lambda s: (s.closed_ms, order[s.channel]))


@st.composite
def transcripts(draw, channels=("customer", "agent", None)) -> list[Words]:
    words = []
    for number in range(draw(st.integers(0, 12))):
        start = draw(st.integers(0, 20_000))
        length = draw(st.integers(0, 4000))
        text = " ".join(f"w{number}.{i}" for i in range(draw(st.integers(0, 5))))
        words.append(Words(start, start + length, text, draw(st.sampled_from(channels))))
    return sorted(words, key=lambda w: w.start_ms)


@given(calls(), transcripts(), st.sampled_from([{}, {"agent": "off"}, {"customer": "text_only", "agent": "off"}]))
def test_every_word_is_in_one_utterance_or_counted(segments, words, policy):
    pairing, done = pair_all(words, segments, TextConfig(policy=policy))
    told = [word for u in done if u.text for word in u.text.split()]
    known = [token for w in words for token in w.text.split()]
    assert len(set(told)) == len(told)
    assert set(told) <= set(known)
    assert len(told) + pairing.unpaired + pairing.counts.words_withheld == len(known)
    assert pairing.counts.words_paired == len(told)
    assert pairing.pending_words == 0


@given(calls(), transcripts())
def test_segments_go_out_once_and_in_order(segments, words):
    pairing, done = pair_all(words, segments)
    assert [(u.channel, u.index) for u in done] == [(s.channel, s.index) for s in segments]
    assert all((u.text is None) == (u.text_source == "none") for u in done)
    assert pairing.held == 0


@given(calls(), transcripts(("customer", "agent")), st.data())
def test_live_words_give_what_words_up_front_give(segments, words, data):
    """Whatever the interleaving, as long as the words come within the wait."""
    pairing = Pairing(CALL, TextConfig(wait_ms=60_000), ())
    done, left, to_come = [], list(words), list(segments)
    while left or to_come:
        if left and (not to_come or data.draw(st.booleans())):
            done += pairing.push_words([left.pop(0)])
        else:
            done += pairing.push(to_come.pop(0))
    done += pairing.flush()
    reference, expected = pair_all(words, segments)
    assert list(map(key, done)) == list(map(key, expected))
    assert pairing.unpaired == reference.unpaired


@given(calls(), transcripts(("customer", "agent")), st.data())
def test_late_and_changed_words_end_as_if_they_had_been_there(segments, words, data):
    """Nothing is waited for: every segment goes out alone, or with a wrong hypothesis, and is put right later."""
    pairing = Pairing(CALL, TextConfig(wait_ms=0, revisable=100), ())
    versions = []
    mishaps = st.lists(st.tuples(st.integers(0, 24_000), st.sampled_from(["", "mishap", "a b"])), max_size=2)
    for number, heard in enumerate(words):
        final, guesses = replace(heard, id=str(number)), data.draw(mishaps)
        versions.append([replace(final, start_ms=s, end_ms=s, text=t, final=False) for s, t in guesses] + [final])
    latest: dict[tuple[str, int], Utterance] = {}
    to_come = list(segments)
    while to_come or any(versions):
        waiting = [v for v in versions if v]
        if waiting and (not to_come or data.draw(st.booleans())):
            done = pairing.push_words([data.draw(st.sampled_from(waiting)).pop(0)])
        else:
            done = pairing.push(to_come.pop(0))
        for utterance in done:
            before = latest.get((utterance.channel, utterance.index))
            assert utterance.revision == (0 if before is None else before.revision + 1)
            assert before is None or before.text != utterance.text
            latest[utterance.channel, utterance.index] = utterance
    _, expected = pair_all(words, segments)
    told = {name: sorted((u.text or "").split()) for name, u in latest.items()}
    assert told == {(u.channel, u.index): sorted((u.text or "").split()) for u in expected}
    assert pairing.counts.words_paired == sum(map(len, told.values()))


def test_only_the_last_utterances_can_change():
    pairing = Pairing(CALL, TextConfig(wait_ms=0, revisable=1), ())
    for index in range(3):
        pairing.push(segment("customer", index, 5000 * index, 5000 * index + 1000))
    assert pairing.push_words([Words(5000, 6000, "forgotten", "customer")]) == []
    (last,) = pairing.push_words([Words(10_000, 11_000, "remembered", "customer")])
    assert (last.index, last.text, last.revision) == (2, "remembered", 1)


def test_a_late_version_of_an_unlabelled_cue_goes_where_its_words_were():
    pairing = Pairing(CALL, TextConfig(wait_ms=0), ())
    pairing.push_words([Words(0, 1000, "I sank so", None, "c1", False)])
    (first,) = pairing.push(segment("agent", 0, 0, 1000))
    (second,) = pairing.push_words([Words(200, 3000, "I think so", None, "c1")])
    assert [(u.text, u.revision, u.channel) for u in (first, second)] == [
        ("I sank so", 0, "agent"),
        ("I think so", 1, "agent"),
    ]


def test_a_role_judged_by_words_alone_gets_its_utterance_when_they_come():
    pairing = Pairing(CALL, TextConfig(wait_ms=0, policy={"agent": "text_only", "customer": "off"}), ())
    assert pairing.push(segment("agent", 0, 0, 1000)) == []
    assert pairing.push(segment("customer", 0, 0, 1000)) == []
    (late,) = pairing.push_words([Words(0, 1000, "late", "agent"), Words(0, 1000, "secret", "customer")])
    assert (late.channel, late.text, late.samples, late.revision) == ("agent", "late", None, 0)


@given(calls(), transcripts((None,)), st.booleans())
def test_unlabelled_live_words_give_the_same_too(segments, words, words_first):
    pairing = Pairing(CALL, TextConfig(wait_ms=60_000), ())
    steps = [lambda: pairing.push_words(words), lambda: [u for s in segments for u in pairing.push(s)]]
    done = [u for step in (steps if words_first else steps[::-1]) for u in step()] + pairing.flush()
    assert list(map(key, done)) == list(map(key, pair_all(words, segments)[1]))


@given(calls(), transcripts())
def test_reset_begins_again(segments, words):
    pairing, first = pair_all(words, segments)
    pairing.reset()
    again = [u for s in segments for u in pairing.push(s)] + pairing.flush()
    assert list(map(key, again)) == list(map(key, first))


def test_a_cue_over_two_segments_is_divided_by_time():
    cue = Words(1000, 5000, "one two three four five six seven eight", "customer")
    _, done = pair_all([cue], [segment("customer", 0, 1000, 2750), segment("customer", 1, 3000, 5000)])
    assert [u.text for u in done] == ["one two three four", "five six seven eight"]


def test_several_cues_in_one_segment_are_joined_in_order_of_time():
    words = [Words(1500, 1900, "there", "customer"), Words(1000, 1400, "hello", "A")]
    _, done = pair_all(words, [segment("customer", 0, 900, 2000)])
    assert [u.text for u in done] == ["hello there"]
    assert done[0].text_source == "given"


def test_a_cue_that_stays_on_the_screen_is_not_stretched_over_the_next_segment():
    cue = Words(1000, 9000, "thank you", "customer")
    _, done = pair_all([cue], [segment("customer", 0, 1000, 2000), segment("customer", 1, 5000, 9000)])
    assert [u.text for u in done] == ["thank you", None]


@pytest.mark.parametrize(("at", "paired"), [(400, False), (600, True), (2100, True), (2300, False)])
def test_words_in_silence_belong_to_a_segment_within_reach(at: int, paired: bool):
    """500 ms before the segment; behind it half of the 400 ms of silence that closed it."""
    pairing, done = pair_all([Words(at, at, "hm", "customer")], [segment("customer", 0, 1000, 2000)])
    assert (done[0].text == "hm") is paired
    assert pairing.unpaired == (not paired)


def test_words_of_the_other_channel_are_not_taken():
    pairing, done = pair_all([Words(1000, 2000, "hi", "agent")], [segment("customer", 0, 1000, 2000)])
    assert done[0].text is None
    assert pairing.unpaired == 1


def test_an_unlabelled_cue_goes_to_who_speaks_and_not_to_a_short_mhm():
    cue = Words(1000, 5000, "my internet has been down for three whole days and nobody has called me", None)
    mhm, turn = segment("agent", 0, 2800, 3200), segment("customer", 0, 900, 5100)
    _, done = pair_all([cue], [mhm, turn])
    assert [(u.channel, u.text) for u in done] == [("agent", None), ("customer", cue.text)]


def test_an_unlabelled_cue_through_two_turns_is_divided():
    cue = Words(1000, 5000, "one two three four five six seven eight", None)
    _, done = pair_all([cue], [segment("customer", 0, 1000, 2800), segment("agent", 0, 3000, 5100)])
    assert [u.text for u in done] == ["one two three four", "five six seven eight"]


def test_a_cue_that_begins_while_the_other_still_talks_is_whole():
    """The first word used to go to the other side."""
    cue = Words(4600, 8000, "hi my internet has been down", None)
    turns = [segment("agent", 0, 500, 5000), segment("customer", 0, 4700, 8200)]
    _, done = pair_all([cue], turns)
    assert [(u.channel, u.text) for u in done] == [("agent", None), ("customer", cue.text)]
    pairing = Pairing(CALL, TextConfig(), ())
    steps = [pairing.push(turns[0]), pairing.push_words([cue]), pairing.push(turns[1]), pairing.flush()]
    texts = {u.channel: u.text for step in steps for u in step}
    assert texts == {"agent": None, "customer": cue.text}


def test_a_short_answer_inside_the_other_sides_turn_is_its_own():
    words = [
        Words(0, 9000, "a long story that goes on and on for quite a while", None),
        Words(4000, 4400, "mhm", None),
    ]
    _, done = pair_all(words, [segment("agent", 0, 3900, 4600), segment("customer", 0, 0, 9200)])
    assert [(u.channel, u.text) for u in done] == [("agent", "mhm"), ("customer", words[0].text)]


def test_words_with_times_of_their_own_go_to_who_speaks_then():
    """A recogniser's words on the mix of both channels: the cue boundaries mean nothing."""
    words = [Words(at, at + 250, f"w{at}", None) for at in range(1000, 5000, 250)]
    _, done = pair_all(words, [segment("customer", 0, 900, 2490), segment("agent", 0, 2510, 5100)])
    assert [len((u.text or "").split()) for u in done] == [6, 10]


def test_the_words_of_one_speaker_stay_together_though_their_times_are_wrong(tmp_path):
    """WhisperX lets turns overlap that do not: the customer's first words lie in the agent's turn."""
    segments = [
        {"speaker": who, "start": begin, "end": begin + 0.4 * len(text.split()), "text": f" {text}"}
        | {
            "words": [
                {"word": word, "start": begin + 0.4 * place, "end": begin + 0.4 * (place + 1), "speaker": who}
                for place, word in enumerate(text.split())
            ]
        }
        for who, begin, text in (
            ("S0", 0.6, "thank you for calling how can I help"),
            ("S1", 3.5, "hi my line is down"),
        )
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"segments": segments}))
    words = read_transcript(path, CALL.channels).words
    _, done = pair_all(words, [segment("agent", 0, 500, 3900), segment("customer", 0, 4000, 5600)])
    assert [u.text for u in done] == ["thank you for calling how can I help", "hi my line is down"]


def test_on_a_call_of_one_channel_a_cue_keeps_its_words_through_pauses():
    call = Call("c", (Channel("mono"),))
    pairing = Pairing(call, DEFAULT, [Words(0, 8000, "one two three four five six seven eight", None)])
    turns = [segment("mono", 0, 1500, 2500), segment("mono", 1, 5000, 8000)]
    done = [u for turn in turns for u in pairing.push(turn)] + pairing.flush()
    assert [u.text for u in done] == ["one two three four five six", "seven eight"]


def test_a_segment_does_not_wait_for_ever_for_a_cue_that_nobody_says():
    pairing = Pairing(CALL, DEFAULT, [Words(900, 60_000, " ".join(["word"] * 600), None)])
    assert pairing.push(segment("customer", 0, 1000, 2000)) == []
    assert pairing.advance(74_999) == []
    (out,) = pairing.advance(75_001)
    assert out.text


@needs("shared data")
def test_real_calls_without_channel_names():
    calls = [load(HARPERVALLEY, name) for name in ("0002f70f7386445b", "02e41649e7c441fd")]
    for way in (beforehand, live):
        scores = [score(told, way(told)) for told in calls]
        assert sum(s.wrong for s in scores) <= 0.03 * sum(s.words for s in scores)


def test_a_segment_waits_for_live_words_and_then_goes_alone():
    pairing = Pairing(CALL, TextConfig(wait_ms=1500), ())
    assert pairing.push(segment("customer", 0, 1000, 2000)) == []  # closed at 2400
    assert pairing.advance(3899) == []
    [alone] = pairing.advance(3900)
    assert (alone.text, alone.text_source, pairing.counts.timed_out) == (None, "none", 1)
    [late] = pairing.push_words([Words(1100, 1500, "late", "customer")])
    assert (late.index, late.text, late.text_source, late.revision) == (0, "late", "given", 1)
    assert pairing.flush() == []
    assert (pairing.unpaired, pairing.counts.revised, pairing.counts.without_text) == (0, 1, 0)


def test_a_later_word_lets_the_segment_go_only_from_a_source_in_order():
    words = [Words(1100, 1500, "hello", "customer"), Words(3000, 3500, "and", "customer")]
    live = Pairing(CALL, TextConfig(), ())
    live.push(segment("customer", 0, 1000, 2000))
    assert [u.text for u in live.push_words(words)] == ["hello"]
    unordered = Pairing(CALL, TextConfig(in_order=False), ())
    unordered.push(segment("customer", 0, 1000, 2000))
    assert unordered.push_words(words) == []
    assert [u.text for u in unordered.end_words()] == ["hello"]


def test_held_segments_and_words_are_bounded():
    pairing = Pairing(CALL, TextConfig(wait_ms=60_000, max_held=3, max_words=5), ())
    done = [u for i in range(10) for u in pairing.push(segment("customer", i, i * 600, i * 600 + 100))]
    assert (len(done), pairing.held, pairing.counts.forced_out) == (7, 3, 7)
    pairing.push_words([Words(90_000 + i, 90_001 + i, "a b", None if i % 2 else "agent") for i in range(20)])
    assert pairing.pending_words <= 5
    assert pairing.pending_words + pairing.unpaired == 40


def test_the_policy_of_each_role():
    config = TextConfig(policy={"customer": "text_only", "agent": "off"})
    words = [Words(1000, 1500, "hello", "customer"), Words(2000, 2500, "good day", "agent")]
    turns = [
        segment("customer", 0, 900, 1600),
        segment("agent", 0, 1900, 2600),
        segment("customer", 1, 5000, 6000),
    ]
    pairing, done = pair_all(words, turns, config)
    assert [(u.channel, u.text, u.samples) for u in done] == [("customer", "hello", None)]
    counts = pairing.counts
    assert (counts.segments_off, counts.words_withheld, counts.segments_wordless) == (1, 2, 1)


def test_unknown_channels_and_misplaced_words_are_refused():
    with pytest.raises(TranscriptError, match=r"'Bob' is not in this call: name one of customer, agent"):
        Pairing(CALL, DEFAULT, [Words(0, 1, "secret", "Bob")])
    with pytest.raises(TranscriptError, match="up front: open it for live text"):
        Pairing(CALL, DEFAULT, [Words(0, 1, "known", "A")]).push_words([])
    with pytest.raises(TranscriptError, match="without given text"):
        Pairing(CALL, DEFAULT).push_words([])


def test_words_that_are_likelier_wrong_than_right_are_shown_and_not_judged():
    pairing = Pairing(CALL, TextConfig(policy={"agent": "text_only"}))
    [unsure] = pairing.push(segment("customer", 0, 0, 1000), Transcription("Shut up!", 0.3))
    assert (unsure.text, unsure.text_confidence, unsure.judged_text) == ("Shut up!", 0.3, None)
    assert unsure.degraded == ("text: unsure",)
    [sure] = pairing.push(segment("customer", 1, 1000, 2000), Transcription("Monday.", 0.8))
    assert (sure.judged_text, sure.degraded) == ("Monday.", ())
    [unknown] = pairing.push(segment("customer", 2, 2000, 3000), Transcription("Monday."))
    assert (unknown.judged_text, unknown.text_confidence) == ("Monday.", None)
    assert pairing.push(segment("agent", 0, 3000, 4000), Transcription("Heaven.", 0.3)) == []  # nothing is left
    given = Pairing(CALL, DEFAULT, [Words(0, 900, "given", "customer")])
    [said] = given.push(segment("customer", 0, 0, 1000))
    assert (said.judged_text, said.text_confidence) == ("given", None)


def test_a_channel_in_which_hardly_a_word_is_understood_is_said_to_be_so():
    pairing = Pairing(CALL, DEFAULT)
    tags = []
    for index, confidence in enumerate([0.2, 0.1, 0.2, 0.9, 0.9]):
        heard = Transcription("seven words that nobody has ever said", confidence)
        [utterance] = pairing.push(segment("customer", index, 2000 * index, 2000 * index + 1000), heard)
        tags.append(len(utterance.degraded))
    assert tags == [1, 1, 2, 0, 0]
    [other] = pairing.push(segment("agent", 0, 20_000, 21_000), Transcription("of another channel", 0.2))
    assert other.degraded == ("text: unsure",)


def test_words_of_another_language_are_shown_and_not_judged():
    german = TextConfig(language="de")
    [said] = Pairing(CALL, german, [Words(0, 900, "guten Tag", "customer")]).push(segment("customer", 0, 0, 1000))
    assert (said.text, said.judged_text, said.degraded) == ("guten Tag", None, ("text: not English",))
    assert not Pairing(CALL, german).recognises(segment("customer", 0, 0, 1000))
    with pytest.raises(ValueError, match="language"):
        TextConfig(language="German")


def test_a_sound_of_two_channels_goes_to_the_one_with_the_strictest_policy():
    assert Pairing(CALL, DEFAULT).precedence == ["customer", "agent"]
    assert Pairing(CALL, TextConfig(policy={"agent": "off"})).precedence == ["agent", "customer"]
    assert Pairing(CALL, TextConfig(policy={"agent": "text_only"})).precedence == ["agent", "customer"]


def test_speech_in_which_no_word_is_found_is_not_understood_either():
    pairing = Pairing(CALL, DEFAULT)
    [short] = pairing.push(segment("customer", 0, 0, 3000), Transcription(""))
    [long] = pairing.push(segment("customer", 1, 3000, 12_000), Transcription(""))
    assert short.degraded == ()
    assert [tag.partition(" (")[0] for tag in long.degraded] == ["text: hardly a word is understood"]
    [without_asr] = Pairing(CALL, DEFAULT).push(segment("customer", 0, 0, 12_000))
    assert without_asr.degraded == ()
