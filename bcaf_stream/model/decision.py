"""The decision: the heads' log-probabilities, weighted and tempered, become one calibrated distribution.

log p = (w_a log p_a + w_l log p_l + w_m log p_m) / T, normalised; a linear path (linear_path.py) is a fourth head
where decision is `weighted`. Weights and temperature are fitted on
the dev split, once for each case of presence, because a head whose modality is absent has nothing to say.

With b = w / T the negative log-likelihood is convex in b, so one fit under b >= 0 gives weights and
temperature at once, and its optimum is the global one. A grid over the weighted F1 would be the other
choice; that score is a staircase on some thousand utterances, and its best stair is mostly luck.

Legend: N labelled utterances, C classes, H heads, `...` any leading axes.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from bcaf_stream.config import Config
from bcaf_stream.errors import ModelError
from bcaf_stream.model.adaptation import VoicePrior
from bcaf_stream.model.affect import AffectMap
from bcaf_stream.model.heads import IGNORED_LABEL, BCAFOutput

Decision = Literal["weighted", "fused", "mean"]
Rule = Decision | Literal["linear"]  # the linear path alone: what `weighted` falls back to, never configured
Case = Literal["both", "audio_only", "text_only"]
Share = Annotated[float, Field(ge=0, le=1)]

HEADS: dict[Case, tuple[bool, bool, bool]] = {  # which of (audio, text, fused) may speak
    "both": (True, True, True),
    "audio_only": (True, False, True),
    "text_only": (False, True, True),
}
TEMPERATURES = (0.05, 20.0)  # beyond these, dev was separable or the heads are noise
LARGEST = 1 / TEMPERATURES[0]  # of one head's scale
NEWTON_STEPS = 100


class HeadLogits(NamedTuple):
    """Logits of the same utterances from the three heads and the linear path, if there is one, each (..., C)."""

    audio: Tensor
    text: Tensor
    fused: Tensor
    linear: Tensor | None = None

    @staticmethod
    def of(output: BCAFOutput) -> "HeadLogits":
        return HeadLogits(output.audio_BUC, output.text_BUC, output.fused_BUC, output.linear_BUC)

    @property
    def all(self) -> list[Tensor]:
        return [one for one in self if one is not None]


class CaseWeights(Config):
    """Weights of the heads, which sum to 1, and the temperature."""

    audio: Share
    text: Share
    fused: Share
    linear: Share = 0.0
    temperature: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError("the weights of the heads must sum to 1")
        return self

    @property
    def shares(self) -> tuple[float, float, float, float]:
        return self.audio, self.text, self.fused, self.linear

    @staticmethod
    def fixed(case: Case, decision: Rule) -> "CaseWeights":
        """`fused`, `linear`: that head alone. Otherwise every head of the network that may speak, alike."""
        if decision == "linear":
            return CaseWeights(audio=0.0, text=0.0, fused=0.0, linear=1.0)
        speaks = (False, False, True) if decision == "fused" else HEADS[case]
        audio, text, fused = (float(one) / sum(speaks) for one in speaks)
        return CaseWeights(audio=audio, text=text, fused=fused)


class Calibration(Config):
    """The weights for each case of presence, as stored in a checkpoint.

    Where the most probable label has less than `decided_from`, it is right no more often than chance: nothing was
    decided, unless the words alone give it as much. It is a matter of the weights, to be measured on labelled
    speech. `voice` is where adaptation to a voice begins (adaptation.py); without it, there is none. `affect`
    is where the labels lie in valence and arousal (affect.py); without it, events have neither.
    """

    both: CaseWeights
    audio_only: CaseWeights
    text_only: CaseWeights
    decided_from: Share = 0.0
    voice: VoicePrior | None = None
    affect: AffectMap | None = None

    @model_validator(mode="after")
    def _absent_is_silent(self) -> Self:
        if self.audio_only.text or self.text_only.audio:
            raise ValueError("the head of an absent modality must have weight 0")
        return self

    @staticmethod
    def unfitted(decision: Decision) -> "Calibration":
        """Before there is a dev split to fit on: fixed weights, temperature 1."""
        return Calibration.model_validate({case: CaseWeights.fixed(case, decision) for case in HEADS})

    def is_decided(self, probs: Sequence[float], text_probs: Sequence[float] | None = None) -> bool:
        """Whether the probabilities of one utterance, or those of its words alone, say more than chance would."""
        top = max(range(len(probs)), key=lambda label: probs[label])
        return max(probs[top], text_probs[top] if text_probs else 0.0) >= self.decided_from

    @property
    def by_linear_path(self) -> list[Case]:
        """The cases of presence in which the network's heads have no say."""
        return [case for case in HEADS if getattr(self, case).linear == 1.0]

    def decide(self, output: BCAFOutput) -> Tensor:
        """Probabilities (B, U, C) in float64. Where neither modality is present, the fused head's own."""
        heads = HeadLogits.of(output)
        cases = (
            CaseWeights(audio=0.0, text=0.0, fused=1.0),
            self.text_only,
            self.audio_only,
            self.both,
        )
        table_4H = torch.tensor([c.shares[: len(heads.all)] for c in cases], dtype=torch.float64)
        scale_4H = table_4H / torch.tensor([[c.temperature] for c in cases], dtype=torch.float64)
        case_BU = 2 * output.audio_present_BU.long() + output.text_present_BU.long()
        scale_BUH1 = scale_4H.to(heads.fused.device)[case_BU][..., None]
        return (_log_probs(heads) * scale_BUH1).sum(-2).softmax(-1)


def fit_calibration(
    cases: Mapping[Case, HeadLogits], labels: Tensor, decision: Decision = "weighted"
) -> Calibration:
    """Fit on dev: for each case the logits (..., C) of the same utterances, run with that modality withheld.

    labels (...) with -100 for none. `fused` and `mean` fix the weights and fit the temperature alone. A case
    that is not given stays unfitted.

    Raises:
        ModelError: no labels, shapes that do not fit, or logits that are not finite.
    """
    fitted = {
        case: fit_case(cases[case], labels, case, decision) if case in cases else CaseWeights.fixed(case, decision)
        for case in HEADS
    }
    return Calibration.model_validate(fitted)


def fit_case(heads: HeadLogits, labels: Tensor, case: Case, decision: Rule = "weighted") -> CaseWeights:
    """Weights and temperature of least negative log-likelihood for one case of presence.

    `linear` is for heads with a linear path.
    """
    labelled = labels != IGNORED_LABEL
    if not labelled.any():
        raise ModelError(f"no labels to fit the decision on ({case}); give a dev split with labels")
    if any(logits.shape[:-1] != labels.shape or not logits.isfinite().all() for logits in heads.all):
        raise ModelError(f"logits to fit the decision on ({case}) are not finite or do not fit their labels")
    log_probs_NHC = _log_probs(HeadLogits(*(logits[labelled].detach() for logits in heads.all)))
    start = CaseWeights.fixed(case, decision)
    share_H = torch.tensor(start.shares[: len(heads.all)], dtype=torch.float64)
    if decision == "weighted":
        if heads.linear is not None:
            share_H[-1] = share_H.max()  # it may speak in every case
        free = share_H > 0
        share_H /= share_H.sum()
        scale_H = torch.zeros_like(share_H)
        scale_H[free] = _least_nll(log_probs_NHC[:, free], labels[labelled], share_H[free])
    else:
        mixed_N1C = (log_probs_NHC * share_H[:, None]).sum(1, keepdim=True)
        scale_H = share_H * _least_nll(mixed_N1C, labels[labelled], torch.ones(1, dtype=torch.float64))
    temperature = min(max(1 / max(scale_H.sum().item(), 1e-12), TEMPERATURES[0]), TEMPERATURES[1])
    # Heads that all say nothing leave no scale to share: then they weigh alike.
    share_H = scale_H / scale_H.sum() if scale_H.sum() > 0 else share_H
    audio, text, fused, *linear = share_H.tolist()
    return CaseWeights(audio=audio, text=text, fused=fused, linear=sum(linear), temperature=temperature)


def _least_nll(log_probs_NHC: Tensor, labels_N: Tensor, start_H: Tensor) -> Tensor:
    """The scales in [0, LARGEST] of least NLL: Newton steps, projected onto the box.

    A head that says nothing ends at 0 and one that is faint but certain at LARGEST; without the box both
    send a quasi-Newton search to infinity, after minutes.
    """
    said_NH = log_probs_NHC[torch.arange(len(labels_N)), :, labels_N]

    def nll(scale_H: Tensor) -> Tensor:
        return F.cross_entropy((log_probs_NHC * scale_H[:, None]).sum(1), labels_N)

    scale_H, loss = start_H, nll(start_H)
    for _ in range(NEWTON_STEPS):
        share_NC = (log_probs_NHC * scale_H[:, None]).sum(1).softmax(-1)
        mean_NH = (log_probs_NHC * share_NC[:, None]).sum(-1)
        slope_H = (mean_NH - said_NH).mean(0)
        apart_NHC = log_probs_NHC - mean_NH[..., None]
        curve_HH = torch.einsum("nhc,nkc,nc->hk", apart_NHC, apart_NHC, share_NC) / len(labels_N)
        free_H = ~((scale_H <= 0) & (slope_H > 0) | (scale_H >= LARGEST) & (slope_H < 0))
        if not free_H.any() or slope_H[free_H].abs().max() < 1e-9:
            break
        damped = curve_HH[free_H][:, free_H] + 1e-10 * torch.eye(int(free_H.sum()), dtype=curve_HH.dtype)
        step_H = torch.zeros_like(scale_H)
        step_H[free_H] = torch.linalg.solve(damped, slope_H[free_H])
        for halving in range(40):
            tried_H = (scale_H - 0.5**halving * step_H).clamp(0, LARGEST)
            if (tried := nll(tried_H)) <= loss + 1e-4 * (slope_H * (tried_H - scale_H)).sum():
                break
        else:
            break
        scale_H, loss = tried_H, tried
    return scale_H


def _log_probs(heads: HeadLogits) -> Tensor:
    """(..., H, C) in float64."""
    return torch.stack([logits.double().log_softmax(-1) for logits in heads.all], dim=-2)
