"""Live text: every line is words or an answer, and no answer says what was in it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.protocol import Reply
from bcaf_stream.ingest.protocols.live_text import Line, LiveTextParser
from bcaf_stream.types import Words

GOOD = {"call": "c", "channel": "left", "start_ms": 5, "end_ms": 90, "text": "hello there"}


def push(*lines: object) -> list[Line | Reply]:
    return LiveTextParser().push("\n".join(json.dumps(line) for line in lines), 0)


def test_lines_become_words():
    found = push(
        GOOD, GOOD | {"id": "u1", "is_final": False, "channel": None, "more": 1}, {"call": "c", "last": True}
    )
    assert found == [
        Line((Words(5, 90, "hello there", "left"),), False, "c", 1),
        Line((Words(5, 90, "hello there", None, "u1", final=False),), False, "c", 2),
        Line((), True, "c", 3),
    ]


def test_the_last_words_may_say_that_they_are():
    (found,) = push(GOOD | {"last": True})
    assert found == Line((Words(5, 90, "hello there", "left"),), True, "c", 1)


def test_lines_are_counted_over_frames_and_bad_ones_stop_nothing():
    parser = LiveTextParser()
    good = json.dumps(GOOD)
    found = [*parser.push(f"{good}\nsecret words\n\n", 0), *parser.push(f"{good}\r\n", 0)]
    assert [item.number for item in found if isinstance(item, Line)] == [1, 3]
    (answer,) = [json.loads(item.data) for item in found if isinstance(item, Reply)]
    assert answer == {"line": 2, "error": "live text: not a JSON message"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"call": None}, "call must be given"),
        ({"call": ""}, "call must have"),
        ({"start_ms": None}, "in order"),
        ({"start_ms": 91}, "in order"),
        ({"end_ms": -1}, "end_ms must be a whole"),
        ({"end_ms": 1.5}, "end_ms must be a whole"),
        ({"text": None}, "text must be"),
        ({"text": ["secret"]}, "text must be"),
        ({"text": "secret" * 2000}, "text must be"),
        ({"text": "secret \ud800"}, "text must be"),
        ({"channel": "secret" * 40}, "channel must have"),
        ({"id": {}}, "id must have"),
        ({"is_final": "secret"}, "is_final must be"),
        ({"last": 1}, "last must be"),
    ],
)
def test_a_bad_line_is_answered_and_never_quoted(change, said):
    (answer,) = push(GOOD | change)
    assert isinstance(answer, Reply)
    assert said in json.loads(answer.data)["error"]
    assert "secret" not in answer.data
    assert answer.data.count("\n") == 1
    assert answer.data.endswith("\n")


def test_answers():
    (words,) = push(GOOD)
    assert isinstance(words, Line)
    assert LiveTextParser().text_taken(words) == []
    assert LiveTextParser(ack=True).text_taken(words) == [Reply('{"line": 1, "ok": true}\n')]
    assert LiveTextParser().text_refused(words, LinkError("no such call is running")) == [
        Reply('{"line": 1, "error": "no such call is running"}\n')
    ]


def test_binary_frames_are_refused():
    with pytest.raises(LinkError, match="must be text"):
        LiveTextParser().push(b"{}", 0)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
wild = st.dictionaries(st.sampled_from(sorted([*GOOD, "id", "is_final", "last"])), values).map(
    lambda change: json.dumps(GOOD | change)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(wild | values.map(json.dumps) | st.text(max_size=30), max_size=8))
def test_whatever_comes_is_words_or_an_answer(lines):
    parser = LiveTextParser()
    found = [item for line in lines for item in parser.push(line, 0)]
    for item in found:
        if isinstance(item, Line):
            assert all(isinstance(words, Words) for words in item.words)
        else:
            assert json.loads(item.data)["error"]
