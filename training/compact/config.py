"""The recipe of the compact checkpoint as one strict configuration: `configs/train/compact.yaml`."""

from typing import Literal

from pydantic import Field

from bcaf_stream.config import Config
from training.datasets.meld import LABELS

__all__ = ["LABELS", "CompactConfig", "FusionTraining", "Starts", "TextTuning"]


class Starts(Config):
    """Where the published starting weights lie; both files are checked against their SHA-256 before use.

    `minilm`: the model folder of all-MiniLM-L6-v2; `whisper`: OpenAI's tiny.en.pt.
    """

    minilm: str
    whisper: str


class TextTuning(Config):
    """Fine-tuning of the text encoder on MELD, utterance head and dialogue head at once.

    `dialogues` make one batch. `noise` is the share of utterances that lose punctuation and words, as a
    recogniser would have it.
    """

    seed: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=8e-5, gt=0)
    epochs: int = Field(default=4, ge=1)
    dialogues: int = Field(default=4, ge=1)
    noise: float = Field(default=0.3, ge=0, le=1)
    utterance_weight: float = Field(default=0.5, ge=0)


class FusionTraining(Config):
    """BCAF on the frozen vectors: MELD's words with a training speaker's clip of the same (or another) label.

    `boredom` is what EmoDB's bored clips are trained as. `mismatch` is the share of clips that carry a random
    label instead of the utterance's in training: live voices say less than acted ones, and the model must not
    learn that sound settles everything. `decision_mismatch` is that share on dev where the decision is fitted:
    a half brings sound alone near what is published for the real sound of MELD. `views` is how many spoiled
    copies of each training clip are encoded. `both`, `text_only`, `audio_only` are the shares of dialogues with
    that presence; the rest loses modalities utterance by utterance. `clips_alone`: dialogues of clips without
    words, per MELD dialogue.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    epochs: int = Field(default=8, ge=1)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=7e-4, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    width: int = Field(default=128, ge=8)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    context: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    feature_dropout: float = Field(default=0.5, ge=0, lt=1)
    boredom: Literal["neutral", "drop"] = "neutral"
    mismatch: float = Field(default=0.3, ge=0, le=1)
    decision_mismatch: float = Field(default=0.5, ge=0, le=1)
    views: int = Field(default=3, ge=1)
    both: float = Field(default=0.35, ge=0, le=1)
    text_only: float = Field(default=0.3, ge=0, le=1)
    audio_only: float = Field(default=0.2, ge=0, le=1)
    clips_alone: float = Field(default=2.5, ge=0)


class CompactConfig(Config):
    """`meld`, `speech`, `conversations`: the data; `work` keeps the stages' results; `out` is the checkpoint."""

    meld: str
    speech: str
    conversations: str
    work: str
    out: str
    starts: Starts
    text: TextTuning = TextTuning()
    fusion: FusionTraining = FusionTraining()
