"""Speech segments and words in, utterances out, in order; what needs a recogniser is asked for.

Pure: `Pairing` with a queue in front. A segment whose words must be recognised holds back what came after it, so
that the outcome does not depend on how long recognition takes. Where there was no time for it, a segment goes out
on audio alone, and is remembered: `hear_again` asks for its words once more.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from bcaf_stream.display import printable
from bcaf_stream.errors import BcafError, TranscriptError
from bcaf_stream.transcripts.pairing import Pairing, TextConfig
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import Call, Policy, SpeechSegment, Utterance, Words

log = logging.getLogger(__name__)

Key = tuple[str, int]  # channel and index of a segment
Mark = TypeVar("Mark")


@dataclass(frozen=True, slots=True, eq=False)
class Transcribe:
    """Work for a recogniser: the words of a segment; its result is a Transcription.

    `again`: its utterance has gone out without them.
    """

    segment: SpeechSegment
    again: bool = False


@dataclass(eq=False)
class _Turn(Generic[Mark]):
    """What happens when all before it has happened, and (`waits`) when the words of its segment are there."""

    at_ms: int
    act: Callable[[], Sequence[Utterance | Mark]]
    waits: bool = False


class TextStage(Generic[Mark]):
    """See `Pairing` for the first arguments and errors.

    A mark goes through it unchanged, and comes out between the utterances of what came before and after it.

    Args:
        recognises: whether to ask for the words of segments, where none are given and the policy permits it.
        refused: the mark that says why live words were not taken.
    """

    def __init__(
        self,
        call: Call,
        config: TextConfig,
        recognises: bool,
        words: Sequence[Words] | None,
        refused: Callable[[str], Mark],
    ) -> None:
        self._refused = refused
        self._pairing = Pairing(call, config, words)
        self._recognises = recognises and words is None
        self.live = words is not None and not words
        self.reset()

    def reset(self) -> None:
        self._pairing.reset()
        self._turns: deque[_Turn[Mark]] = deque()
        self._asked: dict[Transcribe, _Turn[Mark]] = {}
        self._paired: deque[Key] = deque()  # what waits for live words in Pairing
        self._shed: dict[Key, SpeechSegment] = {}
        self._work: list[Transcribe] = []
        self._flushed = False
        self._at_ms = 0
        self.unsettled: dict[Key, int] = {}  # where each segment begins that is not out
        self.failures = 0  # of the recogniser

    @property
    def policies(self) -> dict[str, Policy]:
        """Of the channels that are not judged by sound and words."""
        names = [channel.name for channel in self._pairing.call.channels]
        return {name: policy for name in names if (policy := self._pairing.policy(name)) != "fused"}

    @property
    def precedence(self) -> list[str]:
        """See `Pairing.precedence`."""
        return self._pairing.precedence

    @property
    def unpaired(self) -> int:
        return self._pairing.unpaired

    @property
    def pending_words(self) -> int:
        return self._pairing.pending_words

    @property
    def waiting(self) -> int:
        """How many turns are still to come."""
        return len(self._turns)

    @property
    def waits_for_words(self) -> bool:
        return self._pairing.held > 0

    @property
    def may_change(self) -> bool:
        """Whether what is out may still get other words."""
        return self.live or bool(self._shed)

    @property
    def next_ms(self) -> int | None:
        """The stream time of what waits longest."""
        return self._turns[0].at_ms if self._turns else None

    def push(self, segment: SpeechSegment, heard: Transcription | None = None) -> None:
        """Take the next segment; `heard` where its words are known already."""
        self.unsettled[segment.channel, segment.index] = segment.start_ms
        if heard is None and self._recognises and self._pairing.recognises(segment):
            self._ask(segment)
        else:
            self._turn(segment.closed_ms, partial(self._pair, segment, heard, ()))

    def push_words(self, words: Sequence[Words], last: bool, at_ms: int) -> None:
        """Take live words; nothing waits for more after the `last` ones."""
        self._turn(at_ms, partial(self._push_words, words, last))

    def mark(self, mark: Mark, at_ms: int) -> None:
        self._turn(at_ms, lambda: [mark])

    def advance(self, now_ms: int) -> None:
        """Learn that the stream has got to `now_ms`; releases what has waited long enough for live words."""
        if self._pairing.held:
            self._turn(now_ms, partial(self._pairing.advance, now_ms))

    def flush(self, at_ms: int) -> None:
        """No more segments and words come."""
        self.hear_again()
        self._flushed = True
        self._turn(at_ms, self._pairing.flush)

    def hear_again(self, at_once: int | None = None) -> None:
        """Ask for the words of what went out without them for want of time: `at_once` of them, or all.

        What comes after it waits for it, as it is to be judged in a dialogue that has those words.
        """
        asked = {work.segment for work in self._asked if work.again}
        for segment in self._shed.values():
            if at_once is not None and len(asked) >= at_once:
                return
            if segment not in asked:
                asked.add(segment)
                self._ask(segment, again=True)

    def done(self, work: Transcribe, result: Transcription | BcafError | None) -> None:
        """Take what became of work: its result, the error in its way, or None where there was no time for it."""
        turn, segment = self._asked.pop(work), work.segment
        heard = result if isinstance(result, Transcription) else None
        if isinstance(result, BcafError):
            self.failures += 1
            log.warning("%s at %d ms has no words: %s", printable(segment.channel), segment.start_ms, result)
        self._remember(segment, result is None and not self._flushed)
        if not work.again:
            turn.act = partial(self._pair, segment, heard, () if heard else ("asr",))
        elif heard:
            turn.act = partial(self._add_words, segment, heard)
        turn.waits = False

    def take_work(self) -> list[Transcribe]:
        """What is asked for since this was last called."""
        work, self._work = self._work, []
        return work

    def take(self) -> list[tuple[int, Utterance | Mark]]:
        """What is ready, in order, each with its stream time."""
        ready: list[tuple[int, Utterance | Mark]] = []
        while self._turns and not self._turns[0].waits:
            turn = self._turns.popleft()
            found = turn.act()
            ready += [(turn.at_ms, one) for one in found]
            self._settle([one for one in found if isinstance(one, Utterance)])
        return ready

    def preview(self, segment: SpeechSegment, number: int) -> Utterance | None:
        """See `Pairing.preview`."""
        return self._pairing.preview(segment, number)

    def close(self) -> None:
        self._pairing.close()

    def _turn(self, at_ms: int, act: Callable[[], Sequence[Utterance | Mark]]) -> _Turn[Mark]:
        self._at_ms = max(self._at_ms, at_ms)  # what is heard again is of long ago, and takes its turn now
        self._turns.append(_Turn(self._at_ms, act))
        return self._turns[-1]

    def _ask(self, segment: SpeechSegment, again: bool = False) -> None:
        work = Transcribe(segment, again)
        self._asked[work] = self._turn(segment.closed_ms, list)
        self._asked[work].waits = True
        self._work.append(work)

    def _remember(self, segment: SpeechSegment, shed: bool) -> None:
        key = (segment.channel, segment.index)
        if not shed:
            self._shed.pop(key, None)
            return
        self._shed[key] = segment
        if len(self._shed) > self._pairing.config.revisable:
            del self._shed[next(iter(self._shed))]

    def _pair(
        self, segment: SpeechSegment, heard: Transcription | None, degraded: tuple[str, ...]
    ) -> Sequence[Utterance]:
        self._paired.append((segment.channel, segment.index))
        return self._pairing.push(segment, heard, degraded)

    def _add_words(self, segment: SpeechSegment, heard: Transcription) -> Sequence[Utterance]:
        utterance = self._pairing.with_words(segment, heard)
        return [] if utterance is None else [utterance]

    def _push_words(self, words: Sequence[Words], last: bool) -> Sequence[Utterance | Mark]:
        found: list[Utterance | Mark] = []
        try:
            found += self._pairing.push_words(words)
        except TranscriptError as error:
            found.append(self._refused(str(error)))
        return [*found, *self._pairing.end_words()] if last else found

    def _settle(self, out: Sequence[Utterance]) -> None:
        """Forget the segments that are withheld, as the policy wants it: nothing will be said of them."""
        said = {(utterance.channel, utterance.index) for utterance in out}
        while len(self._paired) > self._pairing.held:
            key = self._paired.popleft()
            if key not in said:
                self.unsettled.pop(key, None)
