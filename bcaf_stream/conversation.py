"""THE MAIN PATH: what comes of a call goes in, its events come out, and the work that this takes is asked for.

    AudioChunk | Gap -> CallCutter -> SpeechSegment -> TextStage [Transcribe] -> Utterance
                     -> DialogueContext [Predict] -> EmotionPrediction -> EventWriter -> Event

Pure: no thread, no socket, no clock but the one for `emitted_at`. `push` takes what came, and `done` what became
of a piece of work; both return the events that are ready and the work that can be done now, by whom and when its
driver likes. Whatever the order in which work is done, the events of a call but the interim ones are the same, in
the same order: a dialogue is judged one utterance after the other. What cannot be done becomes a `degraded` event
in its place, never a guess.

`analyzer.py` drives it in one process, `actors/call_session.py` on Ray.
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from bcaf_stream.alerts.evaluator import SETTLE_MS, TICK_MS, AlertChange, AlertEvaluator
from bcaf_stream.alerts.rules import AlertRules
from bcaf_stream.audio.speakers.clustering import Voice
from bcaf_stream.audio.turns import AudioConfig, CallCutter
from bcaf_stream.context import Answer, DialogueContext, Judged, Predict
from bcaf_stream.display import printable
from bcaf_stream.errors import BcafError
from bcaf_stream.events.event import Event
from bcaf_stream.events.writer import EventWriter, Redaction
from bcaf_stream.ingest.media import CallEnd, Degraded, MissingSound, TextUpdate
from bcaf_stream.resumption import Resumption
from bcaf_stream.transcripts.pairing import TextConfig
from bcaf_stream.transcripts.stage import TextStage, Transcribe
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import AudioChunk, Call, EmotionPrediction, Gap, Modality, SpeechSegment, Utterance, Words

log = logging.getLogger(__name__)

RENAMED_MS = 60_000  # how far back what is known of a speaker by now is told of what they said
RENAMED = 64  # utterances, at most


class Rename(NamedTuple):
    """The speaker `was` of a channel is `becomes`, as is known at `at_ms`."""

    at_ms: int
    channel: str
    was: str
    becomes: str


Write = Callable[[], Event]
Mark = Write | Rename | int  # or the stream time up to which all is told


@dataclass(frozen=True, slots=True)
class Stall:
    """The sound of a channel has stopped coming: what was said is over, and the others need not wait for it."""

    channel: str


Cuttable = AudioChunk | Gap | Stall | CallEnd  # what may close a segment
Item = Cuttable | MissingSound | TextUpdate | Degraded
Work = Transcribe | Predict
Result = Transcription | Answer | BcafError | None  # None: there was no time for it


class Step(NamedTuple):
    """`events` are ready, in order; `work` can be done now, in any order."""

    events: list[Event]
    work: list[Work]


class _Judging(NamedTuple):
    """What the model is asked for: the emotion of an utterance, or of all that a speaker said who is another."""

    at_ms: int
    what: Utterance | Rename
    answers: Generator[Predict, Answer, EmotionPrediction | Judged]


class Conversation:
    """One call.

    Args:
        call: the call and its channels.
        audio, text: thresholds and choices of the stages.
        model: what the events say of the model.
        modalities: what it was trained on.
        recognises: whether the words of segments are asked for, where the policy permits it.
        words: a transcript known beforehand; () where words come live, None where there are none.
        interim_ms: an interim result for every so much of an utterance that is going on; 0: none.
        resumption: where to go on with a call whose owner died.
        alerts: the rules that watch it.
        voices: of those who share a channel, where a first pass has found them.
        clock: unix time in ns, for the `emitted_at` fields.
    """

    def __init__(
        self,
        call: Call,
        audio: AudioConfig,
        text: TextConfig,
        model: str,
        modalities: Sequence[Modality],
        *,
        recognises: bool = False,
        words: Sequence[Words] | None = None,
        interim_ms: int = 0,
        resumption: Resumption | None = None,
        alerts: AlertRules | None = None,
        voices: Mapping[str, Sequence[Voice]] = MappingProxyType({}),
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.call = call
        self._text: TextStage[Mark] = TextStage(
            call,
            text.for_model(modalities),
            recognises,
            words,
            refused=lambda reason: partial(self._writer.degraded, reason),
        )
        self._cutter = CallCutter(call, audio, self._text.precedence, voices)
        self.policies = self._text.policies
        self._writer = EventWriter(call, model, clock, self.policies, _redaction(text))
        self._revisable = max(text.revisable, RENAMED) if self._cutter.tells_speakers else text.revisable
        self._interim_ms = interim_ms
        self._resumption = resumption
        if resumption:
            resumption.shown = self._writer.shown
        self._alerts = AlertEvaluator(alerts, call.id) if alerts else None
        self.reset()

    def reset(self) -> None:
        """Forget the call: what is pushed next begins it anew."""
        self._cutter.reset()
        self._text.reset()
        self._writer.reset()
        self._context = DialogueContext(self._revisable)
        if self._alerts:
            self._alerts.reset()
        self._due: deque[tuple[int, Utterance | Mark]] = deque()  # to be judged or written, with the stream time
        self._judged: _Judging | None = None
        self._asked: set[Work] = set()  # that is not done
        self._previewed: dict[str, int] = defaultdict(int)  # number of the last preview of an open segment
        self._names: dict[tuple[str, str], str] = {}  # of speakers who are another: channel and name, and whose
        self._closed: dict[str, int] = {}  # index of the last segment that was closed
        self._at_ms = 0
        self._heard_ms = self._undecided_ms = 0  # of the sound, where it was cut last
        self._second = 0  # of the call's clock, that the alerts were last looked at in
        self._began = self._ending = self.ended = False
        self._ends = ""  # why
        self.utterances = 0
        self._events: list[Event] = []
        self._work: list[Work] = []

    # What its driver may ask

    @property
    def unpaired_words(self) -> int:
        """Given words that fell in no speech segment so far."""
        return self._text.unpaired

    @property
    def pending_words(self) -> int:
        """Live words that wait for the speech they were said in."""
        return self._text.pending_words

    @property
    def waiting(self) -> int:
        """What has its turn still to come: utterances to be judged, and what stands between them."""
        return len(self._due) + self._text.waiting

    @property
    def waits_for_words(self) -> bool:
        """Whether a segment waits for live words, so that time decides what becomes of it."""
        return self._text.waits_for_words

    @property
    def upcoming(self) -> list[Utterance]:
        """The utterances that will be asked for next: encoders gain from a batch."""
        return [what for _, what in self._due if isinstance(what, Utterance)]

    @property
    def heard_ms(self) -> int:
        """Stream time up to which the sound is cut into segments."""
        return self._heard_ms

    @property
    def analysed_ms(self) -> int:
        """Stream time up to which nothing is left to do."""
        if self._judged:
            return self._judged.at_ms
        if self._due:
            return self._due[0][0]
        return self.heard_ms if self._text.next_ms is None else self._text.next_ms

    @property
    def unsettled_ms(self) -> int:
        """Stream time before which all utterances have their final events, and no new one can begin."""
        return min([self._undecided_ms, *self._text.unsettled.values()])

    @property
    def cuts_long(self) -> bool:
        """Whether to cut sound takes so long that a driver with other calls does it elsewhere: see `cut`."""
        return self._cutter.tells_speakers

    # What happens

    def begin(self) -> list[Event]:
        """The call's first events; nothing where it has begun."""
        if not self._began:
            self._began = True
            if self._resumption is None:
                self._events.append(self._writer.start())
            else:
                self.utterances = self._resumption.progress.finals
                told = self._resumption.start(self._cutter, self._writer)
                self._events += told
                self._look_at_sound()
                if self._alerts:
                    progress = self._resumption.progress
                    known = [*progress.evidence.values(), *progress.alerts.values()]
                    self._raise(self._alerts.restore(known))
                    for event in told:
                        self._raise(self._alerts.push(event))
        return self._ready().events

    def push(self, item: Item, found: Sequence[Gap | SpeechSegment] | None = None) -> Step:
        """Take what comes next; `found` is what `cut` has made of it, where that was asked elsewhere.

        Raises:
            SourceError: the channel is unknown, its rate changed, or samples are missing or doubled.
        """
        if isinstance(item, Cuttable):
            self._take(self.cut(item) if found is None else found)
        match item:
            case AudioChunk(channel):
                self._tick(self._heard_ms)
                self._preview(channel)
            case Gap():
                self._tick(self._heard_ms)
            case MissingSound():
                self._tell_gap(item)
            case TextUpdate(words, last):
                self._text.push_words(words, last, self._at_ms)
            case Degraded(reason):
                self._note([reason])
            case CallEnd(reason):
                self._ending = True
                self._text.flush(self._at_ms)
                self._note(self._cutter.take_notes())
                self._ends = reason
                self._write_in_turn(self._end)
        return self._go_on()

    def cut(self, item: Cuttable) -> list[Gap | SpeechSegment]:
        """The first half of `push`; it may run on another thread than the rest, one item after the other.

        Until the second half has taken what was found, the call stands where it was. Raises as `push`.
        """
        match item:
            case AudioChunk():
                return [*self._cutter.push(item)]
            case Gap(channel, start, end, _, rate):
                return [item, *self._cutter.gap(channel, start, end, rate)]
            case Stall(channel):
                return [*self._cutter.stall(channel)]
            case CallEnd():
                return [*self._cutter.flush()]

    def take(self, found: Iterable[Gap | SpeechSegment]) -> Step:
        """The second half of `push`."""
        self._take(found)
        return self._go_on()

    def done(self, work: Work, result: Result) -> Step:
        """Take what became of work: its result, the error in its way, or None where there was no time for it."""
        if work not in self._asked:
            return Step([], [])  # the call was given up meanwhile
        self._asked.remove(work)
        if isinstance(work, Transcribe):
            self._text.done(work, result)  # type: ignore[arg-type]
        elif work.preview:
            self._interim(work.utterance, result)  # type: ignore[arg-type]
        else:
            self._answered(result)  # type: ignore[arg-type]
        return self._go_on()

    def advance(self, now_ms: int) -> Step:
        """Learn that it is `now_ms` of the stream though no sound came: live words are not waited for for ever."""
        self._text.advance(now_ms)
        return self._go_on()

    def catch_up(self) -> Step:
        """There is time again: ask for the words of the next utterance that went out without them."""
        if not self._ending:
            self._text.hear_again(1)
        return self._go_on()

    def tell(self, reason: str) -> list[Event]:
        """Tell the call's subscribers at once that it is analysed with less than was asked for."""
        return [] if self.ended else [self._writer.degraded(reason)]

    def give_up(self, reason: str, ends: str) -> list[Event]:
        """End a call that cannot go on: what was not judged is said to be lost, and why; it ends as `ends`."""
        due = [what for _, what in self._due]
        if self._judged:
            due.insert(0, self._judged.what)
        self._due.clear()
        self._asked.clear()
        self._text.close()
        self._judged, self._ending, self._ends = None, True, ends
        for what in due:
            if not isinstance(what, Utterance):
                self._mark(what)
            elif not (self._resumption and self._resumption.is_told(what)):
                self._tell(self._writer.degraded(reason, what))
        if not self.ended:  # its end may have been among what was due
            self._tell(self._end())
        return self._ready().events

    def close(self) -> None:
        self._cutter.close()
        self._text.close()

    # How

    def _take(self, found: Iterable[Gap | SpeechSegment]) -> None:
        self._look_at_sound()
        for item in found:
            if isinstance(item, Gap):
                self._tell_gap(item)
            else:
                self._segment(item)
        if self._text.waits_for_words:
            self._text.advance(self.heard_ms)

    def _look_at_sound(self) -> None:
        """Note where its cutting stands: from now until this is asked again, another thread may cut on."""
        self._heard_ms, self._undecided_ms = self._cutter.progressed_ms, self._cutter.undecided_ms

    def _tell_gap(self, gap: Gap | MissingSound) -> None:
        start_ms, end_ms = (at * 1000 // gap.rate for at in (gap.start, gap.end))
        self._write_in_turn(partial(self._writer.gap, gap.channel, start_ms, end_ms, gap.reason))

    def _segment(self, segment: SpeechSegment) -> None:
        heard = None
        if self._resumption:
            placed = self._resumption.place(segment)
            if placed is None:
                return  # its time is that of what the journal tells, which is something else
            segment, heard = placed, self._resumption.heard(placed)
        self._at_ms = max(self._at_ms, segment.closed_ms)
        self._tick(segment.closed_ms)
        if not (self._resumption and self._resumption.knows(segment.channel, segment.index)):
            self._note(segment.notes)
        for was, becomes in segment.relabelled:
            if not (self._resumption and self._resumption.progress.name(segment.channel, was) != was):
                self._write_in_turn(partial(self._writer.relabelled, segment.channel, was, becomes))
            self._text.mark(Rename(segment.end_ms, segment.channel, was, becomes), self._at_ms)
        self._closed[segment.channel] = segment.index
        self._text.push(segment, heard)

    def _judge(self, at_ms: int, utterance: Utterance) -> None:
        """Ask for the emotion of an utterance, unless nothing came of it when it was judged before."""
        known = self._resumption.recorded(utterance) if self._resumption else utterance
        stale = utterance.revision and not self._text.live and not self._context.can_revise(utterance)
        if known is None or stale:
            self._text.unsettled.pop((utterance.channel, utterance.index), None)
            return
        may_change = self._text.may_change or self._cutter.tells_speakers
        known = self._context.renewed(self._named(known))
        answers = self._context.judge(known, may_change or any(later.revision for later in self.upcoming))
        self._judged = _Judging(at_ms, known, answers)
        self._ask(next(answers))

    def _named(self, utterance: Utterance) -> Utterance:
        """By the name that its speaker has by now: words may come late."""
        name = self._names.get((utterance.channel, utterance.speaker or ""))
        return replace(utterance, speaker=name) if name else utterance

    def _rename(self, at_ms: int, what: Rename) -> None:
        """Ask again for the emotion of what a speaker said lately who is another one."""
        for key, name in self._names.items():
            if key[0] == what.channel and name == what.was:
                self._names[key] = what.becomes
        self._names[what.channel, what.was] = what.becomes
        answers = self._context.rename(what.channel, what.was, what.becomes, what.at_ms - RENAMED_MS)
        asked = next(answers, None)
        if asked is not None:
            self._judged = _Judging(at_ms, what, answers)
            self._ask(asked)

    def _answered(self, result: Answer | BcafError) -> None:
        assert self._judged is not None
        _, what, answers = self._judged
        try:
            if isinstance(result, BcafError):
                raise result
            self._ask(answers.send(result))
        except StopIteration as judged:
            self._judged = None
            outcomes = judged.value if isinstance(what, Rename) else [(what, judged.value)]
            for utterance, prediction in outcomes:
                self._finish(utterance, prediction)
        except BcafError as error:
            self._judged = None
            if isinstance(what, Rename):  # what was said of them stands, under the name that they had
                reason = f"speakers: what {what.was} said is not judged again: {_one_line(error)}"
                self._tell(self._writer.degraded(reason))
            else:
                self._finish(what, error)

    def _finish(self, utterance: Utterance, outcome: EmotionPrediction | BcafError) -> None:
        self._text.unsettled.pop((utterance.channel, utterance.index), None)
        if self._resumption and self._resumption.is_told(utterance):
            return
        try:
            if isinstance(outcome, BcafError):
                raise outcome
            event = self._writer.final(utterance, outcome)
            self._tell(event)
            self.utterances += event.type == "emotion.final"
        except BcafError as error:
            # No guess in place of an answer: the event says that this utterance has none, and why.
            log.warning(
                "call %s: an utterance has no prediction: %s", printable(self.call.id), type(error).__name__
            )
            self._tell(self._writer.degraded(_one_line(error), utterance))

    def _preview(self, channel: str) -> None:
        """Ask for an interim result where one is due; finals go first, and a channel has one at a time."""
        number = self._cutter.open_ms(channel) // self._interim_ms if self._interim_ms else 0
        self._previewed[channel] = min(number, self._previewed[channel])
        asked = any(isinstance(work, Predict) and work.utterance.channel == channel for work in self._asked)
        if number == self._previewed[channel] or asked or self._judged or self._due or self._ending:
            return
        self._previewed[channel] = number
        segment = self._cutter.so_far(channel)
        if segment is not None and self._resumption:
            segment = self._resumption.preview(segment, number)
        utterance = None if segment is None else self._text.preview(segment, number)
        if utterance is not None:
            self._ask(self._context.preview(utterance))

    def _interim(self, utterance: Utterance, result: Answer | BcafError | None) -> None:
        if result is None or self._ending or utterance.index <= self._closed.get(utterance.channel, -1):
            return
        try:
            if isinstance(result, BcafError):
                raise result
            if result[0].decided:  # else there is nothing to show yet, and a guess would be one
                self._events.append(self._writer.interim(utterance, result[0]))
        except BcafError as error:
            log.warning("call %s: no interim result: %s", printable(self.call.id), type(error).__name__)

    def _end(self) -> Event:
        self.ended = True
        if self._alerts:
            self._raise(self._alerts.end(self.heard_ms))
        return self._writer.end(self._ends)

    def _tell(self, event: Event) -> None:
        """The event, and the alerts that it changes."""
        self._events.append(event)
        if self._alerts:
            self._raise(self._alerts.push(event))

    def _raise(self, changes: Iterable[AlertChange]) -> None:
        self._events += [self._writer.alert(**change.to_fields()) for change in changes]

    def _tick(self, known_ms: int) -> None:
        """In turn, look at the alerts: every segment that has closed by then is taken."""
        second = (known_ms - SETTLE_MS) // TICK_MS
        if self._alerts and second > self._second:
            self._second = second
            self._text.mark(second * TICK_MS, self._at_ms)

    def _mark(self, mark: Mark) -> None:
        if callable(mark):
            self._tell(mark())
        elif isinstance(mark, int) and self._alerts:
            self._raise(self._alerts.tick(mark))

    def _note(self, notes: Iterable[str]) -> None:
        for note in notes:
            self._write_in_turn(partial(self._writer.degraded, note))

    def _write_in_turn(self, write: Write) -> None:
        self._text.mark(write, self._at_ms)

    def _ask(self, work: Work) -> None:
        self._asked.add(work)
        self._work.append(work)

    def _go_on(self) -> Step:
        """Do all that nothing is in the way of."""
        for work in self._text.take_work():
            self._ask(work)
        self._due += self._text.take()
        while self._due and self._judged is None:
            at_ms, what = self._due.popleft()
            if isinstance(what, Utterance):
                self._judge(at_ms, what)
            elif isinstance(what, Rename):
                self._rename(at_ms, what)
            else:
                self._mark(what)
        return self._ready()

    def _ready(self) -> Step:
        step = Step(self._events, self._work)
        self._events, self._work = [], []
        return step


def _redaction(text: TextConfig) -> Redaction | None:
    if not text.redact:
        return None
    from bcaf_stream.redaction import Redactor  # the numbering plans of the world load in a third of a second

    return Redactor(text.redact)


def _one_line(error: BcafError) -> str:
    return str(error).splitlines()[-1] if str(error) else type(error).__name__
