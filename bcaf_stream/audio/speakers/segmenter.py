"""The segmenter of a channel on which several people speak: one segment for each turn of each of them.

Around the plain `Segmenter`, which finds where somebody speaks. A segment that is going on is cut once it is
decided that somebody else has taken over; one that has ended is cut at all changes in it. A turn goes on while
its speaker is active, whoever else is; what another says for less than TURN frames in its pauses belongs to it
too. The cut lies in the middle of a pause, or of what both say at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.audio.frames import FRAME_MS, FRAME_SAMPLES, Frame
from bcaf_stream.audio.segmenter import Segmenter, SegmenterConfig
from bcaf_stream.audio.speakers.clustering import NEW, VectorD, Voice
from bcaf_stream.audio.speakers.config import SpeakerConfig
from bcaf_stream.audio.speakers.diarizer import Diarizer, Listener
from bcaf_stream.audio.speakers.voices import enrolled
from bcaf_stream.types import Role, SpeechSegment

TURN = 20  # frames of the shortest turn, and of several at once that are a segment of their own: 0.4 s
BREAK = 5  # frames of one alone among those of several
SURE = 0.3  # cosine to an enrolled voice, above which nobody is surely somebody else
OTHER = 0.5  # the same, of all that was heard of a person
# Confidence that a segment has the right speaker, by how much more its voice is like theirs than like the next
# one's; fitted by tests/benchmarks/speakers.py
SLOPE, OFFSET = 9.0, 0.0
UNHEARD = 0.5
CLEARLY = 0.2  # by so much a turn's voice must be more like somebody else's to be theirs


class Turn(NamedTuple):
    """Active frames `begin` to before `end` of a person."""

    person: int
    begin: int
    end: int


def turns_of(active_FP: NDArray[np.bool_]) -> list[Turn]:
    """Whose turn it is, in order; frames in which nobody is active belong to none."""
    turns: list[Turn] = []
    current: int | None = None
    for frame, row in enumerate(active_FP):
        people = np.flatnonzero(row)
        if not len(people):
            continue
        if current is None or not row[current]:
            # of several who go on, the one who does so longest
            ahead = active_FP[frame : frame + 4 * TURN][:, people].sum(0)
            current = int(people[ahead.argmax()])
        if turns and turns[-1].person == current:
            turns[-1] = turns[-1]._replace(end=frame + 1)
        else:
            turns.append(Turn(current, frame, frame + 1))
    return _without_short(turns, active_FP)


def _without_short(turns: Sequence[Turn], active_FP: NDArray[np.bool_]) -> list[Turn]:
    kept: list[Turn] = []
    for turn in turns:
        if kept and kept[-1].person == turn.person:
            kept[-1] = kept[-1]._replace(end=turn.end)
        elif active_FP[turn.begin : turn.end, turn.person].sum() >= TURN:
            kept.append(turn)
    return kept or ([max(turns, key=lambda turn: turn.end - turn.begin)] if turns else [])


def cuts_of(active_FP: NDArray[np.bool_], several_F: NDArray[np.bool_]) -> list[int]:
    """The frames with which the second and later segments begin, TURN frames or more after each other.

    Where `several_F` are heard at once for TURN frames or more, those are a segment of their own.
    """
    both = overlaps(several_F)
    between = [at for at in changes(turns_of(active_FP), active_FP) if not any(a <= at <= b for a, b in both)]
    edges = [at for stretch in both for at in stretch if 0 < at < len(active_FP)]
    cuts: list[int] = []
    for at in sorted([*between, *edges]):
        if at - (cuts[-1] if cuts else 0) >= TURN:
            cuts.append(at)
    return cuts


def changes(turns: Sequence[Turn], active_FP: NDArray[np.bool_]) -> list[int]:
    """The frames with which the second and later turns begin."""
    found = []
    for before, after in pairwise(turns):
        begin = after.begin
        while begin > before.begin and active_FP[begin - 1, after.person]:
            begin -= 1  # it was spoken into the end of the turn before
        begin = max(begin, (before.begin + before.end) // 2)
        found.append(
            (begin + min(before.end, after.begin)) // 2 if begin < before.end else (before.end + begin) // 2
        )
    return found


def overlaps(several_F: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Begin and end of each stretch of TURN frames or more in which several speak, but for short breaks."""
    found: list[tuple[int, int]] = []
    for frame in np.flatnonzero(several_F).tolist():
        if found and frame - found[-1][1] <= BREAK:
            found[-1] = (found[-1][0], frame + 1)
        else:
            found.append((frame, frame + 1))
    return [(begin, end) for begin, end in found if end - begin >= TURN]


class SpeakerSegmenter:
    """As `Segmenter`; its segments have a speaker.

    Args:
        known: voices that are known beforehand, besides those that `speakers` enrols.
        listener: see Diarizer.
    """

    def __init__(
        self,
        channel: str,
        config: SegmenterConfig | None = None,
        speakers: SpeakerConfig | None = None,
        known: Sequence[Voice] = (),
        listener: Listener | None = None,
    ) -> None:
        self.channel = channel
        self._plain = Segmenter(channel, config)
        speakers = speakers or SpeakerConfig()
        # Where those who speak are known, nobody is new
        self._most = None if known else speakers.max
        voices = (*enrolled(speakers.enrol), *known)
        self.diarizer = Diarizer(
            len(known) or speakers.max, self._plain.config.max_ms // FRAME_MS, voices, listener
        )
        self.reset()

    def reset(self) -> None:
        self._plain.reset()
        self.diarizer.reset()
        self._index = 0
        self._labels: dict[int, str] = {}  # of the persons who have been named
        self._told: set[int] = set()  # persons who turned out to be another, and of whom it was said
        self._said_full = False

    @property
    def progressed_ms(self) -> int:
        return self._plain.progressed_ms

    @property
    def undecided_ms(self) -> int:
        return self._plain.undecided_ms

    @property
    def open_ms(self) -> int:
        return self._plain.open_ms

    def count_from(self, index: int) -> None:
        self._index = index

    def push(self, frames: Iterable[Frame]) -> list[SpeechSegment]:
        """Take the next frames; return the segments that they closed."""
        done: list[SpeechSegment] = []
        for frame in frames:
            self.diarizer.push(frame.samples, frame.speech)
            for segment in self._plain.push([frame]):
                done += self._ended(segment)
            if self.diarizer.is_due and self._plain.open_ms:
                done += self._going_on()
        return done

    def flush(self) -> list[SpeechSegment]:
        return [turn for segment in self._plain.flush() for turn in self._ended(segment)]

    def so_far(self) -> SpeechSegment | None:
        """The open segment as it stands, with whose it is as far as that is known."""
        segment = self._plain.so_far()
        return None if segment is None else self._described(replace(segment, index=self._index), named=False)

    def skip(self, frames: int) -> list[SpeechSegment]:
        done = [turn for segment in self._plain.skip(frames) for turn in self._ended(segment)]
        self.diarizer.skip(frames)
        return done

    def close(self) -> None:
        self.reset()

    # How

    def _going_on(self) -> list[SpeechSegment]:
        self.diarizer.look(self._plain.undecided_ms // FRAME_MS)
        done: list[SpeechSegment] = []
        while True:
            begin = self._plain.undecided_ms // FRAME_MS
            cuts = self._cuts(begin, max(begin, self.diarizer.decided))
            if not cuts:
                return done
            done.append(self._numbered(self._plain.cut(begin + cuts[0])))

    def _cuts(self, begin: int, end: int) -> list[int]:
        return cuts_of(self.diarizer.active(begin, end), self.diarizer.several(begin, end))

    def _ended(self, segment: SpeechSegment) -> list[SpeechSegment]:
        begin = segment.start_ms // FRAME_MS
        self.diarizer.look(begin, final=True)
        end = begin + -(-len(segment.samples) // FRAME_SAMPLES)
        cuts = [cut for cut in self._cuts(begin, end) if cut <= end - begin - TURN]
        edges = [0, *cuts, end - begin]
        return [self._numbered(_part(segment, *span)) for span in pairwise(edges)]

    def _numbered(self, segment: SpeechSegment) -> SpeechSegment:
        self._index += 1
        return self._described(replace(segment, index=self._index - 1), named=True)

    def _described(self, segment: SpeechSegment, *, named: bool) -> SpeechSegment:
        begin = segment.start_ms // FRAME_MS
        active_FP = self.diarizer.active(begin, begin + -(-len(segment.samples) // FRAME_SAMPLES))
        spoken = active_FP.any(1).sum()
        if not spoken:
            return replace(segment, role=self._cautious())
        person = int(active_FP.sum(0).argmax())
        voice = self.diarizer.voice(begin, begin + len(active_FP), person)
        person = self._heard_as(person, voice, active_FP)
        overlap = float((active_FP.sum(1) > 1).sum() / spoken)
        label = self._label(person) if named else self._labels.get(person)
        return replace(
            segment,
            speaker=label,
            speaker_confidence=round(self._confidence(person, voice), 3) if label else None,
            overlap=round(overlap, 3),
            role=self.diarizer.clusters.roles.get(person) or self._cautious(voice, person),
            relabelled=self._relabelled() if named else (),
            notes=(*segment.notes, *(self._notes() if named else ())),
        )

    def _heard_as(self, person: int, voice: VectorD | None, active_FP: NDArray[np.bool_]) -> int:
        """Whose voice it is, all of the turn taken together: windows may have taken it for the one before."""
        if voice is None:
            return person
        alike = self.diarizer.clusters.similarities(voice)
        alike[: active_FP.shape[1]][(active_FP.any(0)) & (np.arange(active_FP.shape[1]) != person)] = -1
        closest = int(alike.argmax())
        return closest if alike[closest] > max(NEW, alike[person] + CLEARLY) else person

    def _label(self, person: int) -> str:
        if person not in self._labels:
            self._labels[person] = f"S{len(self._labels) + 1}"
        return self._labels[person]

    def _relabelled(self) -> tuple[tuple[str, str], ...]:
        """The labels that turned out to be another's, since this was last asked."""
        found = []
        for later, earlier in self.diarizer.clusters.joined.items():
            if later in self._told:
                continue
            self._told.add(later)
            if later in self._labels:
                found.append((self._labels[later], self._label(earlier)))
        return tuple(found)

    def _notes(self) -> tuple[str, ...]:
        if self._most is None or self._said_full or not self.diarizer.clusters.full:
            return ()
        self._said_full = True
        return (
            f"speakers: more than {self._most} voices in channel {self.channel}; the others go by the closest one",
        )

    def _cautious(self, voice: VectorD | None = None, person: int | None = None) -> Role | None:
        """The role of an enrolled voice that this one may be; None where it is surely somebody else.

        So it is where it is unlike, or clearly that of a person who is.
        """
        clusters = self.diarizer.clusters
        if not clusters.roles:
            return None
        if voice is None:
            return next(iter(clusters.roles.values()))
        alike = clusters.similarities(voice)
        closest = max(clusters.roles, key=lambda one: float(alike[one]))
        if alike[closest] <= SURE:
            return None
        if person is None or not clusters.is_known(person) or alike[person] <= alike[closest] + CLEARLY:
            return clusters.roles[closest]
        of_all = clusters.similarities(clusters.voice(person))[closest]
        return clusters.roles[closest] if of_all > OTHER else None

    def _confidence(self, person: int, voice: VectorD | None) -> float:
        if voice is None:
            return UNHEARD
        alike = self.diarizer.clusters.similarities(voice)
        others = np.delete(alike, person)
        margin = alike[person] - max(float(others.max(initial=-1.0)), NEW)
        return float(1 / (1 + np.exp(-(OFFSET + SLOPE * margin))))


def _part(segment: SpeechSegment, begin: int, end: int) -> SpeechSegment:
    """Frames `begin` to before `end` of a segment."""
    samples = segment.samples[begin * FRAME_SAMPLES : end * FRAME_SAMPLES]
    if len(samples) == len(segment.samples):
        return segment
    start_ms = segment.start_ms + begin * FRAME_MS
    end_ms = min(segment.start_ms + end * FRAME_MS, segment.end_ms)
    at = segment.speech_ended_at and segment.speech_ended_at - (segment.end_ms - end_ms) * 1_000_000
    return replace(
        segment,
        start_ms=start_ms,
        end_ms=end_ms,
        samples=samples,
        speech_ended_at=at,
        split=segment.split and end_ms == segment.end_ms,
    )
