"""Recorded calls as streams of PCM: one file with all the channels, or one file for each channel.

For each slice of time every channel gives one chunk, at the native rate of its file. A channel whose file
is shorter than the others is continued with silence, so that no channel holds up the order of the dialogue.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.audio.decoder import Decoder, shown
from bcaf_stream.errors import SourceError, UsageError
from bcaf_stream.types import AudioChunk, Channel, Role

Location = str | Path  # of a file, or a URL


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

    `source` is a file or URL with all channels, or a map from channel names to files with one channel each.
    `channels` overrides the names (by position in a file; a map has its own) and roles. `clock` gives
    `received_at`.

    Raises:
        SourceError: a source cannot be opened, has other channels than named, or, while iterating and after
            everything that could be decoded, is broken.
    """

    def __init__(
        self,
        source: Location | Mapping[str, Location],
        channels: Sequence[Channel] = (),
        *,
        slice_ms: int = 100,
        timeout_s: float = 10.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        if slice_ms < 10:
            raise SourceError(f"a slice of {slice_ms} ms is too short to read a file by; use 10 ms or more")
        files = dict(source) if isinstance(source, Mapping) else {"": source}
        self._slice_ms = slice_ms
        self._clock = clock
        self._decoders: list[Decoder] = []
        try:
            for place in files.values():
                self._decoders.append(Decoder(place, timeout_s))
            if isinstance(source, Mapping):
                self.channels = _mapped(files, self._decoders, channels)
            else:
                self.channels = _counted(source, self._decoders[0].info.channels, channels)
        except SourceError:
            self.close()
            raise

    @property
    def duration_ms(self) -> int | None:
        """Length of the longest file; None if one does not tell."""
        lengths = [decoder.info.duration_ms for decoder in self._decoders]
        return None if None in lengths else max(length for length in lengths if length is not None)

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield one chunk per channel for each slice of time, in the order of `channels`."""
        begin_ms = 0
        while True:
            spans = [_span(begin_ms, begin_ms + self._slice_ms, d.info.rate) for d in self._decoders]
            blocks = [d.read(stop - start) for d, (start, stop) in zip(self._decoders, spans, strict=True)]
            # Less than 1 only at the end of the longest file.
            share = max(b.shape[1] / (stop - start) for b, (start, stop) in zip(blocks, spans, strict=True))
            if not share:
                return
            names = iter(self.channels)
            received_at = self._clock()
            for decoder, block_CN, (start, stop) in zip(self._decoders, blocks, spans, strict=True):
                for samples_N in _lengthened(block_CN, round(share * (stop - start))):
                    yield AudioChunk(next(names).name, start, decoder.info.rate, samples_N, received_at)
            begin_ms += self._slice_ms

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.close()

    def __enter__(self) -> "FileSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
                " give it alone, or split it into one file per channel"
            )
    given = {channel.name: channel for channel in channels}
    if unknown := given.keys() - files.keys():
        raise SourceError(f"channel {min(unknown)!r} has a role but no file; the files are for {', '.join(files)}")
    roles = {role: role for role in get_args(Role)}
    return tuple(given.get(name, Channel(name, roles.get(name, "speaker"))) for name in files)
