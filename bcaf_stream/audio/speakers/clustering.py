"""Which local speakers of a window are which people of the call, one window after the other.

Online clustering with constraints (as in Coria et al. 2021): each person is the sum of the vectors so far; the
local speakers of one window are assigned to different persons, all at once, so that the sum of their similarities
is largest. Two of them that sound alike beyond doubt are one person, whom the segmentation split. Who resembles
nobody, and was heard long enough, is a new person; who was not is given to the closest one, or to nobody where
all are taken.

Pure: vectors in, numbers of persons out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.types import Role

VectorD = NDArray[np.float32]

# Cosines, fitted on six excerpts of meetings, a call, and six calls summed to one channel
# (tests/benchmarks/speakers.py): different people have 0.16 in the median, 0.44 at most in nine cases of ten; one
# and the same 0.57, and 0.36.
NEW = 0.35  # less like everybody: somebody new
NOBODY = 0.0  # less like everybody who is not taken: nobody, where too little was heard to be somebody new
SAME = 0.6  # two local speakers, and
JOIN = 0.7  # two persons that are one
CONTINUED = 0.15  # bonus of the person who was found where the windows overlap
LEARN = 0.4  # a person's vectors are more like the person than this
# Seconds of speech, alone, of a local speaker
NEW_S, LEARN_S, SAME_S, FULL_S = 0.6, 0.6, 1.5, 3.0
JOIN_WINDOWS = 5  # that a person's voice was learned from, before it may turn out to be another's


@dataclass(frozen=True, slots=True, eq=False)
class LocalSpeaker:
    """A local speaker of one window: the voice, None where too little is heard of it, and how long it is alone.

    `continues_P` is for each person the share of this speaker's time, before this window's news, that was theirs.
    """

    vector: VectorD | None
    alone_s: float
    continues_P: NDArray[np.float64]


class Voice(NamedTuple):
    """One that is known before the call is heard, and whose role is known where that was said."""

    vector: VectorD
    role: Role | None = None


class Clusters:
    """The persons of one channel, numbered from 0, `known` ones first; `roles` has those who were enrolled.

    `most` is how many there are at most without the enrolled ones.
    """

    def __init__(self, most: int, known: Sequence[Voice] = ()) -> None:
        self._most = most
        self._sums: list[VectorD] = [voice.vector * 4 for voice in known]  # as much as twelve seconds
        self._windows = [JOIN_WINDOWS for _ in known]  # that each person's voice was learned from
        self._known = len(known)
        self.roles: dict[int, Role] = {person: voice.role for person, voice in enumerate(known) if voice.role}
        self.joined: dict[int, int] = {}  # person -> who it turned out to be
        self.full = False  # somebody was not counted, for want of numbers

    def __len__(self) -> int:
        return len(self._sums)

    def similarities(self, vector: VectorD) -> NDArray[np.float64]:
        """To each person; -1 to those who turned out to be another."""
        found = [
            -1.0 if p in self.joined else float(vector @ s / np.linalg.norm(s)) for p, s in enumerate(self._sums)
        ]
        return np.array(found, np.float64)

    def voice(self, person: int) -> VectorD:
        total = self._sums[person]
        return total / np.linalg.norm(total)

    def is_known(self, person: int) -> bool:
        """Whether enough was heard of the person to say who that is not."""
        return self._windows[person] >= JOIN_WINDOWS

    def assign(self, local: Sequence[LocalSpeaker]) -> list[int | None]:
        """The person of each local speaker; several may be one. Then learn their voices, and join who is one."""
        scores = np.array([self._scores(speaker) for speaker in local]).reshape(len(local), len(self))
        fresh = np.full((len(local), len(local)), NOBODY)
        known = len(self) - len(self.joined)
        for row, speaker in enumerate(local):
            first = known == self._known
            enough = speaker.vector is not None and speaker.alone_s >= (NEW_S / 2 if first else NEW_S)
            if enough and known < self._most + len(self.roles):
                fresh[row, row] = NEW
            elif enough and len(self):
                self.full |= scores[row].max() < NEW
        columns = _assignment(np.concatenate([scores, fresh], 1))
        people: list[int | None] = [None] * len(local)
        persons = len(self)
        for row, (speaker, column) in enumerate(zip(local, columns, strict=True)):
            if column >= persons and fresh[row, column - persons] < NEW:
                continue  # nobody's: all whom it resembles are others
            if column >= persons:
                assert speaker.vector is not None
                people[row] = len(self)
                self._sums.append(np.zeros_like(speaker.vector))
                self._windows.append(0)
            elif scores[row, column] > -1:
                people[row] = column
            self._learn(people[row], speaker)
        joined = self._join()
        return [joined.get(person, person) if person is not None else None for person in people]

    def _scores(self, speaker: LocalSpeaker) -> NDArray[np.float64]:
        continued = np.zeros(len(self))
        continued[: len(speaker.continues_P)] = speaker.continues_P
        dead = [person in self.joined for person in range(len(self))]
        if speaker.vector is None:  # by where it was heard before alone
            return np.where(np.array(dead, bool) | (continued < 0.5), -2.0, continued)
        return np.where(dead, -2.0, self.similarities(speaker.vector) + CONTINUED * continued)

    def _learn(self, person: int | None, speaker: LocalSpeaker) -> None:
        if person is None or speaker.vector is None:
            return
        total = self._sums[person]
        size = float(np.linalg.norm(total))
        alike = size == 0 or float(speaker.vector @ total) / size > LEARN
        if size == 0 or (alike and speaker.alone_s >= LEARN_S):
            self._windows[person] += 1
            self._sums[person] = total + speaker.vector * np.float32(min(speaker.alone_s, FULL_S) / FULL_S)

    def _join(self) -> dict[int, int]:
        """Join the persons that have become alike; return who became whom."""
        done: dict[int, int] = {}
        for later in range(len(self)):
            if later < self._known or later in self.joined or self._windows[later] < JOIN_WINDOWS:
                continue
            alike = self.similarities(self.voice(later))[:later]
            if len(alike) and alike.max() > JOIN:
                earlier = int(alike.argmax())
                self._sums[earlier] = self._sums[earlier] + self._sums[later]
                self._windows[earlier] += self._windows[later]
                self.joined[later] = done[later] = earlier
        return done


def _assignment(scores: NDArray[np.float64]) -> tuple[int, ...]:
    """A different column for each of the few rows, so that the sum is largest; at least as many columns as rows.

    Exact: a row that has not one of its best columns, as many as there are rows, could take one that is free.
    """
    rows = len(scores)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :rows].tolist()
    distinct = (columns for columns in product(*best) if len(set(columns)) == rows)
    return max(distinct, key=lambda columns: sum(scores[row, column] for row, column in enumerate(columns)))
