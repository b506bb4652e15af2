"""Training dialogues that no corpus has: MELD's words, spoken by somebody else.

Each dialogue of MELD gets a kind of sound: clips with the labels of its utterances; such clips for a half of
them and any clips for the others; or turns of everyday talk, which say nothing (the label stays that of the
words). And it gets a case of presence: both, text alone, audio alone, or utterance by utterance. Beside them
stand dialogues of clips, one speaker each, without words or with words that say nothing (the label is the
clip's). So the network has to learn from the sound itself, and from the dialogue so far, how far to trust it.

Legend: B dialogues, U utterances, A / T widths of the vectors, V views of the same clip or text.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcaf_stream.model.decision import Case
from bcaf_stream.model.heads import IGNORED_LABEL
from training.compact.clips import ANCHORS
from training.compact.config import LABELS, FusionTraining, Shares
from training.dialogues import Batch

MOST_CLIPS = 6  # in a dialogue of clips
NEUTRAL = LABELS.index("neutral")
WORDS = (1, 1, 2)  # of a clip: its own, a plain line, a neutral line of MELD
Sound = Literal["matched", "half", "everyday"]  # which clips a dialogue of MELD is joined with


@dataclass(frozen=True, slots=True, eq=False)
class Voices:
    """Vectors of one split's clips: (V, clips, A), and of each clip its label (an index), where it is from, and
    the vector of its words, where `said_N` says that they are known."""

    vectors_VNA: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    corpora_N: NDArray[np.str_]
    speakers_N: NDArray[np.str_]
    words_NT: NDArray[np.float32]
    said_N: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels_N)

    def where(self, keep_N: NDArray[np.bool_]) -> "Voices":
        """The clips that are kept."""
        return Voices(
            self.vectors_VNA[:, keep_N],
            self.labels_N[keep_N],
            self.corpora_N[keep_N],
            self.speakers_N[keep_N],
            self.words_NT[keep_N],
            self.said_N[keep_N],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """Vectors of one dialogue's words: (V, U, T), and the labels of its utterances."""

    vectors_VUT: NDArray[np.float32]
    labels_U: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class CompactSplit:
    """One split: the words of MELD, the voices of the clips; and vectors of lines.py."""

    scripts: Sequence[Script]
    voices: Voices
    plain_KT: NDArray[np.float32]


class Mixer:
    """Draws dialogues of `data`; everything random comes from the seed.

    Clips are drawn by `shares` of their corpora, and inside a corpus every class alike.
    """

    def __init__(self, data: CompactSplit, shares: Shares, seed: int) -> None:
        self._voices = data.voices
        self._rng = random.Random(seed)
        labels_N, speakers_N = self._voices.labels_N, self._voices.speakers_N
        weight_N = _weights(self._voices, shares)
        everyday_N = self._voices.corpora_N == ANCHORS
        acted_NC = ~everyday_N[:, None] & (labels_N[:, None] == np.arange(len(LABELS)))
        self._all = WeightedClips(np.ones(len(self._voices), dtype=bool), weight_N)
        self._acted = WeightedClips(~everyday_N, weight_N)
        neutral = WeightedClips(acted_NC[:, NEUTRAL], weight_N)
        self._everyday = WeightedClips(everyday_N, weight_N) if everyday_N.any() else neutral
        # what no corpus has sound of is said like everyday talk
        self._by_label = [
            WeightedClips(own_N, weight_N) if own_N.any() else self._everyday for own_N in acted_NC.T
        ]
        self._by_speaker = {one: WeightedClips(speakers_N == one, weight_N) for one in set(speakers_N)}
        self._plain_KT = data.plain_KT
        self._neutral_VNT = np.concatenate([s.vectors_VUT[:, s.labels_U == NEUTRAL] for s in data.scripts], axis=1)

    def spoken(self, script: Script, case: Case | None, sound: Sound = "matched") -> Batch:
        """One dialogue of `script`, the words of a random view; None = presence utterance by utterance."""
        utterances = len(script.labels_U)
        words_UT = script.vectors_VUT[self._rng.randrange(len(script.vectors_VUT))]
        clips = [self._clip_for(int(label), sound) for label in script.labels_U]
        audio_U, text_U = self._presence(utterances, case)
        return as_batch(self._sound(clips), words_UT, script.labels_U, audio_U, text_U)

    def clips(self, worded: bool) -> Batch:
        """A few clips of one speaker, without words, or with words that say nothing of the emotion."""
        first = self._all.draw(self._rng)
        clips_of_speaker = self._by_speaker[self._voices.speakers_N[first]]
        clips = [first, *(clips_of_speaker.draw(self._rng) for _ in range(self._rng.randrange(MOST_CLIPS)))]
        there = np.ones(len(clips), dtype=bool)
        words_UT = np.stack([self._words_for(clip) for clip in clips])
        return as_batch(self._sound(clips), words_UT, self._voices.labels_N[clips], there, there & worded)

    def _clip_for(self, label: int, sound: Sound) -> int:
        if sound == "everyday":
            return self._everyday.draw(self._rng)
        if sound == "half" and self._rng.random() < 0.5:
            return self._acted.draw(self._rng)
        return self._by_label[label].draw(self._rng)

    def _words_for(self, clip: int) -> NDArray[np.float32]:
        """The clip's own, or a plain line (also where its own are not known), or any neutral line of MELD."""
        kind = self._rng.choices(("own", "plain", "neutral"), weights=WORDS)[0]
        if kind == "own" and self._voices.said_N[clip]:
            own_T: NDArray[np.float32] = self._voices.words_NT[clip]
            return own_T
        if kind != "neutral":
            plain_T: NDArray[np.float32] = self._plain_KT[self._rng.randrange(len(self._plain_KT))]
            return plain_T
        views, lines, _ = self._neutral_VNT.shape
        line_T: NDArray[np.float32] = self._neutral_VNT[self._rng.randrange(views), self._rng.randrange(lines)]
        return line_T

    def _sound(self, clips: Sequence[int]) -> NDArray[np.float32]:
        views = len(self._voices.vectors_VNA)
        return np.stack([self._voices.vectors_VNA[self._rng.randrange(views), clip] for clip in clips])

    def _presence(self, utterances: int, case: Case | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        if case is not None:
            return np.full(utterances, case != "text_only"), np.full(utterances, case != "audio_only")
        kind_U = np.array([self._rng.choice((0, 1, 2, 2)) for _ in range(utterances)])
        return kind_U != 0, kind_U != 1


class WeightedClips:
    """Some of the clips, drawn with their weights."""

    def __init__(self, inside_N: NDArray[np.bool_], weight_N: NDArray[np.float64]) -> None:
        self._clips = np.flatnonzero(inside_N).tolist()
        self._until = np.cumsum(weight_N[inside_N]).tolist()

    def draw(self, rng: random.Random) -> int:
        return int(rng.choices(self._clips, cum_weights=self._until)[0])


def _weights(voices: Voices, shares: Shares) -> NDArray[np.float64]:
    """Of each clip: its corpus's share, spread over the classes of the corpus, and over the clips of the class."""
    weight_N = np.zeros(len(voices))
    for corpus in set(voices.corpora_N):
        here_N = voices.corpora_N == corpus
        classes = set(voices.labels_N[here_N])
        for label in classes:
            same_N = here_N & (voices.labels_N == label)
            weight_N[same_N] = getattr(shares, corpus) / len(classes) / same_N.sum()
    return weight_N


def draw_case(rng: random.Random, config: FusionTraining) -> Case | None:
    """Which modalities a training dialogue has."""
    chance = rng.random()
    for case, share in (("both", config.both), ("text_only", config.text_only), ("audio_only", config.audio_only)):
        if chance < share:
            return case  # type: ignore[return-value]
        chance -= share
    return None


def draw_sound(rng: random.Random, config: FusionTraining) -> Sound:
    """What a training dialogue of MELD is joined with."""
    chance = rng.random()
    return (
        "matched" if chance < config.matched else "half" if chance < config.matched + config.half else "everyday"
    )


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
