"""What must not be stored, measured on 200 sentences, and what holds of every text."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.redaction import Redactor
from bcaf_stream.redaction.numbers import numbers
from bcaf_stream.types import Redacted

KINDS: tuple[Redacted, ...] = get_args(Redacted)
MARK = re.compile(r"\[(card|account|phone|email|id_number):([^]]*)\]")


def calls(name: str) -> Iterator[list[tuple[str, str]]]:
    """Channel and marked words of the utterances of each call."""
    for line in Path(__file__).with_name(name).read_text().splitlines():
        if not line.startswith("#"):
            said = [one.strip() for one in line.split("||")]
            yield [
                ("agent", one.removeprefix("agent:").strip()) if one.startswith("agent:") else ("customer", one)
                for one in said
            ]


def squeezed(text: str) -> str:
    return re.sub(r"[\s.,;-]+", " ", text).strip().lower()


def measured(name: str) -> tuple[Counter[str], list[str]]:
    """Spans that are hidden, hidden as another kind, missed (some of it is left), and hidden without need."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for call in calls(name):
        redactor = Redactor(KINDS)
        for n, (channel, marked) in enumerate(call):
            text, expected = MARK.sub(r"\2", marked), MARK.sub(r"{\1}", marked)
            found, count = redactor.push(channel, text, n * 4000)
            wanted = [match[1] for match in MARK.finditer(marked)]
            shown = re.findall(r"\{(\w+)\}", found)
            assert count == len(shown)
            if squeezed(found) == squeezed(expected):
                counts["right"] += len(wanted)
                continue
            wrong.append(f"{found}   <- {marked}")
            untyped = re.compile(r"\{\w+\}")
            if squeezed(untyped.sub("{}", found)) == squeezed(untyped.sub("{}", expected)):
                counts["other_kind"] += len(wanted)
            else:
                missed = len(wanted) - min(len(wanted), len(shown))
                partly = 0 if missed or len(shown) > len(wanted) else len(wanted)
                counts["missed"] += missed + partly
                counts["right"] += len(wanted) - missed - partly
                counts["needless"] += max(0, len(shown) - len(wanted)) + partly
    return counts, wrong


@pytest.mark.parametrize(("name", "sentences", "least"), [("sentences.txt", 200, 0.97), ("unseen.txt", 40, 0.95)])
def test_what_is_found_of_sentences(name: str, sentences: int, least: float):
    assert len(list(calls(name))) >= sentences
    counts, wrong = measured(name)
    hidden = counts["right"] + counts["other_kind"]
    recall = hidden / (hidden + counts["missed"])
    precision = hidden / (hidden + counts["needless"])
    print(f"{dict(counts)} recall {recall:.3f} precision {precision:.3f}", *wrong, sep="\n")
    assert recall >= least, wrong
    assert precision >= least, wrong


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("double five, oh", "550"),
        ("four-four SEVEN nine", "4479"),
        ("forty four seventy nine", "4479"),
        ("forty oh nineteen", "40019"),
        ("triple two treble 3", "222333"),
        ("one eight hundred five five five", "1800555"),
        ("4479 1234. 5678", "447912345678"),
    ],
)
def test_numbers_are_read_as_they_are_spoken(text: str, digits: str):
    assert [number.digits for number in numbers(text)] == [digits]


def test_what_is_not_asked_for_stays():
    text = "my card is 4111 1111 1111 1111 and my email is jo@example.com"
    assert Redactor(["email"]).push("customer", text, 0) == (text.replace("jo@example.com", "{email}"), 1)


def test_what_may_still_change_changes_nothing_that_follows():
    redactor = Redactor(KINDS)
    assert redactor.peek("customer", "the card is one two three four", 0) == ("the card is {card}", 1)
    assert redactor.push("customer", "I paid for 48 of them", 1000)[1] == 0
    assert redactor.push("customer", "4479", 2000)[1] == 0


def test_a_card_read_out_long_after_nobody_spoke_of_it_is_known_by_its_check_digit():
    said = ["four one one one one one", "one one one one one one one one one one"]
    redactor = Redactor(KINDS)
    assert [redactor.push("customer", text, n * 100_000)[0] for n, text in enumerate(said)] == [
        "{account}",
        "{card}",
    ]


WORDS = st.text(max_size=6) | st.sampled_from(
    [
        "my",
        "card",
        "account",
        "phone",
        "email",
        "is",
        "at",
        "dot",
        "com",
        "four",
        "oh",
        "double",
        "4479",
        "12",
        "+",
        "(",
        ")",
        ",",
        ".",
        "$5",
        "twenty",
        "hundred",
        "and",
        "uh",
        "{card}",
        "İ",
        "\ufeff",
    ]
)


@given(st.lists(WORDS, max_size=30), st.sets(st.sampled_from(KINDS)))
@settings(max_examples=150, deadline=None)
def test_any_text_is_taken_and_what_was_redacted_has_nothing_more_to_hide(words: list[str], kinds: set[Redacted]):
    text = " ".join(words)
    found, count = Redactor(sorted(kinds)).push("customer", text, 0)
    assert (found == text) == (count == 0)
    assert found.count("{") - text.count("{") == count


@given(st.from_regex(r"\A[3-6][0-9]{14}\Z"), st.sampled_from(["{}", "it is {} thanks", "pay with {} and go"]))
@settings(max_examples=100, deadline=None)
def test_no_number_with_a_card_s_check_digit_stays(body: str, sentence: str):
    from stdnum import luhn

    number = body + luhn.calc_check_digit(body)
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for shown in (
        number,
        " ".join(number[n : n + 4] for n in range(0, 16, 4)),
        " ".join(names[int(d)] for d in number),
    ):
        found, count = Redactor(["card"]).push("customer", sentence.format(shown), 0)
        assert (found, count) == (sentence.format("{card}"), 1)
