"""The recipe of a compact checkpoint as one strict configuration: `configs/train/compact.yaml`."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from bcaf_stream.config import Config
from training.datasets.meld import LABELS

__all__ = ["LABELS", "CompactConfig", "FusionTraining", "Shares", "Starts", "TextTuning"]


class Starts(Config):
    """Where the published starting weights lie (see starts.py); each is checked against its SHA-256 before use.

    `minilm`, `mpnet`: the model folders of all-MiniLM-L6-v2 and all-mpnet-base-v2 (the teacher, where there is
    one); `whisper`: Whisper base as faster-whisper has it.
    """

    minilm: str
    mpnet: str | None = None
    whisper: str


class TextTuning(Config):
    """Fine-tuning of a text encoder on MELD, utterance head and dialogue head at once.

    `dialogues` make one batch. `noise` is the share of utterances that lose punctuation and words, as a
    recogniser would have it. `distillation_weight` is the share of the
    cross-entropy with the teacher's probabilities in the loss, and `temperature` divides both logits in it; the
    teacher itself has no teacher.
    """

    former_names: ClassVar[Mapping[str, str]] = {"taught": "distillation_weight", "softness": "temperature"}

    seed: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=8e-5, gt=0)
    epochs: int = Field(default=5, ge=1)
    dialogues: int = Field(default=4, ge=1)
    noise: float = Field(default=0.3, ge=0, le=1)
    utterance_weight: float = Field(default=0.5, ge=0)
    distillation_weight: float = Field(default=0.7, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0)


class Shares(Config):
    """Of the corpora, among the clips that are drawn."""

    ravdess: float = Field(default=0.5, ge=0, le=1)
    emodb: float = Field(default=0.25, ge=0, le=1)
    urdu: float = Field(default=0.12, ge=0, le=1)
    anchor: float = Field(default=0.13, ge=0, le=1)
    cremad: float = Field(default=0.0, ge=0, le=1)


class FusionTraining(Config):
    """BCAF on the frozen vectors: MELD's words with training speakers' clips (see mixing.py).

    `class_weight_power`: MELD's classes are weighted by their count to the power of minus that.
    `removed_directions`: how many directions that tell speakers apart are projected out. `ema_decay` is the
    decay, per step, of the running mean of the weights that becomes the model. `boredom` is what EmoDB's
    bored clips are trained as. `views` is how many spoiled copies of each training clip are encoded. `both`,
    `text_only`, `audio_only` are the shares of dialogues with that presence; the rest loses modalities
    utterance by utterance. `corpora` are their shares among the clips that are drawn. `matched`, `half` are
    the shares of MELD's dialogues with that sound; the rest gets everyday talk. `clips`: dialogues of clips
    without words, per MELD dialogue; `worded`: the same with words that say nothing.
    """

    former_names: ClassVar[Mapping[str, str]] = {
        "deaf": "removed_directions",
        "rarity": "class_weight_power",
        "average": "ema_decay",
    }

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
    removed_directions: int = Field(default=4, ge=0)
    class_weight_power: float = Field(default=0.15, ge=0, le=1)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    views: int = Field(default=6, ge=1)
    both: float = Field(default=0.45, ge=0, le=1)
    text_only: float = Field(default=0.3, ge=0, le=1)
    audio_only: float = Field(default=0.15, ge=0, le=1)
    corpora: Shares = Shares()
    matched: float = Field(default=0.4, ge=0, le=1)
    half: float = Field(default=0.1, ge=0, le=1)
    clips: float = Field(default=2.0, ge=0)
    worded: float = Field(default=2.5, ge=0)


class CompactConfig(Config):
    """`meld`, `speech`, `conversations`, `texts` (of open licences), `ratings` (EmoBank's table): the data.

    `sources`: `research` is all that `compact` is trained on (meld, speech, conversations), `open` what
    open_sources.py lists (texts, speech, conversations). `work` keeps the stages' results; `out` is the
    checkpoint, and `name` its name.
    """

    name: str = "compact"
    sources: Literal["research", "open"] = "research"
    meld: str = "data/meld"
    speech: str
    conversations: str
    texts: str = "data/text"
    ratings: str = "data/text/emobank/emobank.csv.gz"
    work: str
    out: str
    starts: Starts
    teacher: TextTuning = TextTuning(learning_rate=3e-5, epochs=3)
    text: TextTuning = TextTuning()
    fusion: FusionTraining = FusionTraining()
