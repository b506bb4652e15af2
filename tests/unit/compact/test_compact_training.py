"""The compact recipe's own parts, on made data: what is mixed, what is spoiled, what is folded."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from bcaf_stream.config import load_config
from bcaf_stream.errors import DataError
from bcaf_stream.model.decision import Calibration
from bcaf_stream.model.heads import IGNORED_LABEL
from training.compact.clips import _emodb, _ravdess, _urdu, read_clips
from training.compact.config import LABELS, CompactConfig, FusionTraining
from training.compact.fusion import Fusion, Scale, judge, single_clips, spoken
from training.compact.mixing import Material, Mixer, Script, Voices, draw_case, joined
from training.compact.noise import SoundSpoiler, Telephone, speech_of, spoil_text
from training.compact.starts import check
from training.compact.vectors import load_material, save_voices, save_words
from training.metrics import weighted_f1

ROOT = Path(__file__).resolve().parents[3]
AUDIO, TEXT = 6, 5


def material(dialogues: int, seed: int, noise: float = 0.3) -> Material:
    """Vectors that carry their label in their first features."""
    rng = np.random.default_rng(seed)

    def vectors(labels: np.ndarray, width: int, views: int) -> np.ndarray:
        base = np.stack([np.cos(labels * 1.7), np.sin(labels * 1.7), labels / 3.0], axis=1)
        padded = np.pad(base, ((0, 0), (0, width - 3))) * 5 + 10
        return (padded + rng.normal(0, noise, (views, len(labels), width))).astype(np.float32)

    def script() -> Script:
        labels = rng.integers(0, len(LABELS), rng.integers(2, 7))
        return Script(vectors(labels, TEXT, 2), labels)

    labels = np.tile(np.arange(len(LABELS)), 6)
    speakers = np.array([f"ravdess-{i % 3}" for i in range(len(labels))])
    return Material([script() for _ in range(dialogues)], Voices(vectors(labels, AUDIO, 3), labels, speakers))


def test_the_recipe_that_ships_is_valid():
    recipe = load_config(CompactConfig, ROOT / "configs" / "train" / "compact.yaml")
    assert len(recipe.fusion.seeds) >= 3
    assert len(set(LABELS)) == 7


def test_words_are_joined_with_clips_of_the_same_label():
    made = material(20, 0)
    label_of = {
        vector.tobytes(): int(label)
        for view in made.voices.vectors_VNA
        for vector, label in zip(view, made.voices.labels_N, strict=True)
    }
    for batch in spoken(made, "both"):
        heard = [label_of[vector.numpy().tobytes()] for vector in batch.audio_BUA[0]]
        assert heard == batch.label_BU[0].tolist()
    mixer = Mixer(made.voices, 0, mismatch=1.0)
    batch = joined([mixer.spoken(script, "both") for script in made.scripts])
    heard = [label_of[vector.numpy().tobytes()] for vector in batch.audio_BUA[batch.mask_BU]]
    assert 0 < np.mean(np.array(heard) == batch.label_BU[batch.mask_BU].numpy()) < 0.5


def test_cases_of_presence():
    made = material(30, 1)
    mixer = Mixer(made.voices, 0)
    for case, audio, text in (("both", True, True), ("audio_only", True, False), ("text_only", False, True)):
        batch = mixer.spoken(made.scripts[0], case)
        assert bool(batch.audio_present_BU.all()) is audio
        assert bool(batch.text_present_BU.all()) is text
    mixed = joined([mixer.spoken(script, None) for script in made.scripts])
    assert (mixed.audio_present_BU | mixed.text_present_BU)[mixed.mask_BU].all()
    assert not mixed.audio_present_BU[mixed.mask_BU].all()
    assert not mixed.text_present_BU[mixed.mask_BU].all()
    assert (mixed.label_BU[~mixed.mask_BU] == IGNORED_LABEL).all()
    dice, config = random.Random(0), FusionTraining()
    drawn = [draw_case(dice, config) for _ in range(4000)]
    assert abs(drawn.count("text_only") / 4000 - config.text_only) < 0.04
    assert abs(drawn.count(None) / 4000 - (1 - config.both - config.text_only - config.audio_only)) < 0.04


def test_clips_alone_are_one_speakers():
    made = material(1, 2)
    speaker_of = {
        vector.tobytes(): speaker
        for view in made.voices.vectors_VNA
        for vector, speaker in zip(view, made.voices.speakers_N, strict=True)
    }
    mixer = Mixer(made.voices, 3)
    for _ in range(20):
        batch = mixer.clips_alone(TEXT)
        assert len({speaker_of[vector.numpy().tobytes()] for vector in batch.audio_BUA[0]}) == 1
        assert not batch.text_present_BU.any()


def test_the_folded_scale_changes_nothing():
    torch.manual_seed(0)
    vectors = (np.random.default_rng(0).normal(5, 3, (50, AUDIO))).astype(np.float32)
    fusion = Fusion(FusionTraining(width=16, layers=1, heads=2), material(4, 0), material(4, 1), seed=0)
    scale, door = Scale.of(vectors), fusion.model.audio_input
    x_NX = torch.from_numpy(vectors)
    before = door.projection(scale.apply(x_NX))
    scale.fold_into(door)
    assert torch.allclose(door.projection(x_NX), before, atol=1e-5)


def test_fusion_learns_and_the_seed_repeats_it():
    torch.set_num_threads(1)
    config = FusionTraining(
        width=16, layers=1, heads=2, epochs=20, batch=6, learning_rate=1e-2, dropout=0.0, feature_dropout=0.0
    )
    train, dev, test = material(60, 0), material(20, 1), material(20, 2)
    model, calibration = Fusion(config, train, dev, seed=0).run()
    for case in ("both", "text_only", "audio_only"):
        assert weighted_f1(judge(model, calibration, spoken(test, case))) > 0.6
    again, _ = Fusion(config, train, dev, seed=0).run()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    untrained = Fusion(config, train, dev, seed=0).model.eval()
    guess = judge(untrained, Calibration.unfitted("weighted"), single_clips(test.voices, TEXT, 0))
    assert weighted_f1(guess) < 0.5


def test_material_is_stored_whole(tmp_path):
    made = material(5, 0)
    with pytest.raises(DataError, match="words-dev"):
        load_material(tmp_path, "dev")
    save_words(tmp_path / "words-dev.npz", made.scripts)
    save_voices(tmp_path / "sound-dev.npz", made.voices)
    back = load_material(tmp_path, "dev")
    assert len(back.scripts) == 5
    for script, other in zip(made.scripts, back.scripts, strict=True):
        np.testing.assert_array_equal(script.vectors_VUT, other.vectors_VUT)
        np.testing.assert_array_equal(script.labels_U, other.labels_U)
    np.testing.assert_array_equal(made.voices.speakers_N, back.voices.speakers_N)


def test_spoiled_sound_is_finite_bounded_and_repeatable():
    generator = torch.Generator().manual_seed(0)
    wave_N = torch.randn(40_000, generator=generator) * 0.1
    voices = [torch.randn(9_000, generator=generator) * 0.1]
    first, second = SoundSpoiler(voices, 1), SoundSpoiler(voices, 1)
    kinds = set()
    for _ in range(12):
        one, other = first(wave_N, (5_000, 30_000)), second(wave_N, (5_000, 30_000))
        assert torch.equal(one, other)
        assert one.isfinite().all()
        assert one.abs().max() <= 1
        kinds.add(len(one))
    assert len(kinds) > 3


def test_the_telephone_takes_the_high_band_and_keeps_the_length():
    time_N = torch.arange(16_000) / 16_000
    low_N, high_N = torch.sin(2 * torch.pi * 1000 * time_N), torch.sin(2 * torch.pi * 6000 * time_N)
    phone = Telephone()
    assert len(phone(low_N)) == 16_000
    assert phone(0.5 * low_N).std() > 0.3
    assert phone(0.5 * high_N).std() < 0.02
    assert phone(0.5 * torch.sin(2 * torch.pi * 60 * time_N), band=True).std() < 0.05


def test_spoiled_words():
    dice = random.Random(0)
    assert spoil_text("Oh, my God!", dice, 0.0) == "Oh, my God!"
    spoiled = [spoil_text("Oh, my God! That's not what I said to you.", dice, 1.0) for _ in range(60)]
    assert any("," not in text and "!" not in text and "'" in text for text in spoiled)
    assert any(len(text.split()) < 9 for text in spoiled)
    assert all(text.strip() for text in spoiled)


def test_speech_is_found_between_silence():
    samples = np.zeros(32_000, dtype=np.int16)
    samples[10_000:20_000] = (3000 * np.sin(np.arange(10_000) / 5)).astype(np.int16)
    first, last = speech_of(samples)
    assert abs(first - 10_000) < 400
    assert abs(last - 20_000) < 400
    assert speech_of(np.zeros(100, dtype=np.int16)) == (0, 100)


def test_names_of_the_corpora():
    assert _ravdess("03-01-02-01-01-01-18") == ("18", "neutral", "train")
    assert _ravdess("03-01-08-01-01-01-24") == ("24", "surprise", "test")
    assert _emodb("12a01Fb") == ("12", "joy", "dev")
    assert _emodb("16a01Lb") == ("16", "boredom", "test")
    assert _urdu("sad_SM1_F10_A010") == ("SM1", "sadness", "train")


def test_missing_data_and_wrong_weights_are_named(tmp_path):
    with pytest.raises(DataError, match="ravdess"):
        read_clips(tmp_path)
    (tmp_path / "w.pt").write_bytes(b"other")
    with pytest.raises(DataError, match="not the published weights"):
        check(tmp_path / "w.pt", "0" * 64)
    with pytest.raises(DataError, match="cannot be read"):
        check(tmp_path / "absent.pt", "0" * 64)
