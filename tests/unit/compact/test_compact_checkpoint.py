"""The checkpoints inside the package: whole, small enough, and sensible on plain sentences."""

import hashlib

import numpy as np
import pytest
import torch

from bcaf_stream.dialogue import DialogueAnalyzer
from bcaf_stream.encoders.base import AudioEncoderConfig, TextEncoderConfig
from bcaf_stream.encoders.load import load_audio_encoder, load_text_encoder
from bcaf_stream.model.checkpoint import SHIPPED, find_checkpoint, load_checkpoint
from bcaf_stream.types import Features

MEGABYTES = 40


@pytest.fixture(scope="module", params=SHIPPED)
def folder(request):
    return find_checkpoint(request.param)


@pytest.fixture(scope="module")
def checkpoint(folder):
    torch.set_num_threads(1)
    return load_checkpoint(folder)


@pytest.fixture(scope="module")
def text_encoder(folder):
    return load_text_encoder(TextEncoderConfig(), folder)


@pytest.fixture(scope="module")
def audio_encoder(folder):
    return load_audio_encoder(AudioEncoderConfig(), folder)


def test_it_is_whole_and_fits_the_package(folder, checkpoint, text_encoder, audio_encoder):
    assert checkpoint.name == folder.name
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < MEGABYTES * 1e6
    for spec, encoder in ((checkpoint.encoders.audio, audio_encoder), (checkpoint.encoders.text, text_encoder)):
        assert (spec.sha256, spec.width) == (encoder.weights_hash, encoder.width)


def test_the_card_names_every_weights_file(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    for path in folder.rglob("*.safetensors"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in card, path


@pytest.mark.parametrize(
    ("words", "emotion"),
    [
        ("Oh my God, I am so happy for you! That's wonderful!", "joy"),
        ("What? You're kidding! No way!", "surprise"),
        ("How dare you! I hate you, get out of here!", "anger"),
        ("The meeting is at three in the afternoon.", "neutral"),
        ("I'm so sorry, I miss her so much.", "sadness"),
    ],
)
def test_plain_sentences(checkpoint, text_encoder, words, emotion):
    analyzer = DialogueAnalyzer(checkpoint)
    features = Features(audio=None, text=text_encoder.encode([words])[0])
    prediction, _ = analyzer.step(analyzer.initial(), features)
    assert prediction.emotion == emotion
    assert prediction.modalities == ("text",)


def test_silence_is_no_strong_emotion(checkpoint, audio_encoder):
    analyzer = DialogueAnalyzer(checkpoint)
    hum_N = np.random.default_rng(0).normal(0, 30, 24_000).astype(np.int16)
    prediction, _ = analyzer.step(analyzer.initial(), Features(audio=audio_encoder.encode([hum_N])[0], text=None))
    assert prediction.emotion == "neutral" or prediction.confidence < 0.6
