"""The network against the paper's equations, computed in float64 with plain loops (paper.py)."""

from itertools import product

import numpy as np
import pytest
import torch

from bcaf_stream.model.attention import AttentionBlocks, JointAttention, visible
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.bimodal import QUERY_SOURCES
from bcaf_stream.model.config import BCAFConfig
from bcaf_stream.model.connection import connection_loss, widths
from bcaf_stream.model.correlative import CorrelativeAttention, correlation
from tests.unit.model import paper
from tests.unit.model.small import small_config, small_model


def params(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.double().eval()


def rows(x_BUD: torch.Tensor) -> list[np.ndarray]:
    return list(x_BUD[0].detach().numpy())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)


def pair_of_dialogues() -> torch.Tensor:
    return torch.randn(2, 1, 5, 6, dtype=torch.float64)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("context", [None, 1, 3])
def test_self_blocks_are_eq_4_to_6(heads: int, context: int | None):
    blocks = shaken(AttentionBlocks((0, 1), 6, heads, 10, 0.3))
    pair = pair_of_dialogues()
    got = blocks(pair, visible(torch.ones(1, 5, dtype=torch.bool), context))
    for number, (x, mine) in enumerate(zip(pair, got, strict=True)):
        expected = paper.block(rows(x), rows(x), paper.of(params(blocks), number), context, heads)
        np.testing.assert_allclose(mine[0].detach(), expected, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 2])
def test_cross_block_of_audio_is_asked_by_text_and_added_to_audio(heads: int):
    blocks = shaken(AttentionBlocks(QUERY_SOURCES["cross"], 6, heads, 10, 0.3))
    audio, text = pair = pair_of_dialogues()
    got_audio, got_text = blocks(pair, visible(torch.ones(1, 5, dtype=torch.bool), 3))
    p = params(blocks)
    expected_audio = paper.block(rows(text), rows(audio), paper.of(p, 0), 3, heads)
    expected_text = paper.block(rows(audio), rows(text), paper.of(p, 1), 3, heads)
    np.testing.assert_allclose(got_audio[0].detach(), expected_audio, atol=1e-12)
    np.testing.assert_allclose(got_text[0].detach(), expected_text, atol=1e-12)


def test_projections_of_attention_have_no_bias():
    blocks = (AttentionBlocks((0,), 6, 1, 10, 0.3), JointAttention(6, 1, 0.2))
    biased = [name for block in blocks for name, _ in block.named_parameters() if name.endswith("bias")]
    assert biased
    assert all(name.startswith("add_norm.") for name in biased)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("context", [None, 2])
def test_joint_attention_is_eq_13_and_14(heads: int, context: int | None):
    joint = shaken(JointAttention(6, heads, 0.2))
    audio, text = pair = pair_of_dialogues()
    got = joint(pair, visible(torch.ones(1, 5, dtype=torch.bool), context))
    expected = paper.joint(rows(audio), rows(text), params(joint), context, heads)
    np.testing.assert_allclose(got[0].detach(), expected, atol=1e-12)


def test_lambda_starts_where_the_config_says():
    for value in (0.2, 0.7):
        model = BCAF(small_config(attention="jan", lambda_init=value))
        lambdas = [p.item() for name, p in model.named_parameters() if name.endswith("lambda_")]
        assert lambdas == pytest.approx([value] * 3)


def test_correlation_is_the_cosine_and_weighs_the_projection():
    network = shaken(CorrelativeAttention(6, 4, 2, 0.2))
    pair, latents = pair_of_dialogues(), torch.randn(2, 1, 5, 4, dtype=torch.float64)
    got = network(pair, latents, visible(torch.ones(1, 5, dtype=torch.bool), None))
    p = params(network)
    star = paper.joint(rows(pair[0]), rows(pair[1]), paper.below(p, "joint."), None, 2)
    for number, u in product(range(2), range(5)):
        projected = paper.project(rows(pair[number])[u], paper.below(p, "projection."), number)
        expected = projected * paper.cosine(rows(latents[number])[u], paper.linear(star[u], p, "fusion"))
        np.testing.assert_allclose(got[number, 0, u].detach(), expected, atol=1e-12)


def test_correlation_of_a_dead_latent_is_zero_with_finite_gradients():
    dead, fused = torch.zeros(1, 2, 4, requires_grad=True), torch.randn(1, 2, 4, requires_grad=True)
    cor = correlation(dead, fused)
    cor.sum().backward()
    assert cor.abs().max() == 0
    assert dead.grad is not None
    assert dead.grad.isfinite().all()
    assert fused.grad is not None
    assert fused.grad.isfinite().all()


@pytest.mark.parametrize(("heads", "context", "mode"), [(1, 3, "causal"), (2, 4, "causal"), (2, 4, "offline")])
def test_the_whole_network_is_the_paper(heads: int, context: int, mode: str):
    model = small_model(audio_width=8, text_width=8, heads=heads, context=context, mode=mode).double()
    audio, text = torch.randn(2, 1, 7, 8, dtype=torch.float64)
    got = model(audio, text, torch.ones(1, 7, dtype=torch.bool))
    window = context if mode == "causal" else None
    expected = paper.bcaf(params(model), rows(audio), rows(text), layers=2, heads=heads, context=window)
    np.testing.assert_allclose(got.fused_BUC[0].detach(), expected["fused"], atol=1e-11)
    np.testing.assert_allclose(got.audio_BUC[0].detach(), expected["audio"], atol=1e-11)
    np.testing.assert_allclose(got.text_BUC[0].detach(), expected["text"], atol=1e-11)
    connection = got.connection
    assert connection is not None
    for number, modality in enumerate(("a", "l")):
        np.testing.assert_allclose(connection.e_2BUE[number, 0].detach(), expected[f"e_{modality}"], atol=1e-11)
        np.testing.assert_allclose(connection.d_2BUD[number, 0].detach(), expected[f"d_{modality}"], atol=1e-11)


def test_the_papers_widths():
    model = BCAF(BCAFConfig(labels=("a", "b"), layers=1))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["fused_head.0.weight"][1] == 3072
    assert widths(1024, 512) == [1024, 853, 683, 512]
    assert [shapes[f"latents.encoder.{n}.weight"] for n in range(3)] == [
        (2, 1024, 853),
        (2, 853, 683),
        (2, 683, 512),
    ]
    assert [shapes[f"latents.decoder.{n}.weight"][-1] for n in range(3)] == [683, 853, 1024]
    assert sum(name.startswith("fused_head") and name.endswith("weight") for name in shapes) == 4
    assert not any("projection" in name for name in shapes if name.startswith(("audio_input", "text_input")))


@pytest.mark.parametrize("form", ["stable", "printed"])
@pytest.mark.parametrize("count", [2, 9])
def test_connection_loss_is_eq_3(form: str, count: int):
    H_a, d_a, H_l, d_l = torch.randn(4, 3, 4, 5, dtype=torch.float64) * 2 + 1
    e_a, e_l = torch.randn(2, 3, 4, 3, dtype=torch.float64).relu()
    mask = torch.zeros(12, dtype=torch.bool)
    mask[torch.randperm(12)[:count]] = True
    mask = mask.view(3, 4)
    parts = (H_a, d_a, H_l, d_l, e_a, e_l)
    got = connection_loss(*map(torch.stack, ((H_a, H_l), (d_a, d_l), (e_a, e_l))), mask, form=form, mu=0.37)
    reference = paper.stable_connection_loss if form == "stable" else paper.printed_connection_loss
    expected = reference(*(x[mask].numpy() for x in parts), mu=0.37)
    assert got.item() == pytest.approx(expected, rel=1e-10)


def test_the_sign_of_the_second_term_tells_the_forms_apart():
    same = torch.randn(50, 4, dtype=torch.float64)
    other = torch.randn(50, 4, dtype=torch.float64)
    mask = torch.ones(50, dtype=torch.bool)

    def loss(form: str, d_l: torch.Tensor) -> float:
        rebuilt = torch.stack((same, d_l))
        return connection_loss(rebuilt, rebuilt, torch.stack((same, same)), mask, form=form, mu=1.0).item()

    assert loss("stable", other) > loss("stable", same)  # disagreeing reconstructions cost
    assert loss("printed", 1e3 * other) < min(0, loss("printed", other))  # as printed, they pay without bound


def test_agreeing_modalities_cost_only_their_inner_correlation():
    x = torch.randn(64, 5, dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0))[0] * 8  # centred, uncorrelated, variance 1
    mask = torch.ones(64, dtype=torch.bool)
    pair = torch.stack((x, x))
    assert connection_loss(pair, pair, pair, mask, mu=1.0).item() == pytest.approx(0, abs=1e-8)
