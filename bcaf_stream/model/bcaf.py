"""BCAF: the three networks, the heads and the loss (eq. 1-24), over whole dialogues or one utterance at a time.

`forward` sees a batch of dialogues; in causal mode an utterance sees itself and the `context - 1` before it
in every attention layer. `step` computes the next utterance of each dialogue from cached keys and values and
gives the same numbers. The bimodal layers reach back layers * (context - 1) utterances, the joint attention
of the correlative network context - 1 further.

A missing modality is a learned "absent" vector in the place of H_m, and the presence flags, which go on to
the losses and to the decision. Features of an absent modality and of padding are never read.

Legend: B dialogues, U utterances, A / T widths of the audio and text encoders, D width, E latent width,
C classes, K = context - 1 cached utterances, W width of one cached row; 2 is audio, text.
"""

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from bcaf_stream.errors import ModelError
from bcaf_stream.model import weights
from bcaf_stream.model.attention import Cache, visible, visible_in_step
from bcaf_stream.model.bc_lstm import BCLSTM
from bcaf_stream.model.bimodal import BimodalAttention
from bcaf_stream.model.config import BCAFConfig
from bcaf_stream.model.connection import ConnectionNetwork, PlainLatent, connection_loss
from bcaf_stream.model.correlative import CorrelativeAttention, PlainProjection
from bcaf_stream.model.heads import IGNORED_LABEL, BCAFOutput, classifier, cross_entropy
from bcaf_stream.model.inputs import ModalityInput, presence
from bcaf_stream.model.linear_path import LinearPath
from bcaf_stream.model.parallel import ParallelLinear
from bcaf_stream.model.state import DialogueState


class BCAF(nn.Module):
    """The model, causal or offline."""

    def __init__(self, config: BCAFConfig) -> None:
        super().__init__()
        self.config = config
        self.identity = config.digest()  # a loaded checkpoint adds the hash of its weights
        D, E, C = config.width, config.latent, config.classes
        self.audio_input = ModalityInput("audio", config.audio_width, D, config.standardize)
        self.text_input = ModalityInput("text", config.text_width, D, config.standardize)
        self.latents: ConnectionNetwork | PlainLatent | None = None
        if config.connection_form != "off":
            self.latents = ConnectionNetwork(D, E, config.dropout)
        elif config.correlative:
            self.latents = PlainLatent(D, E)
        self.bimodal = BimodalAttention(
            config.attention if config.bimodal else None,
            layers=config.layers,
            width=D,
            heads=config.heads,
            feed_forward=config.feed_forward,
            dropout=config.dropout,
            lambda_init=config.lambda_init,
        )
        self.correlative: CorrelativeAttention | PlainProjection = (
            CorrelativeAttention(D, E, config.heads, config.lambda_init)
            if config.correlative
            else PlainProjection(D, E)
        )
        self.unimodal_heads = ParallelLinear(2, D, C)
        self.linear_path = LinearPath(config.audio_width, config.text_width, C) if config.linear_path else None
        self.fused_head = classifier((2 * D + 2 * E, D, E, max(E // 2, C), C), config.dropout)
        self.cache_width = self.bimodal.cache_width + self.correlative.cache_width

    def forward(
        self,
        audio_BUA: Tensor,
        text_BUT: Tensor,
        mask_BU: Tensor,
        audio_present_BU: Tensor | None = None,
        text_present_BU: Tensor | None = None,
    ) -> BCAFOutput:
        """Whole dialogues; True in mask_BU is an utterance, False is padding. Presence None = all present.

        Raises:
            ModelError: features of another width than the encoders' in the config.
        """
        mask_BU = mask_BU.bool()
        audio_present_BU, text_present_BU = presence(mask_BU, audio_present_BU, text_present_BU)
        seen_B1UU = visible(mask_BU, self.config.context if self.config.mode == "causal" else None)
        return self._run(audio_BUA, text_BUT, audio_present_BU, text_present_BU, seen_B1UU, None)

    @torch.no_grad()
    def step(
        self,
        state: DialogueState,
        audio_BA: Tensor,
        text_BT: Tensor,
        audio_present_B: Tensor | None = None,
        text_present_B: Tensor | None = None,
    ) -> tuple[BCAFOutput, DialogueState]:
        """The next utterance of each dialogue, in time O(context): an output with U = 1, and a new state.

        Nothing learns from it: neither has a gradient.

        Raises:
            ModelError: an offline model, a state of another model or batch, or features of another width.
        """
        self._check(state, audio_BA.shape[0])
        there_B = torch.ones_like(state.count_B, dtype=torch.bool)
        audio_present_B = there_B if audio_present_B is None else audio_present_B
        text_present_B = there_B if text_present_B is None else text_present_B
        cache = Cache(state.cache_BKW)
        seen_B11T = visible_in_step(state.count_B, self.config.context - 1)
        output = self._run(
            audio_BA[:, None],
            text_BT[:, None],
            audio_present_B[:, None],
            text_present_B[:, None],
            seen_B11T,
            cache,
        )
        return output, DialogueState(cache.rolled(), state.count_B + 1, self.identity, state.voices_B)

    def initial_state(self, batch: int = 1) -> DialogueState:
        """The state before the first utterance of each dialogue, on the model's device."""
        like = self.audio_input.absent_D
        cache_BKW = like.new_zeros(batch, self.config.context - 1, self.cache_width)
        count_B = torch.zeros(batch, dtype=torch.long, device=like.device)
        return DialogueState(cache_BKW.detach(), count_B, self.identity, tuple({} for _ in range(batch)))

    def loss(
        self, output: BCAFOutput, labels_BU: Tensor, mask_BU: Tensor, class_weights: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L = alpha * L_c + beta * (L_a + L_l) + L_m (eq. 18), and its parts, detached.

        Cross-entropies are means over the valid utterances with a label (-100 is none), class_weights as in
        torch; the unimodal ones only where their modality is present, L_c only where both are.
        """
        labels_BU = labels_BU.masked_fill(~mask_BU.bool(), IGNORED_LABEL)
        audio = cross_entropy(output.audio_BUC, labels_BU, output.audio_present_BU, class_weights)
        text = cross_entropy(output.text_BUC, labels_BU, output.text_present_BU, class_weights)
        fused = cross_entropy(output.fused_BUC, labels_BU, mask_BU.bool(), class_weights)
        connection = fused.new_zeros(())
        if output.connection is not None and self.config.connection_form != "off":
            both_BU = output.audio_present_BU & output.text_present_BU
            connection = connection_loss(
                *output.connection, both_BU, form=self.config.connection_form, mu=self.config.mu
            )
        total = self.config.alpha * connection + self.config.beta * (audio + text) + fused
        parts = {"total": total, "connection": connection, "audio": audio, "text": text, "fused": fused}
        return total, {name: part.detach() for name, part in parts.items()}

    def _run(
        self,
        audio_BUA: Tensor,
        text_BUT: Tensor,
        audio_present_BU: Tensor,
        text_present_BU: Tensor,
        seen_B1UT: Tensor,
        cache: Cache | None,
    ) -> BCAFOutput:
        audio_BUA = self.audio_input.scaled(audio_BUA, audio_present_BU)
        text_BUT = self.text_input.scaled(text_BUT, text_present_BU)
        H_2BUD = torch.stack(
            (
                self.audio_input.project(audio_BUA, audio_present_BU),
                self.text_input.project(text_BUT, text_present_BU),
            )
        )
        streams = self.bimodal(H_2BUD, seen_B1UT, cache)
        connection = None
        if self.latents is not None:
            e_2BUE, connection = self.latents(H_2BUD, decode=cache is None)
        if isinstance(self.correlative, CorrelativeAttention):
            star_2BUE = self.correlative(streams.self_2BUD, e_2BUE, seen_B1UT, cache)
        else:
            star_2BUE = self.correlative.project(streams.self_2BUD)
        joined = torch.cat((*streams.cross_2BUD, *star_2BUE), dim=-1)  # eq. 17
        audio_BUC, text_BUC = self.unimodal_heads(streams.self_2BUD)
        linear_BUC = None
        if self.linear_path is not None and not self.training:
            linear_BUC = self.linear_path(audio_BUA, text_BUT, audio_present_BU, text_present_BU)
        return BCAFOutput(
            self.fused_head(joined),
            audio_BUC,
            text_BUC,
            audio_present_BU,
            text_present_BU,
            connection,
            linear_BUC,
        )

    def _check(self, state: DialogueState, batch: int) -> None:
        if self.config.mode != "causal":
            raise ModelError("an offline model cannot go utterance by utterance; train one with mode: causal")
        if state.model != self.identity:
            raise ModelError(
                f"dialogue state of model {state.model!r}, not {self.identity!r}; start the dialogue anew"
            )
        if state.batch != batch:
            raise ModelError(
                f"{state.batch} dialogue states but {batch} utterances; give one utterance per dialogue"
            )


M = TypeVar("M", BCAF, BCLSTM)


def build_model(config: BCAFConfig) -> BCAF | BCLSTM:
    """A fresh model of the kind that the config names."""
    return BCLSTM(config) if config.kind == "bc_lstm" else BCAF(config)


def load_weights(cls: type[M], folder: Path, config: BCAFConfig) -> tuple[M, str]:
    """The model with the weights of `folder`, ready to infer, and the sha256 of its weights file.

    Raises:
        CheckpointError: the weights are missing, broken, or do not fit `config`.
    """
    tensors, sha256 = weights.read(folder / weights.WEIGHTS_NAME)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away; so is their randomness
        model = cls(config)
    weights.assign(model, tensors, folder)
    model.identity = f"{config.digest()}-{sha256[:16]}"
    return model.eval(), sha256
