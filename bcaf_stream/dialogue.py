"""One dialogue at a time, or many at once: features in, calibrated emotions out, the state carried by the caller.

The analyzer itself remembers nothing. A state is a value: it can be stacked, sent to another process, stored,
and used twice. What else is in a batch never changes a dialogue's result. Numbers that are not finite are an
error; a failure never becomes "neutral".

Legend: B dialogues, A / T widths of the audio and text encoders, C classes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bcaf_stream.errors import ModelError
from bcaf_stream.model.adaptation import Voices
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.checkpoint import Checkpoint
from bcaf_stream.model.state import DialogueState
from bcaf_stream.model.weights import lay_out_for_steps
from bcaf_stream.types import EmotionPrediction, Features, Modality, VectorD

__all__ = ["DialogueAnalyzer", "DialogueState"]


class DialogueAnalyzer:
    """The model of a checkpoint, used utterance by utterance.

    `adaptation`: adapt what is judged by sound alone to its voice, if the checkpoint has a prior of voices.

    Raises:
        ModelError: the checkpoint's model is an offline one, which needs the future, or no BCAF.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device | str = "cpu", adaptation: bool = True
    ) -> None:
        if not isinstance(checkpoint.model, BCAF):
            raise ModelError(f"{checkpoint.model_id} is a bc-LSTM, a baseline for evaluate; train a kind: bcaf")
        if checkpoint.model.config.mode != "causal":
            raise ModelError(f"{checkpoint.model_id} is an offline model; a live dialogue needs mode: causal")
        self.device = torch.device(device)
        self.labels = checkpoint.labels
        self.model_id = checkpoint.model_id
        self.modalities = checkpoint.encoders.modalities
        self._model = checkpoint.model.to(self.device).eval()
        lay_out_for_steps(self._model)
        self._calibration = checkpoint.calibration
        self._voice = checkpoint.calibration.voice if adaptation else None
        config = checkpoint.model.config
        stacked = config.layers + 1  # the correlative attention comes after the layers, and sees as far again
        self.reach = stacked * (config.context - 1)  # past utterances that a state is made of
        self._initial = self._model.initial_state(1).to("cpu")

    def initial(self) -> DialogueState:
        """The state before the first utterance."""
        return self._initial

    def step(self, state: DialogueState, features: Features) -> tuple[EmotionPrediction, DialogueState]:
        """The next utterance of one dialogue; `state` stays as it was. Raises as `step_batch`."""
        predictions, states = self.step_batch([state], [features])
        return predictions[0], states[0]

    @torch.inference_mode()
    def step_batch(
        self, states: Sequence[DialogueState], features: Sequence[Features]
    ) -> tuple[list[EmotionPrediction], list[DialogueState]]:
        """The next utterance of each dialogue, wherever each stands.

        Features of a modality that the model was not trained on are not looked at.

        Raises:
            ModelError: states and features differ in number, a state of another model, features of a wrong
                width or not finite or of no modality at all, or an output that is not finite.
        """
        if len(states) != len(features):
            raise ModelError(f"{len(states)} dialogue states but {len(features)} utterances; give one for one")
        if not states:
            return [], []
        features = [self._known(one) for one in features]
        audio_BA, audio_present_B = self._column("audio", [one.audio for one in features])
        text_BT, text_present_B = self._column("text", [one.text for one in features])
        if not (audio_present_B | text_present_B).all():
            raise ModelError(
                f"{self.model_id} judges {' and '.join(self.modalities)}; an utterance has none of it"
            )
        state = DialogueState.stack(states).to(self.device)
        output, state = self._model.step(state, audio_BA, text_BT, audio_present_B, text_present_B)
        probs_BC = self._calibration.decide(output)[:, 0]
        audio_BC, text_BC = (x[:, 0].double().softmax(-1) for x in (output.audio_BUC, output.text_BUC))
        if not all(x.isfinite().all() for x in (probs_BC, audio_BC, text_BC, state.cache_BKW)):
            raise ModelError(
                f"{self.model_id} gave numbers that are not finite; check its weights and the features"
            )
        probs, voices_B = self._adapted(probs_BC.tolist(), state.voices_B, features)
        columns = zip(probs, audio_BC.tolist(), text_BC.tolist(), features, strict=True)
        state = replace(state, voices_B=voices_B)
        return [self._prediction(*column) for column in columns], state.to("cpu").split()

    def _adapted(
        self, probs: Sequence[Sequence[float]], voices_B: tuple[Voices, ...], features: Sequence[Features]
    ) -> tuple[list[Sequence[float]], tuple[Voices, ...]]:
        """Those of utterances by sound alone, adapted to their voices; and the voices after them."""
        if self._voice is None:
            return list(probs), voices_B
        found = [
            (own, voices) if one.text is not None else self._voice.adapt(own, voices, one.voice)
            for own, voices, one in zip(probs, voices_B, features, strict=True)
        ]
        return [own for own, _ in found], tuple(voices for _, voices in found)

    def _prediction(
        self, probs: Sequence[float], audio: list[float], text: list[float], features: Features
    ) -> EmotionPrediction:
        places = self._calibration.affect
        valence, arousal = places.of(probs) if places else (None, None)
        present: tuple[tuple[Modality, VectorD | None], ...] = (("audio", features.audio), ("text", features.text))
        return EmotionPrediction(
            labels=self.labels,
            probs=tuple(probs),
            audio_probs=None if features.audio is None else tuple(audio),
            text_probs=None if features.text is None else tuple(text),
            modalities=tuple(name for name, vector in present if vector is not None),
            decided=self._calibration.is_decided(probs, None if features.text is None else text),
            valence=valence,
            arousal=arousal,
            model=self.model_id,
        )

    def _known(self, features: Features) -> Features:
        audio = features.audio if "audio" in self.modalities else None
        return Features(audio, features.text if "text" in self.modalities else None, features.voice)

    def _column(self, modality: Modality, vectors: list[VectorD | None]) -> tuple[Tensor, Tensor]:
        """One modality of the batch and where it is present; the rows of absent ones are never read."""
        config = self._model.config
        width = config.audio_width if modality == "audio" else config.text_width
        rows = np.zeros((len(vectors), width), np.float32)
        for row, vector in zip(rows, vectors, strict=True):
            if vector is None:
                continue
            if vector.shape != (width,):
                given = vector.shape[0] if vector.ndim == 1 else vector.shape
                raise ModelError(f"{modality} features are {given} wide; {self.model_id} takes {width}")
            if not np.isfinite(vector).all():
                raise ModelError(f"{modality} features are not finite; check the encoder and its input")
            row[:] = vector
        present = torch.tensor([vector is not None for vector in vectors])
        return torch.from_numpy(rows).to(self.device), present.to(self.device)
