"""The encoders and the model together: utterances and dialogue states in, predictions and new states out.

It holds weights and nothing else. A dialogue's state is a value that its caller keeps, so any engine on any
machine can take the next utterance of any call: that is what makes an EmotionActor replaceable.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar, get_args

import torch

from bcaf_stream.config import Config
from bcaf_stream.dialogue import DialogueAnalyzer, DialogueState
from bcaf_stream.encoders.base import (
    AudioEncoder,
    AudioEncoderConfig,
    EncoderConfig,
    Kind,
    TextEncoder,
    TextEncoderConfig,
    VectorsBD,
)
from bcaf_stream.encoders.load import load_audio_encoder, load_text_encoder
from bcaf_stream.errors import CheckpointError, EncoderError
from bcaf_stream.model.checkpoint import Checkpoint, EncoderSpec, find_checkpoint, load_checkpoint
from bcaf_stream.types import EmotionPrediction, Features, Modality, Utterance, VectorD

E = TypeVar("E", bound=EncoderConfig)
T = TypeVar("T")


class ModelConfig(Config):
    """`checkpoint`: "compact" or "compact-open" (the shipped ones; their cards say what each may be used for), a
    folder, or a hub id.

    `audio_encoder` and `text_encoder` are needed only where the encoders that the checkpoint was trained with
    lie elsewhere than where it says; their weights must still be the same. `device`: "auto" takes a GPU when
    there is one. `threads`: torch threads on the CPU, which a command or an actor sets for its process by
    `use_threads`; 0 leaves torch's own choice. `adaptation`: what is judged by sound alone is adapted to its voice
    and line while they speak (see model/adaptation.py), where the checkpoint holds what that takes.
    """

    checkpoint: str = "compact"
    audio_encoder: AudioEncoderConfig | None = None
    text_encoder: TextEncoderConfig | None = None
    device: str = "auto"
    threads: int = 0
    adaptation: bool = True


def use_threads(config: ModelConfig) -> None:
    """Set torch's threads for this process: for a command or an actor, before it makes its engine."""
    if config.threads:
        torch.set_num_threads(config.threads)


def load_encoders(
    checkpoint: Checkpoint, config: ModelConfig, device: str, words: bool = True
) -> tuple[AudioEncoder | None, TextEncoder | None]:
    """The encoders that `checkpoint` was trained with; None for a modality that it was not trained on.

    Without `words` none is loaded for text.

    Raises:
        EncoderError: they cannot be loaded.
        CheckpointError: they are not the same ones: another width or other weights.
    """
    specs = checkpoint.encoders
    for key, spec, given in (
        ("audio_encoder", specs.audio, config.audio_encoder),
        ("text_encoder", specs.text, config.text_encoder),
    ):
        if spec is None and given is not None:
            raise CheckpointError(f"model.{key}: {checkpoint.folder} was not trained on it; leave it out")
    audio: AudioEncoder | None = None
    text: TextEncoder | None = None
    if specs.audio is not None:
        audio_config = config.audio_encoder or _from_spec(specs.audio, AudioEncoderConfig, device)
        audio = load_audio_encoder(audio_config, checkpoint.folder)
        _check_same(checkpoint, "audio", specs.audio, audio)
    if specs.text is not None and words:
        text_config = config.text_encoder or _from_spec(specs.text, TextEncoderConfig, device)
        text = load_text_encoder(text_config, checkpoint.folder)
        _check_same(checkpoint, "text", specs.text, text)
    return audio, text


class EmotionEngine:
    """Encodes utterances in batches and moves each one's dialogue a step on.

    Args:
        words: whether utterances may have words; without, a third of the memory is enough.

    Raises:
        CheckpointError, EncoderError: the weights cannot be loaded, or are not the ones trained with.
    """

    def __init__(self, config: ModelConfig | None = None, words: bool = True) -> None:
        config = config or ModelConfig()
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._checkpoint = load_checkpoint(find_checkpoint(config.checkpoint))
        self._audio, self._text = load_encoders(self._checkpoint, config, device, words)
        self._dialogue = DialogueAnalyzer(self._checkpoint, device, config.adaptation)

    @property
    def model_id(self) -> str:
        return self._checkpoint.model_id

    @property
    def encoders_id(self) -> tuple[str, ...]:
        """Which weights make the vectors: engines with the same make the same of an utterance."""
        encoders = (self._audio, self._text)
        return tuple(f"{one.name} {one.weights_hash}" for one in encoders if one is not None)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What somebody who relies on these weights must know, a line each."""
        found = []
        if self._checkpoint.provisional:
            found.append(f"the weights of {self.model_id} are provisional: a first training")
        if len(self.modalities) == 1:
            found.append(f"{self.model_id} was trained on {self.modalities[0]} alone and judges nothing else")
        return tuple(found)

    @property
    def labels(self) -> tuple[str, ...]:
        return self._checkpoint.labels

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the model was trained on; it does not look at anything else."""
        return self._checkpoint.encoders.modalities

    def initial_state(self) -> DialogueState:
        return self._dialogue.initial()

    @property
    def reach(self) -> int:
        """How many past utterances a dialogue's state is made of, at most; its voices aside."""
        return self._dialogue.reach

    def rebuilt_state(self, past: Sequence[Features]) -> DialogueState:
        """The state after these utterances, which another model has judged. Raises ModelError."""
        state = self.initial_state()
        for features in past:
            _, (state,) = self.step([state], [features])
        return state

    def encode(self, utterances: Sequence[Utterance]) -> list[Features]:
        """One vector per utterance and present modality that the model knows; each encoder sees one batch."""
        waves = {i: u.samples for i, u in enumerate(utterances) if u.samples is not None}
        texts = {i: words for i, u in enumerate(utterances) if (words := u.judged_text) is not None}
        if texts and not self._text and "text" in self.modalities:
            raise EncoderError("an utterance has words, and the text encoder was not loaded")
        audio = _numbered(self._audio.encode, waves) if self._audio else {}
        text = _numbered(self._text.encode, texts) if self._text else {}
        return [Features(audio.get(i), text.get(i), u.voice) for i, u in enumerate(utterances)]

    def encode_texts(self, texts: Sequence[str]) -> VectorsBD:
        """One vector for each text (B, D), without an utterance around it. Raises EncoderError."""
        if self._text is None:
            raise EncoderError(f"{self.model_id} has no text encoder here")
        return self._text.encode(texts)

    def step(
        self, states: Sequence[DialogueState], features: Sequence[Features]
    ) -> tuple[list[EmotionPrediction], list[DialogueState]]:
        """The next utterance of several dialogues, each with its own state. Raises ModelError."""
        return self._dialogue.step_batch(states, features)


def _numbered(encode: Callable[[Sequence[T]], VectorsBD], given: dict[int, T]) -> dict[int, VectorD]:
    return dict(zip(given, encode(list(given.values())), strict=True)) if given else {}


def _from_spec(spec: EncoderSpec, config: type[E], device: str) -> E:
    if spec.kind not in get_args(Kind):
        raise EncoderError(
            f"the model was trained on {spec.kind} vectors ({spec.name}), which cannot be made from a call:"
            " name the encoder that made them in model.audio_encoder and model.text_encoder"
        )
    model = spec.name if spec.kind == "pretrained" else None
    return config.model_validate({"kind": spec.kind, "model": model, "device": device, **spec.options})


def _check_same(
    checkpoint: Checkpoint, modality: str, spec: EncoderSpec, encoder: AudioEncoder | TextEncoder
) -> None:
    if encoder.width != spec.width:
        raise CheckpointError(
            f"{checkpoint.folder}: trained on {spec.width}-d {modality} vectors, and {encoder.name} gives"
            f" {encoder.width}-d ones; configure model.{modality}_encoder as {spec.name}"
        )
    if spec.sha256 and encoder.weights_hash != spec.sha256:
        raise CheckpointError(
            f"{checkpoint.folder}: trained with {modality} encoder {spec.name} {spec.sha256[:12]}, the one here"
            f" is {encoder.name} {encoder.weights_hash[:12]}; give the same weights in model.{modality}_encoder"
        )
