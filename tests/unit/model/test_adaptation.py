"""What one voice does to every answer is learned while it speaks; nothing else is changed."""

import json
import math
import pickle

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bcaf_stream.dialogue import DialogueAnalyzer
from bcaf_stream.errors import CheckpointError
from bcaf_stream.model.adaptation import VOICES, VoicePrior
from bcaf_stream.model.checkpoint import load_checkpoint
from bcaf_stream.model.state import DialogueState
from bcaf_stream.types import Features
from tests.tiny import LABELS, tiny_checkpoint

FLAT = VoicePrior(mean_log_probs=(-1.5, -1.5, -1.5))
distributions = st.lists(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3), min_size=1, max_size=30)


def normal(weights):
    whole = sum(weights) or 1.0
    return [w / whole for w in weights] if sum(weights) else [1 / 3] * 3


def heard(prior, said, voice="a"):
    voices, found = {}, []
    for probs in said:
        adapted, voices = prior.adapt(probs, voices, voice)
        found.append(adapted)
    return found, voices


@given(distributions)
def test_the_first_utterance_is_as_without_and_every_answer_is_a_distribution_within_the_bound(rows):
    said = [normal(row) for row in rows]
    found, _ = heard(FLAT, said)
    assert np.allclose(found[0], np.maximum(said[0], 1e-12), atol=1e-9)
    for own, adapted in zip(said, found, strict=True):
        assert sum(adapted) == pytest.approx(1.0)
        moved = np.log(np.maximum(adapted, 1e-300)) - np.log(np.maximum(own, 1e-12))
        assert np.linalg.norm(moved - moved.mean()) <= FLAT.bound + 1e-6


def test_a_voice_that_shifts_every_answer_is_put_right():
    """Every answer of this voice leans to the third label; which of the others was meant is told within ten."""
    leaning = [0.3, 0.1, 0.6], [0.05, 0.4, 0.55]
    prior = VoicePrior(mean_log_probs=(-1.5, -1.5, -1.5), bound=2.0)
    found, _ = heard(prior, [leaning[n % 2] for n in range(10)])
    assert [max(range(3), key=probs.__getitem__) for probs in found[-2:]] == [0, 1]


def test_a_voice_that_is_angry_throughout_stays_angry():
    found, _ = heard(FLAT, [[0.15, 0.15, 0.7]] * 200)
    assert all(probs[2] == max(probs) for probs in found)


def test_voices_are_kept_apart_and_are_bounded():
    voices = {}
    for n in range(100):
        _, voices = FLAT.adapt([0.2, 0.2, 0.6], voices, "first")
        _, voices = FLAT.adapt([0.6, 0.2, 0.2], voices, f"other {n}")
    assert len(voices) == VOICES
    assert voices["first"].utterances == 100
    fresh, _ = FLAT.adapt([0.2, 0.2, 0.6], voices, "new")
    assert fresh == pytest.approx((0.2, 0.2, 0.6))


def test_adapting_changes_no_state_that_was_given():
    _, before = FLAT.adapt([0.2, 0.2, 0.6], {}, "a")
    kept = dict(before)
    FLAT.adapt([0.2, 0.2, 0.6], before, "a")
    assert before == kept


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.set_num_threads(1)
    return with_prior(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny"), LABELS)


def with_prior(folder, labels):
    config = json.loads((folder / "config.json").read_text())
    config["calibration"]["voice"] = {"mean_log_probs": [-math.log(7) - 0.2 * n for n, _ in enumerate(labels)]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def spoken(loaded, many, seed=0, words=()):
    rng = np.random.default_rng(seed)
    config = loaded.model.config
    return [
        Features(
            rng.normal(0, 1, config.audio_width).astype(np.float32),
            rng.normal(0, 1, config.text_width).astype(np.float32) if n in words else None,
            "ab"[n % 2],
        )
        for n in range(many)
    ]


def walk(analyzer, features, travel=lambda state: state):
    state, found = analyzer.initial(), []
    for one in features:
        prediction, state = analyzer.step(travel(state), one)
        found.append(prediction.probs)
    return np.array(found), state


def test_a_state_that_travels_goes_on_with_its_voices(checkpoint):
    loaded = load_checkpoint(checkpoint)
    analyzer = DialogueAnalyzer(loaded)
    features = spoken(loaded, 12)
    here, state = walk(analyzer, features)
    assert {voice: one.utterances for voice, one in state.voices_B[0].items()} == {"a": 6, "b": 6}
    pickled, _ = walk(analyzer, features, lambda one: pickle.loads(pickle.dumps(one)))
    dumped, _ = walk(
        analyzer,
        features,
        lambda one: DialogueState.load(msgpack.unpackb(msgpack.packb(one.dump())), like=analyzer.initial()),
    )
    assert (here == pickled).all()
    assert (here == dumped).all()
    assert analyzer.initial().voices_B == ({},)


def test_dialogues_of_a_batch_have_their_own_voices(checkpoint):
    loaded = load_checkpoint(checkpoint)
    analyzer = DialogueAnalyzer(loaded)
    dialogues = [spoken(loaded, 8, seed) for seed in range(3)]
    alone = np.stack([walk(analyzer, one)[0] for one in dialogues])
    states, together = [analyzer.initial()] * 3, []
    for turn in zip(*dialogues, strict=True):
        predictions, states = analyzer.step_batch(states, turn)
        together.append([one.probs for one in predictions])
    np.testing.assert_allclose(np.stack(together, 1), alone, atol=1e-6)


def test_it_is_off_by_one_switch_and_words_are_left_alone(checkpoint):
    loaded = load_checkpoint(checkpoint)
    features = spoken(loaded, 12, words={4, 5})
    on, _ = walk(DialogueAnalyzer(loaded), features)
    off, state = walk(DialogueAnalyzer(loaded, adaptation=False), features)
    same = [bool((a == b).all()) for a, b in zip(on, off, strict=True)]
    assert [n for n in range(2, 12) if same[n]] == [4, 5]
    assert state.voices_B == ({},)


def test_a_prior_of_other_classes_is_refused(tmp_path):
    torch.set_num_threads(1)
    folder = with_prior(tiny_checkpoint(tmp_path / "tiny"), LABELS[:3])
    with pytest.raises(CheckpointError, match="the prior of voices has another number of classes"):
        load_checkpoint(folder)
