from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.client.backlog import Backlog, SecondReading
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.protocols.link import Accepted, Audio, Closed, Credit, Refused
from bcaf_stream.ingest.protocols.link_flow import (
    BATCH_CHARS,
    PIECE_BYTES,
    PIECE_MS,
    AudioOrder,
    ConnectionLostError,
    SenderState,
    piece_samples,
    words_messages,
)
from bcaf_stream.types import PcmN, Words


def audio(seq: int, start: int, length: int) -> Audio:
    return Audio(seq, start, np.zeros((length, 1), np.int16))


@given(
    st.sampled_from([8000, 11_025, 16_000, 48_000, 192_000]),
    st.integers(1, 16),
    st.integers(200, 20_000),
    st.lists(st.integers(0, 20_000), max_size=4),
)
def test_whatever_the_chunks_the_pieces_are_whole_in_order_and_fit_the_window(
    rate: int, channels: int, window_ms: int, lengths: list[int]
):
    """Played through with a server that gives the least credit it may: the sender is never stuck."""
    order, state, backlog = AudioOrder(), SenderState(rate), Backlog(channels, 100_000)
    state.take(Accepted("7", window_ms))
    step = piece_samples(rate, channels, window_ms)
    samples_NC = np.arange(sum(lengths) * channels, dtype=np.int64).astype(np.int16).reshape(-1, channels)
    got, at = [], 0
    for length in lengths:
        backlog.push(samples_NC[at : at + length])
        at += length
        while backlog.unsent:
            piece = Audio(len(got), backlog.cursor, backlog.piece(step))
            backlog.cursor += len(piece.samples_NC)
            assert piece.samples_NC.nbytes <= PIECE_BYTES
            assert len(piece.samples_NC) * 1000 <= PIECE_MS * rate
            if not state.may_send(backlog.cursor):
                state.take(Credit(order.received * 1000 // rate + window_ms))
            assert state.may_send(backlog.cursor)
            assert order.accept(piece)
            got.append(piece.samples_NC)
    assert order.received == len(samples_NC)
    if got:
        np.testing.assert_array_equal(np.concatenate(got), samples_NC)


@given(st.integers(1, 50), st.lists(st.tuples(st.integers(0, 80), st.integers(1, 60)), max_size=20))
def test_a_backlog_holds_the_last_of_what_came(capacity: int, steps: list[tuple[int, int]]):
    backlog, came = Backlog(1, capacity), np.zeros((0, 1), np.int16)
    for length, most in steps:
        new = np.arange(len(came), len(came) + length, dtype=np.int16).reshape(-1, 1)
        came = np.concatenate([came, new])
        backlog.push(new)
        new[:] = -1  # it is the caller's again
        assert (backlog.start, backlog.end) == (max(0, len(came) - capacity), len(came))
        backlog.cursor = max(backlog.cursor, backlog.start)
        backlog.done = backlog.cursor
        assert backlog.room == capacity - backlog.unsent
        backlog.done = max(0, backlog.cursor - 7)  # analysis is behind what was sent
        assert backlog.room == max(0, capacity - (backlog.end - backlog.done))
        piece = backlog.piece(most)
        assert 0 < len(piece) <= most or not backlog.unsent
        np.testing.assert_array_equal(piece, came[backlog.cursor :][: len(piece)])
        backlog.cursor += len(piece)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 200)), max_size=10), st.integers(1, 50))
def test_sound_read_again_is_the_same_from_wherever(asked: list[tuple[int, int]], part: int):
    sound = np.arange(500, dtype=np.int16).reshape(-1, 1)

    def again(start: int) -> Iterator[PcmN]:
        for at in range(start, len(sound), part):
            yield sound[at : at + part]

    second = SecondReading(again)
    for start, count in [*asked, (100, 10), (110, 20)]:
        np.testing.assert_array_equal(second.piece(start, count), sound[start : start + count])
    with pytest.raises(LinkError, match="was the file changed"):
        second.piece(400, 101)


def test_a_sender_may_send_up_to_its_credit_and_no_sample_further():
    state = SenderState(rate=8000)
    assert not state.may_send(1)
    state.take(Accepted("7", 100))
    assert state.may_send(800)
    assert not state.may_send(801)
    state.take(Credit(200))
    state.take(Credit(150))  # credit is never taken back
    assert state.may_send(1600)
    assert not state.may_send(1601)
    resumed = SenderState(rate=8000, resumed=True)
    resumed.take(Accepted("7", 100, start=8000))
    assert resumed.may_send(8800)
    assert not resumed.may_send(8801)


def test_a_sender_learns_why_its_call_is_over():
    state = SenderState(rate=8000)
    for refusal in ("busy", "busy: 64 calls", "no call is open here"):
        with pytest.raises(LinkError, match=f"refused: {refusal}"):
            state.take(Refused(refusal))
    with pytest.raises(LinkError, match="the server ended the call: sender lost"):
        state.take(Closed(0, "sender lost"))
    state.closing = True
    state.take(Closed(3, "complete"))
    assert state.closed == Closed(3, "complete")


def test_a_sender_that_resumes_knows_what_passes_and_what_does_not():
    state = SenderState(rate=8000, resumed=True)
    for passing in ("busy: the hub is starting", "no call is open here: the server may have restarted"):
        with pytest.raises(ConnectionLostError):
            state.take(Refused(passing))
    with pytest.raises(LinkError, match="older deployment"):
        state.take(Accepted("7", 100))
    with pytest.raises(LinkError, match="refused: call 7 is running already") as final:
        state.take(Refused("call 7 is running already"))
    assert not isinstance(final.value, ConnectionLostError)
    with pytest.raises(LinkError, match="ended the call: complete"):  # the sender is not done
        state.take(Closed(1, "complete"))
    state.closing = True
    with pytest.raises(LinkError, match="ended the call: sender lost"):
        state.take(Closed(1, "sender lost"))
    state.take(Closed(3, "complete"))
    assert state.closed == Closed(3, "complete")


@pytest.mark.parametrize(
    "samples", [np.zeros(4, np.int16), np.zeros((4, 2), np.int16), np.zeros((4, 1), np.float32)]
)
def test_samples_that_do_not_fit_the_call(samples: np.ndarray):
    with pytest.raises(LinkError, match=r"int16 of shape \(N, 1\), not "):
        Backlog(1, 8000).push(samples)


def test_audio_sent_twice_is_ignored_and_missing_audio_is_an_error():
    order = AudioOrder()
    assert order.accept(audio(0, 0, 10))
    assert order.accept(audio(1, 10, 10))
    assert not order.accept(audio(0, 0, 10))
    assert not order.accept(audio(1, 10, 10))
    with pytest.raises(LinkError, match="sample 20 expected, 30 came"):
        order.accept(audio(2, 30, 10))
    with pytest.raises(LinkError, match="sample 20 expected, 15 came"):
        order.accept(audio(2, 15, 10))
    with pytest.raises(LinkError, match="message 2 expected, 3 came"):
        order.accept(audio(3, 20, 10))
    assert order.accept(audio(2, 20, 10))
    assert order.received == 30


@given(
    st.lists(st.builds(Words, st.just(0), st.just(1), st.text("ab ", max_size=6000)), max_size=8), st.booleans()
)
def test_words_are_sent_whole_in_order_and_in_bounded_messages(words: list[Words], last: bool):
    messages = list(words_messages(words, last))
    assert [w for m in messages for w in m.words] == words
    assert all(sum(len(w.text) for w in m.words) <= BATCH_CHARS for m in messages)
    assert [m.last for m in messages] == [False] * (len(messages) - 1) + [last] * bool(messages)
    assert all(m.words for m in messages[:-1])
    assert bool(messages) == (bool(words) or last)
