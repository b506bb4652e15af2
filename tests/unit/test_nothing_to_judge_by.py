"""What was heard is worth what it was heard with: from the recogniser's confidence to the event."""

from dataclasses import replace

import av
import numpy as np
import pytest

from bcaf_stream.analyzer import AnalyzerConfig, ConversationAnalyzer
from bcaf_stream.audio.turns import AudioConfig
from bcaf_stream.context import Predict
from bcaf_stream.conversation import Conversation
from bcaf_stream.demo import CALL as DEMO
from bcaf_stream.emotion_model import EmotionEngine
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.model.decision import Calibration
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.types import UNSURE, AudioChunk, Call, Channel, EmotionPrediction, Utterance
from tests.unit.audio.signals import babble

CALL = Call("c", (Channel("customer", "customer"),))
SOUND = np.random.default_rng(0).normal(0, 1000, 8000).astype(np.int16)
HEARD = Utterance("c", "customer", "customer", 0, 0, 500, SOUND, "Shut up!", "asr", text_confidence=0.3)


@pytest.fixture(scope="module")
def engine() -> EmotionEngine:
    return EmotionEngine()


def test_unsure_words_are_no_evidence(engine: EmotionEngine):
    unsure = replace(HEARD, degraded=(UNSURE,))
    [features] = engine.encode([unsure])
    assert features.text is None
    assert np.array_equal(features.audio, engine.encode([replace(HEARD, text=None)])[0].audio)
    [prediction], _ = engine.step([engine.initial_state()], [features])
    event = EventWriter(CALL, "m").final(unsure, replace(prediction, decided=True))
    assert (event.modalities, event.degraded) == (("audio",), (UNSURE,))
    assert (event.text, event.text_confidence, event.text_probs) == ("Shut up!", 0.3, None)


def test_where_nothing_is_decided_no_emotion_is_named():
    labels = ("neutral", "joy", "anger")
    undecided = EmotionPrediction(labels, (0.4, 0.3, 0.3), None, None, ("audio",), decided=False)
    event = EventWriter(CALL, "m").final(replace(HEARD, degraded=(UNSURE,)), undecided)
    assert (event.type, event.emotion, dict(event.probs)) == ("degraded", None, {})
    assert (event.reason, event.degraded) == ("nothing to judge by", ("nothing to judge by", UNSURE))
    assert (event.utterance, event.channel, event.text_confidence) == (0, "customer", 0.3)


def test_a_policy_that_is_off_holds_where_both_channels_carry_both_voices(engine: EmotionEngine):
    """Nobody can say whose words they are: what is not surely somebody else's is not judged."""
    with av.open(str(DEMO)) as container:
        resampler = av.AudioResampler(format="s16p", layout="mono", rate=16_000)
        blocks = [f.to_ndarray()[0] for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    sound = np.concatenate(blocks)[: 8 * 16_000]
    call = Call("c", (Channel("customer", "customer"), Channel("agent", "agent")))
    config = AnalyzerConfig(text=TextConfig(policy={"agent": "off"}))
    analyzer = ConversationAnalyzer(call, config, engine)
    events = [e for name in ("customer", "agent") for e in analyzer.push(AudioChunk(name, 0, 16_000, sound))]
    events += analyzer.flush()
    assert [event.type for event in events] == ["call.start", "degraded", "call.end"]
    assert events[1].reason == "crosstalk: agent and customer carry the same sound, taken for agent's"


def test_words_that_say_the_same_alone_decide():
    calibration = Calibration.unfitted("weighted").model_copy(update={"decided_from": 0.35})
    assert calibration.is_decided((0.2, 0.36, 0.3))
    assert not calibration.is_decided((0.2, 0.32, 0.3))
    assert calibration.is_decided((0.2, 0.32, 0.3), (0.2, 0.4, 0.3))
    assert not calibration.is_decided((0.2, 0.32, 0.3), (0.4, 0.3, 0.2)), "they say something else"


@pytest.mark.parametrize("decided", [True, False])
def test_while_nothing_is_decided_no_interim_result_names_an_emotion(decided: bool):
    shown = EmotionPrediction(("neutral", "joy"), (0.52, 0.48), None, None, ("audio",), decided=decided)
    conversation = Conversation(CALL, AudioConfig(), TextConfig(), "m", ("audio",), interim_ms=500)
    sound, events, previews = babble(3), [], 0
    for start in range(0, len(sound), 1600):
        for work in conversation.push(AudioChunk("customer", start, 16_000, sound[start : start + 1600])).work:
            if isinstance(work, Predict) and work.preview:
                previews += 1
                events += conversation.done(work, (shown, object())).events
    conversation.close()
    assert previews
    assert [event.type for event in events] == (["emotion.interim"] * previews if decided else [])
