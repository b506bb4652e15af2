"""A recording sent to a deployment as a live source sends: slice after slice, no faster than it is taken."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.audio.containers import is_url
from bcaf_stream.audio.resample import Resampler
from bcaf_stream.audio.sources import FileSource
from bcaf_stream.audio.tracks import split_track
from bcaf_stream.client.link import LinkSender, SenderConfig
from bcaf_stream.errors import SourceError
from bcaf_stream.ingest.media import RATES, MissingSound
from bcaf_stream.ingest.protocols.link import Closed
from bcaf_stream.recording import Recording, TextMode
from bcaf_stream.types import SAMPLE_RATE, AudioChunk, Words

PcmNC = NDArray[np.int16]


def send_recording(
    recording: Recording,
    endpoint: str | Sequence[str],
    speed: float,
    text: TextMode,
    words: Sequence[Words] | None = None,
    config: SenderConfig | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Closed:
    """Stream a recording; `speed` 1 is real time, 0 as fast as the deployment takes it.

    An interruption or broken sound hangs up: what was sent until then is analysed to its end. After a lost
    connection the call goes on: what the deployment asks for is read from the files once more, and `note` is told.
    So it does when the program that sent it was killed, and the same recording is sent again under the same name.

    Raises:
        LinkError: the deployment refuses the call, or is not reached for `config.give_up_s`.
        SourceError: the sound is broken.
    """
    with recording.chunks() as source:
        chunks = iter(source)
        first = list(itertools.islice(chunks, len(recording.call.channels)))
        rate = _link_rate({chunk.rate for chunk in first})
        has_end = source.duration_ms is not None  # a stream has no second time
        again = partial(_again, recording, rate) if has_end else None
        name = identity(recording, rate, text) if has_end else None
        with LinkSender(
            endpoint, recording.call, rate, text, config, again=again, source=name, note=note
        ) as sender:
            if words is not None:
                sender.send_words(words, last=True)
            try:
                told = _tell_missing(source, itertools.chain(first, chunks), rate, sender.tell_missing)
                _play(sender, _SideBySide(recording, rate), told, rate * speed)
            except (SourceError, KeyboardInterrupt):
                sender.close()
                raise
            finally:
                for remark in source.notes:
                    note(remark)
            return sender.close()


def _play(sender: LinkSender, columns: "_SideBySide", chunks: Iterator[AudioChunk], per_second: float) -> None:
    started, sent = time.monotonic(), 0
    for samples_NC in _from(sender.start, columns.slices(chunks)):
        sender.send(samples_NC)
        sent += len(samples_NC)
        if per_second:
            time.sleep(max(0.0, started + sent / per_second - time.monotonic()))


def _tell_missing(
    source: FileSource, chunks: Iterator[AudioChunk], rate: int, tell: Callable[[MissingSound], None]
) -> Iterator[AudioChunk]:
    """The chunks; before those that hold silence for what the file lacks, that is told, counted at `rate` Hz."""
    told: dict[str, int] = {}  # up to which sample
    for chunk in chunks:
        known = told.get(chunk.channel, 0)
        for hole in reversed([hole for hole in source.holes(chunk.channel) if hole.end > known]):
            start, end = (at * rate // chunk.rate for at in (hole.start, hole.end))
            tell(MissingSound(chunk.channel, start, end, hole.reason))
            told[chunk.channel] = hole.end
        yield chunk


def _again(recording: Recording, rate: int, start: int) -> Iterator[PcmNC]:
    """The same samples once more, from `start` on."""
    with recording.chunks() as source:
        yield from _from(start, _SideBySide(recording, rate).slices(iter(source)))


def _from(start: int, slices: Iterator[PcmNC]) -> Iterator[PcmNC]:
    at = 0
    for samples_NC in slices:
        if at + len(samples_NC) > start:
            yield samples_NC[max(0, start - at) :]
        at += len(samples_NC)


def identity(recording: Recording, rate: int, text: TextMode) -> str:
    """A name for what is sent: the same for the same files, read in the same way, unless they have changed."""
    places = recording.source if isinstance(recording.source, dict) else {"": recording.source}
    parts: list[object] = [rate, text, recording.call.channels, recording.cuts, recording.raw]
    for channel, place in places.items():
        file, track = split_track(place)
        parts += [channel, track]
        if is_url(file):
            parts.append(str(file))
        else:
            found = Path(file).resolve().stat()
            parts += [str(Path(file).resolve()), found.st_size, found.st_mtime_ns]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _link_rate(rates: set[int]) -> int:
    """The files' own rate where they share one that the link carries: half the bytes for a telephone call."""
    shared = rates.pop() if len(rates) == 1 else 0
    return shared if RATES[0] <= shared <= RATES[1] else SAMPLE_RATE


class _SideBySide:
    """The channels' chunks as the columns of one array, as the link carries them."""

    def __init__(self, recording: Recording, rate: int) -> None:
        self._rate = rate
        self._columns = {channel.name: np.empty(0, np.int16) for channel in recording.call.channels}
        self._resamplers: dict[str, Resampler] = {}

    def slices(self, chunks: Iterator[AudioChunk]) -> Iterator[PcmNC]:
        for chunk in chunks:
            for same in self._at_rate(chunk):
                self._add(same)
            ready = min(map(len, self._columns.values()))
            if ready:
                yield self._take(ready)
        for resampler in self._resamplers.values():
            for rest in resampler.flush():
                self._add(rest)
        longest = max(map(len, self._columns.values()))
        if longest:  # rounding of different rates leaves a sample or two
            for name, column_N in self._columns.items():
                self._columns[name] = np.pad(column_N, (0, longest - len(column_N)))
            yield self._take(longest)

    def _at_rate(self, chunk: AudioChunk) -> list[AudioChunk]:
        if chunk.rate == self._rate:
            return [chunk]
        return self._resamplers.setdefault(chunk.channel, Resampler(chunk.rate)).push(chunk)

    def _add(self, chunk: AudioChunk) -> None:
        self._columns[chunk.channel] = np.concatenate([self._columns[chunk.channel], chunk.samples])

    def _take(self, count: int) -> PcmNC:
        taken_NC = np.stack([column_N[:count] for column_N in self._columns.values()], axis=1)
        self._columns = {name: column_N[count:] for name, column_N in self._columns.items()}
        return taken_NC
