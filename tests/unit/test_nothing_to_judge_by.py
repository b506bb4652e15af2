"""What was heard is worth what it was heard with: from the recogniser's confidence to the event."""

from dataclasses import replace

import numpy as np
import pytest

from bcaf_stream.engine import EmotionEngine
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import UNSURE, Call, Channel, EmotionPrediction, Utterance

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
