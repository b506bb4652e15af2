"""One track of a file, URL or pipe, decoded to int16 PCM as a stream, by PyAV (whose wheels carry FFmpeg).

Rate and channels stay as they are in the file, and memory does not grow with its length. Sound stands where the
file's clock says (`containers`, `track_clock`): what is missing is silence, and is told in `holes` and `notes`.
Unusual: nothing is lost in silence. Whatever could be decoded is handed out first; then a file that stops before
its own header says, or a sample that is no number, raises a SourceError that names the second. What no header
tells (the end of a truncated Ogg file) cannot be found out.
"""

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer

from bcaf_stream.audio.avi_layout import places_of_chunks
from bcaf_stream.audio.containers import (
    ABSOLUTE_S,
    PIPED_MP4,
    PipedBytes,
    Source,
    declared_end_s,
    earliest_s,
    format_of,
    has_own_zero,
    is_url,
    matroska_is_cut,
    open_container,
    open_part,
    reason_of,
    shown,
    tracks_of,
)
from bcaf_stream.audio.raw import RawFormat, raw_by_name
from bcaf_stream.audio.sample_fifo import SampleFifo
from bcaf_stream.audio.sniffing import SNIFF_BYTES
from bcaf_stream.audio.track_clock import BlockCN, Silence, TrackClock
from bcaf_stream.audio.wav_layout import WavPart, is_misread, notes_of, promised_by_head, promised_bytes, wav_parts
from bcaf_stream.errors import SourceError

_SHORT_S = 0.25  # encoders pad and trim up to some 2000 samples at either end, and headers are off by a little
_MP3_LOSES = 0.02  # of its sound: the frames at a joint or at damage have no time stamps that would show a hole
_AMR_NO_SPEECH = 8  # of the frame types in RFC 4867, 4.3.2: comfort noise, lost, or nothing sent
_FEW_PACKETS = 10  # that cannot be decoded at the end of a file: one may be cut, or a tag
LONG_HOLE_S = 1.0  # longer ones are gaps of the call, shorter ones no more than silence


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a file says of its sound; duration None where it does not say (live streams)."""

    rate: int
    channels: int
    duration_ms: int | None

    @property
    def samples(self) -> int | None:
        """Samples of each channel, as far as the duration tells."""
        return None if self.duration_ms is None else self.duration_ms * self.rate // 1000


@dataclass(frozen=True, slots=True)
class Hole:
    """Samples from `start` to before `end` that the file does not have; `late`: before its first one."""

    start: int
    end: int
    late: bool

    @property
    def reason(self) -> str:
        return "not started" if self.late else "missing in the recording"


def probe(source: Source) -> AudioInfo:
    """Read rate, channels and duration without decoding.

    Raises:
        SourceError: it cannot be reached or opened, or holds no sound.
    """
    with contextlib.closing(Decoder(source)) as decoder:
        return decoder.info


class Decoder:
    """Reads one track block by block; `info` tells rate and channels.

    Args:
        source: a file, a URL, or a pipe of bytes.
        track: its number among the audio tracks; None for the one that FFmpeg takes for the best.
        mono: mix its channels into one.
        raw: how to read what has no header; None to go by its name.

    `tracks` are all audio tracks. `start_s` is the file's earliest time stamp, `zero_s` the one that is sample 0.
    `holes` are the stretches of more than a second, found so far, where the file has no sound and silence stands.
    """

    def __init__(
        self,
        source: Source,
        timeout_s: float = 10.0,
        *,
        track: int | None = None,
        mono: bool = False,
        raw: RawFormat | None = None,
    ) -> None:
        self._name = shown(source)
        self._piped = None if isinstance(source, str | Path) else PipedBytes(source)
        is_file = isinstance(source, str | Path) and not is_url(source) and Path(source).is_file()
        self._path = Path(str(source)) if is_file else None
        self._parts = wav_parts(self._path) if self._path and raw is None else []
        self._container = open_container(self._piped or source, raw, timeout_s, _length_options(self._parts[:1]))
        self._raw_codec = _codec_of(source, raw, self._container)
        self._mono = mono
        try:
            self.tracks = tracks_of(self._container)
            self._stream = self._choose(track)
            if is_misread(self._head(), self._stream.codec_context.name):
                raise self._fail("is a big-endian WAV (RIFX), which FFmpeg misreads: sox IN.wav OUT.wav")
        except SourceError:
            self._container.close()
            raise
        self._is_amr = self._stream.codec_context.name.startswith("amr")
        self.start_s = earliest_s(self._container)
        self.has_own_zero = has_own_zero(self._container)
        self._declared_s = declared_end_s(self._container, self._stream)
        in_avi = self._path is not None and format_of(self._container) == "avi"
        self._places_N = places_of_chunks(self._path, self._stream.index) if self._path and in_avi else None
        self.holes: deque[Hole] = deque(maxlen=1000)
        self._notes: list[str] = []
        self._rate = self._stream.rate
        self._channels = 1 if mono else self._stream.channels
        self._fifo = SampleFifo(self._channels)
        self._error: SourceError | None = None
        self._decoded = 0  # samples
        self._missing, self._first_missing = 0, 0  # samples of holes, and where the first one is
        if self._piped and len(self.tracks) > 1:
            listed = ", ".join(map(str, self.tracks))
            self._notes.append(f"only one of its audio tracks is heard ({listed}): send it as a file")
        self._damaged, self._first_damaged, self._failing = 0, 0, 0  # packets that could not be decoded
        own = self.has_own_zero and (self.start_s or 0.0) < ABSOLUTE_S
        self.count_from(min(0.0, self.start_s or 0.0) if own else self.start_s)

    def count_from(self, zero_s: float | None) -> None:
        """Let this time stamp be sample 0, before anything is read; None: the one of the first sample."""
        self.zero_s = zero_s
        self._clock = TrackClock(self._rate, zero_s)
        self._items = self._blocks()
        shift_s = zero_s or 0.0 if self.has_own_zero else (zero_s or 0.0) - (self.start_s or 0.0)
        if self._declared_s is not None:
            end_s: float | None = self._declared_s - shift_s
        else:
            duration = self._container.duration
            end_s = None if duration is None or self._raw_codec else duration / 1_000_000 - shift_s
        self._end_s = None if self._declared_s is None else end_s
        if end_s is not None and self._parts:  # FFmpeg knows of the first one, as long as its header says
            first = self._parts[0]
            known = min(first.declared, first.there) or 1
            end_s *= (
                sum(part.there if part.stale else min(part.declared, part.there) for part in self._parts) / known
            )
        self.info = AudioInfo(self._rate, self._channels, None if end_s is None else int(end_s * 1000))

    @property
    def notes(self) -> list[str]:
        """What its user should know of what was read so far, one line each."""
        notes = list(self._notes)
        if self._damaged:
            notes.append(
                f"{self._damaged} packets could not be decoded, the first at {self._at(self._first_damaged)}"
            )
        if self._missing:
            notes.append(
                f"{self._at(self._missing)} of sound are missing, the first at {self._at(self._first_missing)};"
                " silence stands for them"
            )
        notes += [
            f"its clock starts anew at {self._at(place)}; what follows goes on there"
            for place in self._clock.restarts[:5]
        ]
        return [f"{self._name}: {note}" for note in notes]

    def read(self, count: int) -> BlockCN:
        """Return the next `count` samples of every channel, fewer only at the end: (channels, samples).

        Raises:
            SourceError: all that could be decoded was returned, and it was not the whole.
        """
        while self._error is None and self._fifo.samples < count:
            try:
                item = next(self._items, None)
            except SourceError as error:
                self._error = error
                break
            if item is None:
                break
            self._take(item)
        if not self._fifo.samples and self._error is not None:
            raise self._error
        return self._fifo.read(count)

    def close(self) -> None:
        self._container.close()

    def _choose(self, track: int | None) -> av.AudioStream:
        if track is not None and track >= len(self.tracks):
            there = ", ".join(map(str, self.tracks)) or "none"
            raise self._fail(f"has no audio track {track}; its tracks are {there}")
        stream = (
            self._container.streams.best("audio")
            if track is None
            else self._container.streams.audio[self.tracks[track].number]
        )
        if not isinstance(stream, av.AudioStream) or stream.channels < 1 or stream.rate < 1:
            raise self._fail("holds no audio stream; give a file with sound")
        return stream

    def _head(self) -> bytes:
        if self._path is None:
            return self._piped.head if self._piped else b""
        with self._path.open("rb") as file:
            return file.read(SNIFF_BYTES)

    def _take(self, item: BlockCN | Silence) -> None:
        if isinstance(item, Silence):
            start = self._fifo.written
            if item.samples > LONG_HOLE_S * self._rate:
                self.holes.append(Hole(start, start + item.samples, item.late))
            if not item.late:
                self._first_missing = self._first_missing if self._missing else start
                self._missing += item.samples
        self._fifo.write(item)

    def _blocks(self) -> Iterator[BlockCN | Silence]:
        """The track's sound and silence, from its first sample to its last."""
        try:
            for container, stream in self._containers():
                for time_s, block_CN in self._frames(container, stream):
                    yield from self._clock.push(time_s, block_CN)
                yield from self._clock.flush()
        except SourceError:
            yield from self._clock.flush()
            raise
        self._check_end()

    def _containers(self) -> Iterator[tuple[InputContainer, av.AudioStream]]:
        yield self._container, self._stream
        for part in self._parts[1:]:
            self._clock.restart()
            assert self._path is not None
            with open_part(self._path, part.start, part.end, _length_options([part])) as container:
                yield container, container.streams.audio[0]

    def _frames(self, container: InputContainer, stream: av.AudioStream) -> Iterator[tuple[float | None, BlockCN]]:
        layout = "mono" if self._mono else None
        to_int16 = av.AudioResampler(format="s16p", layout=layout)  # rate and, but for mono, layout stay
        tick_s = 0.0
        try:
            for packet in container.demux(stream):
                for frame in self._decode(packet):
                    self._check(frame)
                    self._decoded += frame.samples
                    time_s = None
                    if frame.pts is not None and not self._raw_codec:
                        tick_s = tick_s or float(frame.time_base or 0)  # the same for all; asking is slow
                        time_s = self._ticks(frame.pts) * tick_s
                    if frame.format.name == "s16" and not self._mono:
                        yield time_s, np.asarray(frame.to_ndarray(), np.int16).reshape(-1, self._channels).T
                        continue
                    frame.pts = None
                    for same in to_int16.resample(frame):
                        yield time_s, np.asarray(same.to_ndarray(), dtype=np.int16)
                        time_s = None
        except (av.FFmpegError, OSError) as error:
            raise self._broken_off(reason_of(error)) from None

    def _ticks(self, pts: int) -> int:
        """A time stamp; AVI's are numbers of chunks, of which FFmpeg counts those with sound alone."""
        if self._places_N is None or not 0 <= pts < len(self._places_N):
            return pts
        return int(self._places_N[pts])

    def _decode(self, packet: av.Packet) -> list[av.AudioFrame]:
        """The frames of a packet; none where it is damaged, so that the rest is still heard."""
        try:
            frames = self._raw_codec.decode(packet) if self._raw_codec else packet.decode()
        except av.PatchWelcomeError:
            return []  # of a kind that FFmpeg does not know: the pauses of AMR
        except av.InvalidDataError:
            if self._is_amr and bytes(packet)[0] >> 3 & 15 >= _AMR_NO_SPEECH:
                return []
            self._first_damaged = self._first_damaged if self._damaged else self._decoded
            self._damaged += 1
            self._failing += 1
            return []
        if frames:
            self._failing = 0
        return cast(list[av.AudioFrame], frames)

    def _check(self, frame: av.AudioFrame) -> None:
        """Raise if this frame is of another kind than the ones before it, or holds what is not a number."""
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        if (rate, channels) != (self._rate, self._stream.channels):
            raise self._fail(
                f"changes at {self._at(self._clock.position)} from {self._stream.channels} channels of"
                f" {self._rate} Hz to {channels} of {rate} Hz; cut it there and analyze the parts"
            )
        broken = _first_not_finite(frame)
        if broken is not None:
            place = self._at(self._clock.position + broken)
            raise self._fail(f"holds NaN or infinite samples at {place}; export it again as 16-bit PCM")

    def _check_end(self) -> None:
        if not self._decoded:
            raise self._fail("holds no sound: not one sample could be decoded")
        if self._failing > _FEW_PACKETS:
            raise self._broken_off("none of the rest is of its kind")
        seconds, promised = self._clock.position / self._rate, self._promised_s()
        slack = (
            max(_SHORT_S, promised * _MP3_LOSES) if promised and format_of(self._container) == "mp3" else _SHORT_S
        )
        if promised is not None and seconds < promised - slack:
            raise self._fail(
                f"ends at {self._at(self._clock.position)}, but its header says {promised:.2f} s;"
                " the rest is missing: get the whole file"
            )
        if self._parts:
            self._notes += notes_of(self._parts)

    def _promised_s(self) -> float | None:
        """How long the sound should be; None where nothing is known that is worth an alarm."""
        seconds = self._clock.position / self._rate
        if self._parts:  # bytes are sure, durations of compressed samples are not
            declared = sum(part.declared for part in self._parts)
            there = sum(part.there for part in self._parts)
            return seconds * declared / there if there and any(part.missing for part in self._parts) else None
        if self._piped and (whole := promised_by_head(self._piped.head)) is not None:
            short = whole - self._piped.count
            return seconds * whole / self._piped.count if short > 0 else None
        if self._path and (promise := promised_bytes(self._path, format_of(self._container))):
            declared, there, another = promise
            if another and format_of(self._container) != "au":  # FFmpeg reads an AU to its end
                self._notes.append("another file begins behind its sound, and is not read: cut it off")
            return seconds * declared / there if there else None
        if format_of(self._container) == "matroska" and self._path:
            # A pause at its end has no packets: only its bytes tell whether it is whole.
            return (self._end_s or seconds + 1) if matroska_is_cut(self._path) else None
        return None if self._stream.codec_context.name.startswith("adpcm") else self._end_s

    def _broken_off(self, reason: str) -> SourceError:
        if self._piped and not self._decoded:
            return self._fail(f"holds no sound that can be read as it comes ({reason}); {PIPED_MP4}")
        return self._fail(
            f"cannot be decoded beyond {self._at(self._clock.position)}: {reason}; convert or repair it"
        )

    def _at(self, samples: int) -> str:
        return f"{samples / self._rate:.2f} s"

    def _fail(self, text: str) -> SourceError:
        return SourceError(f"{self._name}: {text}")


def _codec_of(source: Source, raw: RawFormat | None, container: InputContainer) -> av.AudioCodecContext | None:
    """A decoder of ours, where the container's own does not know the encoding."""
    if raw is None and format_of(container) == "u8" and isinstance(source, str | Path):
        raw = raw_by_name(str(source))
    return raw.codec() if raw else None


def _length_options(parts: Sequence[WavPart]) -> dict[str, str]:
    return {"ignore_length": "1"} if any(part.stale for part in parts) else {}


def _first_not_finite(frame: av.AudioFrame) -> int | None:
    """The first sample that is NaN or infinite, before a conversion to int16 could hide it."""
    if not frame.format.name.startswith(("flt", "dbl")):
        return None
    sound = frame.to_ndarray()
    sound_CN = sound if frame.format.is_planar else sound.reshape(frame.samples, -1).T
    broken_N = ~np.isfinite(sound_CN).all(axis=0)
    return int(np.argmax(broken_N)) if broken_N.any() else None
