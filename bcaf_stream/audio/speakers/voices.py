"""Voices that are known before a call is heard: enrolled from a file of their own, or found by a first pass.

A vector of a voice is biometric data: it is kept in memory, and neither stored nor logged.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bcaf_stream.audio.frames import FRAME_MS, Frame
from bcaf_stream.audio.resample import Resampler
from bcaf_stream.audio.sources import FileSource
from bcaf_stream.audio.speakers.clustering import LocalSpeaker, VectorD, Voice
from bcaf_stream.audio.speakers.diarizer import Diarizer
from bcaf_stream.audio.vad import VoiceActivityDetector
from bcaf_stream.errors import ConfigError, SourceError
from bcaf_stream.types import Role

ENOUGH_S = 5.0  # of one person's speech make a voice
LONGEST_S = 120.0  # of a file are listened to
OTHERS_S, OTHERS_SHARE = 1.5, 0.15  # of speech by others are too much, and of it all
# Vectors of windows, clustered by the mean of their cosine distances; fitted as those of clustering.py are
APART = 0.55
MOST_VECTORS = 4000  # that are clustered: an hour has ten thousand
LEAST_S = 1.0  # of speech, alone, of a local speaker whose vector is used
ALIKE = 0.5  # cosine of two vectors of one person
LEAST_SHARE = 0.02  # of the speech make a person


def enrolled(files: Mapping[Role, Path], where: str = "audio.speakers.enrol") -> list[Voice]:
    """The voice in each file; the setting `where` names them.

    Raises:
        ConfigError: a file cannot be read, holds too little speech, or more than one person.
    """
    voices = []
    for role, path in files.items():
        try:
            voices.append(Voice(_voice_in(str(path), _version(path)), role))
        except (ConfigError, SourceError) as error:
            raise ConfigError(f"{where}.{role}: {path}: {error}") from None
    return voices


def _version(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from None
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=64)
def _voice_in(path: str, version: tuple[int, int]) -> VectorD:
    diarizer = Diarizer(20, round(LONGEST_S * 1000 / FRAME_MS))
    for frame in _frames(path):
        diarizer.push(frame.samples, frame.speech)
        if diarizer.is_due:
            diarizer.look(0)
    diarizer.look(0, final=True)
    active = diarizer.active(0, diarizer.now)
    heard_s = active.sum(0) * FRAME_MS / 1000
    if not len(heard_s) or heard_s.max() < ENOUGH_S:
        found_s = float(heard_s.max(initial=0.0))
        raise ConfigError(f"{found_s:.1f} s of a voice; give {ENOUGH_S:.0f} s of speech or more")
    others_s = float(heard_s.sum() - heard_s.max())
    if others_s >= OTHERS_S and others_s >= OTHERS_SHARE * float(heard_s.sum()):
        raise ConfigError("more than one person speaks in it; give a recording of one alone")
    vector = diarizer.voice(0, diarizer.now, int(heard_s.argmax()))
    assert vector is not None
    return vector


def _frames(path: str) -> Iterator[Frame]:
    vad, resampler, heard = VoiceActivityDetector(), None, 0.0
    with FileSource(path) as source:
        if len(source.channels) > 1:
            raise SourceError("it has several channels; give one with one person")
        for chunk in source:
            resampler = resampler or Resampler(chunk.rate)
            for piece in resampler.push(chunk):
                yield from vad.push(piece.samples)
            heard += len(chunk.samples) / chunk.rate
            if heard >= LONGEST_S:
                break
    for piece in resampler.flush() if resampler else ():
        yield from vad.push(piece.samples)
    yield from vad.flush()


def clustered(heard: Iterable[LocalSpeaker], most: int) -> list[VectorD]:
    """The persons whose vectors these are, those who speak most first: `most` at most."""
    from sklearn.cluster import AgglomerativeClustering  # loads in a second

    usable = [one for one in heard if one.vector is not None and one.alone_s >= LEAST_S]
    usable = usable[:: -(-len(usable) // MOST_VECTORS) or 1]
    vectors = np.array([one.vector for one in usable])
    weights = np.array([one.alone_s for one in usable])
    if len(usable) < 2:
        return list(vectors)
    labels = AgglomerativeClustering(
        None, metric="cosine", linkage="average", distance_threshold=APART
    ).fit_predict(vectors)
    sizes = np.bincount(labels, weights)
    people = [int(p) for p in np.argsort(-sizes) if sizes[p] >= LEAST_SHARE * sizes.sum()][:most]
    sums = [(vectors[labels == person] * weights[labels == person, None]).sum(0) for person in people]
    return [(total / np.linalg.norm(total)).astype(np.float32) for total in sums]


def unlike(vectors: Iterable[VectorD], known: Sequence[Voice]) -> list[VectorD]:
    """Those that are nobody's who is known."""
    return [one for one in vectors if not any(float(one @ voice.vector) > ALIKE for voice in known)]
