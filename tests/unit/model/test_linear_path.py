"""The linear path beside the network: what it says for each case of presence, in batch and step alike."""

import torch

from tests.unit.model.small import assert_close, batch, small_model


def with_path(**changes):
    model = small_model(linear_path=True, standardize=True, **changes)
    generator = torch.Generator().manual_seed(3)
    for buffer in model.linear_path.buffers():
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
    for layer in (model.audio_input, model.text_input):
        layer.set_scale(
            torch.randn(layer.in_features, generator=generator), torch.rand(layer.in_features, generator=generator)
        )
    return model


def test_each_case_of_presence_has_a_regression_of_its_own():
    model, path = with_path(), with_path().linear_path
    given = batch(model, [3, 7], absent=0.6)
    with torch.inference_mode():
        linear_BUC = model(*given).linear_BUC
        audio_BUA = (given.audio_BUA - model.audio_input.mean_X) * model.audio_input.inverse_X
        text_BUT = (given.text_BUT - model.text_input.mean_X) * model.text_input.inverse_X
        expected = {
            (True, True): torch.cat((audio_BUA, text_BUT), -1) @ path.both_CX.T + path.bias_3C[0],
            (True, False): audio_BUA @ path.audio_CX.T + path.bias_3C[1],
            (False, True): text_BUT @ path.text_CX.T + path.bias_3C[2],
        }
    seen = set()
    for b, u in torch.nonzero(given.mask_BU).tolist():
        case = (bool(given.audio_present_BU[b, u]), bool(given.text_present_BU[b, u]))
        assert_close(linear_BUC[b, u], expected[case][b, u])
        seen.add(case)
    assert len(seen) == 3


def test_a_step_gives_what_the_batch_gives():
    model = with_path()
    given = batch(model, [9], absent=0.4)
    state, found = model.initial_state(), []
    for u in range(9):
        output, state = model.step(
            state,
            given.audio_BUA[:, u],
            given.text_BUT[:, u],
            given.audio_present_BU[:, u],
            given.text_present_BU[:, u],
        )
        found.append(output.linear_BUC)
    with torch.inference_mode():
        assert_close(torch.cat(found, 1), model(*given).linear_BUC)


def test_the_network_does_not_learn_through_it():
    model = with_path().train()
    given = batch(model, [4])
    output = model(*given)
    assert output.linear_BUC is None
    assert not [name for name, _ in model.named_parameters() if "linear_path" in name]
