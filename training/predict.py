"""A model's logits over whole dialogues, the decision fitted on them, and the scores that follow.

Legend: N labelled utterances, B dialogues, U utterances, C classes.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from bcaf_stream.errors import ModelError
from bcaf_stream.model.bc_lstm import BCLSTM
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.decision import HEADS, Calibration, Case, CaseWeights, HeadLogits, fit_case
from bcaf_stream.model.heads import IGNORED_LABEL, BCAFOutput
from training.dialogues import Batch, Dialogue, View, collate
from training.metrics import Scored, weighted_f1

BATCH = 32
DialogueModel = BCAF | BCLSTM
FOLDS = 5  # of dev, to compare what is fitted on it with what is not
VIEW_OF: dict[Case, View] = {"both": "both", "audio_only": "audio", "text_only": "text"}


class Predictions(NamedTuple):
    """Logits of the labelled utterances that the view leaves something of, and the dialogue of each."""

    audio_NC: Tensor
    text_NC: Tensor
    fused_NC: Tensor
    audio_present_N: Tensor
    text_present_N: Tensor
    label_N: Tensor
    call_N: Tensor
    linear_NC: Tensor | None = None  # of a model with a linear path

    @staticmethod
    def of(output: BCAFOutput, batch: Batch, number_B: Tensor) -> "Predictions":
        """The labelled utterances of a batch whose dialogues have these numbers."""
        call_BU = number_B.to(batch.mask_BU.device)[:, None].expand_as(batch.mask_BU)
        whole = Predictions(
            output.audio_BUC.float(),
            output.text_BUC.float(),
            output.fused_BUC.float(),
            batch.audio_present_BU,
            batch.text_present_BU,
            batch.label_BU,
            call_BU,
            None if output.linear_BUC is None else output.linear_BUC.float(),
        )
        kept = whole.where(batch.mask_BU & (batch.label_BU != IGNORED_LABEL))
        return Predictions(*(None if x is None else x.cpu() for x in kept))  # type: ignore[arg-type]

    @staticmethod
    def joined(parts: Sequence["Predictions"]) -> "Predictions":
        columns = zip(*parts, strict=True)
        return Predictions(*(None if one[0] is None else torch.cat(one) for one in columns))  # type: ignore[arg-type]

    def where(self, keep_N: Tensor) -> "Predictions":
        return Predictions(*(None if x is None else x[keep_N] for x in self))  # type: ignore[arg-type]

    def case(self, case: Case) -> "Predictions":
        """Those utterances of which exactly these modalities are present."""
        audio, text, _ = HEADS[case]
        return self.where((self.audio_present_N == audio) & (self.text_present_N == text))

    @property
    def heads(self) -> HeadLogits:
        return HeadLogits(self.audio_NC, self.text_NC, self.fused_NC, self.linear_NC)


@torch.inference_mode()
def predict(
    model: DialogueModel,
    dialogues: Sequence[Dialogue],
    view: View = "both",
    batch: int = BATCH,
    sharded: bool = False,
) -> Predictions:
    """Run the model over `dialogues`; with `sharded`, each process of the group takes a part and gets the whole.

    Raises:
        ModelError: logits that are not finite.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if sharded else (0, 1)
    mine = range(rank, len(dialogues), world)
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    parts = []
    for start in range(0, len(mine), batch):
        numbers = mine[start : start + batch]
        parts.append(_run(model, [dialogues[n] for n in numbers], torch.tensor(numbers), view, device))
    model.train(was_training)
    if sharded:
        gathered: list[list[Predictions]] = [[] for _ in range(world)]
        dist.all_gather_object(gathered, parts)
        parts = [part for of_rank in gathered for part in of_rank]
    joined = Predictions.joined(parts)
    if not joined.fused_NC.isfinite().all():
        raise ModelError("the model gives logits that are not finite; check its weights and the features")
    return joined.where(torch.argsort(joined.call_N, stable=True))


def _run(
    model: DialogueModel, dialogues: list[Dialogue], number_B: Tensor, view: View, device: torch.device
) -> Predictions:
    batch = collate(dialogues).to(device).seen_as(view)
    output = model(batch.audio_BUA, batch.text_BUT, batch.mask_BU, batch.audio_present_BU, batch.text_present_BU)
    return Predictions.of(output, batch, number_B)


@torch.inference_mode()
def fused_logits(model: DialogueModel, dialogue: Dialogue) -> Tensor:
    """(U, C) of one whole dialogue."""
    batch = collate([dialogue])
    output = model(batch.audio_BUA, batch.text_BUT, batch.mask_BU, batch.audio_present_BU, batch.text_present_BU)
    return output.fused_BUC[0].float().clone()


def calibrate(model: DialogueModel, predictions: Iterable[Predictions]) -> Calibration:
    """Fit the decision on dev, for each case of presence that occurs; the others stay unfitted."""
    fitted: dict[Case, CaseWeights] = {}
    predictions = list(predictions)
    for case in HEADS:
        found = [part for whole in predictions if len((part := whole.case(case)).label_N)]
        if not found:
            fitted[case] = CaseWeights.fixed(case, model.config.decision)
            continue
        joined = Predictions.joined(found)
        fitted[case] = fit_case(joined.heads, joined.label_N, case, model.config.decision)
    return Calibration.model_validate(fitted)


def calibrate_on(model: DialogueModel, dev: Sequence[Dialogue]) -> Calibration:
    """Fit every case of presence by withholding modalities of the dev split.

    Where there is a linear path, it decides alone in each case in which all heads together are no better on dev:
    a network trained on some hundred utterances can be worse than a regression, and then it has no say.
    """
    predictions = [predict(model, dev, view) for view in VIEW_OF.values()]
    calibration = calibrate(model, predictions)
    if model.config.decision != "weighted":
        return calibration
    changed: dict[str, CaseWeights] = {}
    for case in HEADS:
        found = Predictions.joined([whole.case(case) for whole in predictions])
        if found.linear_NC is not None and not _better_than_linear(model, found, case):
            changed[case] = fit_case(found.heads, found.label_N, case, "linear")
    return calibration.model_copy(update=changed)


def _better_than_linear(model: DialogueModel, found: Predictions, case: Case) -> bool:
    """Whether the weighted heads have a higher weighted F1 than the linear path alone.

    Weights that are fitted on some utterances are judged on the dialogues of the others. True where the linear
    path says nothing, or dev is too small to be divided.
    """
    assert found.linear_NC is not None
    _, rank_N = found.call_N.unique(return_inverse=True)
    fold_N = rank_N % FOLDS
    if len(fold_N.unique()) < 2 or not (found.linear_NC != found.linear_NC[:, :1]).any():
        return True
    probs_NC = np.zeros(found.linear_NC.shape)
    for fold in fold_N.unique():
        rest, held = found.where(fold_N != fold), found.where(fold_N == fold)
        weights = fit_case(rest.heads, rest.label_N, case)
        probs_NC[(fold_N == fold).numpy()] = scored(
            model, held, Calibration.unfitted("weighted").model_copy(update={case: weights})
        ).probs_NC
    truth_N, call_N = found.label_N.numpy(), found.call_N.numpy()
    mixed, alone = (
        weighted_f1(Scored(model.config.labels, one_NC, truth_N, call_N))
        for one_NC in (probs_NC, found.linear_NC.numpy())
    )
    return mixed > alone


def scored(model: DialogueModel, predictions: Predictions, calibration: Calibration) -> Scored:
    """Probabilities by the decision, beside the truth."""
    output = BCAFOutput(
        predictions.fused_NC[None],
        predictions.audio_NC[None],
        predictions.text_NC[None],
        predictions.audio_present_N[None],
        predictions.text_present_N[None],
        None,
        None if predictions.linear_NC is None else predictions.linear_NC[None],
    )
    probs_NC = calibration.decide(output)[0].numpy()
    return Scored(
        model.config.labels,
        probs_NC,
        predictions.label_N.numpy().astype(np.int64),
        predictions.call_N.numpy().astype(np.int64),
    )


def in_mode(model: BCAF, mode: str) -> BCAF:
    """The same weights, seeing the whole dialogue (`offline`) or the past alone (`causal`)."""
    if model.config.mode == mode:
        return model
    config = model.config.model_copy(update={"mode": mode})
    device = next(model.parameters()).device
    with torch.device("meta"):
        other = BCAF(config)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.to(device).eval()
