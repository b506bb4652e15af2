"""A recorded call in files: its channels, its transcript, and its analysis in this process."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self, cast, get_args

from bcaf_stream.ahead import ahead
from bcaf_stream.analyzer import AnalyzerConfig, ConversationAnalyzer
from bcaf_stream.audio.raw import RawFormat
from bcaf_stream.audio.sources import FileSource
from bcaf_stream.audio.speakers.clustering import Voice
from bcaf_stream.audio.tracks import Location, split_track
from bcaf_stream.emotion_model import EmotionEngine
from bcaf_stream.errors import SourceError, UsageError
from bcaf_stream.events.event import Event
from bcaf_stream.transcripts.asr import load_transcriber
from bcaf_stream.transcripts.lanes import Cut, LaneCutter, cuts_between
from bcaf_stream.transcripts.sources import Transcript, check_fits, read_transcript
from bcaf_stream.types import AudioChunk, Call, Channel, Gap, Role, Words

TextMode = Literal["asr", "given", "none"]

SLICE_MS = 100  # what is read at once
CUT_AHEAD = 32  # segments that wait for their analysis; of at most 15 s, that is 15 MB
BATCH = 8  # segments that are encoded together


@dataclass(frozen=True, slots=True)
class Recording:
    """A call in files: `source` is one file or URL with all channels, or a file for each channel.

    Where a transcript tells the speakers of a single channel apart, the call's channels are these (and the channel
    itself, for speech that the transcript gives nobody), and `cuts` says where the sound passes between them.
    `raw` says how files without a header are read, `notes` how the files were understood.
    """

    source: Location | dict[str, Location]
    call: Call
    cuts: tuple[Cut, ...] = ()
    raw: RawFormat | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        source: str | None,
        channels: Mapping[str, str] = MappingProxyType({}),
        roles: Mapping[str, str] = MappingProxyType({}),
        call: str | None = None,
        unique: bool = False,
        track: int | None = None,
        raw: RawFormat | None = None,
    ) -> Self:
        """Look at the files and name the call.

        Args:
            source: a file or URL; None where `channels` has one for each channel.
            channels: files by channel name; FILE#N is one audio track of a file.
            roles: roles by channel name, over the conventional ones.
            call: the id; by default the name of the (first) file.
            unique: add the time to a default id, so that a recording can be sent more than once.
            track: the audio track of `source`, counted from 0, where it has several.
            raw: how a file without a header is to be read; None to go by its name.

        Raises:
            UsageError: both or neither of source and channels are given, a role or its channel is unknown, or a
                file has several audio tracks and it is not said which is whose.
            SourceError: a file cannot be opened.
        """
        if (source is None) == (not channels):
            raise UsageError("give one recording, or --channel NAME=FILE for each channel")
        if track is not None and source is None:
            raise UsageError("--track is for one recording; a channel's track is written --channel NAME=FILE#N")
        place: Location | dict[str, Location] = dict(channels) if source is None else source
        with FileSource(place if track is None else f"{place}#{track}", raw=raw) as files:
            named = with_roles(files.channels, roles)
            understood, notes = files.source, tuple(files.notes)
        first = source if source is not None else next(iter(channels.values()))
        identity = call or _stem(first) or "call"
        if unique and call is None:
            identity += time.strftime("-%Y%m%d-%H%M%S")
        return cls(understood, Call(identity, named), raw=raw, notes=notes)

    def chunks(self) -> FileSource:
        if self.cuts:
            return _LaneSource(self.source, self.call.channels, self.cuts, self.raw)
        return FileSource(self.source, self.call.channels, slice_ms=SLICE_MS, raw=self.raw)

    @property
    def duration_ms(self) -> int | None:
        with self.chunks() as source:
            return source.duration_ms

    def transcript(self, path: Path) -> list[Words]:
        """The words of a transcript, as `with_transcript` has them, for a call that it does not cut."""
        return self.with_transcript(path)[1].words

    def with_transcript(
        self, path: Path, speakers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[Self, Transcript]:
        """The words of a transcript file, and the recording as they cut it: see `read_transcript`.

        Raises:
            TranscriptError: it cannot be read, or is another recording's.
            UsageError: a speaker's target is neither a channel nor a role.
        """
        files = self.source if isinstance(self.source, dict) else {None: self.source}
        stems = {_stem(place): channel for channel, place in files.items()}
        transcript = read_transcript(path, self.call.channels, speakers, {self.call.id: None, **stems})
        duration_ms = self.duration_ms  # opens the files
        if duration_ms is not None:
            check_fits(transcript.words, duration_ms, str(path))
        if not transcript.lanes:
            return self, transcript
        (whole,) = self.call.channels
        cuts = tuple(cuts_between(transcript.words, whole.name))
        others = () if whole.name in {lane.name for lane in transcript.lanes} else (whole,)
        call = replace(self.call, channels=(*transcript.lanes, *others))
        return replace(self, call=call, cuts=cuts), transcript


class _LaneSource(FileSource):
    """A file with one channel, as the lanes of its speakers."""

    def __init__(
        self,
        source: Location | Mapping[str, Location],
        lanes: Sequence[Channel],
        cuts: Sequence[Cut],
        raw: RawFormat | None,
    ) -> None:
        super().__init__(source, slice_ms=SLICE_MS, raw=raw)
        self.channels = tuple(lanes)
        self._cuts = cuts

    def __iter__(self) -> Iterator[AudioChunk]:
        cutter = LaneCutter([lane.name for lane in self.channels], self._cuts)
        try:
            for chunk in super().__iter__():
                yield from cutter.push(chunk)
        except SourceError:
            yield from cutter.flush()
            raise
        yield from cutter.flush()


class Analysis:
    """The events of a recording, in order, as they are found: load once, iterate once.

    Args:
        progress: told, on another thread, the stream time in ms up to which the sound has been read.
        two_passes: hear all of it first, at creation, for the best names of those who share a channel.

    Raises:
        CheckpointError, EncoderError, AsrError: at creation, what is needed cannot be loaded.
        UsageError: at creation, there are no words and the model judges nothing else.
        SourceError: while iterating, the sound is broken; what was found before it has been yielded.
    """

    def __init__(
        self,
        recording: Recording,
        config: AnalyzerConfig,
        text: TextMode,
        words: Sequence[Words] | None = None,
        progress: Callable[[int], None] | None = None,
        two_passes: bool = False,
    ) -> None:
        self._recording = recording
        self._progress = progress
        self._notes: Sequence[str] = ()
        self.engine = EmotionEngine(config.model, words=text != "none")
        if text == "none" and "audio" not in self.engine.modalities:
            raise UsageError(f"{self.engine.model_id} judges words alone: give --transcript or --text asr")
        self._transcriber = load_transcriber(config.text.asr) if text == "asr" else None
        if recording.cuts:  # the transcript says who speaks
            config = config.model_copy(update={"audio": config.audio.model_copy(update={"speakers": "off"})})
        voices: Mapping[str, Sequence[Voice]] = {}
        if two_passes:
            from bcaf_stream.audio.first_pass import voices_of

            with recording.chunks() as source:
                voices = voices_of(recording.call, config.audio, self._read(source))
        self._analyzer = ConversationAnalyzer(
            recording.call, config, self.engine, self._transcriber, words, voices
        )

    @property
    def unpaired_words(self) -> int:
        """Words of the given transcript that fell in no speech segment."""
        return self._analyzer.unpaired_words

    @property
    def notes(self) -> list[str]:
        """What the user should know of the files, one line each; complete when the iteration has ended."""
        return [*self._recording.notes, *self._notes]

    def __iter__(self) -> Iterator[Event]:
        try:
            with self._recording.chunks() as source:
                segments = (s for item in self._read(source) for s in self._analyzer.cut(item))
                # The sound is cut on one core while what was cut is recognised and judged on another.
                for ready in ahead(segments, depth=CUT_AHEAD, most=BATCH):
                    yield from self._analyzer.analyze(ready)
            yield from self._analyzer.flush()
        except SourceError:
            yield from self._analyzer.flush("the sound is broken")
            raise
        finally:
            self._analyzer.close()
            if self._transcriber:
                self._transcriber.close()

    def _read(self, source: FileSource) -> Iterator[AudioChunk | Gap]:
        try:
            for item in source.with_gaps():
                yield item
                if self._progress:
                    end = item.end if isinstance(item, Gap) else item.start + len(item.samples)
                    self._progress(end * 1000 // item.rate)
        finally:
            self._notes = source.notes


def with_roles(channels: Sequence[Channel], roles: Mapping[str, str]) -> tuple[Channel, ...]:
    """The channels with these roles, by name, over their own.

    Raises:
        UsageError: a role or its channel is unknown.
    """
    names = [channel.name for channel in channels]
    for name, role in roles.items():
        if name not in names:
            raise UsageError(f"--role {name}: the call's channels are {', '.join(names)}")
        if role not in get_args(Role):
            raise UsageError(f"--role {name}={role}: must be one of {', '.join(get_args(Role))}")
    return tuple(Channel(c.name, cast(Role, roles.get(c.name, c.role))) for c in channels)


def _stem(place: Location) -> str:
    """The name of a file or URL without its folder, extension and track."""
    return Path(str(split_track(str(place).partition("?")[0])[0])).stem
