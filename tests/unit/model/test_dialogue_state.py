"""The state of a dialogue as a value: it stacks, splits, pickles, dumps, and refuses what it does not know."""

import pickle

import msgpack
import pytest
import torch

from bcaf_stream.errors import ModelError
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.state import DialogueState
from tests.unit.model.small import batch, small_model


@torch.inference_mode()
def walked(model: BCAF, steps: int, seed: int = 0) -> DialogueState:
    state = model.initial_state()
    given = batch(model, [max(steps, 1)], seed=seed)
    for u in range(steps):
        _, state = model.step(state, given.audio_BUA[:, u], given.text_BUT[:, u])
    return state


def same(a: DialogueState, b: DialogueState) -> bool:
    return a.model == b.model and torch.equal(a.cache_BKW, b.cache_BKW) and torch.equal(a.count_B, b.count_B)


@pytest.mark.parametrize("steps", [0, 2, 9])
def test_dump_and_load_through_bytes(steps: int):
    model = small_model()
    state = walked(model, steps)
    travelled = msgpack.unpackb(msgpack.packb(state.dump()))
    assert same(DialogueState.load(travelled, like=model.initial_state()), state)


@pytest.mark.parametrize("steps", [0, 5])
def test_it_travels_without_its_batch(steps: int):
    model = small_model()
    states = DialogueState.stack([walked(model, steps, seed) for seed in range(8)]).split()
    pickled = pickle.dumps(states[3], protocol=5)
    assert same(pickle.loads(pickled), states[3])
    assert len(pickled) < states[3].cache_BKW.nbytes + 1000
    assert states[3].cache_BKW.untyped_storage().nbytes() == states[3].cache_BKW.nbytes


def test_stack_and_split_are_inverse():
    model = small_model()
    states = [walked(model, steps, seed=steps) for steps in (0, 1, 7)]
    stacked = DialogueState.stack(states)
    assert stacked.batch == 3
    assert stacked.count_B.tolist() == [0, 1, 7]
    assert all(same(a, b) for a, b in zip(stacked.split(), states, strict=True))


def test_a_step_changes_nothing_but_gives_a_new_state():
    model = small_model()
    state = walked(model, 6)
    before = state.cache_BKW.clone(), state.count_B.clone()
    given = batch(model, [1], seed=9)
    with torch.inference_mode():
        first, later = model.step(state, given.audio_BUA[:, 0], given.text_BUT[:, 0])
        again, _ = model.step(state, given.audio_BUA[:, 0], given.text_BUT[:, 0])
    assert torch.equal(state.cache_BKW, before[0])
    assert torch.equal(state.count_B, before[1])
    assert torch.equal(first.fused_BUC, again.fused_BUC)
    assert torch.equal(later.cache_BKW[:, :-1], state.cache_BKW[:, 1:]), "the cache keeps the order of time"
    assert later.count_B.tolist() == [7]


def test_the_history_is_bounded():
    model = small_model()
    assert walked(model, 3).cache_BKW.shape == walked(model, 50).cache_BKW.shape == (1, 3, model.cache_width)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 1}, "schema 1, not 2"),
        ({"schema": None}, "schema None"),
        ({"extra": 1}, "unknown keys: extra"),
        ({"count": ...}, "missing or unknown keys: count"),
        ({"model": "other"}, "of model 'other'"),
        ({"shape": [1, 3, 7]}, "does not fit this model"),
        ({"shape": [2, 3, 88]}, "does not fit this model"),
        ({"count": [-1]}, "does not fit this model"),
        ({"count": ["4"]}, "does not fit this model"),
        ({"count": [1, 1]}, "does not fit this model"),
        ({"count": []}, "does not fit this model"),
        ({"cache": b"short"}, "cut short"),
        ({"cache": "text"}, "cut short"),
        ({"voices": []}, "voices that cannot be read"),
        ({"voices": [[("a", 1)]]}, "voices that cannot be read"),
        ({"voices": [[("a", -1, [0.0])]]}, "voices that cannot be read"),
        ({"voices": [[("a", 1, [float("nan")])]]}, "voices that cannot be read"),
    ],
)
def test_a_foreign_dump_is_refused(change: dict, words: str):
    model = small_model()
    dumped = {**walked(model, 4).dump(), **change}
    dumped = {key: value for key, value in dumped.items() if value is not ...}
    with pytest.raises(ModelError, match=words):
        DialogueState.load(dumped, like=model.initial_state())


def test_numbers_that_are_not_finite_are_refused():
    model = small_model()
    dumped = walked(model, 4).dump()
    dumped["cache"] = b"\xff" * len(dumped["cache"])
    with pytest.raises(ModelError, match="not finite"):
        DialogueState.load(dumped, like=model.initial_state())


@pytest.mark.parametrize("changes", [{"context": 5}, {"attention": "self"}, {"heads": 4}])
def test_a_state_of_another_architecture_is_refused(changes: dict):
    model, other = small_model(), small_model(**changes)
    given = batch(other, [1])
    with pytest.raises(ModelError, match="start the dialogue anew"):
        other.step(walked(model, 2), given.audio_BUA[:, 0], given.text_BUT[:, 0])
    with pytest.raises(ModelError, match="start the dialogue anew"):
        DialogueState.load(walked(model, 2).dump(), like=other.initial_state())
    with pytest.raises(ModelError, match="different models"):
        DialogueState.stack([walked(model, 1), other.initial_state()])


def test_wrong_batches_and_offline_models_are_refused():
    model, offline = small_model(), small_model(mode="offline")
    given = batch(model, [1, 1])
    with pytest.raises(ModelError, match="1 dialogue states but 2 utterances"):
        model.step(model.initial_state(), given.audio_BUA[:, 0], given.text_BUT[:, 0])
    with pytest.raises(ModelError, match="offline model"):
        offline.step(offline.initial_state(2), given.audio_BUA[:, 0], given.text_BUT[:, 0])
    with pytest.raises(ModelError, match="no dialogue states"):
        DialogueState.stack([])
