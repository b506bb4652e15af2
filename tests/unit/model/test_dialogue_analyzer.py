"""DialogueAnalyzer: one dialogue's result depends on that dialogue alone, and nothing broken gets a label."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.dialogue import DialogueAnalyzer
from bcaf_stream.errors import ModelError
from bcaf_stream.model.checkpoint import load_checkpoint, save_checkpoint
from bcaf_stream.model.decision import Calibration, CaseWeights
from bcaf_stream.types import EmotionPrediction, Features
from tests.unit.model.small import LABELS, small_model, small_specs

FITTED = Calibration(
    both=CaseWeights(audio=0.2, text=0.3, fused=0.5, temperature=1.3),
    audio_only=CaseWeights(audio=0.4, text=0.0, fused=0.6, temperature=0.7),
    text_only=CaseWeights(audio=0.0, text=0.9, fused=0.1, temperature=1.1),
)
PRESENCE = st.sampled_from([(True, True), (True, False), (False, True)])


@pytest.fixture(scope="module")
def analyzer(tmp_path_factory: pytest.TempPathFactory) -> DialogueAnalyzer:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(folder, small_model(), encoders=small_specs(), calibration=FITTED)
    return DialogueAnalyzer(load_checkpoint(folder))


def features(seed: int, audio: bool = True, text: bool = True) -> Features:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal(12).astype(np.float32), random.standard_normal(10).astype(np.float32)
    return Features(vectors[0] if audio else None, vectors[1] if text else None)


def distance(a: EmotionPrediction, b: EmotionPrediction) -> float:
    pairs = ((a.probs, b.probs), (a.audio_probs, b.audio_probs), (a.text_probs, b.text_probs))
    assert all((x is None) == (y is None) for x, y in pairs)
    return max(float(np.abs(np.subtract(x, y)).max()) for x, y in pairs if x is not None and y is not None)


def test_a_prediction_is_a_distribution_over_the_labels(analyzer: DialogueAnalyzer):
    prediction, _ = analyzer.step(analyzer.initial(), features(0))
    assert prediction.labels == LABELS
    assert prediction.modalities == ("audio", "text")
    assert prediction.audio_probs is not None
    assert prediction.text_probs is not None
    for probs in (prediction.probs, prediction.audio_probs, prediction.text_probs):
        assert len(probs) == 4
        assert all(type(p) is float and 0 < p < 1 for p in probs)
        assert sum(probs) == pytest.approx(1, abs=1e-12)
    assert prediction.emotion == LABELS[int(np.argmax(prediction.probs))]


def test_an_absent_modality_has_no_probabilities(analyzer: DialogueAnalyzer):
    heard, state = analyzer.step(analyzer.initial(), features(0, text=False))
    assert heard.text_probs is None
    assert heard.audio_probs is not None
    assert heard.modalities == ("audio",)
    read, _ = analyzer.step(state, features(1, audio=False))
    assert read.audio_probs is None
    assert read.text_probs is not None
    assert read.modalities == ("text",)


def test_it_decides_with_the_checkpoints_calibration(analyzer: DialogueAnalyzer):
    model, one = small_model(), features(3)
    prediction, _ = analyzer.step(analyzer.initial(), one)
    with torch.inference_mode():
        audio, text = (torch.from_numpy(x)[None, None] for x in (one.audio, one.text))
        output = model(audio, text, torch.ones(1, 1, dtype=torch.bool))
    expected = FITTED.decide(output)[0, 0].tolist()
    assert prediction.probs == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(dialogues=st.lists(st.lists(PRESENCE, min_size=1, max_size=9), min_size=1, max_size=5))
def test_what_else_is_in_the_batch_changes_nothing(analyzer: DialogueAnalyzer, dialogues: list):
    talks = [
        [features(100 * d + u, *presence) for u, presence in enumerate(dialogue)]
        for d, dialogue in enumerate(dialogues)
    ]
    alone = []
    for talk in talks:
        state, found = analyzer.initial(), []
        for one in talk:
            prediction, state = analyzer.step(state, one)
            found.append(prediction)
        alone.append(found)
    states = {d: analyzer.initial() for d in range(len(talks))}
    for u in itertools.count():
        live = [d for d, talk in enumerate(talks) if u < len(talk)]
        if not live:
            break
        predictions, after = analyzer.step_batch([states[d] for d in live], [talks[d][u] for d in live])
        states.update(zip(live, after, strict=True))
        assert all(distance(p, alone[d][u]) < 1e-5 for d, p in zip(live, predictions, strict=True))


def test_a_step_leaves_its_state_and_the_analyzer_as_they_were(analyzer: DialogueAnalyzer):
    start = analyzer.initial()
    first, _ = analyzer.step(start, features(0))
    analyzer.step(start, features(1))
    again, _ = analyzer.step(analyzer.initial(), features(0))
    assert first == again


def test_nothing_in_nothing_out(analyzer: DialogueAnalyzer):
    assert analyzer.step_batch([], []) == ([], [])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Features(np.zeros(9, np.float32), None), r"audio features are 9 wide; tiny-\w+ takes 12"),
        (Features(None, np.zeros(12, np.float32)), r"text features are 12 wide; tiny-\w+ takes 10"),
        (Features(np.zeros((1, 12), np.float32), None), "audio features are .* wide"),
        (Features(np.full(12, np.nan, np.float32), None), "audio features are not finite"),
        (Features(None, np.full(10, np.inf, np.float32)), "text features are not finite"),
        (Features(None, None), "judges audio and text; an utterance has none of it"),
    ],
)
def test_features_that_cannot_be_used_are_an_error(analyzer: DialogueAnalyzer, wrong: Features, words: str):
    with pytest.raises(ModelError, match=words):
        analyzer.step(analyzer.initial(), wrong)
    with pytest.raises(ModelError, match=words):
        analyzer.step_batch([analyzer.initial()] * 2, [features(0), wrong])


def test_an_output_that_is_not_finite_never_becomes_a_label(tmp_path: Path):
    folder = save_checkpoint(tmp_path / "sick", small_model(), encoders=small_specs())
    checkpoint = load_checkpoint(folder)
    checkpoint.model.fused_head[-1].bias.data[0] = float("nan")
    sick = DialogueAnalyzer(checkpoint)
    with pytest.raises(ModelError, match=r"sick-\w+ gave numbers that are not finite"):
        sick.step(sick.initial(), features(0))


def test_huge_but_finite_features_are_an_error_or_a_distribution(analyzer: DialogueAnalyzer):
    huge = Features(np.full(12, 3e38, np.float32), np.full(10, -3e38, np.float32))
    with pytest.raises(ModelError, match="not finite"):
        analyzer.step(analyzer.initial(), huge)


def test_states_and_utterances_go_one_for_one(analyzer: DialogueAnalyzer):
    with pytest.raises(ModelError, match="2 dialogue states but 1 utterances"):
        analyzer.step_batch([analyzer.initial()] * 2, [features(0)])


def test_a_state_of_other_weights_is_refused(analyzer: DialogueAnalyzer, tmp_path: Path):
    folder = save_checkpoint(tmp_path / "tiny", small_model(seed=9), encoders=small_specs())
    other = DialogueAnalyzer(load_checkpoint(folder))
    with pytest.raises(ModelError, match="start the dialogue anew"):
        other.step(analyzer.initial(), features(0))


def test_a_new_calibration_goes_on_with_old_states(analyzer: DialogueAnalyzer, tmp_path: Path):
    folder = save_checkpoint(tmp_path / "tiny", small_model(), encoders=small_specs())
    recalibrated = DialogueAnalyzer(load_checkpoint(folder))
    assert recalibrated.model_id != analyzer.model_id
    _, state = analyzer.step(analyzer.initial(), features(0))
    recalibrated.step(state, features(1))


def test_an_offline_model_is_refused_for_live_use(tmp_path: Path):
    folder = save_checkpoint(tmp_path / "off", small_model(mode="offline"), encoders=small_specs())
    with pytest.raises(ModelError, match="is an offline model"):
        DialogueAnalyzer(load_checkpoint(folder))


def test_probabilities_near_chance_decide_nothing():
    measured = Calibration.unfitted("mean").model_copy(update={"decided_from": 0.35})
    assert not measured.is_decided([0.34, 0.2, 0.2, 0.1, 0.1, 0.05, 0.01])
    assert measured.is_decided([0.35, 0.2, 0.2, 0.1, 0.1, 0.04, 0.01])
    assert Calibration.unfitted("mean").is_decided([0.5, 0.5])  # nobody has measured what chance is here
