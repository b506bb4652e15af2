"""The baseline: what it sees, and that it is trained, stored and scored as BCAF is, and refused live."""

import pytest
import torch

from bcaf_stream.dialogue import DialogueAnalyzer
from bcaf_stream.errors import CheckpointError, ModelError
from bcaf_stream.model.bc_lstm import BCLSTM
from bcaf_stream.model.checkpoint import load_checkpoint
from bcaf_stream.model.published import PublishedBCAF
from tests.unit.model.small import assert_close, batch, small_config
from tests.unit.training.made import prepared, records, train_config
from training.ablate import CHANGES, ablate
from training.evaluate import evaluate, evaluate_streaming, open_subject
from training.fit import fit_here
from training.metrics import weighted_f1


def baseline(**changes):
    torch.manual_seed(0)
    return BCLSTM(small_config(kind="bc_lstm", **changes)).eval()


@pytest.mark.parametrize("mode", ["causal", "offline"])
@torch.inference_mode()
def test_padding_and_what_is_left_out_change_nothing(mode):
    model = baseline(mode=mode)
    given = batch(model, [3, 8], absent=0.3)
    whole = model(*given).fused_BUC
    alone = model(*(x[:1, :3] for x in given)).fused_BUC
    assert_close(whole[0, :3], alone[0])
    kept = torch.tensor([0, 1, 3, 4, 6, 7])
    mask_BU = given.mask_BU[1:].clone()
    mask_BU[:, [2, 5]] = False
    holed = model(given.audio_BUA[1:], given.text_BUT[1:], mask_BU).fused_BUC
    dense = model(given.audio_BUA[1:, kept], given.text_BUT[1:, kept], mask_BU[:, kept]).fused_BUC
    assert_close(holed[:, kept], dense)


@pytest.mark.parametrize(("mode", "sees"), [("causal", False), ("offline", True)])
@torch.inference_mode()
def test_only_offline_sees_what_comes_later(mode, sees):
    model = baseline(mode=mode)
    given = batch(model, [6])
    before = model(*given).fused_BUC[:, :5]
    given.text_BUT[:, 5] += 3
    changed = (model(*given).fused_BUC[:, :5] - before).abs().max() > 1e-4
    assert bool(changed) == sees


def test_it_is_trained_stored_scored_and_ablated_by_the_same_commands(tmp_path):
    torch.set_num_threads(1)
    corpus = prepared(tmp_path, records())
    changes = {
        "loop__epochs": 25,
        "loop__learning_rate": 1e-2,
        "model__kind": "bc_lstm",
        "model__linear_path": False,
    }
    config = train_config(corpus, tmp_path / "run", **changes)
    folder = fit_here(config)
    assert isinstance(load_checkpoint(folder).model, BCLSTM)
    subject = open_subject(str(folder), corpus, "test")
    found = evaluate(subject)
    assert set(found) == {"causal"}  # weights of one direction know nothing of the other
    assert weighted_f1(found["causal"]["both"]) > 0.9
    with pytest.raises(ModelError, match="is a bc-LSTM, a baseline for evaluate"):
        DialogueAnalyzer(load_checkpoint(folder))
    with pytest.raises(ModelError, match="is a bc-LSTM"):
        evaluate_streaming(subject)
    with pytest.raises(CheckpointError, match="holds a model of kind bc_lstm"):
        PublishedBCAF.from_pretrained(str(folder))
    small = config.changed(
        {"model.kind": "bcaf", "loop.epochs": 1, "ablate.seeds": 1, "ablate.variants": ["full", "bc_lstm"]}
    )
    seen = []
    ablate(small, "test", seen.append)
    assert [run.variant for run in seen] == ["full", "bc_lstm"]
    assert CHANGES["bc_lstm"]["model.linear_path"] is False
