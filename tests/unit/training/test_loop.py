import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.errors import DataError, ModelError
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.config import BCAFConfig
from tests.unit.training.made import LOOP, MODEL, dialogues
from training.config import LoopConfig
from training.dialogues import collate
from training.metrics import weighted_f1
from training.predict import VIEW_OF, Predictions, calibrate, calibrate_on, in_mode, predict, scored
from training.source import (
    UTTERANCES,
    DialogueSource,
    automatic_batch,
    batches,
    class_weights,
    derive_seed,
    hide_modalities,
)
from training.trainer import Trainer, rate

TRAIN, DEV, TEST = dialogues(120, 1), dialogues(40, 2), dialogues(60, 3)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def trainer(train=TRAIN, dev=DEV, model=None, teacher=None, interval=None, **loop):
    torch.manual_seed(0)
    config = BCAFConfig.model_validate({**MODEL, "labels": tuple(MODEL["labels"]), **(model or {})})
    options = LoopConfig(**{**LOOP, **loop})
    return Trainer(
        BCAF(config), options, DialogueSource(options, config.classes, train, dev, teacher), interval=interval
    )


def trained(**changes):
    made = trainer(**changes)
    while not made.done:
        made.run_epoch()
    return made


@pytest.fixture(scope="module")
def learned():
    torch.set_num_threads(1)
    return trained(modality_dropout=0.2, epochs=8)


def f1(model, view="both"):
    return weighted_f1(scored(model, predict(model, TEST, view), calibrate_on(model, DEV)))


def test_the_full_model_learns_what_needs_both_modalities_and_the_utterance_before(learned):
    assert f1(learned.best_model()) > 0.95


@pytest.mark.parametrize("view", ["audio", "text"])
def test_one_modality_is_not_enough(learned, view):
    assert f1(learned.best_model(), view) < 0.65


def test_a_model_without_context_is_not_enough():
    assert f1(trained(model={"context": 1}).best_model()) < 0.65


def test_the_same_weights_in_the_other_mode_see_the_future(learned):
    model = learned.best_model()
    offline = in_mode(model, "offline")
    assert offline.config.mode == "offline"
    assert in_mode(model, "causal") is model
    assert not torch.equal(predict(model, TEST).fused_NC, predict(offline, TEST).fused_NC)
    torch.testing.assert_close(offline.state_dict(), model.state_dict())


SCHEDULED = {"schedule": "linear", "warm_up": 5, "ema_decay": 0.8, "feature_dropout": 0.2, "keep": "last"}


@pytest.mark.parametrize("more", [{"optimizer": "adam"}, {"optimizer": "adamw"}, SCHEDULED])
def test_resume_equals_uninterrupted(more):
    """With dropout, modality dropout and class weights: everything that is random or remembered."""
    options = {
        "train": TRAIN[:24],
        "model": {"dropout": 0.3},
        "modality_dropout": 0.5,
        "class_weights": "balanced",
        **more,
        "l2": 1e-4,
        "clip": 1.0,
        "epochs": 4,
    }
    whole = trained(**options)
    first = trainer(**options)
    first.run_epoch()
    first.run_epoch()
    state = first.state_dict()
    torch.manual_seed(12345)  # another process has another past
    second = trainer(**options)
    second.load_state_dict(state)
    while not second.done:
        second.run_epoch()
    torch.testing.assert_close(second.model.state_dict(), whole.model.state_dict(), rtol=0, atol=1e-6)
    kept, expected = second.best_model().state_dict(), whole.best_model().state_dict()
    torch.testing.assert_close(kept, expected, rtol=0, atol=1e-6)
    assert [r["train_total"] for r in second.history] == [r["train_total"] for r in whole.history]
    assert second.best_epoch == whole.best_epoch


def test_it_stops_when_dev_stops_growing():
    made = trained(train=TRAIN[:8], patience=2, epochs=100, learning_rate=1e-9)
    assert made.epoch == made.best_epoch + 2 < 100


def test_the_best_weights_are_kept_not_the_last():
    made = trained(train=TRAIN[:40], epochs=6, learning_rate=2e-2)
    best = made.history[made.best_epoch - 1]["dev_weighted_f1"]
    assert made.best_epoch < made.epoch
    model = made.best_model()
    found = predict(model, DEV)
    assert weighted_f1(scored(model, found, calibrate_on(model, DEV))) == pytest.approx(best, abs=0.05)


def test_a_loss_that_is_not_finite_stops_before_the_update():
    made = trainer(model={"connection_form": "printed", "alpha": 1e30})
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    with pytest.raises(ModelError, match=r"not finite in epoch 1, step 1 .*connection_form: printed is unbounded"):
        made.run_epoch()
    torch.testing.assert_close(made.model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("interval", [1, 3, 50])
def test_however_seldom_it_is_looked_at_nothing_of_a_spoiled_epoch_is_kept(interval):
    made = trainer(interval=interval, epochs=3)
    made.run_epoch()
    before = {name: value.clone() for name, value in made.state_dict()["best"].items()}
    sound = TRAIN[17].audio_UA[0, 0].clone()
    TRAIN[17].audio_UA[0, 0] = float("nan")
    try:
        with pytest.raises(ModelError, match=r"the loss is not finite in epoch 2, step \d+ \(total nan"):
            made.run_epoch()
    finally:
        TRAIN[17].audio_UA[0, 0] = sound
    assert made.epoch == 1
    torch.testing.assert_close(made.best_model().state_dict(), before, rtol=0, atol=0)


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_nothing():
    config = LoopConfig(learning_rate=1.0, schedule="linear", warm_up=4, epochs=2)
    rates = [rate(config, step, steps=10) for step in range(1, 21)]
    assert rates[:2] == pytest.approx([0.25 * 20 / 21, 0.5 * 19 / 21])
    assert rates[3:] == pytest.approx([1 - step / 21 for step in range(4, 21)])
    constant = LoopConfig(learning_rate=1.0, warm_up=4)
    assert [rate(constant, step, steps=10) for step in (1, 4, 99)] == [0.25, 1.0, 1.0]
    assert rate(LoopConfig(learning_rate=1.0), 1, steps=10) == 1.0


def test_the_running_mean_of_the_weights_is_what_is_kept():
    made = trainer(train=TRAIN[:8], batch=8, epochs=5, ema_decay=0.7, warm_up=2, keep="last")
    mean = {}
    for number in range(1, 6):  # each epoch is one step
        made.run_epoch()
        now = {name: value.detach().clone() for name, value in made.model.state_dict().items()}
        if number == 2:
            mean = now
        elif number > 2:
            mean = {name: 0.7 * mean[name] + 0.3 * value for name, value in now.items()}
    assert made.best_epoch == 5
    torch.testing.assert_close(made.best_model().state_dict(), mean, rtol=0, atol=1e-6)


def test_a_teacher_is_learned_beside_the_labels_by_its_weight():
    opposite = [20.0 * torch.nn.functional.one_hot(1 - one.label_U, 2).float() for one in TRAIN]
    labels_alone = trained(teacher=opposite, distillation_weight=0.0, epochs=8)
    teacher_alone = trained(teacher=opposite, distillation_weight=1.0, epochs=8)
    assert "train_distillation" not in labels_alone.history[0]
    assert teacher_alone.history[-1]["train_distillation"] < teacher_alone.history[0]["train_distillation"]
    label_N = predict(labels_alone.model, TEST).label_N
    right = [
        (predict(one.model.eval(), TEST).fused_NC.argmax(1) == label_N) for one in (labels_alone, teacher_alone)
    ]
    assert right[0].float().mean() > 0.9
    assert right[1].float().mean() < 0.1


@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_the_processes_make_up_the_whole_step(world):
    config = LoopConfig(**{**LOOP, "class_weights": "balanced"})
    source = DialogueSource(config, 2, TRAIN, DEV)
    whole = list(source.epoch(1, 0, 1))
    parts = [list(source.epoch(1, rank, world)) for rank in range(world)]
    assert len(whole) == source.steps
    for number, step in enumerate(whole):
        shares = [of_rank[number].parts[0] for of_rank in parts]
        assert sum(part.share for part in shares) == pytest.approx(world)
        assert {part.mass for part in shares} == {step.parts[0].mass}
        assert sum(int(part.batch.mask_BU.sum()) for part in shares) == step.utterances


def test_a_corpus_without_labels_is_refused():
    bare = dialogues(2, 0)
    for one in bare:
        one.label_U.fill_(-100)
    with pytest.raises(DataError, match="no labelled utterance"):
        trainer(train=bare)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3), st.integers(1, 4))
def test_an_epoch_holds_every_dialogue_once(count, batch, seed, epoch):
    some = TRAIN[:count]
    groups = list(batches(some, batch, seed, epoch))
    assert sorted(n for group in groups for n in group) == list(range(count))
    assert all(len(group) <= batch for group in groups)
    assert groups == list(batches(some, batch, seed, epoch))


def test_epochs_differ_in_their_order():
    assert list(batches(TRAIN, 8, 0, 1)) != list(batches(TRAIN, 8, 0, 2))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.integers(1, 5))
def test_hiding_never_takes_both_modalities_and_is_the_same_in_any_batch(seed, epoch):
    numbers = list(range(12))
    batch = collate([TRAIN[n] for n in numbers])
    hidden = hide_modalities(batch, numbers, 1.0, seed, epoch)
    seen = hidden.audio_present_BU | hidden.text_present_BU
    assert torch.equal(seen, batch.mask_BU)
    assert not torch.equal(hidden.audio_present_BU & hidden.text_present_BU, batch.mask_BU)
    alone = hide_modalities(collate([TRAIN[7]]), [7], 1.0, seed, epoch)
    length = len(TRAIN[7])
    assert torch.equal(alone.audio_present_BU[0, :length], hidden.audio_present_BU[7, :length])


@pytest.mark.parametrize("kind", ["sqrt", "balanced"])
def test_class_weights_are_one_on_average(kind):
    weight_C = class_weights(TRAIN, 2, kind)
    labels = torch.cat([d.label_U for d in TRAIN])
    assert weight_C[labels].mean() == pytest.approx(1.0)
    rare = int(torch.bincount(labels).argmin())
    assert weight_C[rare] == weight_C.max()


def test_bfloat16_trains_too():
    made = trainer(train=TRAIN[:16], precision="bfloat16", epochs=1)
    record = made.run_epoch()
    assert 0 < record["train_total"] < 10


def test_seeds_of_a_run_are_all_different():
    seeds = {derive_seed(seed, epoch, part) for seed in range(5) for epoch in range(50) for part in range(10)}
    assert len(seeds) == 5 * 50 * 10


def test_withheld_modalities_calibrate_each_case(learned):
    calibration = calibrate_on(learned.best_model(), DEV)
    assert set(VIEW_OF) == {"both", "audio_only", "text_only"}
    assert calibration.audio_only.text == 0.0
    assert calibration.text_only.audio == 0.0


@pytest.mark.parametrize(("signal", "noise", "seed"), [(0.001, 0.001, 4), (0.1, 0.1, 13)])
def test_a_head_whose_best_weight_has_no_end_does_not_stop_the_run(signal, noise, seed):
    """A faint but certain head: the more it weighs the better, so a fit without bounds runs to infinity."""
    generator = torch.Generator().manual_seed(seed)
    label_N = torch.randint(0, 2, (120,), generator=generator)
    side_NC = (2 * label_N - 1).float()[:, None] * torch.tensor([-1.0, 1.0])

    def head(strength, spread):
        return strength * side_NC + spread * torch.randn(120, 2, generator=generator)

    there_N = torch.ones(120, dtype=torch.bool)
    found = Predictions(head(0, 0.3), head(signal, noise), head(0.3, 0.5), there_N, there_N, label_N, label_N)
    model = trainer().model
    probs_NC = scored(model, found, calibrate(model, [found])).probs_NC
    assert probs_NC.sum(1) == pytest.approx(1.0)


def test_an_automatic_batch_holds_as_many_utterances_in_every_corpus():
    size = automatic_batch(TRAIN)
    assert 0.5 * UTTERANCES < size * sum(map(len, TRAIN)) / len(TRAIN) < 1.5 * UTTERANCES
    long = [one for one in TRAIN if len(one) == 8]
    assert automatic_batch(long) == UTTERANCES // 8
    options = LoopConfig(batch="auto")
    assert DialogueSource(options, 2, TRAIN, DEV).steps == -(-len(TRAIN) // size)
