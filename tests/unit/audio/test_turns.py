import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.audio.crosstalk import CrosstalkConfig
from bcaf_stream.audio.turns import AudioConfig, CallCutter, TurnOrder
from bcaf_stream.audio.vad import VadConfig
from bcaf_stream.config import load_config
from bcaf_stream.errors import ConfigError, SourceError
from bcaf_stream.types import AudioChunk, Call, Channel, SpeechSegment
from tests.unit.audio.signals import babble, silence

CALL = Call("c1", (Channel("customer", "customer"), Channel("agent", "agent")))
NOTHING = np.zeros(0, np.int16)
# Silero is hard to deceive: it takes the babble for speech here and there, webrtcvad takes all of it.
# Both channels are given the same babble, which is meant to be two people here.
WEBRTC = AudioConfig(vad=VadConfig(mode="webrtc", aggressiveness=3), crosstalk=CrosstalkConfig(enabled=False))


def segment(channel, index, closed_ms):
    return SpeechSegment(channel, index, closed_ms - 200, closed_ms - 100, closed_ms, NOTHING)


def names(segments):
    return [(s.channel, s.index) for s in segments]


class TestTurnOrder:
    def test_a_segment_waits_until_the_other_channel_is_known_beyond_it(self):
        order = TurnOrder(["a", "b"])
        assert order.push([segment("a", 0, 500)], "a", 900) == []
        assert order.push([], "b", 480) == []
        assert order.push([], "b", 500) == []
        assert names(order.push([], "b", 520)) == [("a", 0)]

    def test_an_earlier_one_of_the_other_channel_comes_first(self):
        order = TurnOrder(["a", "b"])
        order.push([segment("a", 0, 500)], "a", 500)
        assert names(order.push([segment("b", 0, 300), segment("b", 1, 600)], "b", 600)) == [("b", 0), ("a", 0)]
        assert names(order.flush()) == [("b", 1)]

    def test_ties_follow_the_order_of_the_channels(self):
        order = TurnOrder(["z", "a"])
        assert order.push([segment("a", 0, 500)], "a", 700) == []
        assert names(order.push([segment("z", 0, 500)], "z", 700)) == [("z", 0), ("a", 0)]

    def test_one_channel_does_not_wait(self):
        assert names(TurnOrder(["a"]).push([segment("a", 0, 500)], "a", 500)) == [("a", 0)]

    def test_an_ended_channel_holds_nobody_back(self):
        order = TurnOrder(["a", "b"])
        order.push([segment("a", 0, 500)], "a", 500)
        assert names(order.end("b")) == [("a", 0)]
        assert names(order.push([segment("a", 1, 800)], "a", 800)) == [("a", 1)]

    def test_reset_and_close_forget(self):
        order = TurnOrder(["a", "b"])
        order.push([segment("a", 0, 500)], "a", 500)
        order.reset()
        assert order.flush() == []
        order.close()

    @given(
        st.lists(st.lists(st.integers(1, 30), max_size=8), min_size=1, max_size=3),
        st.randoms(use_true_random=False),
    )
    def test_the_order_depends_on_stream_time_alone(self, steps_by_channel, random):
        """Whatever the interleaving: sorted by (closed, rank), each once, and each as soon as it is certain."""
        channels = "abc"[: len(steps_by_channel)]
        closings = {
            c: [20 * sum(s[: i + 1]) for i in range(len(s))]
            for c, s in zip(channels, steps_by_channel, strict=True)
        }
        expected = sorted((t, c, i) for c, times in closings.items() for i, t in enumerate(times))
        order, out, clock = TurnOrder(channels), [], dict.fromkeys(channels, 0)
        while any(clock[c] < 5000 for c in channels):
            channel = random.choice([c for c in channels if clock[c] < 5000])
            then, clock[channel] = clock[channel], clock[channel] + 20 * random.randint(1, 60)
            due = [segment(channel, i, t) for i, t in enumerate(closings[channel]) if then < t <= clock[channel]]
            out += order.push(due, channel, clock[channel])
            certain = sum(all(clock[c] > t for c in channels if c != own) for t, own, _ in expected)
            assert len(out) <= certain
        assert [(s.closed_ms, s.channel, s.index) for s in out + order.flush()] == expected


def chunk(channel, start, samples, rate=16000, received_at=0):
    return AudioChunk(channel, start, rate, samples, received_at)


class TestCallCutter:
    def test_segments_of_two_channels_come_in_the_order_of_the_dialogue(self):
        cutter = CallCutter(CALL, WEBRTC)
        customer = np.concatenate([silence(3), babble(1.5), silence(1.5)])
        agent = np.concatenate([babble(1.5), silence(4.5)])
        out = cutter.push(chunk("customer", 0, customer)) + cutter.push(chunk("agent", 0, agent))
        out += cutter.flush()
        assert [s.channel for s in out] == ["agent", "customer"]
        assert 2700 < out[1].start_ms < 3300
        assert 4000 < out[1].end_ms < 5000
        for s in out:
            sound = customer if s.channel == "customer" else agent
            np.testing.assert_array_equal(s.samples, sound[s.start_ms * 16 : s.end_ms * 16])

    def test_progress_is_that_of_the_slowest_channel(self):
        cutter = CallCutter(CALL, WEBRTC)
        cutter.push(chunk("customer", 0, silence(2)))
        assert cutter.progressed_ms == 0
        cutter.push(chunk("agent", 0, silence(1)))
        assert 940 <= cutter.progressed_ms <= 1000

    def test_an_ended_leg_does_not_hold_the_other(self):
        cutter = CallCutter(CALL, WEBRTC)
        assert cutter.push(chunk("agent", 0, np.concatenate([babble(1.5), silence(2)]))) == []
        assert [s.channel for s in cutter.end("customer")] == ["agent"]
        with pytest.raises(SourceError, match="'customer' has ended"):
            cutter.push(chunk("customer", 0, silence(1)))
        assert cutter.flush() == []

    def test_wall_clock_of_the_end_of_speech(self):
        began = 1_700_000_000 * 10**9
        sound = np.concatenate([babble(1.5, 8000), silence(1.5, 8000)])
        cutter, out = CallCutter(Call("c", CALL.channels[:1]), WEBRTC), []
        for start in range(0, len(sound), 160):
            received_at = began + (start + 160) * 125_000
            out += cutter.push(chunk("customer", start, sound[start : start + 160], 8000, received_at))
        assert len(out) == 1
        # The chunk that closes it ends up to 12 ms after its last decided frame: the resampler holds 2 ms back.
        assert out[0].speech_ended_at - began == pytest.approx(out[0].end_ms * 10**6, abs=13 * 10**6)

    def test_reset_starts_the_call_again(self):
        cutter = CallCutter(CALL, WEBRTC)
        sound = np.concatenate([babble(1.5), silence(2)])
        first = cutter.push(chunk("agent", 0, sound)) + cutter.flush()
        cutter.reset()
        again = cutter.push(chunk("agent", 0, sound)) + cutter.flush()
        assert [(s.index, s.start_ms, s.end_ms) for s in first] == [(s.index, s.start_ms, s.end_ms) for s in again]
        assert len(first) == 1
        cutter.close()

    def test_what_does_not_belong_is_refused(self):
        cutter = CallCutter(CALL, WEBRTC)
        with pytest.raises(SourceError, match="'bot' is not of call 'c1', which has customer, agent"):
            cutter.push(chunk("bot", 0, silence(0.1)))
        cutter.push(chunk("agent", 0, silence(0.1)))
        for start in (0, 1599, 1601):
            with pytest.raises(SourceError, match=f"'agent': sample 1600 was expected, and {start} came"):
                cutter.push(chunk("agent", start, silence(0.1)))
        with pytest.raises(SourceError, match="changed from 16000 to 8000 Hz"):
            cutter.push(chunk("agent", 1600, silence(0.1), 8000))
        cutter.push(chunk("agent", 1600, silence(0.1)))

    @pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
    @pytest.mark.parametrize("seconds", [0.06, 1.9, 7.3])
    def test_a_gap_is_what_as_much_silence_is(self, rate: int, seconds: float):
        before, after = babble(1.5, rate), babble(1.2, rate, seed=2)
        lost, told = len(before), []
        for gap in (True, False):
            cutter = CallCutter(Call("c", CALL.channels[:1]), WEBRTC)
            out = cutter.push(chunk("customer", 0, before, rate))
            end = lost + round(seconds * rate)
            if gap:
                out += cutter.gap("customer", lost, end, rate)
            else:
                out += cutter.push(chunk("customer", lost, np.zeros(end - lost, np.int16), rate))
            out += cutter.push(chunk("customer", end, after, rate)) + cutter.flush()
            told.append([(s.index, s.start_ms, s.end_ms, s.closed_ms, s.samples.tobytes()) for s in out])
        assert told[0] == told[1]
        assert len(told[0]) == (1 if seconds < 1 else 2)

    def test_a_gap_of_a_day_costs_no_more_than_one_of_seconds(self):
        cutter = CallCutter(CALL, WEBRTC)
        day = 86_400 * 8000
        assert cutter.gap("agent", 0, day, 8000) == []
        [late] = cutter.push(chunk("agent", day, babble(1.5, 8000), 8000)) + cutter.end("agent") + cutter.flush()
        assert late.start_ms == pytest.approx(86_400_000, abs=500)

    def test_a_stalled_channel_ends_its_utterance_and_holds_nobody(self):
        cutter = CallCutter(CALL, WEBRTC)
        assert cutter.push(chunk("customer", 0, np.concatenate([silence(1), babble(1.5)]))) == []
        assert cutter.push(chunk("agent", 0, np.concatenate([silence(1), babble(1.5), silence(2)]))) == []
        assert [s.channel for s in cutter.stall("customer")] == ["customer", "agent"]
        assert cutter.push(chunk("agent", 72_000, np.concatenate([babble(1), silence(2)]))) != []
        assert cutter.progressed_ms > 7000
        assert cutter.push(chunk("customer", 40_000, np.concatenate([babble(1.5), silence(1)]))) != []
        assert cutter.progressed_ms <= 5000
        assert cutter.flush() == []

    def test_what_is_said_so_far_grows_into_the_segment(self):
        cutter, sound = CallCutter(Call("c", CALL.channels[:1]), WEBRTC), np.concatenate([babble(3), silence(1)])
        seen, out = [], []
        for start in range(0, len(sound), 1600):
            out += cutter.push(chunk("customer", start, sound[start : start + 1600]))
            now = cutter.so_far("customer")
            if now is not None:
                seen.append(now)
        [final] = out
        assert len(seen) >= 25
        assert {(now.index, now.start_ms) for now in seen} == {(final.index, final.start_ms)}
        lengths = [len(now.samples) for now in seen]
        assert lengths == sorted(lengths)
        np.testing.assert_array_equal(seen[5].samples, final.samples[: lengths[5]])

    def test_empty_chunks_are_harmless(self):
        cutter = CallCutter(CALL, WEBRTC)
        assert cutter.push(chunk("agent", 0, NOTHING)) == cutter.push(chunk("agent", 0, NOTHING, 16000)) == []
        assert CallCutter(CALL, WEBRTC).flush() == []


def test_settings_reach_the_stages():
    config = load_config(AudioConfig, overrides=["vad.mode=webrtc", "segmenter.min_ms=2000"])
    cutter = CallCutter(CALL, config)
    assert cutter.push(chunk("agent", 0, np.concatenate([babble(1), silence(2)]))) + cutter.flush() == []
    with pytest.raises(ConfigError, match=r"vad\.agressiveness: unknown key; did you mean aggressiveness"):
        load_config(AudioConfig, overrides=["vad.agressiveness=2"])
