"""Valence and arousal of an utterance, read off its emotion probabilities.

Each emotion has a place in the plane of valence and arousal; an utterance is at the mean of these places, weighted
by its probabilities. The places are fitted to people's ratings by least squares (see `training.compact.affect`),
so that the number is the rating to be expected, and what is unsure lies near the middle.

Legend: C classes.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from bcaf_stream.config import Config

Rating = Annotated[float, Field(ge=-1, le=1)]


class Affect(NamedTuple):
    """Each in [-1, 1]; 0 is the middle of the raters' scale."""

    valence: float
    arousal: float


class AffectMap(Config):
    """The place of each label, in their order: stored in the checkpoint."""

    valence: tuple[Rating, ...]
    arousal: tuple[Rating, ...]

    @model_validator(mode="after")
    def _same_labels(self) -> Self:
        if len(self.valence) != len(self.arousal):
            raise ValueError("valence and arousal must have a number for each label")
        return self

    def of(self, probs: Sequence[float]) -> Affect:
        """Of one utterance's probabilities (C)."""
        # A mean of places; the clamp is for probabilities whose sum is off by a rounding.
        means = (sum(p * x for p, x in zip(probs, axis, strict=True)) for axis in (self.valence, self.arousal))
        return Affect(*(min(1.0, max(-1.0, mean)) for mean in means))
