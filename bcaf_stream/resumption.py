"""Going on with a call whose owner died: what its journal tells is the past, which is not told again.

The call's subscribers are told of the interruption, as `degraded`.

A sender that keeps its sound sends it once more from before the first utterance that has no final event. What is
heard of the past gives the model its context, with the words that the journal has; what comes after it is told as
if nothing had happened: same utterances, same ids. From a call's first sample that is exact. From later on, the
voice activity detector needs a while to settle, and utterances of the past are recognised by their time; so are
the speakers of a channel that several share, by the utterances that were theirs. Who is not clearly one of them
has a new number: voices are not journalled.

A sender that cannot send again goes on where the clock says that the call is: what came meanwhile is a gap, and
the context of the dialogue begins anew.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from bcaf_stream.audio.turns import CallCutter
from bcaf_stream.events.event import Event
from bcaf_stream.events.progress import Progress, Spoken
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import SpeechSegment, Utterance

CLEARLY = 2 / 3  # of a speaker's known time must be that of one speaker in the journal, to be that one


def resend_from_ms(progress: Progress, rebuild_ms: int) -> int:
    """From which stream time on the sound is wanted again: `rebuild_ms` before what has no final event."""
    ends = [spoken.end_ms for channel in progress.spoken.values() for spoken in channel.values()]
    return max(0, max(ends, default=0) - rebuild_ms)


@dataclass
class Resumption:
    """`begin` is the sample, at `rate` Hz, with which the sound goes on; `resent`: it is sent once more."""

    progress: Progress
    begin: int
    rate: int
    resent: bool
    shown: Callable[[Utterance], str | None] = lambda utterance: (
        utterance.text
    )  # its words as the journal has them
    _matched: set[tuple[str, int]] = field(default_factory=set)
    _last: dict[tuple[str, int], tuple[str | None, int]] = field(default_factory=dict)  # text and revision
    _new: Counter[str] = field(default_factory=Counter)  # segments of each channel that the journal does not know
    _heard_ms: dict[tuple[str, str], Counter[str]] = field(
        default_factory=dict
    )  # as which known speaker, by name now
    _speakers: dict[tuple[str, str], str] = field(default_factory=dict)  # channel, name now -> name in the journal
    _added: Counter[str] = field(default_factory=Counter)  # speakers of each channel that it does not know

    def start(self, cutter: CallCutter, writer: EventWriter) -> list[Event]:
        """Set both where the call stands; return what its subscribers are told of the interruption."""
        writer.resume(self.progress)
        for channel in cutter.call.channels:
            index = 0 if self.resent else self.progress.utterances[channel.name]
            cutter.resume(channel.name, index, self.begin, self.rate)
        end_ms, begin_ms = self.progress.end_ms, self.begin * 1000 // self.rate
        if self.resent:
            goes_on = f"it goes on from {end_ms / 1000:.1f} s with the sound that its sender has kept"
        else:
            goes_on = "the context of the dialogue begins anew"
        told = writer.degraded(f"the analysis was interrupted: {goes_on}")
        if self.resent and begin_ms <= end_ms:
            return [told]
        names = [channel.name for channel in cutter.call.channels]
        return [told, *(writer.gap(name, end_ms, begin_ms, "analysis interrupted") for name in names)]

    def place(self, segment: SpeechSegment) -> SpeechSegment | None:
        """The next closed segment, with its index in the call; None where the journal shows that it is none."""
        if not self.resent:
            return self._named(segment)
        if not self.begin:
            return segment
        if segment.start_ms >= self._decided_ms(segment.channel):
            self._new[segment.channel] += 1
            new = self.progress.decided[segment.channel] + self._new[segment.channel] - 1
            return self._named(replace(segment, index=new))
        index = self._closest(segment)
        if index is None:
            return None
        self._matched.add((segment.channel, index))
        told = self.progress.spoken[segment.channel][index]
        if segment.speaker is not None and told.speaker is not None:
            heard_ms = self._heard_ms.setdefault((segment.channel, segment.speaker), Counter())
            heard_ms[self.progress.name(segment.channel, told.speaker)] += _shared_ms(segment, told)
        return replace(segment, index=index, speaker=told.speaker, relabelled=())

    def preview(self, segment: SpeechSegment, number: int) -> SpeechSegment | None:
        """An open segment, with its index in the call; None where nothing new is to be said of it by a preview."""
        if self.resent and self.begin:
            if segment.start_ms < self._decided_ms(segment.channel):
                return None
            index = self.progress.decided[segment.channel] + self._new[segment.channel]
            segment = replace(segment, index=index)
        if segment.speaker is not None and (self.begin or not self.resent):
            name = self._speakers.get((segment.channel, segment.speaker))
            sure = segment.speaker_confidence if name else None
            segment = replace(segment, speaker=name, speaker_confidence=sure)
        told = self.progress.interims.get((segment.channel, segment.index), 0)
        return None if self.knows(segment.channel, segment.index) or number <= told else segment

    def knows(self, channel: str, index: int) -> bool:
        """Whether the utterance has had its final event."""
        return self.resent and index < self.progress.decided[channel]

    def heard(self, segment: SpeechSegment) -> Transcription | None:
        """What was heard in a segment that is known; None where that must be found out."""
        spoken = self._spoken(segment.channel, segment.index)
        return None if spoken is None else Transcription(spoken.text or "", spoken.text_confidence)

    def recorded(self, utterance: Utterance) -> Utterance | None:
        """The utterance as it was told last; None where nothing came of it, or a revision says nothing new."""
        spoken = self._spoken(utterance.channel, utterance.index)
        if spoken is None:
            return utterance
        if utterance.revision:  # words that came late: they may have come before, too
            key = (utterance.channel, utterance.index)
            text, revision = self._last.get(key, (spoken.text, spoken.revision))
            shown = self.shown(utterance)
            if shown == text:
                return None
            self._last[key] = (shown, revision + 1)
            return replace(utterance, revision=revision + 1)
        if not spoken.judged:
            return None
        return replace(
            utterance,
            text=spoken.text,
            text_source=spoken.text_source,
            text_confidence=spoken.text_confidence,
            degraded=spoken.degraded,
            revision=spoken.revision,
            speaker=spoken.speaker,
        )

    def is_told(self, utterance: Utterance) -> bool:
        """Whether the journal has this revision of an utterance."""
        spoken = self._spoken(utterance.channel, utterance.index)
        told = spoken.revision if spoken else 0
        return self.knows(utterance.channel, utterance.index) and utterance.revision <= told

    def _spoken(self, channel: str, index: int) -> Spoken | None:
        return self.progress.spoken.get(channel, {}).get(index) if self.resent else None

    def _named(self, segment: SpeechSegment) -> SpeechSegment:
        """A new segment, with the names that its speakers have in the journal."""
        if segment.speaker is None:
            return segment
        name = partial(self._name, segment.channel)
        pairs = tuple((name(one), name(other)) for one, other in segment.relabelled)
        return replace(segment, speaker=name(segment.speaker), relabelled=pairs)

    def _name(self, channel: str, now: str) -> str:
        if (channel, now) not in self._speakers:
            heard_ms = self._heard_ms.get((channel, now), Counter())
            taken = {told for (where, _), told in self._speakers.items() if where == channel}
            for told, share_ms in heard_ms.items():
                if told not in taken and share_ms > CLEARLY * heard_ms.total():
                    self._speakers[channel, now] = told
                    return told
            self._added[channel] += 1
            self._speakers[channel, now] = f"S{self.progress.speakers[channel] + self._added[channel]}"
        return self._speakers[channel, now]

    def _decided_ms(self, channel: str) -> int:
        return max((spoken.end_ms for spoken in self.progress.spoken.get(channel, {}).values()), default=0)

    def _closest(self, segment: SpeechSegment) -> int | None:
        """The known utterance that shares most time with the segment."""
        shared_ms = partial(_shared_ms, segment)
        free = [
            spoken
            for spoken in self.progress.spoken.get(segment.channel, {}).values()
            if shared_ms(spoken) > 0 and (segment.channel, spoken.index) not in self._matched
        ]
        return max(free, key=shared_ms).index if free else None


def _shared_ms(segment: SpeechSegment, spoken: Spoken) -> int:
    return min(spoken.end_ms, segment.end_ms) - max(spoken.start_ms, segment.start_ms)
