"""Causal adaptation to a voice and its line: what an unknown one does to every answer is learned while it speaks.

On a voice and line of no training corpus the order of the emotions is mostly right and their zero point is not:
half of the answers may be one label. So a running mean of the log-probabilities of a voice's utterances is kept,
and what it differs from the mean over labelled corpora is taken out of the next ones. It begins as that of the
corpora, with the weight of `weight` utterances: the first utterance is judged as without adaptation. What is taken
out is at most `bound` long (Euclidean norm of log-odds), because a voice that stays in one emotion looks the same.

Utterances that are judged by their sound alone are adapted, and counted; words anchor the others.

Legend: C classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from bcaf_stream.config import Config

VOICES = 16  # of a dialogue; of more, the one that was silent longest is forgotten
LEAST = 1e-12  # of a probability: its logarithm must be finite


class Heard(NamedTuple):
    """How many utterances of one voice were judged by sound alone, and the sum of their log-probabilities (C)."""

    utterances: int
    total: tuple[float, ...]


Voices = Mapping[str, Heard]  # of one dialogue, by voice; the last heard stands last


class VoicePrior(Config):
    """What is known before a voice was heard: stored in the checkpoint, measured on corpora it was not trained on.

    `mean_log_probs` (C): mean over corpora, each class alike.
    """

    mean_log_probs: tuple[float, ...]
    weight: Annotated[float, Field(gt=0)] = 5.0
    bound: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _finite(self) -> Self:
        if not all(map(math.isfinite, (*self.mean_log_probs, self.weight, self.bound))):
            raise ValueError("a prior of voices must be finite")
        return self

    def adapt(self, probs: Sequence[float], voices: Voices, voice: str) -> tuple[tuple[float, ...], Voices]:
        """The probabilities (C) of the next utterance of `voice` by sound alone, and the voices after it."""
        said = [math.log(max(p, LEAST)) for p in probs]
        heard = voices.get(voice, Heard(0, (0.0,) * len(said)))
        shifted = [s - d for s, d in zip(said, self._shift(heard), strict=True)]
        top = max(shifted)
        odds = [math.exp(s - top) for s in shifted]
        after = Heard(heard.utterances + 1, tuple(t + s for t, s in zip(heard.total, said, strict=True)))
        kept = [(name, one) for name, one in voices.items() if name != voice][1 - VOICES :]
        return tuple(o / sum(odds) for o in odds), dict([*kept, (voice, after)])

    def _shift(self, heard: Heard) -> list[float]:
        many = self.weight + heard.utterances
        apart = [(t - heard.utterances * m) / many for t, m in zip(heard.total, self.mean_log_probs, strict=True)]
        middle = sum(apart) / len(apart)  # the same for every class changes nothing
        apart = [a - middle for a in apart]
        length = math.hypot(*apart)
        return [a * min(1.0, self.bound / length) for a in apart] if length else apart
