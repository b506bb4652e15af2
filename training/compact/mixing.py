"""Training dialogues that no corpus has: MELD's words, spoken by somebody else with the same emotion.

Each utterance gets the vector of a clip with its label (sometimes of any label, so that sound does not
settle everything), and each dialogue a case of presence: both, text alone, audio alone, or utterance by
utterance. Beside them stand dialogues of clips alone, one speaker each, so that audio is also judged without
MELD's taste for neutral.

Legend: B dialogues, U utterances, A / T widths of the vectors, V views of the same clip or text.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcaf_stream.model.decision import Case
from bcaf_stream.model.heads import IGNORED_LABEL
from training.compact.config import LABELS, FusionTraining
from training.dialogues import Batch

MOST_CLIPS = 6  # in a dialogue of clips alone


@dataclass(frozen=True, slots=True, eq=False)
class Voices:
    """Vectors of one split's clips: (V, clips, A), and of each clip its label (an index) and its speaker."""

    vectors_VNA: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    speakers_N: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """Vectors of one dialogue's words: (V, U, T), and the labels of its utterances."""

    vectors_VUT: NDArray[np.float32]
    labels_U: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """One split: the words of MELD, and the voices of the clips."""

    scripts: Sequence[Script]
    voices: Voices


class Mixer:
    """Draws dialogues; everything random comes from the seed."""

    def __init__(self, voices: Voices, seed: int, mismatch: float = 0.0) -> None:
        self._voices, self._mismatch = voices, mismatch
        self._dice = random.Random(seed)
        self._by_label = [np.flatnonzero(voices.labels_N == label) for label in range(len(LABELS))]
        self._by_speaker = [
            np.flatnonzero(voices.speakers_N == speaker) for speaker in sorted(set(voices.speakers_N))
        ]

    def spoken(self, script: Script, case: Case | None) -> Batch:
        """One dialogue of `script`, the words of a random view; None = presence utterance by utterance."""
        utterances = len(script.labels_U)
        words_UT = script.vectors_VUT[self._dice.randrange(len(script.vectors_VUT))]
        clips = [self._clip_for(int(label)) for label in script.labels_U]
        audio_U, text_U = self._presence(utterances, case)
        return as_batch(self._sound(clips), words_UT, script.labels_U, audio_U, text_U)

    def clips_alone(self, text_width: int) -> Batch:
        """A few clips of one speaker, without words."""
        known = self._dice.choice(self._by_speaker)
        clips = [int(self._dice.choice(known)) for _ in range(self._dice.randint(1, MOST_CLIPS))]
        there = np.ones(len(clips), dtype=bool)
        words_UT = np.zeros((len(clips), text_width), dtype=np.float32)
        return as_batch(self._sound(clips), words_UT, self._voices.labels_N[clips], there, ~there)

    def _clip_for(self, label: int) -> int:
        if self._dice.random() < self._mismatch:
            return self._dice.randrange(len(self._voices))
        return int(self._dice.choice(self._by_label[label]))

    def _sound(self, clips: Sequence[int]) -> NDArray[np.float32]:
        views = len(self._voices.vectors_VNA)
        return np.stack([self._voices.vectors_VNA[self._dice.randrange(views), clip] for clip in clips])

    def _presence(self, utterances: int, case: Case | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        if case is not None:
            return np.full(utterances, case != "text_only"), np.full(utterances, case != "audio_only")
        kind_U = np.array([self._dice.choice((0, 1, 2, 2)) for _ in range(utterances)])
        return kind_U != 0, kind_U != 1


def draw_case(dice: random.Random, config: FusionTraining) -> Case | None:
    """Which modalities a training dialogue has."""
    chance = dice.random()
    for case, share in (("both", config.both), ("text_only", config.text_only), ("audio_only", config.audio_only)):
        if chance < share:
            return case  # type: ignore[return-value]
        chance -= share
    return None


def as_batch(
    audio_UA: NDArray[np.float32],
    text_UT: NDArray[np.float32],
    label_U: NDArray[np.int64],
    audio_present_U: NDArray[np.bool_],
    text_present_U: NDArray[np.bool_],
) -> Batch:
    """One dialogue as a batch of one."""
    mask_U = audio_present_U | text_present_U
    columns = (audio_UA, text_UT, mask_U, audio_present_U, text_present_U, label_U)
    return Batch(*(torch.from_numpy(np.ascontiguousarray(column))[None] for column in columns))


def joined(dialogues: Sequence[Batch]) -> Batch:
    """Batches of one, padded to the longest."""
    longest = max(one.mask_BU.shape[1] for one in dialogues)

    def column(name: str) -> Tensor:
        value = IGNORED_LABEL if name == "label_BU" else 0
        parts = []
        for one in dialogues:
            part: Tensor = getattr(one, name)
            short = longest - part.shape[1]
            pad = (0, short) if part.dim() == 2 else (0, 0, 0, short)
            parts.append(torch.nn.functional.pad(part, pad, value=value))
        return torch.cat(parts)

    return Batch(*(column(name) for name in Batch._fields))
