"""Vectors of any scale: standardised by the train split, the same in batch and step, carried by the checkpoint."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.checkpoint import find_checkpoint, load_checkpoint
from bcaf_stream.model.config import BCAFConfig
from bcaf_stream.model.inputs import ModalityInput, scale_of, standardized
from tests.unit.training.made import prepared, records, train_config
from training.evaluate import evaluate, evaluate_streaming, open_subject
from training.fit import build_trainer, fit_here
from training.metrics import weighted_f1
from training.training_data import load_training_data

CONSTANT = 5


def badly_scaled():
    """Audio in thousandths with a constant dimension, text in thousands far from zero: as measures in Hz are."""
    rows = records()
    for row in rows:
        row["audio_vector"] = [0.001 * x for x in row["audio_vector"]]
        row["audio_vector"][CONSTANT] = 0.25
        row["text_vector"] = [1000 * x + 20_000 for x in row["text_vector"]]
    return rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("scaled"), badly_scaled())


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    torch.set_num_threads(1)
    config = train_config(corpus, tmp_path_factory.mktemp("runs") / "made", loop__modality_dropout=0.2)
    return config, fit_here(config)


def test_a_corpus_of_any_scale_is_learned_and_step_equals_batch(run, corpus):
    subject = open_subject(str(run[1]), corpus, "test")
    batch, live = evaluate(subject)["causal"], evaluate_streaming(subject)["causal"]
    assert weighted_f1(batch["both"]) > 0.95
    for view, expected in batch.items():
        np.testing.assert_allclose(live[view].probs_NC, expected.probs_NC, atol=1e-5)


def test_without_it_the_same_corpus_is_not_learned(run, corpus, tmp_path):
    config = run[0].changed({"data.standardize": False, "out": str(tmp_path / "raw")})
    found = evaluate(open_subject(str(fit_here(config, floor=False)), corpus, "test"))
    assert weighted_f1(found["causal"]["both"]) < 0.8


def test_the_next_run_keeps_the_scale_of_the_checkpoint_that_it_starts_from(run, tmp_path):
    config, folder = run
    other = prepared(tmp_path / "other", records({"train": 4, "dev": 2}))
    changed = config.changed({"init": str(folder), "data.manifest": str(other), "out": str(tmp_path / "next")})
    started = build_trainer(changed, load_training_data(changed), torch.device("cpu")).model
    assert torch.equal(started.text_input.mean_X, load_checkpoint(folder).model.text_input.mean_X)
    assert float(started.text_input.mean_X.mean()) == pytest.approx(20_000, rel=0.01)


@pytest.mark.parametrize("width", [6, 16])
def test_a_dimension_that_never_varied_says_nothing_later_and_outliers_are_bounded(width):
    layer = ModalityInput("audio", 6, width, standardize=True)
    vectors_NX = torch.randn(50, 6)
    vectors_NX[:, CONSTANT] = 3.0
    layer.set_scale(*scale_of(vectors_NX))
    x_NX, there_N = torch.randn(4, 6), torch.ones(4, dtype=torch.bool)
    other_NX = x_NX.clone()
    other_NX[:, CONSTANT] = 1e30
    assert torch.equal(layer(x_NX, there_N), layer(other_NX, there_N))
    x_NX[:, 0] = 1e30
    assert layer(x_NX, there_N).isfinite().all()
    assert torch.equal(layer(x_NX, ~there_N), layer.absent_D.expand(4, -1))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 60),
    st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=5),
    st.floats(-1e4, 1e4),
)
def test_what_varies_gets_mean_0_and_deviation_1(rows, deviations, middle):
    spread = torch.linspace(-1, 1, rows)[:, None] * torch.tensor(deviations) * (1 + abs(middle))
    vectors_NX = middle + spread
    found_NX = standardized(vectors_NX, *scale_of(vectors_NX))
    torch.testing.assert_close(found_NX.mean(0), torch.zeros(len(deviations)), rtol=0, atol=0.02)
    torch.testing.assert_close(found_NX.std(0, correction=0), torch.ones(len(deviations)), rtol=0, atol=0.02)


def test_no_vectors_at_all_leave_numbers_as_they_are():
    mean_X, inverse_X = scale_of(torch.empty(0, 3))
    assert torch.equal(standardized(torch.ones(2, 3), mean_X, inverse_X), torch.ones(2, 3))


def test_older_checkpoints_load_and_keep_the_identity_that_stored_states_name():
    assert BCAFConfig(labels=("a", "b")).digest() == "31eb261663ab1345"
    assert BCAFConfig(labels=("a", "b"), standardize=True).digest() != "31eb261663ab1345"
    shipped = load_checkpoint(find_checkpoint("compact")).model
    assert not shipped.config.standardize
    assert not [name for name in shipped.state_dict() if name.endswith(("mean_X", "inverse_X"))]
    assert isinstance(shipped, BCAF)
