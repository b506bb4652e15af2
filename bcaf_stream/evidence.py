"""Evidence sound: what was said on the channels that an operator has chosen, kept beside the journal for hours.

A call has a folder, a channel Ogg files of Opus, a minute each, named by the stream time at which they begin;
nothing in a name says which call or channel it is. So a killed process loses a page of a file (200 ms), what is
too old goes file by file, and no clip has to look through more than a minute. Who deletes the folder of a running
call (`bcaf-stream erase`) ends its recording: nothing is written where no folder is.

Sound that was lost is no sound here either: a clip has silence in its place. Words that redaction takes out of
events are still said in it.
"""

import hashlib
import io
import os
import wave
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
from pydantic import Field

from bcaf_stream.audio.resample import Resampler
from bcaf_stream.config import Config
from bcaf_stream.events.journal.config import sound_of
from bcaf_stream.types import SAMPLE_RATE, AudioChunk, Call, PcmN, Role

FILE_S = 60
BIT_RATE = 24_000  # speech in one channel, fit to be judged by ear
PAGE = {"page_duration": "200000", "flush_packets": "1"}  # us
MOST_MISSING_S = 1.0  # of a gap that is filled with silence; behind a longer one a new file begins
HAND_OVER_S = 1.0  # of sound that is encoded at once
MOST_WAITING = 300  # pieces of so much sound that wait for the encoder, of a call
LONGEST_CLIP_MS = 120_000
FAULTS = (OSError, ValueError, av.FFmpegError)  # of files, and of libav


class RecordConfig(Config):
    """The channels of these `roles` are kept for `keep_h` hours, in the folder FILE.sound beside the journal FILE.

    On a cluster it is the IngestActor's disk: the journal's folder must be one that it shares with the hub. While
    no deployment with `record` runs, nothing that is old is deleted.
    """

    roles: tuple[Role, ...] = Field(min_length=1)
    keep_h: float = Field(24.0, gt=0, le=87_600)


class CallRecorder:
    """Takes the sound of one call and hands it to a thread that encodes and writes it.

    Args:
        root: the folder of all calls; this one's is made in it.
        work: runs one job after the other, on a thread of its own.
        failed: told the error after which nothing more of the call is kept.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        root: Path,
        call: Call,
        roles: Iterable[Role],
        work: Callable[[Callable[[], None]], object],
        failed: Callable[[Exception], None],
    ) -> None:
        names = [channel.name for channel in call.channels if channel.role in set(roles)]
        folder = sound_of(root, call.id)
        if names:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files = {name: ChannelFiles(folder, name) for name in names}
        self._held: dict[str, list[AudioChunk]] = {name: [] for name in names}
        self._work, self._failed = work, failed
        self._given = self._taken = 0  # pieces; one thread counts the first, the encoder's the second

    def push(self, item: object) -> None:
        """Take the next sound; whatever else happens to a call is nothing to record. Does not wait."""
        if not isinstance(item, AudioChunk) or item.channel not in self._files:
            return
        held = self._held[item.channel]
        held.append(item)
        if sum(len(chunk.samples) for chunk in held) >= HAND_OVER_S * item.rate:
            self._hand_over(item.channel)

    def close(self) -> None:
        """Nothing more comes."""
        for channel in list(self._files):
            self._hand_over(channel)
        self._work(self._finish)

    def _hand_over(self, channel: str) -> None:
        chunks, self._held[channel] = self._held[channel], []
        if not chunks:
            return
        if self._given - self._taken >= MOST_WAITING:
            self._failed(BlockingIOError("the encoder is too far behind"))
            return  # what is left out is a hole in the files
        self._given += 1
        self._work(lambda: self._write(channel, chunks))

    def _write(self, channel: str, chunks: list[AudioChunk]) -> None:
        self._taken += 1
        try:
            for chunk in chunks:
                self._files[channel].push(chunk)
        except FAULTS as error:  # of libav, too
            self._give_up(error)

    def _finish(self) -> None:
        try:
            for files in self._files.values():
                files.close()
        except FAULTS as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if all(files.is_over for files in self._files.values()):
            return
        for files in self._files.values():
            files.abandon()
        self._failed(error)


class ChannelFiles:
    """Writes the sound of one channel; may be pushed into while another process reads.

    Raises:
        OSError, ValueError, av.FFmpegError: a file cannot be written.
    """

    def __init__(self, folder: Path, channel: str) -> None:
        self._folder, self._prefix = folder, _prefix(channel)
        self._file: av.container.OutputContainer | None = None
        self._next = 0  # sample that the file would go on with
        self._begin = 0  # sample it began with
        self.is_over = False

    def push(self, chunk: AudioChunk) -> None:
        missing = chunk.start - self._next
        full = chunk.start - self._begin >= FILE_S * chunk.rate
        if self._file is None or full or not 0 <= missing <= MOST_MISSING_S * chunk.rate:
            self._open(chunk)
        elif missing:
            self._encode(AudioChunk(chunk.channel, self._next, chunk.rate, np.zeros(missing, np.int16)))
        self._encode(chunk)
        self._next = chunk.start + len(chunk.samples)

    def close(self) -> None:
        """End the file; the next chunk would begin another one."""
        file, self._file = self._file, None
        if file is None:
            return
        with self._bytes, file:
            self._mux(file, self._resampler.flush())
            file.mux(self._stream.encode(None))

    def abandon(self) -> None:
        """Write nothing more."""
        self.is_over = True
        file, self._file = self._file, None
        if file is not None:
            self._bytes.close()  # first: what libav would still write has nowhere to go
            with suppress(*FAULTS):
                file.close()

    def _open(self, chunk: AudioChunk) -> None:
        self.close()
        if self.is_over:
            return
        path = self._folder / f"{self._prefix}.{chunk.start * 1000 // chunk.rate:012d}.ogg"
        try:
            self._bytes = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", 0)
        except FileNotFoundError:
            self.is_over = True  # there is no folder any more: the call was erased
            return
        self._file = av.open(self._bytes, "w", format="ogg", options=PAGE)
        self._stream = self._file.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        self._stream.bit_rate = BIT_RATE
        self._resampler = Resampler(chunk.rate)
        self._begin = self._next = chunk.start
        self._written = 0

    def _encode(self, chunk: AudioChunk) -> None:
        if self._file is not None:
            self._mux(self._file, self._resampler.push(chunk))

    def _mux(self, file: av.container.OutputContainer, chunks: list[AudioChunk]) -> None:
        for chunk in chunks:
            frame = av.AudioFrame.from_ndarray(chunk.samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, self._written
            self._written += len(chunk.samples)
            file.mux(self._stream.encode(frame))


def clip(root: Path, call: str, channel: str, start_ms: int, end_ms: int) -> bytes | None:
    """The sound of a channel between two times of its call, as WAV; None where nothing of it is kept.

    What is missing in it is silence. Raises ValueError for a clip above LONGEST_CLIP_MS.
    """
    if not 0 <= start_ms < end_ms <= start_ms + LONGEST_CLIP_MS:
        raise ValueError("no time that a clip can have")
    begin, end = (ms * SAMPLE_RATE // 1000 for ms in (start_ms, end_ms))
    whole_N, found = np.zeros(end - begin, np.int16), False
    for path in sorted(sound_of(root, call).glob(f"{_prefix(channel)}.*.ogg")):
        at_ms = int(path.name.split(".")[1])
        if at_ms >= end_ms or at_ms + (FILE_S + MOST_MISSING_S + HAND_OVER_S) * 1000 <= start_ms:
            continue
        heard_N = _decoded(path)
        at = at_ms * SAMPLE_RATE // 1000 - begin
        first, last = max(0, at), min(len(whole_N), at + len(heard_N))
        if first < last:
            whole_N[first:last] = heard_N[first - at : last - at]
            found = True
    return _wav(whole_N) if found else None


def expire(root: Path, before_s: float) -> int:
    """Delete the files that were last written before a time (unix s), and old folders without any; how many."""
    count = 0
    for folder in root.iterdir() if root.is_dir() else ():
        try:
            for path in folder.iterdir():
                if path.stat().st_mtime < before_s:
                    path.unlink()
                    count += 1
            if folder.stat().st_mtime < before_s:
                folder.rmdir()
        except OSError:
            continue  # it was erased meanwhile, or has files; the next time comes
    return count


def _prefix(channel: str) -> str:
    return hashlib.sha256(channel.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _decoded(path: Path) -> PcmN:
    """The sound of a file, as far as it is written; nothing where it is none."""
    blocks: list[PcmN] = []
    try:
        with av.open(str(path)) as file:
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            for frame in file.decode(audio=0):
                blocks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            blocks += [part.to_ndarray()[0] for part in resampler.resample(None)]
    except (*FAULTS, IndexError):
        pass  # cut short, erased meanwhile, or nothing in it yet
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int16)


def _wav(samples_N: PcmN) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples_N.astype("<i2").tobytes())
    return out.getvalue()
