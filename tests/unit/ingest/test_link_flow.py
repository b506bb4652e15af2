import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.link_flow import (
    BATCH_CHARS,
    PIECE_BYTES,
    PIECE_MS,
    AudioCutter,
    AudioOrder,
    SenderState,
    words_messages,
)
from bcaf_stream.ingest.link_protocol import Accepted, Audio, Closed, Credit, Refused
from bcaf_stream.types import Words


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
    cutter, order, state = AudioCutter(rate, channels, window_ms), AudioOrder(), SenderState(rate)
    state.take(Accepted("7", window_ms))
    samples_NC = np.arange(sum(lengths) * channels, dtype=np.int64).astype(np.int16).reshape(-1, channels)
    got, at = [], 0
    for length in lengths:
        for piece in cutter.push(samples_NC[at : at + length]):
            assert piece.samples_NC.nbytes <= PIECE_BYTES
            assert len(piece.samples_NC) * 1000 <= PIECE_MS * rate
            if not state.may_send(piece):
                state.take(Credit(order.received * 1000 // rate + window_ms))
            assert state.may_send(piece)
            assert order.accept(piece)
            got.append(piece.samples_NC)
        at += length
    assert order.received == len(samples_NC)
    if got:
        np.testing.assert_array_equal(np.concatenate(got), samples_NC)


def test_a_sender_may_send_up_to_its_credit_and_no_sample_further():
    state = SenderState(rate=8000)
    assert not state.may_send(audio(0, 0, 1))
    state.take(Accepted("7", 100))
    assert state.may_send(audio(0, 0, 800))
    assert not state.may_send(audio(0, 0, 801))
    state.take(Credit(200))
    state.take(Credit(150))  # credit is never taken back
    assert state.may_send(audio(1, 800, 800))
    assert not state.may_send(audio(1, 800, 801))


def test_a_sender_learns_why_its_call_is_over():
    state = SenderState(rate=8000)
    with pytest.raises(LinkError, match="refused: busy"):
        state.take(Refused("busy"))
    with pytest.raises(LinkError, match="the server ended the call: sender lost"):
        state.take(Closed(0, "sender lost"))
    state.closing = True
    state.take(Closed(3, "complete"))
    assert state.closed == Closed(3, "complete")


@pytest.mark.parametrize(
    "samples", [np.zeros(4, np.int16), np.zeros((4, 2), np.int16), np.zeros((4, 1), np.float32)]
)
def test_samples_that_do_not_fit_the_call(samples: np.ndarray):
    with pytest.raises(LinkError, match=r"int16 of shape \(N, 1\), not "):
        list(AudioCutter(8000, 1, 1000).push(samples))


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
