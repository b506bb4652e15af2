"""Recorded calls as streams of PCM: one file with all the channels, or one file for each channel.

For each slice of time every channel gives one chunk, at the native rate of its file. A channel whose file
is shorter than the others is continued with silence, so that no channel holds up the order of the dialogue.

Files of one call are on one clock. Each counts from its own zero (see `containers`): a party that joined after
5 s and whose file says so is heard from 5 s on. Only files whose time stamps all count from anywhere (transport
streams, times of day), within an hour of each other, count from the earliest of them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.audio.containers import ABSOLUTE_S, shown
from bcaf_stream.audio.decoder import Decoder, Hole
from bcaf_stream.audio.raw import RawFormat
from bcaf_stream.audio.tracks import Arranged, Location, arrange, split_track
from bcaf_stream.errors import SourceError, UsageError
from bcaf_stream.types import AudioChunk, Channel, Gap, Role

_ONE_CALL_S = 3600.0  # clocks of one call's files differ by no more


def default_channels(count: int) -> tuple[Channel, ...]:
    """Names and roles by convention: mono `mono`, stereo `customer` then `agent`, otherwise `ch1`, `ch2`, ..."""
    if count == 1:
        return (Channel("mono"),)
    if count == 2:
        return (Channel("customer", "customer"), Channel("agent", "agent"))
    return tuple(Channel(f"ch{number}") for number in range(1, count + 1))


def parse_inputs(words: Sequence[str]) -> Location | dict[str, Location]:
    """Understand a command line: one file or URL, or `channel=file` for each channel.

    Raises:
        UsageError: nothing is given, the two forms are mixed, or a channel is named twice.
    """
    if len(words) == 1 and ("=" not in words[0].split("/")[0] or Path(words[0]).exists()):
        return words[0]
    files: dict[str, Location] = {}
    for word in words:
        name, sign, place = word.partition("=")
        if not (name and sign and place):
            raise UsageError(
                f"{word!r}: with several inputs each must be CHANNEL=FILE, as in customer=a.wav agent=b.wav"
            )
        if name in files:
            raise UsageError(f"channel {name!r} is given twice; each channel has one file")
        files[name] = place
    if not files:
        raise UsageError("no input: name a file, a URL, or CHANNEL=FILE for each channel")
    return files


class FileSource:
    """Yields the chunks of a recorded call in lockstep; iterate it once, then `close` it.

    Args:
        source: a file or URL with all channels, or a map from channel names to files with one channel each.
            FILE#N is the Nth audio track of a file, from 0; in a map, its channels are mixed into one.
        channels: names (by position in a file; a map has its own) and roles, instead of the conventional ones.
        raw: how to read what has no header; None to go by its name.
        clock: gives `received_at`.

    `source` is afterwards the one that was understood: with the tracks, where a file has several.

    Raises:
        SourceError: a source cannot be opened, has other channels than named, or, while iterating and after
            everything that could be decoded, is broken.
        UsageError: a file has several audio tracks, and it is not certain which one is whose.
    """

    def __init__(
        self,
        source: Location | Mapping[str, Location],
        channels: Sequence[Channel] = (),
        *,
        slice_ms: int = 100,
        timeout_s: float = 10.0,
        raw: RawFormat | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        if slice_ms < 10:
            raise SourceError(f"a slice of {slice_ms} ms is too short to read a file by; use 10 ms or more")
        self._slice_ms = slice_ms
        self._clock = clock
        self._notes: list[str] = []
        self._decoders: list[Decoder] = []
        self.source: Location | dict[str, Location]
        try:
            self.source = dict(source) if isinstance(source, Mapping) else self._open(source, "", timeout_s, raw)
            if isinstance(self.source, dict):
                self.source = {
                    name: cast(Location, self._open(place, name, timeout_s, raw))
                    for name, place in self.source.items()
                }
                self.channels = _mapped(self.source, self._decoders, channels)
            else:
                self.channels = _counted(self.source, self._decoders[0].info.channels, channels)
        except (SourceError, UsageError):
            self.close()
            raise
        self._names = [channel.name for channel in self.channels]
        _share_clock(self._decoders)

    @property
    def duration_ms(self) -> int | None:
        """Length of the longest file; None if one does not tell."""
        lengths = [decoder.info.duration_ms for decoder in self._decoders]
        return None if None in lengths else max(length for length in lengths if length is not None)

    @property
    def notes(self) -> list[str]:
        """What its user should know of what was read so far, one line each."""
        return self._notes + [note for decoder in self._decoders for note in decoder.notes]

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield one chunk per channel for each slice of time, in the order of `channels`; missing is silent."""
        begin_ms = 0
        while True:
            spans = [_span(begin_ms, begin_ms + self._slice_ms, d.info.rate) for d in self._decoders]
            blocks = [d.read(stop - start) for d, (start, stop) in zip(self._decoders, spans, strict=True)]
            # Less than 1 only at the end of the longest file.
            share = max(b.shape[1] / (stop - start) for b, (start, stop) in zip(blocks, spans, strict=True))
            if not share:
                return
            names = iter(self._names)
            received_at = self._clock()
            for decoder, block_CN, (start, stop) in zip(self._decoders, blocks, spans, strict=True):
                for samples_N in _lengthened(block_CN, round(share * (stop - start))):
                    yield AudioChunk(next(names), start, decoder.info.rate, samples_N, received_at)
            begin_ms += self._slice_ms

    def holes(self, channel: str) -> Iterator[Hole]:
        """Where a channel has no sound for more than a second, as far as it was read; the last one first."""
        return reversed(self._holes(channel))

    def _holes(self, channel: str) -> Sequence[Hole]:
        if len(self._decoders) == 1:
            return self._decoders[0].holes
        return self._decoders[self._names.index(channel)].holes

    def with_gaps(self) -> Iterator[AudioChunk | Gap]:
        """The same, but one Gap for each stretch of more than a second that a file does not have."""
        for chunk in self:
            holes = self._holes(chunk.channel)
            if holes and holes[-1].end > chunk.start:
                yield from _cut_out(chunk, holes)
            else:
                yield chunk

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.close()

    def __enter__(self) -> "FileSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, place: Location, channel: str, timeout_s: float, raw: RawFormat | None) -> Arranged:
        """Open a decoder for a file; return what it is understood as. A map of its tracks is not opened yet."""
        path, track = split_track(place)
        decoder = Decoder(path, timeout_s, track=track, mono=bool(channel) and track is not None, raw=raw)
        if track is not None or len(decoder.tracks) < 2:
            self._decoders.append(decoder)
            return place
        decoder.close()
        arranged, notes = arrange(path, channel, decoder.tracks, timeout_s)
        self._notes += notes
        return arranged if isinstance(arranged, dict) else self._open(arranged, channel, timeout_s, raw)


def _cut_out(chunk: AudioChunk, holes: Sequence[Hole]) -> Iterator[AudioChunk | Gap]:
    """The chunk without the silence that stands for what its file does not have; `holes` in their order."""
    at, end = chunk.start, chunk.start + len(chunk.samples)
    touched = [hole for hole in takewhile(lambda hole: hole.end > at, reversed(holes)) if hole.start < end]
    for hole in reversed(touched):
        if hole.start > at:
            yield _piece(chunk, at, hole.start)
        if hole.start >= chunk.start:
            yield Gap(chunk.channel, hole.start, hole.end, hole.reason, chunk.rate)
        at = min(hole.end, end)
    if at < end:
        yield chunk if at == chunk.start else _piece(chunk, at, end)


def _piece(chunk: AudioChunk, start: int, end: int) -> AudioChunk:
    samples_N = chunk.samples[start - chunk.start : end - chunk.start]
    return AudioChunk(chunk.channel, start, chunk.rate, samples_N, chunk.received_at)


def _share_clock(decoders: Sequence[Decoder]) -> None:
    """Let files whose time stamps count from anywhere count from the earliest, if they can be of one call."""
    starts = [
        d.start_s for d in decoders if d.start_s is not None and (not d.has_own_zero or d.start_s > ABSOLUTE_S)
    ]
    if len(starts) == len(decoders) > 1 and max(starts) - min(starts) <= _ONE_CALL_S:
        for decoder in decoders:
            decoder.count_from(min(starts))


def _span(begin_ms: int, end_ms: int, rate: int) -> tuple[int, int]:
    return begin_ms * rate // 1000, end_ms * rate // 1000


def _lengthened(block_CN: NDArray[np.int16], length: int) -> NDArray[np.int16]:
    missing = length - block_CN.shape[1]
    return np.pad(block_CN, ((0, 0), (0, missing))) if missing > 0 else block_CN


def _counted(source: Location, count: int, channels: Sequence[Channel]) -> tuple[Channel, ...]:
    """Names for the channels of one file."""
    named = tuple(channels) or default_channels(count)
    if len(named) != count:
        raise SourceError(f"{shown(source)}: has {count} channels, and {len(named)} are named; name {count}")
    return named


def _mapped(
    files: Mapping[str, Location], decoders: Sequence[Decoder], channels: Sequence[Channel]
) -> tuple[Channel, ...]:
    """Channels of a map: a name that is a role has that role, unless `channels` says otherwise."""
    for place, decoder in zip(files.values(), decoders, strict=True):
        if decoder.info.channels != 1:
            raise SourceError(
                f"{shown(place)}: has {decoder.info.channels} channels, but is given as one;"
                " give it alone, or as FILE#0 to mix them into one"
            )
    given = {channel.name: channel for channel in channels}
    if unknown := given.keys() - files.keys():
        raise SourceError(f"channel {min(unknown)!r} has a role but no file; the files are for {', '.join(files)}")
    roles = {role: role for role in get_args(Role)}
    return tuple(given.get(name, Channel(name, roles.get(name, "speaker"))) for name in files)
