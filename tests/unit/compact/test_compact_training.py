"""The compact recipe's own parts, on made data: what is mixed, what is spoiled, what is folded."""

import copy
import random
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bcaf_stream.config import load_config
from bcaf_stream.errors import DataError
from bcaf_stream.model.decision import Calibration
from bcaf_stream.model.heads import IGNORED_LABEL
from training.compact.clips import Clip, _emodb, _ravdess, _urdu, read_clips
from training.compact.config import LABELS, CompactConfig, FusionTraining, Shares
from training.compact.fusion import MixedSource, Scale, build_fusion, judge, single_clips, spoken, train_fusion
from training.compact.mixing import CompactSplit, Mixer, Script, Voices, draw_case, draw_sound, joined
from training.compact.noise import SoundSpoiler, Telephone, speech_of, spoil_text
from training.compact.report import measure, merit
from training.compact.starts import check
from training.compact.vectors import labelled, load_split, save_voices, save_words
from training.metrics import weighted_f1

ROOT = Path(__file__).resolve().parents[3]
AUDIO, TEXT = 6, 5


def data(dialogues: int, seed: int, noise: float = 0.3) -> CompactSplit:
    """Vectors that carry their label in their first features."""
    rng = np.random.default_rng(seed)

    def vectors(labels: np.ndarray, width: int, views: int) -> np.ndarray:
        base = np.stack([np.cos(labels * 1.7), np.sin(labels * 1.7), labels / 3.0], axis=1)
        padded = np.pad(base, ((0, 0), (0, width - 3))) * 5 + 10
        return (padded + rng.normal(0, noise, (views, len(labels), width))).astype(np.float32)

    def script() -> Script:
        labels = rng.integers(0, len(LABELS), rng.integers(2, 7))
        return Script(vectors(labels, TEXT, 2), labels)

    labels = np.append(np.tile(np.arange(len(LABELS)), 18), [0, 0, 0])
    corpora = np.array(["ravdess"] * 63 + ["emodb"] * 63 + ["anchor"] * 3)
    speakers = np.array([f"{corpus}-{i % 3}" for i, corpus in enumerate(corpora)])
    said = corpora != "anchor"
    words = np.where(said[:, None], rng.normal(0, 1, (len(labels), TEXT)), 0).astype(np.float32)
    voices = Voices(vectors(labels, AUDIO, 3), labels, corpora, speakers, words, said)
    plain = rng.normal(0, 1, (9, TEXT)).astype(np.float32)
    return CompactSplit([script() for _ in range(dialogues)], voices, plain)


def found_in(voices: Voices, values: np.ndarray) -> dict[bytes, str]:
    """From a clip's vector, in any view, to one of `values`."""
    return {
        vector.tobytes(): value
        for view in voices.vectors_VNA
        for vector, value in zip(view, values.tolist(), strict=True)
    }


def test_the_recipe_that_ships_is_valid():
    recipe = load_config(CompactConfig, ROOT / "configs" / "train" / "compact.yaml")
    assert len(recipe.fusion.seeds) >= 3
    assert len(set(LABELS)) == 7


def test_words_are_joined_with_the_sound_that_was_asked_for():
    made = data(40, 0)
    label_of = found_in(made.voices, made.voices.labels_N)
    corpus_of = found_in(made.voices, made.voices.corpora_N)
    fits = {}
    for sound in ("matched", "half", "everyday"):
        batch = joined(spoken(made, "both", sound))
        vectors = [vector.numpy().tobytes() for vector in batch.audio_BUA[batch.mask_BU]]
        labels = batch.label_BU[batch.mask_BU].tolist()
        fits[sound] = np.mean([label_of[one] == label for one, label in zip(vectors, labels, strict=True)])
        everyday = {corpus_of[one] == "anchor" for one in vectors}
        assert everyday == {sound == "everyday"}
    assert fits["matched"] == 1
    assert 0.4 < fits["half"] < 0.75
    assert fits["everyday"] < 0.4


def test_where_there_is_no_everyday_talk_calm_acting_stands_for_it():
    made = data(5, 0)
    acted = replace(made, voices=made.voices.where(made.voices.corpora_N != "anchor"))
    label_of = found_in(acted.voices, acted.voices.labels_N)
    batch = joined(spoken(acted, "both", "everyday"))
    assert {label_of[vector.numpy().tobytes()] for vector in batch.audio_BUA[batch.mask_BU]} == {0}


def test_corpora_and_their_classes_are_drawn_by_their_shares():
    made = data(20, 0)
    uneven = made.voices.where(np.arange(len(made.voices)) % 7 != 5)  # a class is missing
    mixer = Mixer(replace(made, voices=uneven), Shares(ravdess=0.6, emodb=0.3, anchor=0.1), 0)
    corpus_of = found_in(uneven, uneven.corpora_N)
    drawn = [corpus_of[mixer.clips(worded=False).audio_BUA[0, 0].numpy().tobytes()] for _ in range(1500)]
    for corpus, share in (("ravdess", 0.6), ("emodb", 0.3), ("anchor", 0.1)):
        assert abs(drawn.count(corpus) / 1500 - share) < 0.05


def test_cases_of_presence():
    made = data(30, 1)
    mixer = Mixer(made, Shares(), 0)
    for case, audio, text in (("both", True, True), ("audio_only", True, False), ("text_only", False, True)):
        batch = mixer.spoken(made.scripts[0], case)
        assert bool(batch.audio_present_BU.all()) is audio
        assert bool(batch.text_present_BU.all()) is text
    mixed = joined([mixer.spoken(script, None) for script in made.scripts])
    assert (mixed.audio_present_BU | mixed.text_present_BU)[mixed.mask_BU].all()
    assert not mixed.audio_present_BU[mixed.mask_BU].all()
    assert not mixed.text_present_BU[mixed.mask_BU].all()
    assert (mixed.label_BU[~mixed.mask_BU] == IGNORED_LABEL).all()
    rng, config = random.Random(0), FusionTraining()
    drawn = [draw_case(rng, config) for _ in range(4000)]
    assert abs(drawn.count("text_only") / 4000 - config.text_only) < 0.04
    assert abs(drawn.count(None) / 4000 - (1 - config.both - config.text_only - config.audio_only)) < 0.04
    heard = [draw_sound(rng, config) for _ in range(4000)]
    assert abs(heard.count("half") / 4000 - config.half) < 0.04
    assert abs(heard.count("everyday") / 4000 - (1 - config.matched - config.half)) < 0.04


def test_dialogues_of_clips_are_one_speakers_and_labelled_by_the_clip():
    made = data(20, 2)
    speaker_of = found_in(made.voices, made.voices.speakers_N)
    label_of = found_in(made.voices, made.voices.labels_N)
    own = {vector.tobytes() for vector in made.voices.words_NT[made.voices.said_N]}
    neutral = {
        vector.tobytes() for s in made.scripts for view in s.vectors_VUT for vector in view[s.labels_U == 0]
    }
    mixer, said = Mixer(made, Shares(), 3), []
    for worded in [False, True] * 20:
        batch = mixer.clips(worded)
        vectors = [vector.numpy().tobytes() for vector in batch.audio_BUA[0]]
        assert len({speaker_of[vector] for vector in vectors}) == 1
        assert [label_of[vector] for vector in vectors] == batch.label_BU[0].tolist()
        assert bool(batch.text_present_BU.all()) is bool(batch.text_present_BU.any()) is worded
        said += [vector.numpy().tobytes() for vector in batch.text_BUT[0]]
    plain = {vector.tobytes() for vector in made.plain_KT}
    assert set(said) <= own | neutral | plain
    assert all(set(said) & some for some in (own, neutral, plain))


def test_single_clips_have_the_words_that_are_given():
    voices = data(1, 0).voices
    alone, worded = single_clips(voices, 1), single_clips(voices, words_NT=voices.words_NT)
    assert (len(alone), len(worded)) == (len(voices), 3 * len(voices))
    assert not any(batch.text_present_BU.any() for batch in alone)
    assert all(batch.text_present_BU.all() and batch.audio_present_BU.all() for batch in worded)
    np.testing.assert_array_equal(worded[2].text_BUT[0, 0].numpy(), voices.words_NT[2])


def test_the_folded_scale_changes_nothing():
    torch.manual_seed(0)
    made = data(4, 0)
    config = FusionTraining(width=16, layers=1, heads=2, removed_directions=0)
    fusion = build_fusion(config, made, data(4, 1), seed=0)
    x_NX = torch.from_numpy(made.voices.vectors_VNA[0])
    for removed in (0, 2):
        layer = copy.deepcopy(fusion.model.audio_input)
        scale = Scale.of_voices(made.voices, removed)
        before = layer.projection(scale.apply(x_NX))
        scale.fold_into(layer)
        assert torch.allclose(layer.projection(x_NX), before, atol=1e-5)


def test_what_tells_speakers_apart_is_not_heard():
    made = data(1, 0)
    shift_NA = np.zeros((len(made.voices), AUDIO), dtype=np.float32)
    shift_NA[:, 4] = [int(speaker[-1]) * 40.0 for speaker in made.voices.speakers_N]
    voices = replace(made.voices, vectors_VNA=made.voices.vectors_VNA + shift_NA)
    scale = Scale.of_voices(voices, 1)
    assert scale.removed_KX.abs().argmax() == 4
    moved = torch.zeros(AUDIO)
    moved[4] = 40.0
    x_X = torch.from_numpy(voices.vectors_VNA[0, 0])
    assert (scale.apply(x_X + moved) - scale.apply(x_X)).abs().max() < 0.3
    assert (Scale.of_voices(voices, 0).apply(x_X + moved) - Scale.of_voices(voices, 0).apply(x_X)).abs().max() > 1


def test_fusion_learns_and_the_seed_repeats_it():
    torch.set_num_threads(1)
    config = FusionTraining(
        width=16, layers=1, heads=2, epochs=15, batch=6, learning_rate=1e-2, dropout=0.0, feature_dropout=0.0,
        removed_directions=0, ema_decay=0.9, clips=0.7, worded=0.4,
    )  # fmt: skip
    train, dev, test = data(60, 0), data(15, 1), data(20, 2)
    model, calibration = train_fusion(config, train, dev, seed=0)
    for case in ("both", "text_only", "audio_only"):
        assert weighted_f1(judge(model, calibration, spoken(test, case))) > 0.6
    short = config.model_copy(update={"epochs": 1})
    first, again = (train_fusion(short, train, dev, seed=0)[0].state_dict() for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
    untrained = build_fusion(config, train, dev, seed=0).model.eval()
    guess = judge(untrained, Calibration.unfitted("weighted"), single_clips(test.voices, 0))
    assert weighted_f1(guess) < 0.5


def test_every_process_draws_the_same_mixture_and_takes_its_share():
    made = data(20, 0)
    source = MixedSource(FusionTraining(width=16, batch=6, removed_directions=0), made, made, seed=3)
    whole, parts = list(source.epoch(2, 0, 1)), [list(source.epoch(2, rank, 2)) for rank in range(2)]
    assert len(whole) == source.steps == 3
    for number, step in enumerate(whole):
        for kind, part in enumerate(step.parts):
            shares = [of_rank[number].parts[kind] for of_rank in parts]
            assert sum(one.share for one in shares) == pytest.approx(2)
            assert sum(int(one.batch.mask_BU.sum()) for one in shares) == int(part.batch.mask_BU.sum())


def test_a_split_is_stored_whole(tmp_path):
    made = data(5, 0)
    with pytest.raises(DataError, match="words-dev"):
        load_split(tmp_path, "dev")
    save_words(tmp_path / "words-dev.npz", made.scripts)
    with pytest.raises(DataError, match="words-plain"):
        load_split(tmp_path, "dev")
    np.savez(tmp_path / "words-plain.npz", words=made.plain_KT)
    save_voices(tmp_path / "sound-dev.npz", made.voices)
    back = load_split(tmp_path, "dev")
    assert len(back.scripts) == 5
    for script, other in zip(made.scripts, back.scripts, strict=True):
        np.testing.assert_array_equal(script.vectors_VUT, other.vectors_VUT)
        np.testing.assert_array_equal(script.labels_U, other.labels_U)
    for field in fields(Voices):
        np.testing.assert_array_equal(getattr(made.voices, field.name), getattr(back.voices, field.name))


def test_rare_classes_of_meld_weigh_more():
    made = data(60, 0)
    counts = np.bincount(np.concatenate([s.labels_U for s in made.scripts]))
    config = FusionTraining(width=16, layers=1, heads=2, class_weight_power=0.5)
    weights = MixedSource(config, made, made, seed=0).weight_C
    assert weights.numpy() == pytest.approx(counts**-0.5)


def test_every_number_of_the_card_is_measured():
    torch.set_num_threads(1)
    made = data(8, 0)
    model = build_fusion(FusionTraining(width=16, layers=1, heads=2), made, made, seed=0).model.eval()
    found = measure(model, Calibration.unfitted("weighted"), made)
    assert found["words"]["n"] == found["everyday, both"]["n"] == sum(len(s.labels_U) for s in made.scripts)
    assert found["emodb phone"]["n"] == found["emodb clean, own words"]["n"] == 63
    best = {name: numbers | {"weighted_f1": 100.0, "unweighted_recall": 100.0} for name, numbers in found.items()}
    assert merit(best) == 100.0 > merit(found)


def test_clips_get_a_label_of_the_model():
    def clip(label: str) -> Clip:
        return Clip("emodb", "emodb-03", label, "train", "", np.zeros(1, dtype=np.int16))

    clips = [clip("joy"), clip("boredom"), clip("calmness")]
    assert [one.label for one in labelled(clips, "neutral")] == ["joy", "neutral"]
    assert [one.label for one in labelled(clips, "drop")] == ["joy"]


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
    rng = random.Random(0)
    assert spoil_text("Oh, my God!", rng, 0.0) == "Oh, my God!"
    spoiled = [spoil_text("Oh, my God! That's not what I said to you.", rng, 1.0) for _ in range(60)]
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
    assert _ravdess("03-01-02-01-01-01-18") == ("18", "neutral", "train", "Kids are talking by the door.")
    assert _ravdess("03-01-08-01-02-01-24") == ("24", "surprise", "test", "Dogs are sitting by the door.")
    assert _emodb("12a01Fb") == ("12", "joy", "dev", "Der Lappen liegt auf dem Eisschrank.")
    assert _emodb("16a02Lb")[:3] == ("16", "boredom", "test")
    assert _urdu("sad_SM1_F10_A010") == ("SM1", "sadness", "train", "")


def test_missing_data_and_wrong_weights_are_named(tmp_path):
    with pytest.raises(DataError, match="ravdess"):
        read_clips(tmp_path)
    (tmp_path / "w.pt").write_bytes(b"other")
    with pytest.raises(DataError, match="not the published weights"):
        check(tmp_path / "w.pt", "0" * 64)
    with pytest.raises(DataError, match="cannot be read"):
        check(tmp_path / "absent.pt", "0" * 64)
